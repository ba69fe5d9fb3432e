"""All figures of a run, and its page: what `sim run` draws and `sim plot` draws again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.simulate.result import Pass
from sim.units import PS_PER_S

if TYPE_CHECKING:
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.present.explanation import Bar, Explanation
    from sim.simulate.result import Run


def timeline(part: Pass, title: str) -> Any:
    """Compute, collectives and links of a chip over time, with the critical path."""
    from sim.plots import timeline as plot

    return plot.make(part.trace, part.topology, title, part.span.capitalize() if part.lowered.batches else "Whole step")


def breakdown(part: Pass, title: str) -> Any:
    """What the critical chip does, and what the critical path is made of."""
    from sim.plots import breakdown as plot

    return plot.make(part.trace, part.topology, title, part.lowered.batches)


def links(part: Pass, title: str) -> Any:
    """The machine with its links in the colour of their load."""
    from sim.plots import link_map

    return link_map.make(part.trace, part.topology, title)


def roofline(part: Pass, title: str) -> Any:
    """Operations under the roofs of their chip."""
    from sim.plots import roofline as plot

    return plot.make(part.trace, part.topology, part.scenario.workload.activations, title)


def stages(part: Pass, title: str) -> Any:
    """Batches on the stages of a pipeline; None where there is none."""
    from sim.plots import stages as plot

    batches = part.lowered.batches
    return plot.make(part.trace, batches, title) if batches else None


def memory(part: Pass, title: str) -> Any:
    """Memory of a chip and of where its other layers live, over time; None without a memory pool."""
    from sim.plots import memory as plot
    from sim.report.pool import peer_memory_over_time

    pool, own, chip = part.report.pool, part.report.memory, part.report.critical_chip
    if pool is None:
        return None
    here, there = f"chip {chip}", f"{pool.to}, layers of chip {chip}"
    devices = {
        here: part.memory_of(chip),
        there: peer_memory_over_time(
            part.trace, part.topology.representative_of(chip), pool.remote_bytes, pool.layer_bytes
        ),
    }
    limited = (here, there) if pool.to == "peer" else (here,)
    return plot.make(devices, limited, own.capacity_bytes, part.makespan_ps / PS_PER_S, title)


FIGURES: dict[str, Callable[[Pass, str], Any]] = {
    "timeline": timeline,
    "breakdown": breakdown,
    "links": links,
    "roofline": roofline,
    "memory": memory,
    "stages": stages,
}
"""Figures of one phase: (phase, title) -> matplotlib figure, or None where there is nothing to show."""


def draw(
    run: Run,
    folder: Path,
    formats: Sequence[str],
    figures: Sequence[str] = tuple(FIGURES),
    explanations: Sequence[Explanation] = (),
    bottlenecks: Sequence[Bottlenecks] = (),
    page: bool = True,
    bars: Mapping[str, Sequence[Bar]] | None = None,
) -> list[Path]:
    """Draw figures of `run` into `folder`, each in each of `formats`, and with `page` report.html; their paths.

    Args:
        explanations: each drawn as a waterfall.
        bars: of explanations, for the page, by phase.
    """
    from sim.plots.style import save

    drawn, below = [], f"\n{run.settings_text}" if run.settings else ""
    for part in run.passes:
        suffix = run.suffix(part)
        for name in figures:
            made = FIGURES[name](part, f"{run.scenario.name}{suffix.replace('_', ', ')}{below}")
            for each in formats if made is not None else ():
                drawn.append(folder / f"{name}{suffix}.{each}")
                save(made, drawn[-1])
    if page:
        from sim.results import page as html

        drawn.append(folder / "report.html")
        html.write([run], drawn[-1], bars or {each.phase: each.bars for each in explanations}, bottlenecks)
    for explanation in explanations:
        from sim.plots import waterfall

        suffix = f"_{explanation.phase}" if len(explanations) > 1 else ""
        for each in formats:
            drawn.append(folder / f"waterfall{suffix}.{each}")
            waterfall.draw(explanation, drawn[-1], run.settings_text)
    return drawn
