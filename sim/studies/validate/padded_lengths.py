"""Tables of the real lengths of padded batches that a benchmark drew, as CSV: columns batch, padded, lengths.

A row gives the real length of each sequence of a batch, separated by spaces, for one batch size and padded length.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sim.errors import InputError
from sim.studies.validate.csv_rows import Row, read_rows


@lru_cache(maxsize=16)
def read_lengths(path: Path) -> dict[tuple[int, int], tuple[int, ...]]:
    """Returns the real lengths by (batch, padded length). Raises InputError if the file cannot be read."""

    def lengths(row: Row) -> tuple[tuple[int, int], tuple[int, ...]]:
        try:
            values = tuple(int(length) for length in row.cell("lengths").split())
        except ValueError:
            rule = "column 'lengths' must be whole numbers"
            raise InputError(rule, where=row.where, got=row.cell("lengths")) from None
        return (row.number("batch"), row.number("padded")), values

    return dict(read_rows(path, lengths))


def lengths_of_batch(path: Path, batch: int, padded: int) -> tuple[int, ...]:
    """Returns the real lengths of one batch. Raises InputError if the table does not have it."""
    table = read_lengths(path)
    if (batch, padded) not in table:
        hint = "add a row with its lengths"
        raise InputError("no such batch and padded length", where=str(path), got=f"{batch} x {padded}", hint=hint)
    return table[batch, padded]
