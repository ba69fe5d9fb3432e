"""Sums by loads and stores on multicast memory (multimem), without NCCL: symmetric-memory kernels of serving engines.

A load of a sum makes the switch fetch a part of the array from every chip and return the sum; a store to all makes it
pass one message on to every chip. In rounds, of which several are under way:

- reduce-scatter: a chip loads the sum of its part, so every port sends the array and receives 1/n of it.
- `multimem` all-reduce (two-shot): a chip also stores its sum to all, so every port carries (n+1)/n of the array in
  each direction.
- `multimem_one_shot` all-reduce: every chip loads all sums, so every port sends n times the array and receives it once.

A kernel holds a multiprocessor per thread block, and moves what its blocks can, or what the port carries of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import numpy as np
from msgspec.structs import replace

from sim.collectives.fold import folding
from sim.collectives.nccl.nvls import ports, reducers
from sim.collectives.schedule import Hop, Int32s, Payload, Schedule, ScheduleBuilder, Timing
from sim.collectives.wiring import positions
from sim.topology.boxes import boxes
from sim.topology.graph import Topology

_UNDER_WAY, _ROUNDS_PER_TRIP = 3, 2
"""Assumed: a round is what a port carries in half the time of a load and a store, and three are under way, so that the
links' latency does not limit the rate."""
_MOST_ROUNDS = 128
"""Longer runs of equal rounds are simulated as so many: the pipeline fills with a few of them, 1 % of the time."""

Rounds = Callable[[Topology, tuple[str, ...], int], Schedule]
"""(topology, axes, rounds) -> Schedule."""


def is_offered(topology: Topology) -> bool:
    """Returns True if all chips of the machine are on one switch that reduces."""
    return len(boxes(topology)) == 1 and bool(reducers(topology))


def timed(topology: Topology, collective: str, axes: tuple[str, ...], name: str, size: float) -> Schedule:
    """Returns the schedule of a kernel for `size` bytes, on a machine that offers it."""
    whole = topology.unfold()
    if whole.chips == 1:
        return _run(topology, collective, axes, name, 1)
    times = whole.software.multimem
    links = [whole.links[link] for port in ports(whole) for link in port]
    port, trip_s = min(link.bandwidth for link in links), 4 * max(link.latency_s for link in links)
    share = times.share if name == "multimem" and collective == "all_reduce" else times.load_share
    if times.block_rate is not None:
        share = min(share, times.blocks * times.block_rate / port)
    round_bytes = max(1.0, port * trip_s / _ROUNDS_PER_TRIP)
    rounds = min(_MOST_ROUNDS, max(1, math.ceil(size / round_bytes)))
    timing = Timing(whole.software.collective_overhead_s, (0.0, 0.0, 0.0), (share, 1.0, 1.0), times.blocks)
    return _timed(topology, collective, axes, name, rounds, timing)


@folding()
def _run(topology: Topology, collective: str, axes: tuple[str, ...], name: str, rounds: int) -> Schedule:
    return KERNELS[collective][name](topology, axes, rounds)


@functools.lru_cache(maxsize=256)
def _timed(
    topology: Topology, collective: str, axes: tuple[str, ...], name: str, rounds: int, timing: Timing
) -> Schedule:
    return replace(_run(topology, collective, axes, name, rounds), timing=timing)


def reduce_scatter(topology: Topology, axes: tuple[str, ...], rounds: int) -> Schedule:
    """Builds loads of sums: every chip of its own part, round by round."""
    return _in_rounds("reduce_scatter", topology, axes, rounds)


def all_reduce(topology: Topology, axes: tuple[str, ...], rounds: int) -> Schedule:
    """Builds loads of sums and stores to all, each chip of its own part, round by round (two-shot)."""
    return _in_rounds("all_reduce", topology, axes, rounds)


def _in_rounds(collective: str, topology: Topology, axes: tuple[str, ...], rounds: int) -> Schedule:
    builder = ScheduleBuilder(collective, axes, parts=rounds)
    if not axes or topology.chips == 1:
        return builder.build()
    chips, (egress, ingress) = np.arange(topology.chips, dtype=np.int32), _ports(topology)
    own_part, share = positions(topology, axes), 1 / (rounds * topology.chips)
    up, down = Hop(chips, chips, egress), Hop(chips, chips, ingress)
    sums = [np.full(len(chips), -1, dtype=np.int32)] * _UNDER_WAY
    for part in range(rounds):
        fetched = builder.add(up, Payload(1 / rounds, True, part), 0, deps=[sums[-_UNDER_WAY]])
        sums.append(
            builder.add(down, Payload(share, False, part, target=own_part), 1, deps=_every(fetched, len(chips)))
        )
        if collective == "all_reduce":
            stored = builder.add(up, Payload(share, False, part, target=own_part), 2, deps=[sums[-1]])
            builder.add(down, Payload(1 / rounds, False, part), 3, deps=_every(stored, len(chips)))
    return builder.build()


def one_shot(topology: Topology, axes: tuple[str, ...], rounds: int) -> Schedule:
    """Builds loads of sums: every chip of the whole array, which the switch fetches from all for each of them."""
    builder = ScheduleBuilder("all_reduce", axes, parts=rounds)
    if not axes or topology.chips == 1:
        return builder.build()
    chips, (egress, ingress) = np.arange(topology.chips, dtype=np.int32), _ports(topology)
    up, down = Hop(chips, chips, egress), Hop(chips, chips, ingress)
    sums = [np.full(len(chips), -1, dtype=np.int32)] * _UNDER_WAY
    for part in range(rounds):
        data, before = Payload(1 / rounds, True, part), sums[-_UNDER_WAY]
        fetched = [builder.add(up, data, 0, deps=[before]) for _ in chips]  # the k-th for the k-th chip after the own
        loaded = [np.roll(sends, ahead) for ahead, sends in enumerate(fetched)]
        sums.append(builder.add(down, replace(data, own=False), 1, deps=loaded))
    return builder.build()


def _every(sends: Int32s, chips: int) -> list[Int32s]:
    """Returns what a send of each chip waits for that waits for all of `sends`."""
    return [np.broadcast_to(send, chips) for send in sends]


def _ports(topology: Topology) -> tuple[Int32s, Int32s]:
    """Returns links from the chips to the switch, and from it, [chips] each."""
    egress, ingress = (np.array(links, dtype=np.int32) for links in zip(*ports(topology), strict=True))
    return egress, ingress


KERNELS: Mapping[str, Mapping[str, Rounds]] = {
    "reduce_scatter": {"multimem": reduce_scatter},
    "all_reduce": {"multimem": all_reduce, "multimem_one_shot": one_shot},
}
"""Kernels by collective and name."""
