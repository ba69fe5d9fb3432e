"""Critical path and what-ifs of a phase, as JSON data and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sim.report.critical_path import Share, Shares
from sim.report.what_if import WhatIf
from sim.terminal import new_table, plain_console
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_ROWS = 10


class Bottlenecks(Struct, frozen=True):
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
    console = console or plain_console()
    for phase in phases:
        step_s = phase.shares.step_ps / PS_PER_S
        several = len(phase.shares.chips) > 1
        columns = ("time", "share", "segments", *(["chips"] if several else []))
        table = new_table((path_title(phase.span, phase.shares), *columns), texts=["chips"])
        groups = {
            "causes": phase.shares.causes,
            "operations": phase.shares.ops,
            "links": phase.shares.links,
            "chips": phase.shares.chips if several else (),
        }
        for i, (what, group) in enumerate(groups.items()):
            if i:
                table.add_section()
            shares = sorted(group, key=lambda share: -share.time_ps)
            for share in shares[:_ROWS]:
                chips = "" if group is phase.shares.chips else list_chips(share)
                table.add_row(*_row(share), *([chips] if several else []))
            if rest := shares[_ROWS:]:
                time_ps = sum(share.time_ps for share in rest)
                count = sum(share.segments for share in rest)
                name = f"{len(rest)} more {what}; --json has each"
                table.add_row(*_row(Share(name, time_ps, time_ps / phase.shares.step_ps, count)))
        console.print()
        console.print(table)
        table = new_table(("simulated again with", "time", "saved", "share"))
        for result in phase.what_if:
            saved = f"{result.saved_s / step_s:.1%}"
            table.add_row(result.name, format_seconds(result.step_s), format_seconds(result.saved_s), saved)
        console.print()
        console.print(table)


def path_title(span: str, shares: Shares) -> str:
    """Returns the title of a table of the critical path, with its chip if that is one."""
    (name, *others) = [share.name for share in shares.chips] or [""]
    return f"critical path of {span}" + ("" if others or not name else f", {name}")


def list_chips(share: Share) -> str:
    """Returns the chips of a share, of many the one with the most time: `6`, `6, 4`, `6 and 7 others`."""
    if len(share.chips) <= 2:
        return ", ".join(map(str, share.chips))
    return f"{share.chips[0]} and {len(share.chips) - 1} others"


def _row(share: Share) -> tuple[str, str, str, str]:
    return share.name, format_seconds(share.time_s), f"{share.of_step:.1%}", f"{share.segments:,}"
