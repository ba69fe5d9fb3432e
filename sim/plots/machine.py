"""A machine in the plane, for its figures and the page: nodes, both directions of every link, and the link's load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from sim.plots import grid, node_link
from sim.plots.drawing import Drawing, Point
from sim.program import Floats
from sim.program.trace import Trace
from sim.report.experts import measure_links
from sim.report.metrics import PassTrace, measure
from sim.topology.graph import Topology

_ASIDE = 0.055
"""Distance of a direction from the middle of its link, where neighbours are 1 apart."""


class Segment(Struct, frozen=True):
    """One direction of the links between two nodes."""

    points: tuple[Point, ...]
    links: tuple[int, ...]
    dashed: bool
    """A wraparound, of which only the beginning is drawn."""


class Load(Struct, frozen=True, eq=False):
    """Load of each link of a whole machine, [links]."""

    utilisation: Floats
    bytes: Floats

    @classmethod
    def of(cls, trace: Trace, topology: Topology, way: str = "") -> Load:
        """Measures a trace; a representative link gives its load to all links that it represents.

        Args:
            way: `dispatch` or `combine`, for the load of these alone.
        """
        links = topology.representative_links
        if way:
            busy_ps, sent = measure_links(PassTrace(trace, topology), way)
            return cls(busy_ps[links] / max(trace.makespan_ps, 1), sent[links])
        measures = measure(trace, topology)
        return cls(measures.link_utilisation[links], measures.link_bytes[links])

    def is_equal(self, machine: Topology) -> bool:
        """Returns True if what chips put on their ports is the same, and what they get from them."""
        out = np.array([link.src < machine.chips for link in machine.links], dtype=np.bool_)
        return all(not part.size or np.ptp(part) == 0 for part in (self.utilisation[out], self.utilisation[~out]))


def drawing_of(topology: Topology, load: Load | None = None) -> Drawing:
    """Returns the drawing of a machine: a grid for a torus, else nodes and links.

    Args:
        load: of the links, which decides whether a part of many chips stands for all.
    """
    if topology.has_lines:
        return grid.drawing(topology)
    return node_link.drawing(topology, every_chip=load is not None and not load.is_equal(topology))


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
