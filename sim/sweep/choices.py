"""Rows of a search as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from sim.sweep.rows import Row
from sim.terminal import plain_console
from sim.units import format_seconds


def render(title: str, rows: Mapping[str, Row]) -> None:
    """Print what was chosen in each row, and its figures."""
    from rich import box
    from rich.table import Table

    console = plain_console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    made.add_column("", no_wrap=True, min_width=10)
    names = list(next(iter(rows.values())).choices)
    for name in names:
        made.add_column(name, no_wrap=True)
    for name in ("step", "chip-ms/token", "MFU", "memory (GiB)"):
        made.add_column(name, justify="right", no_wrap=True)
    for label, row in rows.items():
        if row.outcome is None:
            continue
        own = row.outcome.simulated
        figures = [format_seconds(own.step_s), f"{own.cost_chip_s * 1e3:.4g}", f"{own.mfu:.1%}"]
        made.add_row(label, *(row.choices[name] for name in names), *figures, f"{row.outcome.memory_bytes / 2**30:.1f}")
    console.print(made)
    console.print()
