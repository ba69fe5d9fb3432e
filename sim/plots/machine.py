"""A machine in the plane, for its figures and the page: nodes, both directions of every link, and the link's load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.plots import grid, node_link
from sim.plots.drawing import Drawing, Point
from sim.program import Floats
from sim.program.trace import Trace
from sim.report.metrics import measure
from sim.topology.graph import Topology

_ASIDE = 0.055
"""Distance of a direction from the middle of its link, where neighbours are 1 apart."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One direction of the links between two nodes."""

    points: tuple[Point, ...]
    links: tuple[int, ...]
    dashed: bool
    """A wraparound, of which only the beginning is drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Load of each link of a whole machine, [links]."""

    utilisation: Floats
    bytes: Floats

    @classmethod
    def of(cls, trace: Trace, topology: Topology) -> Load:
        """Measures a trace; a representative link gives its load to all links that it represents."""
        measures, links = measure(trace, topology), topology.representative_links
        return cls(measures.link_utilisation[links], measures.link_bytes[links])


def drawing_of(topology: Topology) -> Drawing:
    """Returns the drawing of a machine: a grid for a torus, else nodes and links."""
    return grid.drawing(topology) if topology.has_lines else node_link.drawing(topology)


def list_segments(drawing: Drawing) -> Iterator[Segment]:
    """Yields every direction of every link of a drawing, from back to front."""
    for line in drawing.lines:
        if line.back:
            yield Segment(_aside(line.points), line.links, line.dashed)
            yield Segment(_aside(line.points[::-1]), line.back, line.dashed)
        else:
            yield Segment(line.points, line.links, line.dashed)


def max_utilisation(load: Load, links: Sequence[int]) -> float:
    """Returns the utilisation of the busiest of some links."""
    return float(load.utilisation[list(links)].max(initial=0.0))


def _aside(points: tuple[Point, ...]) -> tuple[Point, ...]:
    """Returns the curve moved to its right."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    across = (y1 - y0) / length * _ASIDE, -(x1 - x0) / length * _ASIDE
    return tuple((x + across[0], y + across[1]) for x, y in points)
