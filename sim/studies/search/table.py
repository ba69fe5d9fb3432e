"""Result of a search as tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sim.studies.search.result import Parts, SearchResult
from sim.studies.sweep.footnotes import Footnotes
from sim.studies.sweep.rows import Row
from sim.terminal import echo, new_table, plain_console
from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.table import Table


def render(result: SearchResult, explained: Sequence[Sequence[tuple[Row, Parts]]]) -> None:
    """Prints the fastest rows, what they are best at, and why winners are faster than the next.

    Args:
        explained: as `SearchResult.explain_winners` returns them.
    """
    legal = sum(row.outcome is not None for _, row in result.candidates)
    is_fast = "" if result.goal.max_step_s == math.inf else " and are fast enough"
    echo(
        f"{result.tried} candidates, {result.pruned} skipped by a lower bound; of the others {legal} legal, "
        f"{len(result.fitting)} fit{is_fast}"
    )
    footnotes = Footnotes()
    _print_rows(result, footnotes)
    title = "why: the critical path of winners, and of the next with as many chips and the same batch"
    _print_parts(title, result.time_name, explained, footnotes)
    for line in footnotes.lines:
        echo(line)


def _choices_of(row: Row, footnotes: Footnotes) -> list[str]:
    """Returns the choices of a row; attention with the numbers of the row's notes."""
    marks = footnotes.marks_of(row)
    return [label + (marks if name == "attention" else "") for name, label in row.choices.items()]


def _print_rows(result: SearchResult, footnotes: Footnotes) -> None:
    """Prints the choices and the figures of the rows that are shown, and what each is best at."""
    title = "fastest of each machine, number of chips and batch; best at what; Pareto: none beats it in time and cost"
    figures = (result.time_name, result.goal.unit, "MFU", "memory (GiB)")
    choices = result.shown[0][1].choices
    table = new_table(("", *choices, *figures), texts=choices, title=title)
    for note, row in result.shown:
        if row.outcome is None:
            continue
        simulated = row.outcome.simulated
        cells = [format_seconds(simulated.step_s), f"{result.goal.cost(row):.4g}", f"{simulated.mfu:.1%}"]
        table.add_row(note, *_choices_of(row, footnotes), *cells, f"{row.outcome.memory_bytes / 2**30:.1f}")
    _print(table)


def _print_parts(
    title: str, time_name: str, groups: Sequence[Sequence[tuple[Row, Parts]]], footnotes: Footnotes
) -> None:
    """Prints the parts of the step of each row, group by group; the first of a group is the winner."""
    row, parts = groups[0][0]
    table = new_table(("", *row.choices, time_name, *parts), texts=row.choices, title=title)
    for group in groups:
        for i, (row, parts) in enumerate(group):
            times = [format_seconds(time_s) for time_s in (sum(parts.values()), *parts.values())]
            table.add_row(str(i + 1), *_choices_of(row, footnotes), *times, end_section=i + 1 == len(group))
    _print(table)


def _print(table: Table) -> None:
    console = plain_console()
    console.print(table)
    console.print()
