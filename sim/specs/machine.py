"""What the files of all machines have in common."""

from __future__ import annotations

from sim.specs.algorithms import Algorithms
from sim.specs.base import Name, Strict
from sim.specs.chip import ChipSpec

MAX_CHIPS = 2**16
MAX_LINKS = 2**20
"""Of a graph, parallel ones counted: more than a torus of as many chips has."""


class MachineSpec(Strict):
    """Chip, software and default algorithms of a machine."""

    name: Name
    description: str = ""
    source: str | None = None
    chip: ChipSpec
    default_stack: str = "ideal"
    """Name or path of the software that runs on it unless a scenario names another."""
    collectives: Algorithms = {}
    """Default algorithm per collective, by name."""
