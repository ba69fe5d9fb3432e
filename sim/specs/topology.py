"""Machines: chips on a torus, on a switch or on a graph."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.errors import suggest
from sim.specs.algorithms import Algorithms
from sim.specs.base import AXIS, Count, Name, Strict, wrong
from sim.specs.chip import ChipSpec
from sim.specs.link import LinkSpec
from sim.specs.nccl import NcclSpec
from sim.specs.quantities import Duration, Sourced

MAX_CHIPS = 2**16
MAX_LINKS = 2**20
"""Of a graph, parallel ones counted: more than a torus of as many chips has."""


class AxisSpec(Strict):
    """One torus axis. `twist` shifts other axes where this axis wraps (twisted torus)."""

    size: Count
    wrap: bool
    twist: dict[str, Count] = {}

    @model_validator(mode="after")
    def _twist_needs_wrap(self) -> Self:
        if self.twist and not self.wrap:
            raise wrong("twist", rule="a twist shifts the wraparound, so it needs 'wrap: true'")
        return self


class _Machine(Strict):
    name: Name
    description: str = ""
    source: str | None = None
    chip: ChipSpec
    collective_overhead: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Fixed launch time of every collective."""
    collectives: Algorithms = {}
    """Default algorithm per collective, by name."""


class TorusSpec(_Machine):
    """Chips on a grid with links along each axis, wrapped or not."""

    kind: Literal["torus"]
    link: LinkSpec
    axes: Annotated[dict[Annotated[str, Field(pattern=AXIS)], AxisSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _axes_fit(self) -> Self:
        chips = math.prod(axis.size for axis in self.axes.values())
        if chips > MAX_CHIPS:
            raise wrong("axes", rule=f"a machine has at most {MAX_CHIPS} chips", got=chips)
        for name, axis in self.axes.items():
            for other, shift in axis.twist.items():
                if other not in self.axes or other == name:
                    raise wrong("axes", name, "twist", rule="must name another axis", got=other)
                if shift >= (size := self.axes[other].size):
                    rule = f"must be less than the size of axis '{other}', {size}"
                    raise wrong("axes", name, "twist", other, rule=rule, got=shift)
        return self


class SwitchSpec(_Machine):
    """Chips on one non-blocking switch; `link` is the port of one chip, one direction."""

    kind: Literal["switch"]
    chips: Annotated[int, Field(gt=0, le=MAX_CHIPS)]
    link: LinkSpec
    nccl: NcclSpec | None = None
    """With it collectives run as NCCL would choose, unless an algorithm is named."""
    reduces: bool = False
    """Whether the switch adds up and multicasts (NVLS)."""


class EdgeSpec(Strict):
    """Links between two nodes of a graph, `count` of them side by side, each in both directions."""

    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    link: str
    count: Count = 1


class GraphSpec(_Machine):
    """An arbitrary graph: chips, switches and sockets as nodes, named link types as edges."""

    kind: Literal["graph"]
    nodes: Annotated[dict[Name, Literal["chip", "switch", "socket", "multicast"]], Field(min_length=1)]
    link_types: Annotated[dict[Name, LinkSpec], Field(min_length=1)]
    links: list[EdgeSpec]
    nccl: NcclSpec | None = None
    """With it collectives run as NCCL would choose, unless an algorithm is named."""
    reduces: bool = False
    """Whether switches between chips add up and multicast (NVLS)."""

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        links = sum(edge.count for edge in self.links)
        if links > MAX_LINKS:
            raise wrong("links", rule=f"a machine has at most {MAX_LINKS} links", got=links)
        for i, edge in enumerate(self.links):
            for node in edge.between:
                if node not in self.nodes:
                    hint = suggest(node, self.nodes)
                    raise wrong("links", i, "between", rule="must name two of the nodes", got=node, hint=hint)
            if edge.between[0] == edge.between[1]:
                raise wrong("links", i, "between", rule="must name two different nodes", got=edge.between)
            if edge.link not in self.link_types:
                hint = suggest(edge.link, self.link_types)
                raise wrong("links", i, "link", rule="must be one of the link_types", got=edge.link, hint=hint)
        return self

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        chips = chips_of(self)
        if not 1 <= chips <= MAX_CHIPS:
            raise wrong("nodes", rule=f"a machine has 1 to {MAX_CHIPS} nodes that are a chip", got=chips)
        multicasting = [name for name, kind in self.nodes.items() if kind == "multicast"]
        if len(multicasting) > 1:
            raise wrong("nodes", rule="at most one node may be 'multicast'", got=multicasting)
        return self


TopologySpec = Annotated[TorusSpec | SwitchSpec | GraphSpec, Field(discriminator="kind")]


def chips_of(machine: TopologySpec) -> int:
    """Number of chips of a machine."""
    if isinstance(machine, TorusSpec):
        return math.prod(axis.size for axis in machine.axes.values())
    if isinstance(machine, SwitchSpec):
        return machine.chips
    return sum(kind == "chip" for kind in machine.nodes.values())
