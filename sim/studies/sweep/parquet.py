"""The rows of a sweep as a Parquet file, for pandas and the like (extra `parquet`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sim import __version__
from sim.errors import InputError
from sim.studies.sweep.rows import Row, column_types, row_columns


def check() -> None:
    """Raises InputError where pyarrow is not installed."""
    try:
        import pyarrow  # noqa: F401  0.1 s
    except ImportError:
        hint = "pip install 'collective-sim[parquet]'"
        raise InputError("requires pyarrow", where="--format", got="parquet", hint=hint) from None


def write(path: Path, rows: Sequence[Row], sweep: Mapping[str, Any], axes: Sequence[str]) -> None:
    """Writes the columns of the CSV file with their types: an axis of numbers holds numbers, missing values are null.

    A Parquet file cannot be appended to: rows are safe in the CSV file as they come, and this is written from them.

    Args:
        sweep: what is swept, by axis.
        axes: those whose choices are columns.
    """
    import pyarrow
    import pyarrow.parquet

    fields: dict[str, tuple[type, list[Any]]] = {}
    for axis in axes:
        kind = _kind(sweep[axis])
        fields[axis] = kind, [kind(row.choices[axis]) for row in rows]
    columns = [row_columns(row) for row in rows]
    for name, kind in (column_types() | {"error": str, "notes": str}).items():
        fields[name] = kind, [each[name] for each in columns]
    types = {int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_(), str: pyarrow.string()}
    made = pyarrow.table({name: pyarrow.array(values, types[kind]) for name, (kind, values) in fields.items()})
    made = made.replace_schema_metadata({"collective_sim": json.dumps({"version": __version__})})
    pyarrow.parquet.write_table(made, path)


def _kind(values: Any) -> type:
    """Returns the type of an axis's labels."""
    kinds = {type(value) for value in values} if isinstance(values, list) else set()
    if kinds == {int}:
        return int
    return float if kinds and kinds <= {int, float} else str
