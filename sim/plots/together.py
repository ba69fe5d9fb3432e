"""Several jobs on one machine on one time axis: what a chip of each does, and what the others do on it meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from sim.plots.bars import DARK, WIDTH_IN, Panel, draw_legend, draw_shares, draw_spans
from sim.plots.colours import PALETTE
from sim.plots.style import add_title, new_figure, points, set_title, shared_style, wrap_title
from sim.program import Ints
from sim.program.trace import Trace
from sim.report.lanes import Lane, build_lanes
from sim.report.metrics import critical_chip
from sim.report.ops import classify_ops
from sim.topology.graph import Topology
from sim.topology.group import Group
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_IN, _AROUND_IN, _LINE_IN = 0.36, 0.75, 0.2
"""Height of a row, of what stands around the rows of a panel, and of a line of its title."""
_ROW, _GAP = 1.0, 0.25
_MOST_SPANS = 150
"""A lane of more spans is drawn as shares of the time."""
_BINS = 300


class JobTrace(Struct, frozen=True, eq=False):
    """A job as it is drawn."""

    name: str
    group: Group
    """Its part of the machine."""
    trace: Trace
    """Its tasks on its part, at the times together."""
    alone_ps: int


class _Row(Struct, frozen=True, eq=False):
    """A row of a panel: lanes, the mean of which is drawn where there are several."""

    label: str
    trace: Trace
    lanes: Sequence[Lane]


def draw(jobs: Sequence[JobTrace], machine: Topology, title: str = "") -> Figure:
    """Draws a chip of each job: the same one for all that have it where jobs share chips, else the job's critical one.

    A line marks the time at which the job ends alone.
    """
    end_ps = max(job.trace.makespan_ps for job in jobs)
    chips = _choose_chips(jobs)
    panels = [_rows(jobs, place, chip) for place, chip in enumerate(chips)]
    titles = [_title(i, job, chip, machine) for i, (job, chip) in enumerate(zip(jobs, chips, strict=True), start=1)]
    lines = sum(1 + wrap_title(title, WIDTH_IN).count("\n") for title in titles)
    height_in = _AROUND_IN * len(jobs) + _LINE_IN * lines + _ROW_IN * sum(map(len, panels)) + 0.6
    made = new_figure(WIDTH_IN, height_in)
    with shared_style():
        axes = made.subplots(len(jobs), 1, squeeze=False, sharex=True, height_ratios=list(map(len, panels)))[:, 0]
        drawn: list[tuple[Panel, list[Lane]]] = []
        for axis, job, rows, name in zip(axes, jobs, panels, titles, strict=True):
            drawn += _fill(axis, rows, end_ps)
            set_title(axis, name, WIDTH_IN)
            per_unit, unit = drawn[-1][0].unit
            axis.axvline(
                job.alone_ps / per_unit, color=DARK, linewidth=1.2, linestyle="--", zorder=2
            )  # names are above it
        axes[-1].set_xlabel(f"time, {unit}")
        if title:
            add_title(made, title)
        draw_legend(made, drawn)
    return made


def _title(number: int, job: JobTrace, chip: int, machine: Topology) -> str:
    together, alone = (format_seconds(time_ps / PS_PER_S) for time_ps in (job.trace.makespan_ps, job.alone_ps))
    factor = job.trace.makespan_ps / job.alone_ps
    times = f"{together} together, {alone} alone (line), {factor:.3f}x"
    return f"job {number}: {job.name} on chip {chip} of {machine.chips}: {times}"


def _choose_chips(jobs: Sequence[JobTrace]) -> list[int]:
    """Returns the chip of each job that is drawn, as the machine numbers it."""
    critical = [int(job.group.chips[critical_chip(job.trace, job.group.machine.chips)]) for job in jobs]
    users = {chip: sum(chip in job.group.chips for job in jobs) for job in jobs for chip in job.group.chips.tolist()}
    shared = max([*critical, *users], key=lambda chip: users[chip])
    return [shared if shared in job.group.chips else own for job, own in zip(jobs, critical, strict=True)]


def _rows(jobs: Sequence[JobTrace], place: int, chip: int) -> list[_Row]:
    """Returns what a chip does for the job at a place, and below what it computes for others that have it."""
    trace, own = jobs[place].trace, _lanes(jobs[place], chip)
    rows = [_Row(lane.label, trace, [lane]) for lane in own if lane.kind != "link"]
    if links := [lane for lane in own if lane.kind == "link"]:
        rows.append(_Row(f"links, mean of {len(links)}" if len(links) > 1 else "link", trace, links))
    for number, other in enumerate(jobs, start=1):
        if number != place + 1 and chip in other.group.chips:
            compute = [lane for lane in _lanes(other, chip) if lane.kind == "compute"]
            rows.append(_Row(f"compute of job {number}", other.trace, compute))
    return rows


def _lanes(job: JobTrace, chip: int) -> list[Lane]:
    own = int(np.flatnonzero(job.group.chips == chip)[0])
    return build_lanes(job.trace, job.group.machine, [own])[own]


def _fill(axes: Axes, rows: Sequence[_Row], end_ps: int) -> list[tuple[Panel, list[Lane]]]:
    """Draws rows from the top down; returns what was drawn, for the legend."""
    beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": points(7.0)}
    ticks: dict[float, str] = {}
    drawn, y = [], 0.0
    bins: Ints = np.linspace(0, end_ps, _BINS + 1).astype(np.int64)
    for row in rows:
        y -= _ROW + _GAP
        program = row.trace.program
        nowhere = np.zeros(len(program), dtype=np.bool_)
        panel = Panel(axes, program, classify_ops(program), 0, end_ps, nowhere, axis_ps=end_ps)
        axes.axhspan(y, y + _ROW, color=PALETTE["light"], alpha=0.35, linewidth=0)
        if len(row.lanes) > 1 or len(row.lanes[0].spans) > _MOST_SPANS:
            draw_shares(panel, row.lanes, y, _ROW, bins)
        else:
            draw_spans(panel, row.lanes[0], y, _ROW)
        busy = sum(lane.spans.total_ps for lane in row.lanes) / len(row.lanes) / end_ps
        axes.text(1.005, y + _ROW / 2, f"{busy:.0%}", **beside)
        ticks[y + _ROW / 2] = row.label
        drawn.append((panel, list(row.lanes)))
    axes.text(1.005, -_GAP / 2, "busy", **beside)
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_ylim(y - _GAP, 0.1)
    axes.set_xlim(0, end_ps / drawn[0][0].unit[0])
    return drawn
