"""Algorithms between numbered chips, on a machine that is numbered by its links."""

from __future__ import annotations

import functools

import numpy as np
from msgspec.structs import replace

from sim.collectives.schedule import Algorithm, Int32s, Schedule
from sim.topology.graph import Topology
from sim.topology.numbering import numbering, renumbered


def numbered(algorithm: Algorithm, root: int | None = None) -> Algorithm:
    """An algorithm that runs on the chips as `sim.topology.numbering` numbers them.

    Args:
        root: the chip that keeps its number; None where all chips may change theirs.
    """

    @functools.wraps(algorithm)
    def run(topology: Topology, axes: tuple[str, ...]) -> Schedule:
        order = numbering(topology, root)
        if order == tuple(range(topology.chips)):
            return algorithm(topology, axes)
        plan = algorithm(renumbered(topology, order), axes)
        chip = np.array(order, dtype=np.int32)

        def back(positions: Int32s) -> Int32s:
            return np.where(positions < 0, positions, chip[positions])

        return replace(plan, src=chip[plan.src], dst=chip[plan.dst], origin=back(plan.origin), target=back(plan.target))

    return run
