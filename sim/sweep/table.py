"""The rows of a sweep as tables for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sim.specs import FigureSpec
from sim.sweep.chart import Y, line_of, x_of
from sim.sweep.published import published
from sim.sweep.rows import Row
from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_WIDTH = 120
"""Characters where there is no terminal."""


def render(
    rows: Iterable[Row], axes: Sequence[str], figure: FigureSpec | None = None, console: Console | None = None
) -> None:
    """Print a table of the values on the last axis per combination of the others (default: on standard output)."""
    from rich.console import Console
    from rich.markup import escape

    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    beside = {(line, x): y for line, points in (published(figure) if figure else {}).items() for x, y in points}
    for outer, group in itertools.groupby(rows, key=lambda row: [row.choices[axis] for axis in axes[:-1]]):
        if outer:
            console.print(f"[bold]{escape(', '.join(outer))}[/]")
        console.print(_table(list(group), axes[-1], figure, beside))
        console.print()


def _table(
    rows: Sequence[Row], axis: str, figure: FigureSpec | None, beside: Mapping[tuple[str, float], float]
) -> Table:
    """One line per row: the choice, simulated figures, the paper's closed form, the figure's published point."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    made.add_column(axis.rpartition(".")[2], justify="left", no_wrap=True)
    columns = ["latency", "step", "MFU", "exposed", "fits", "closed form", "simulated"]
    if beside and figure:
        columns += ["published", "simulated"]
    for column in columns:
        made.add_column(column, justify="right", no_wrap=True)
    failed = any(row.error for row in rows)
    if failed:
        made.add_column("error", overflow="fold")
    for row in rows:
        cells = [""] * len(columns)
        if outcome := row.outcome:
            simulated, form = outcome.simulated, outcome.closed_form
            cells = [format_seconds(simulated.latency_s), format_seconds(simulated.step_s)]
            cells += [f"{simulated.mfu:.1%}", f"{outcome.exposed:.1%}", "yes" if outcome.fits else "[bold red]no[/]"]
            cells += _against(simulated.latency_s, form.latency_s, "s") if form else ["", ""]
            if beside and figure:
                value = beside.get((line_of(figure, row), x_of(figure, row)))
                name, _, unit = Y[figure.y]
                mine = getattr(simulated, name)
                cells += ["", ""] if value is None or mine is None else _against(mine, value, unit)
        made.add_row(escape(row.choices[axis]), *cells, *([escape(row.error or "")] if failed else []))
    return made


def _against(value: float, other: float, unit: str) -> list[str]:
    """Another value and by how much the simulated one is more."""
    text = format_seconds(other) if unit == "s" else f"{other:.1%}" if unit == "%" else f"{other:.4g}"
    return [text, f"{value / other - 1:+.1%}"]
