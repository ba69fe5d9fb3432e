"""What the files of all machines have in common."""

from __future__ import annotations

from sim.specs.algorithms import Algorithms
from sim.specs.base import Name, Strict
from sim.specs.chip import ChipSpec
from sim.specs.quantities import Duration, Sourced

MAX_CHIPS = 2**16
MAX_LINKS = 2**20
"""Of a graph, parallel ones counted: more than a torus of as many chips has."""


class MachineSpec(Strict):
    """Chip, launch overhead and default algorithms of a machine."""

    name: Name
    description: str = ""
    source: str | None = None
    chip: ChipSpec
    collective_overhead: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Fixed launch time of every collective."""
    collectives: Algorithms = {}
    """Default algorithm per collective, by name."""
