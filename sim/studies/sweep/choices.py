"""Rows of a search as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sim.studies.sweep.rows import Row
from sim.terminal import plain_console
from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.table import Table


def render(title: str, rows: Mapping[str, Row], cost_unit: str, cost: Callable[[Row], float]) -> None:
    """Print what was chosen in each row, and its figures."""
    made = _table(title, next(iter(rows.values())), ("step", cost_unit, "MFU", "memory (GiB)"), 10)
    for label, row in rows.items():
        if row.outcome is None:
            continue
        own = row.outcome.simulated
        figures = [format_seconds(own.step_s), f"{cost(row):.4g}", f"{own.mfu:.1%}"]
        made.add_row(label, *row.choices.values(), *figures, f"{row.outcome.memory_bytes / 2**30:.1f}")
    _print(made)


def render_parts(title: str, groups: Sequence[Sequence[tuple[Row, Mapping[str, float]]]]) -> None:
    """Print the parts of the step of each row, s, group by group; the first of a group is the winner."""
    row, parts = groups[0][0]
    made = _table(title, row, ("step", *parts), 2)
    for group in groups:
        for i, (row, parts) in enumerate(group):
            times = [format_seconds(time_s) for time_s in (sum(parts.values()), *parts.values())]
            made.add_row(str(i + 1), *row.choices.values(), *times, end_section=i + 1 == len(group))
    _print(made)


def _table(title: str, first: Row, figures: Sequence[str], width: int) -> Table:
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    made.add_column("", no_wrap=True, min_width=width)
    for name in first.choices:
        made.add_column(name, no_wrap=True)
    for name in figures:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def _print(made: Table) -> None:
    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, 170)
    console.print(made)
    console.print()
