"""First figures of a report with their definitions, as rows and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sim.report.breakdown import PARTS
from sim.units import format_percent, format_seconds

if TYPE_CHECKING:
    from sim.report.report import Report


def list_headline_figures(report: Report) -> list[tuple[str, str, str]]:
    """Returns (label, value, definition) of each."""
    simulated = report.simulated
    span = "all steps" if report.phases else report.span
    exposed = f"communication of {span} with no compute on the critical chip meanwhile"
    hidden = f"communication of {span} under compute on the critical chip"
    waits = [(name, time_s) for name, time_s in report.waits_s.items() if time_s]
    return [
        *_first(report),
        ("exposed", format_seconds(simulated.exposed_communication_s), exposed),
        ("overlapped", format_seconds(simulated.overlapped_communication_s), hidden),
        *((name, format_seconds(time_s), f"of {span}: {PARTS[name]}") for name, time_s in waits),
        ("busiest link", f"{report.links.utilisation:.1%}", f"busy time / time of {report.span}, of the busiest"),
    ]


def list_brief_figures(report: Report) -> list[tuple[str, str]]:
    """Returns (label, value) of the figures that fit one line."""
    return [(label, value) for label, value, _ in _first(report)]


def _first(report: Report) -> list[tuple[str, str, str]]:
    simulated, pipeline = report.simulated, report.pipeline
    latency_meaning = (
        "from a request's arrival to its result, mean of all" if pipeline else "simulated time of all steps"
    )
    rate_meaning = "tokens of all requests / time of all requests" if pipeline else "tokens of all sequences / latency"
    time = "time of all requests" if pipeline else "latency"
    rows = [
        ("latency per request, mean" if pipeline else "latency", format_seconds(simulated.latency_s), latency_meaning)
    ]
    if simulated.ttft_s is not None and report.phases:
        rows.append(("TTFT", format_seconds(simulated.ttft_s), "time to first token: the prefill"))
    if simulated.tpot_s is not None:
        rows.append(
            ("TPOT", format_seconds(simulated.tpot_s), "time per output token: decode latency / tokens generated")
        )
    utilisation = f"model FLOPs utilisation: 2 x unpadded parameters x tokens / (chips x peak x {time})"
    return [
        *rows,
        ("tokens/s", f"{simulated.tokens_per_s:,.0f}", rate_meaning),
        ("MFU", format_percent(simulated.mfu), utilisation),
    ]


def to_html(title: str, rows: Iterable[Sequence[str]]) -> str:
    """Returns a table for a notebook."""
    from html import escape

    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows
    )
    return f"<table><caption>{escape(title)}</caption>{body}</table>"
