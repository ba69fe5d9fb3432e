"""Critical path and what-ifs of a phase, as JSON data and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.report.critical_path import Share, Shares
from sim.report.what_if import WhatIf
from sim.terminal import plain_console
from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_ROWS = 10


@dataclass(frozen=True, slots=True)
class Bottlenecks:
    """Critical path and what-ifs of a step of a phase, or of the requests of a pipeline."""

    phase: str
    span: str
    """Span of the times: `one decode step`, `all 12 requests`."""
    shares: Shares
    what_if: tuple[WhatIf, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON data, seconds."""
        return {"phase": self.phase, **self.shares.to_dict(), "what_if": [each.to_dict() for each in self.what_if]}


def render(phases: Sequence[Bottlenecks], console: Console | None = None) -> None:
    """Print the tables on `console` (default: standard output)."""
    from rich import box
    from rich.table import Table

    console = console or plain_console()
    for phase in phases:
        step_s = phase.shares.step_ps / 1e12
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        table.add_column(f"critical path of {phase.span}", no_wrap=True)
        for title in ("time", "share", "segments"):
            table.add_column(title, justify="right", no_wrap=True)
        for i, group in enumerate((phase.shares.causes, phase.shares.ops, phase.shares.links)):
            if i:
                table.add_section()
            for share in sorted(group, key=lambda share: -share.time_ps)[:_ROWS]:
                table.add_row(*_row(share))
            rest = sorted(group, key=lambda share: -share.time_ps)[_ROWS:]
            if rest:
                time_ps = sum(share.time_ps for share in rest)
                count = sum(share.segments for share in rest)
                table.add_row(*_row(Share(f"{len(rest)} more", time_ps, time_ps / phase.shares.step_ps, count)))
        console.print()
        console.print(table)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        table.add_column("simulated again with", no_wrap=True)
        for title in ("time", "saved", "share"):
            table.add_column(title, justify="right", no_wrap=True)
        for result in phase.what_if:
            saved = f"{result.saved_s / step_s:.1%}"
            table.add_row(result.name, format_seconds(result.step_s), format_seconds(result.saved_s), saved)
        console.print()
        console.print(table)


def _row(share: Share) -> tuple[str, str, str, str]:
    return share.name, format_seconds(share.time_s), f"{share.of_step:.1%}", f"{share.segments:,}"
