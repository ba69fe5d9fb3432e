"""Machines: chips on a torus, on a switch or on a graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import AXIS, wrong
from sim.specs.graph import GraphSpec, SwitchSpec
from sim.specs.link import LinkSpec
from sim.specs.machine import MAX_CHIPS, AxisSpec, MachineSpec


class TorusSpec(MachineSpec):
    """Chips on a grid with links along each axis, wrapped or not."""

    kind: Literal["torus"]
    link: LinkSpec
    axes: Annotated[dict[Annotated[str, Field(pattern=AXIS)], AxisSpec], Field(min_length=1)]

    @property
    def chip_count(self) -> int:
        """Number of chips."""
        return math.prod(axis.size for axis in self.axes.values())

    @property
    def lines(self) -> Mapping[str, AxisSpec]:
        """The axes."""
        return self.axes

    @property
    def line_links(self) -> Mapping[str, LinkSpec]:
        """The link of each axis."""
        return {name: axis.link or self.link for name, axis in self.axes.items()}

    @model_validator(mode="after")
    def _axes_fit(self) -> Self:
        if self.chip_count > MAX_CHIPS:
            raise wrong("axes", rule=f"must have at most {MAX_CHIPS} chips", got=self.chip_count)
        for name, axis in self.axes.items():
            for other, shift in axis.twist.items():
                if other not in self.axes or other == name:
                    raise wrong("axes", name, "twist", rule="must name another axis", got=other)
                if shift >= (size := self.axes[other].size):
                    rule = f"must be less than the size of axis '{other}', {size}"
                    raise wrong("axes", name, "twist", other, rule=rule, got=shift)
        return self


TopologySpec = Annotated[TorusSpec | SwitchSpec | GraphSpec, Field(discriminator="kind")]
