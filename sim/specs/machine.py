"""Fields of the files of all machines."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from sim.specs.algorithms import Algorithms
from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.chip import ChipSpec
from sim.specs.link import LinkSpec

MAX_CHIPS = 2**16
MAX_LINKS = 2**20
"""Largest number of links of a graph, parallel ones counted: more than a torus of as many chips has."""


class AxisSpec(Strict):
    """One torus axis. `twist` shifts other axes where this axis wraps (twisted torus)."""

    size: Count
    wrap: bool
    twist: dict[str, Count] = {}
    link: LinkSpec | None = None
    """Link of this axis, such as the one between the devices of a chip. Default: the machine's."""

    @model_validator(mode="after")
    def _twist_needs_wrap(self) -> Self:
        if self.twist and not self.wrap:
            raise wrong("twist", rule="requires 'wrap: true'")
        return self


class MachineSpec(Strict):
    """Chip, software and default algorithms of a machine, and questions that each kind of machine answers."""

    name: Name
    description: str = ""
    source: str | None = None
    chip: ChipSpec
    default_stack: str = "ideal"
    """Name or path of the software that runs on it unless a scenario names another."""
    collectives: Algorithms = {}
    """Default algorithm per collective, by name."""

    @property
    @abstractmethod
    def chip_count(self) -> int:
        """Number of chips."""

    @property
    def lines(self) -> Mapping[str, AxisSpec]:
        """Axes along which chips have links to neighbours, by name; none where messages take routes to any chip."""
        return {}

    @property
    def line_links(self) -> Mapping[str, LinkSpec]:
        """The link along each of the lines."""
        return {}

    def keep_first_chips(self, count: int) -> Self:
        """Returns the machine with its first chips alone; all of it where chips have links to neighbours."""
        return self
