"""The figures of a report that are read first, each with what it means; as rows, and as HTML for a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sim.units import format_seconds

if TYPE_CHECKING:
    from sim.report.report import Report


def headline(report: Report) -> list[tuple[str, str, str]]:
    """(label, value, definition) of each."""
    found = report.simulated
    rows = [
        ("latency", format_seconds(found.latency_s), "simulated time of all steps"),
        ("time per step", format_seconds(found.step_s), "latency / forward passes"),
    ]
    if found.ttft_s is not None:
        rows.append(("TTFT", format_seconds(found.ttft_s), "time to first token: the prefill"))
    if found.tpot_s is not None:
        rows.append(("TPOT", format_seconds(found.tpot_s), "time per output token: decode latency / generated tokens"))
    utilisation = "model FLOPs utilisation: 2 x unpadded parameters x tokens / (chips x peak x latency)"
    exposed = "communication of one step with no compute on the critical chip meanwhile"
    return [
        *rows,
        ("tokens/s", f"{found.tokens_per_s:,.0f}", "tokens of all sequences / latency"),
        ("MFU", f"{found.mfu:.1%}", utilisation),
        ("exposed", format_seconds(found.exposed_communication_s), exposed),
        (
            "overlapped",
            format_seconds(found.overlapped_communication_s),
            "communication of one step under compute on the critical chip",
        ),
        ("busiest link", f"{report.links.utilisation:.1%}", "busy time / step time of the link with the most"),
    ]


def to_html(title: str, rows: Iterable[Sequence[str]]) -> str:
    """A table for a notebook."""
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{html.escape(cell)}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return f"<table><caption>{html.escape(title)}</caption>{body}</table>"
