"""Rings of chips, and collectives that go around them.

On a switch there is one ring, in the order of the chips. On a graph there are as many rings of all chips as a search
finds (`sim.topology.rings`), and the array is cut into as many parts.

A chunk of each chip goes around every ring: n-1 steps for an all-gather or reduce-scatter, 2 (n-1) for an all-reduce.
On a ring of bandwidth w and latency t a step takes V/(n w) + t.

A broadcast goes from chip 0 along every ring, a reduce along it to chip 0, in L chunks one behind the other:
(L + n - 2) V/(L w) + (n-1) t.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sim.collectives.graph.routes import Messages
from sim.collectives.schedule import Algorithm, Payload, Schedule
from sim.topology.graph import Topology
from sim.topology.rings import Ring, find


def once(collective: str) -> Algorithm:
    """Builds the algorithm that goes once around all rings."""

    def algorithm(topology: Topology, axes: tuple[str, ...]) -> Schedule:
        found = find(topology).rings if axes else ()
        to = Messages(topology, collective, axes, parts=max(1, len(found)))
        for part, ring in enumerate(found):
            _once_around(to, collective, ring, part, 1 / len(found))
        return to.build()

    return algorithm


def along(topology: Topology, collective: str, axes: tuple[str, ...], loops: int) -> Schedule:
    """Broadcast from chip 0, or reduce to it, in `loops` chunks along all rings."""
    found = find(topology).rings if axes else ()
    to = Messages(topology, collective, axes, parts=max(1, len(found) * loops))
    for part, ring in enumerate(found):
        start = ring.order.index(0) + (collective == "reduce")
        order, ways = ring.order[start:] + ring.order[:start], ring.ways[start:] + ring.ways[:start]
        arrived = np.full(1, -1, dtype=np.int32)
        root = np.zeros(1, dtype=np.int32)
        for step, (src, dst) in enumerate(pairwise(order)):
            arrived = to.send(
                np.array([src], dtype=np.int32),
                np.array([dst], dtype=np.int32),
                Payload(
                    1 / (len(found) * loops),
                    collective == "reduce" or step == 0,
                    part=part,
                    origin=root if collective == "broadcast" else None,
                    target=root if collective == "reduce" else None,
                ),
                step,
                deps=[arrived],
                links=[ways[step]],
            )
    if found and to.n > 1 and loops > 1:
        to.repeat(0, loops - 1, parts=len(found))
    return to.build()


def _once_around(to: Messages, collective: str, ring: Ring, part: int, share: float) -> None:
    """Adds the messages of one ring."""
    arrived = np.full(to.n, -1, dtype=np.int32)
    at = np.array(ring.order, dtype=np.int32)
    position = np.arange(to.n)
    sums = collective != "all_gather"
    copies = collective != "reduce_scatter"
    for step in range((to.n - 1) * (sums + copies)):
        adds = sums and step < to.n - 1
        # A sum goes around to the chip it is for, a copy starts at the chip it is from.
        of = at[(position - step - 1) % to.n] if adds else at[(position - (step - (to.n - 1) * sums)) % to.n]
        sent = to.send(
            at,
            np.roll(at, -1),
            Payload(
                share / to.n,
                adds or step == (to.n - 1) * sums,
                part=part,
                origin=None if adds else of,
                target=of if adds else None,
            ),
            step,
            deps=[arrived],
            links=ring.ways,
        )
        arrived = np.roll(sent, 1)
