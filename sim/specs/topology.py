"""Machines: chips on a torus, on a switch or on a graph."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import AXIS, Count, Strict, wrong
from sim.specs.graph import GraphSpec, SwitchSpec
from sim.specs.link import LinkSpec
from sim.specs.machine import MAX_CHIPS, MachineSpec


class AxisSpec(Strict):
    """One torus axis. `twist` shifts other axes where this axis wraps (twisted torus)."""

    size: Count
    wrap: bool
    twist: dict[str, Count] = {}
    link: LinkSpec | None = None
    """Of this axis alone, such as the one between the devices of a chip. Default: the machine's."""

    @model_validator(mode="after")
    def _twist_needs_wrap(self) -> Self:
        if self.twist and not self.wrap:
            raise wrong("twist", rule="a twist shifts the wraparound, so it needs 'wrap: true'")
        return self


class TorusSpec(MachineSpec):
    """Chips on a grid with links along each axis, wrapped or not."""

    kind: Literal["torus"]
    link: LinkSpec
    axes: Annotated[dict[Annotated[str, Field(pattern=AXIS)], AxisSpec], Field(min_length=1)]

    def link_along(self, axis: str) -> LinkSpec:
        """The link of an axis."""
        return self.axes[axis].link or self.link

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


TopologySpec = Annotated[TorusSpec | SwitchSpec | GraphSpec, Field(discriminator="kind")]


def has_neighbours(machine: TopologySpec) -> bool:
    """Whether chips have neighbours along axes, with links of their own; else messages have routes to any chip."""
    return isinstance(machine, TorusSpec)


def chips_of(machine: TopologySpec) -> int:
    """Number of chips of a machine."""
    if isinstance(machine, TorusSpec):
        return math.prod(axis.size for axis in machine.axes.values())
    return machine.chip_count
