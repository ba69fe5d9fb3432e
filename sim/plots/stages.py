"""Batches on the stages of a pipeline over time: who works on which request, and where nobody works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.plots.colours import REQUEST_COLOURS
from sim.plots.style import add_title, new_figure, shared_style
from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.report.pipeline import report_stages, stage_batches
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH_IN, _IN_PER_STAGE, _IN_AROUND = 11.0, 0.45, 1.3
_PS_PER_MS = PS_PER_S / 1e3
_LEAST_SHARE = 0.012
"""Share of the figure's width below which a batch gets no number."""


def draw(trace: Trace, batches: Batches, title: str = "") -> Figure:
    """Draws a row per stage, the first on top, with a bar per batch in its request's colour."""
    stages, total = len(batches.layers), trace.makespan_ps / _PS_PER_MS
    made = new_figure(_WIDTH_IN, _IN_AROUND + _IN_PER_STAGE * stages)
    with shared_style():
        axis = made.subplots()
        for stage in range(stages):
            for batch in stage_batches(trace, batches, stage):
                waits_from, begin, end = (ps / _PS_PER_MS for ps in (batch.waits_from, batch.begin, batch.end))
                colour = REQUEST_COLOURS[batch.request % len(REQUEST_COLOURS)]
                axis.barh(stage, begin - waits_from, 0.8, waits_from, color=colour, alpha=0.35, linewidth=0)
                axis.barh(stage, end - begin, 0.8, begin, color=colour, edgecolor="white", linewidth=0.5)
                if end - begin > _LEAST_SHARE * total:
                    text = f"{batch.request}.{batch.part}" if batches.parts > 1 else str(batch.request)
                    axis.text((begin + end) / 2, stage, text, ha="center", va="center", fontsize=7, color="white")
        what = "Requests by number" if axis.texts else f"Requests in turn in {len(REQUEST_COLOURS)} colours"
        reports = report_stages(trace, batches)
        if any(report.wait_s for report in reports):
            what += ", pale while some ranks wait for others"
        for stage, report in enumerate(reports):
            text = f"{report.bubble:.0%} bubble"
            axis.annotate(text, (1.005, stage), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        axis.set_ylim(stages - 0.5, -0.5)
        axis.set_xlim(0, total)
        axis.set_yticks(range(stages), [f"stage {i}, {n} layers" for i, n in enumerate(batches.layers)])
        axis.set_xlabel("time, ms")
        axis.set_title(f"{what}, {format_seconds(trace.makespan_ps / PS_PER_S)}")
        if title:
            add_title(made, title)
    return made
