"""A link carries the phases of one collective in their order.

In a collective that goes through several axes in parts, a link carries the messages of one part after those of another,
and their sizes differ by the lengths of the axes. Queues are served in the order in which messages are ready: where a
chip is late, a large message of a later phase that is ready early would hold the link just before small ones that other
chips wait for, and one nanosecond could cost a millisecond.

So a message of a later phase also waits for what the messages of all earlier phases on its link wait for. It is then
ready no earlier than they are, and behind them in the queue. Where phases are in order anyway, times are the same.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.collectives.schedule import Int32s, Schedule
from sim.topology.graph import Topology

_PHASED = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all")


def needs_order(plan: Schedule, topology: Topology, size: float | None) -> bool:
    """Returns True if links should carry the phases of the plan in order for a collective of `size` bytes.

    On axes of very different lengths the order costs latencies, as parts wait for each other on the longest axis. It
    is left out there while no message holds a link longer than it flies: links are then idle most of the time.
    """
    if plan.collective not in _PHASED or not len(plan) or sum(topology.axis(name).size > 1 for name in plan.axes) < 2:
        return False
    if size is None or not _costs_latencies(plan, topology):
        return True
    link = topology.links[0]
    return float(plan.share.max()) * size / link.bandwidth > link.latency_s


@functools.lru_cache(maxsize=256)
def _costs_latencies(plan: Schedule, topology: Topology) -> bool:
    """Returns True if all parts in turn on the longest ring take more hops than one part on all axes.

    A part sends its last message on a ring one hop before it has ended there, and then the next part may start. The
    links of a line carry less, and the order costs nothing there.
    """
    if not topology.is_vertex_transitive:
        return False
    hops = []
    for axis in topology.axes:
        along = np.array([link.axis == axis.name for link in topology.links])[plan.link]
        hops.append(int(plan.step[along].max(initial=-1)) + 1)
    return (plan.parts - 1) * (max(hops) - 1) + max(hops) > sum(hops)


def _phases(plan: Schedule, topology: Topology) -> Int32s:
    """[n] changes of axis behind each send: an all-gather starts on the axis on which its reduce-scatter ends."""
    longer = [i for i, name in enumerate(plan.axes) if topology.axis(name).size > 1]
    gathered: Int32s = (plan.origin[:, longer] < 0).sum(axis=1, dtype=np.int32)
    left: Int32s = (plan.target[:, longer] < 0).sum(axis=1, dtype=np.int32)
    last = max(0, len(longer) - 1)
    if plan.collective == "reduce_scatter":
        return np.subtract(last, left, dtype=np.int32)
    if plan.collective == "all_reduce":
        return np.where(gathered == len(longer), last - left, last + gathered).astype(np.int32)
    return gathered


@functools.lru_cache(maxsize=64)
def in_phase_order(plan: Schedule, topology: Topology) -> Schedule:
    """The same sends on links that carry the phases in their order."""
    phase = _phases(plan, topology)
    if not phase.any():
        return plan
    sends = np.repeat(np.arange(len(plan), dtype=np.int64), plan.dep_counts)
    deps = plan.deps.astype(np.int64)
    links = len(topology.links)
    # A pair is a link and one over which something arrives that its messages wait for; messages arrive in order, so
    # the last of those is enough.
    pairs, pair_of = np.unique(plan.link[sends].astype(np.int64) * links + plan.link[deps], return_inverse=True)
    first = np.searchsorted(pairs, np.arange(links + 1) * links)
    latest = np.full(len(pairs), -1, dtype=np.int64)
    more: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = [(sends, deps)]
    for number in range(int(phase.max(initial=0)) + 1):
        now = np.flatnonzero(phase == number)
        counts = np.diff(first)[plan.link[now]]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        waits = latest[np.repeat(first[plan.link[now]], counts) + within]
        more.append((np.repeat(now, counts)[waits >= 0], waits[waits >= 0]))
        own = phase[sends] == number
        np.maximum.at(latest, pair_of.ravel()[own], deps[own])
    both = np.unique(np.concatenate([send * len(plan) + dep for send, dep in more]))
    return replace(
        plan,
        deps=(both % max(1, len(plan))).astype(np.int32),
        dep_counts=np.bincount(both // max(1, len(plan)), minlength=len(plan)).astype(np.int32),
    )
