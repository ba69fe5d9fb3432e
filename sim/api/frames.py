"""Results of a run and of a sweep as pandas frames, where pandas is installed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import to_builtins

from sim.errors import InputError
from sim.report.critical_path import find_critical_path
from sim.report.metrics import measure
from sim.simulate.result import Pass
from sim.studies.sweep.rows import Row, row_columns
from sim.units import PS_PER_S

if TYPE_CHECKING:
    import pandas as pd


class Frames(NamedTuple):
    """Tables of one step of each phase; times in seconds."""

    ops: pd.DataFrame
    """An operation of the critical chip per row."""
    links: pd.DataFrame
    """A link of the machine per row."""
    critical_path: pd.DataFrame
    """A segment of the critical path per row, in order."""


def run_frames(passes: Sequence[Pass]) -> Frames:
    """Returns the tables of all phases. Raises InputError: pandas is not installed."""
    tables = (_op_rows, _link_rows, _path_rows)
    return Frames(*(_frame(row for part in passes for row in rows(part)) for rows in tables))


def sweep_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Returns a point per row: choices, figures, the error and notes. Raises InputError: pandas is not installed."""
    return _frame({**row.choices, **row_columns(row)} for row in rows)


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    try:
        import pandas
    except ImportError:
        raise InputError("to_pandas requires pandas", hint="pip install 'collective-sim[notebook]'") from None
    return pandas.DataFrame(list(rows))


def _op_rows(part: Pass) -> Iterable[dict[str, Any]]:
    for op in part.report.ops:
        row = to_builtins(op) | {"exposed_each_s": op.exposed_each_s, "bound": op.bound}
        yield {"phase": part.scenario.workload.phase, **row}


def _link_rows(part: Pass) -> Iterable[dict[str, Any]]:
    measures = measure(part.part, part.topology, part.lowered.batches, part.periods)
    machine, representative = part.topology.unfold(), part.topology.representative_links
    for link, simulated in zip(machine.links, representative.tolist(), strict=True):
        yield {
            "phase": part.scenario.workload.phase,
            "link": link.name,
            "busy_s": float(measures.link_busy_s[simulated]),
            "bytes": float(measures.link_bytes[simulated]),
            "utilisation": float(measures.link_utilisation[simulated]),
        }


def _path_rows(part: Pass) -> Iterable[dict[str, Any]]:
    path, program = find_critical_path(part.trace), part.trace.program
    for task, start, end, flies in zip(path.task, path.start, path.end, path.flies, strict=True):
        yield {
            "phase": part.scenario.workload.phase,
            "op": program.op_names[program.op[task]],
            "chip": part.topology.chip_number(int(program.chip[task])),
            "layer": int(program.layer[task]),
            "start_s": float(start) / PS_PER_S,
            "end_s": float(end) / PS_PER_S,
            "in_flight": bool(flies),
        }
