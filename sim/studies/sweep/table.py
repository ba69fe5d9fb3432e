"""The rows of a sweep as tables for the terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from sim.specs import FigureSpec
from sim.studies.sweep.chart import line_of, x_of
from sim.studies.sweep.footnotes import Footnotes
from sim.studies.sweep.published import published_points
from sim.studies.sweep.quantities import Y, name_axis
from sim.studies.sweep.rows import Outcome, Row
from sim.terminal import new_table, plain_console, styled
from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


Beside = Mapping[str, Mapping[tuple[str, float], float]]
"""Values beside the simulation: by name, and by label of the line and x, the figure's y."""


def render(
    rows: Iterable[Row],
    axes: Sequence[str],
    figure: FigureSpec | None = None,
    console: Console | None = None,
    predictions: Beside | None = None,
) -> None:
    """Prints a table of the values on the last axis per combination of the others (default: on standard output).

    Args:
        predictions: of the user.
    """
    console = console or plain_console()
    points = {(line, x): y for line, points in (published_points(figure) if figure else {}).items() for x, y in points}
    beside = {name: values for name, values in {**(predictions or {}), "published": points}.items() if values}
    footnotes = Footnotes()
    for outer, group in itertools.groupby(rows, key=lambda row: [_chosen(axis, row) for axis in axes[:-1]]):
        if outer:
            console.print(styled((", ".join(outer), "bold")))
        console.print(_table(list(group), axes[-1], figure, beside, footnotes))
        console.print()
    for line in footnotes.lines:
        console.print(line, markup=False)


def _chosen(axis: str, row: Row) -> str:
    """Returns `batch 8`; a variant by its name alone."""
    return f"{name_axis(axis)} {row.choices[axis]}" if "." in axis else row.choices[axis]


class _Column(Struct, frozen=True):
    """One figure of an outcome; empty where it has none."""

    title: str
    text: Callable[[Outcome], str | Text]


def _shown(rows: Sequence[Row]) -> list[_Column]:
    """Returns the columns that have a value in some row."""
    outcomes = [row.outcome for row in rows if row.outcome]
    every = (
        _Column("latency", lambda out: format_seconds(out.simulated.latency_s)),
        _Column("step", lambda out: format_seconds(out.simulated.step_s)),
        _Column("tokens/s", lambda out: _rate(out.simulated.tokens_per_s)),
        _Column("MFU", lambda out: f"{out.simulated.mfu:.1%}"),
        _Column("exposed", lambda out: f"{out.exposed:.1%}"),
        _Column("fits", lambda out: "yes" if out.fits else styled(("no", "bold red"))),
        _Column("requests/s", lambda out: f"{out.pipeline.requests_per_s:.4g}" if out.pipeline else ""),
        _Column("bubbles", lambda out: f"{out.pipeline.bubble:.1%}" if out.pipeline else ""),
        _Column("stall", lambda out: format_seconds(out.pool.stall_s) if out.pool else ""),
        _Column("slower", lambda out: f"{out.pool.slower:.1%}" if out.pool else ""),
        _Column("by formula", lambda out: f"{out.pool.closed_form_slower:.1%}" if out.pool else ""),
        _Column("closed form", lambda out: format_seconds(out.closed_form.latency_s) if out.closed_form else ""),
        _Column(
            "simulated vs. this",
            lambda out: _more(out.simulated.latency_s, getattr(out.closed_form, "latency_s", None)),
        ),
    )
    return [column for column in every if any(column.text(out) for out in outcomes)]


def _table(rows: Sequence[Row], axis: str, figure: FigureSpec | None, beside: Beside, footnotes: Footnotes) -> Table:
    """Builds a table of one line per row: choice, simulated figures, closed form, predictions, published point."""
    columns, failed = _shown(rows), any(row.error for row in rows)
    others = [title for name in beside for title in (name, "simulated vs. this")]
    titles = (*(column.title for column in columns), *others, *(["error"] if failed else []))
    made = new_table((name_axis(axis), *titles), texts=["error"])
    for row in rows:
        cells = [column.text(row.outcome) if row.outcome else "" for column in columns]
        if figure:
            cells += [cell for values in beside.values() for cell in _other(row, figure, values)]
        made.add_row(row.choices[axis] + footnotes.marks_of(row), *cells, *([row.error or ""] if failed else []))
    return made


def _other(row: Row, figure: FigureSpec, beside: Mapping[tuple[str, float], float]) -> list[str]:
    """Returns the published or predicted point of a row, and the relative difference of the simulated one."""
    if row.outcome is None:
        return ["", ""]
    y = Y[figure.y]
    mine, value = y.simulated(row.outcome), beside.get((line_of(figure, row), x_of(figure, row)))
    if value is None or mine is None:
        return ["", ""]
    text = format_seconds(value) if y.unit == "s" else f"{value:.1%}" if y.unit == "%" else f"{value:.4g}"
    return [text, _more(mine, value)]


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _more(value: float, other: float | None) -> str:
    """Formats the relative difference of a value to another."""
    return f"{value / other - 1:+.1%}" if other else ""
