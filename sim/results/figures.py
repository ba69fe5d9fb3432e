"""All figures of a run, and its page: `sim run` draws them, `sim plot` draws them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sim.results.analysis import Analysis
from sim.simulate.result import Pass
from sim.units import PS_PER_S

if TYPE_CHECKING:
    from sim.plots.style import Figure
    from sim.simulate.result import Run

FIGURES = ("timeline", "breakdown", "links", "roofline", "memory", "stages")
"""Figures of one phase."""
ALL_FIGURES = (*FIGURES, "waterfall")
"""Also the figure of the explanations of a run."""


def draw(
    run: Run,
    folder: Path,
    formats: Sequence[str],
    analysis: Analysis,
    figures: Sequence[str] = ALL_FIGURES,
    page: bool = True,
) -> list[Path]:
    """Draws figures of `run` into `folder`, each in each of `formats`, and with `page` report.html; their paths.

    Args:
        analysis: explanations are drawn as waterfalls.
    """
    from sim.plots import waterfall
    from sim.plots.style import save

    subtitle = f"\n{run.settings_text}" if run.settings else ""
    drawings: dict[str, Figure | None] = {}
    for part in run.passes:
        suffix = run.suffix(part)
        title = f"{run.scenario.name}{suffix.replace('_', ', ')}{subtitle}"
        drawings |= {f"{name}{suffix}": draw_figure(name, part, title) for name in FIGURES if name in figures}
    explanations = analysis.explanations or ()
    for explanation in explanations if "waterfall" in figures else ():
        suffix = f"_{explanation.phase}" if len(explanations) > 1 else ""
        drawings[f"waterfall{suffix}"] = waterfall.draw(explanation, run.settings_text)
    paths = []
    for name, drawing in drawings.items():
        if drawing is None:
            continue
        for suffix in formats:
            paths.append(folder / f"{name}.{suffix}")
            save(drawing, paths[-1])
    if page:
        from sim.results import page as html

        paths.append(folder / "report.html")
        html.write([run], paths[-1], explanations, analysis.bottlenecks or ())
    return paths


def draw_figure(name: str, part: Pass, title: str) -> Figure | None:
    """Draws one of FIGURES; None if the phase has nothing to show in it."""
    from sim.plots import breakdown, link_map, roofline, stages, timeline

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
        case "roofline":
            return roofline.draw(trace, topology, part.scenario.workload.activations, title)
        case "stages":
            return stages.draw(trace, topology, batches, title) if batches else None
    return _memory(part, title)


def _memory(part: Pass, title: str) -> Figure | None:
    """Draws the memory of a chip and of the device that holds its other layers; None without a memory pool."""
    from sim.plots import memory as plot
    from sim.report.pool import peer_memory_over_time

    pool, memory, chip = part.report.pool, part.report.memory, part.report.critical_chip
    if pool is None:
        return None
    local, remote = f"chip {chip}", f"{pool.to}, layers of chip {chip}"
    devices = {
        local: part.memory_of(chip),
        remote: peer_memory_over_time(
            part.trace, part.topology.representative_of(chip), pool.remote_bytes, pool.layer_bytes
        ),
    }
    limited = (local, remote) if pool.to == "peer" else (local,)
    return plot.draw(devices, limited, memory.capacity_bytes, part.makespan_ps / PS_PER_S, title)
