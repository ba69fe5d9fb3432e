"""All figures of a run, and its page: `sim run` draws them, `sim plot` draws them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from sim.results.analysis import Analysis
from sim.results.scratch import replacing_file
from sim.results.two_processes import Job, run_jobs
from sim.simulate.result import Pass
from sim.units import PS_PER_S

if TYPE_CHECKING:
    from sim.plots.style import Figure
    from sim.simulate.result import Run

OF_EXPERTS = ("experts", "exchange", "links_dispatch", "links_combine")
"""Figures of a phase with experts; all but the first where chips exchange tokens."""
FIGURES = ("timeline", "breakdown", "links", "roofline", "memory", "stages", *OF_EXPERTS)
"""Figures of one phase that a run draws."""
ON_DEMAND = ("links_over_time", "shards")
"""Figures of one phase that are drawn when they are named."""
PHASE_FIGURES = (*FIGURES, *ON_DEMAND)
BY_DEFAULT = (*FIGURES, "waterfall")
"""Figures of a run with explanations."""
ALL_FIGURES = (*PHASE_FIGURES, "waterfall")


class FigureForm(Struct, frozen=True):
    """Form of the figures of a command."""

    formats: tuple[str, ...] = ("png",)
    """Each figure is written in each of them."""
    width_in: float | None = None
    """Width, inches; None: as wide as it needs."""

    def paths(self, stem: Path) -> list[Path]:
        """Returns the files of a figure: `stem` with the suffix of each format."""
        return [stem.with_name(f"{stem.name}.{suffix}") for suffix in self.formats]


def write_figure(draw: Callable[[], Figure], stem: Path, form: FigureForm) -> list[Path]:
    """Draws a figure and writes it to `stem` with the suffix of each format; returns the files.

    Raises:
        InputError: a file cannot be written.
    """
    from sim.plots.style import page_width, save

    paths = form.paths(stem)
    with page_width(form.width_in):
        drawing = draw()
        for path in paths:
            with replacing_file(path) as fresh:
                save(drawing, fresh)
    return paths


def draw(
    run: Run,
    folder: Path,
    form: FigureForm,
    analysis: Analysis,
    figures: Sequence[str] = BY_DEFAULT,
    page: bool = True,
    meanwhile: Job | None = None,
) -> list[Path]:
    """Draws figures of `run` into `folder`, and with `page` report.html; returns their paths.

    Args:
        analysis: explanations are drawn as waterfalls.
        meanwhile: what this process does while another one may draw.
    """
    from sim.plots import waterfall
    from sim.report.critical_path import find_critical_path

    subtitle = f"\n{run.settings_text}" if run.settings else ""
    drawings: dict[str, Callable[[], Figure]] = {}
    for part in run.passes:
        suffix = run.suffix(part)
        title = f"{run.scenario.name}{suffix.replace('_', ', ')}{subtitle}"
        for name in figures:
            if name != "waterfall" and has_figure(name, part):
                drawings[f"{name}{suffix}"] = partial(draw_figure, name, part, title)
    explanations = analysis.explanations or ()
    for explanation in explanations if "waterfall" in figures else ():
        suffix = f"_{explanation.phase}" if len(explanations) > 1 else ""
        drawings[f"waterfall{suffix}"] = partial(waterfall.draw, explanation, run.settings_text)
    paths = [path for name in drawings for path in form.paths(folder / name)]
    jobs: list[Job] = [partial(write_figure, drawing, folder / name, form) for name, drawing in drawings.items()]
    if page:
        paths.append(folder / "report.html")

    def write_rest() -> None:
        if meanwhile:
            meanwhile()
        if page:
            from sim.results import page as html

            html.write([run], paths[-1], explanations, analysis.bottlenecks or ())

    for part in run.passes:
        find_critical_path(part.trace)  # before the process is forked: figures and page need it
    run_jobs(jobs, write_rest)
    return paths


def draw_comparison(pair: Sequence[Run], names: Sequence[str], stem: Path, form: FigureForm) -> list[Path]:
    """Draws run A above run B, a figure for each phase that both have, to `stem`; returns the files."""
    from sim.plots import comparison

    phases = [{part.scenario.workload.phase: part for part in run.passes} for run in pair]
    paths: list[Path] = []
    for phase in (phase for phase in phases[0] if phase in phases[1]):
        parts = [run_phases[phase] for run_phases in phases]
        sides = [comparison.Side(name, part.trace, part.topology) for name, part in zip(names, parts, strict=True)]
        span = " and ".join(dict.fromkeys(part.span for part in parts))
        suffix = f"_{phase}" if len(phases[0]) > 1 else ""
        path = stem.with_name(f"{stem.name}{suffix}")
        paths += write_figure(partial(comparison.draw, sides, span, f"A above B, {span}"), path, form)
    return paths


def has_figure(name: str, part: Pass) -> bool:
    """Returns True if the phase has something to show in a figure."""
    if name in OF_EXPERTS:
        found = part.report.experts
        return found is not None and (name == "experts" or bool(found.exchanges))
    return {"stages": part.lowered.batches, "memory": part.report.pool}.get(name, part) is not None


def draw_figure(name: str, part: Pass, title: str) -> Figure:
    """Draws a figure that the phase has."""
    from sim.plots import breakdown, exchange, experts, link_map, links_over_time, roofline, stages, timeline

    trace, topology, batches = part.trace, part.topology, part.lowered.batches
    match name:
        case "timeline":
            return timeline.draw(
                trace,
                topology,
                title,
                part.span.capitalize() if batches else "Whole step",
                part.chip_roles,
                part.chosen_chips,
            )
        case "breakdown":
            return breakdown.draw(trace, topology, title, batches)
        case "links":
            return link_map.draw(trace, topology, title)
        case "links_dispatch" | "links_combine":
            return link_map.draw(trace, topology, title, name.partition("_")[2])
        case "exchange" if part.lowered.expert_rows:
            return exchange.draw(part.lowered.expert_rows, topology.unfold(), title)
        case "experts" if part.lowered.expert_rows and part.report.experts:
            return experts.draw(part.lowered.expert_rows, part.report.experts, title)
        case "links_over_time":
            return links_over_time.draw(trace, topology, title)
        case "shards":
            return _shards(part, title)
        case "roofline":
            return roofline.draw(trace, topology, part.scenario.workload.operand_format, title)
        case "stages" if batches:
            return stages.draw(trace, topology, batches, title)
    return _memory(part, title)


def _shards(part: Pass, title: str) -> Figure:
    """Draws on the machine which chips hold which shards."""
    from sim.plots import shards

    machine, batches = part.topology.unfold(), part.lowered.batches
    stage = np.zeros(machine.chips, dtype=np.int64)
    for number, chips in enumerate(batches.chips if batches else ()):
        stage[list(chips)] = number
    return shards.draw(part.lowered.stored_weights, part.lowered.caches, stage, machine, title)


def _memory(part: Pass, title: str) -> Figure:
    """Draws the memory of a chip and of the device that holds its other layers."""
    from sim.plots import memory as plot
    from sim.report.pool import peer_memory_over_time

    pool, memory, chip = part.report.pool, part.report.memory, part.report.critical_chip
    if pool is None:
        raise ValueError("must be a phase with a memory pool")
    local, remote = f"chip {chip}", f"{pool.to}, layers of chip {chip}"
    devices = {
        local: part.memory_of(chip),
        remote: peer_memory_over_time(
            part.trace, part.topology.representative_of(chip), pool.remote_bytes, pool.layer_bytes
        ),
    }
    limited = (local, remote) if pool.to == "peer" else (local,)
    return plot.draw(devices, limited, memory.capacity_bytes, part.makespan_ps / PS_PER_S, title)
