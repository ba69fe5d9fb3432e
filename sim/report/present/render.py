"""A report on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from sim.report.headline import list_brief_figures
from sim.report.present import text
from sim.report.present.sections import plugin_sections
from sim.report.report import Report
from sim.terminal import new_table, plain_console, styled
from sim.units import format_count, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def render(
    report: Report,
    console: Console | None = None,
    engine: tuple[int, float] | None = None,
    plugins: Sequence[str] = (),
) -> None:
    """Print the report on `console` (default: standard output).

    Args:
        engine: tasks simulated in all, and the wall-clock time that took, s.
        plugins: those of the scenario, whose sections stand at the end.
    """
    console = console or plain_console()
    some = report.layers_simulated < report.layers
    layers = f"{report.layers_simulated} of {report.layers} layers" if some else format_count(report.layers, "layer")
    chips = format_count(report.chips, "chip")
    console.print(styled((report.scenario, "bold"), f" on {report.machine}, {chips}, {layers}"))
    figures = [part for label, value in list_brief_figures(report) for part in (f"  {label} ", (value, "bold"))]
    console.print(styled(*figures)[2:])
    print_blocks(text.overall_blocks(report), console)
    for name, phase in zip(("prefill", "decode"), report.phases, strict=False):
        console.print()
        console.print(text.phase_title(phase, name), style="bold")
        print_blocks(text.step_blocks(phase), console)
    if not report.phases:
        print_blocks(text.step_blocks(report), console)
    print_blocks(text.memory_blocks(report), console)
    print_blocks(plugin_sections(report, plugins), console)
    for note in report.notes:
        console.print(f"note: {note}")
    if report.rests_on:
        console.print(f"rests on: {report.rests_on.text}")
    if engine:
        tasks, wall_s = engine
        rate = f"{tasks / wall_s:,.0f} tasks/s" if wall_s else ""
        console.print(f"engine: {tasks:,} tasks in {format_seconds(wall_s)}, {rate}", style="dim")
        for shortcut in report.shortcuts:
            console.print(f"engine: {shortcut}", style="dim")


def print_blocks(blocks: Iterable[text.Block], console: Console) -> None:
    """Prints each block after an empty line."""
    for block in blocks:
        console.print()
        for part in block:
            if isinstance(part, text.Table):
                console.print(_table(part))
            else:
                console.print(part.text, style="bold red" if part.warns else None)


def _table(part: text.Table) -> Table:
    """The first column is text, the others are numbers. A group is one row of the table, quicker to lay out."""
    table = new_table(part.columns)
    for i, group in enumerate(part.groups):
        if i:
            table.add_section()
        table.add_row(*("\n".join(column) for column in zip_longest(*group, fillvalue="")))
    table.caption = part.warning or None
    return table
