"""Reductions from all-gathers: a reduce-scatter is an all-gather run backwards, an all-reduce is both in a row."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.collectives.schedule import PER_SEND, Algorithm, Int32s, Schedule
from sim.collectives.wiring import positions
from sim.topology.graph import Topology


def reverse(schedule: Schedule, topology: Topology) -> Schedule:
    """Returns the reduce-scatter that is the exact time reversal of an all-gather.

    Every send src -> dst becomes dst -> src over the opposite link, every "b after a" becomes "a after b". Where chunks
    of a chip fanned out over a tree, the contributions to it now flow together over the same tree. Every chip adds its
    own contribution to all it sends, since it received every chunk just once; a chip of another group, around failed
    links, passes on only. `step` counts from 0 again, per part, axis and direction.
    """
    opposite, axis_of = opposite_links(topology, schedule.axes)
    link = opposite[schedule.link]
    first_hop = np.array([end.src for end in topology.links], dtype=np.int32)[link] == schedule.dst
    group = _groups(topology, schedule.axes)
    adds = first_hop & (group[schedule.dst] == group[schedule.src[_beginnings(schedule)]])
    n = len(schedule)
    run = (schedule.part * len(schedule.axes) + axis_of[schedule.link]) * 2 + (schedule.direction > 0)
    last_step = np.zeros(int(run.max(initial=0)) + 1, dtype=np.int32)
    np.maximum.at(last_step, run, schedule.step)
    # Send i becomes send n-1-i, so that dependencies point backwards again.
    new_send = (n - 1 - schedule.deps)[::-1]
    waits_for = np.repeat(np.arange(n, dtype=np.int32), schedule.dep_counts[::-1])
    later = np.flatnonzero(schedule.follows >= 0)
    follows = np.full(n, -1, dtype=np.int32)
    follows[n - 1 - schedule.follows[later]] = n - 1 - later  # a message goes its way backwards
    by_new_send = np.argsort(new_send, kind="stable")  # from the last edge on: what it waits for is in order
    return Schedule(
        collective="reduce_scatter",
        axes=schedule.axes,
        parts=schedule.parts,
        places=schedule.places,
        src=schedule.dst[::-1],
        dst=schedule.src[::-1],
        link=link[::-1],
        follows=follows,
        share=schedule.share[::-1],
        step=(last_step[run] - schedule.step)[::-1],
        direction=-schedule.direction[::-1],
        own=adds[::-1],
        way=schedule.way[::-1],
        dep_counts=np.bincount(new_send, minlength=n).astype(np.int32),
        deps=waits_for[by_new_send],
        part=schedule.part[::-1],
        half=schedule.half[::-1],
        origin=schedule.target[::-1],
        target=schedule.origin[::-1],
    )


def _groups(topology: Topology, axes: tuple[str, ...]) -> npt.NDArray[np.int64]:
    """Returns [chips] the number of each chip's group along `axes`."""
    others = tuple(axis.name for axis in topology.axes if axis.name not in axes)
    if topology.is_folded or not others:
        return np.zeros(topology.chips, dtype=np.int64)
    sizes = [topology.axis(name).size for name in others]
    return np.asarray(np.ravel_multi_index(tuple(positions(topology, others).T), sizes))


def _beginnings(schedule: Schedule) -> npt.NDArray[np.int64]:
    """Returns [n] the send with which the data of each send left its source chip."""
    counts, n = schedule.dep_counts.astype(np.int64), len(schedule)
    first = np.append(schedule.deps, 0)[np.cumsum(counts) - counts]
    before = np.where(
        schedule.follows >= 0, schedule.follows, np.where(schedule.own | (counts == 0), np.arange(n), first)
    )
    while (further := before[before]).tobytes() != before.tobytes():
        before = further
    return before


def opposite_links(topology: Topology, axes: tuple[str, ...]) -> tuple[Int32s, npt.NDArray[np.int64]]:
    """Returns [links] the link that leads back, and the number of its axis among `axes`, 0 for other links."""
    opposite = np.full(len(topology.links), -1, dtype=np.int32)
    between: dict[tuple[int, int, str, int], list[int]] = {}
    for link in topology.links:
        between.setdefault((link.src, link.dst, link.axis, link.direction), []).append(link.index)
    for (src, dst, axis, direction), links in between.items():
        opposite[links] = between[dst, src, axis, -direction]
    number = {name: i for i, name in enumerate(axes)}
    return opposite, np.array([number.get(link.axis, 0) for link in topology.links], dtype=np.int64)


def reduce_scatter(all_gather: Algorithm) -> Algorithm:
    """Returns the reduce-scatter algorithm that reverses an all-gather algorithm."""

    @functools.wraps(all_gather)
    def algorithm(topology: Topology, axes: tuple[str, ...]) -> Schedule:
        return reverse(all_gather(topology, axes), topology)

    return algorithm


def all_reduce(scatter: Algorithm, all_gather: Algorithm) -> Algorithm:
    """Returns the all-reduce algorithm that reduces like `scatter` and gathers the sums like `all_gather`.

    A chip starts to send its chunk of a part as soon as the sum in it is complete, not after the whole reduce-scatter.
    """

    @functools.wraps(all_gather)
    def algorithm(topology: Topology, axes: tuple[str, ...]) -> Schedule:
        return _chain(scatter(topology, axes), all_gather(topology, axes), topology)

    return algorithm


def _chain(first: Schedule, second: Schedule, topology: Topology) -> Schedule:
    """Returns a reduce-scatter followed by an all-gather of its results.

    Sends with own data wait for all that adds to the chunk of their chip: sends of every stage, as boxes hold it too.
    """
    n = len(first)
    mesh, places = positions(topology, first.axes), first.places
    receiver = mesh[first.dst] if places is None else places[first.part, first.dst]
    for_receiver = (first.target < 0) | (first.target == receiver)
    finals = np.flatnonzero(for_receiver.all(axis=1) & first.arrives(topology))
    finals = finals[np.argsort((first.dst * first.parts + first.part)[finals], kind="stable")]
    sum_at = (first.dst * first.parts + first.part)[finals]
    sent_from = second.src * second.parts + second.part
    begin = np.searchsorted(sum_at, sent_from, side="left")
    added = np.where(second.own, np.searchsorted(sum_at, sent_from, side="right") - begin, 0)
    # Per send of the all-gather: its own dependencies, then `added` entries of `finals` from `begin` on.
    send = np.repeat(np.arange(len(second)), added)
    rank = np.arange(len(send)) - np.repeat(np.cumsum(added) - added, added)
    sums = finals[begin[send] + rank]
    deps = np.concatenate([second.deps.astype(np.int64) + n, sums])
    of = np.concatenate([np.repeat(np.arange(len(second)), second.dep_counts), send])
    ordered = deps[np.argsort(of, kind="stable")]
    joined = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in PER_SEND}
    return replace(
        first,
        collective="all_reduce",
        dep_counts=np.concatenate([first.dep_counts, second.dep_counts + added.astype(np.int32)]),
        deps=np.concatenate([first.deps, ordered.astype(np.int32)]),
        follows=np.concatenate([first.follows, np.where(second.follows >= 0, second.follows + n, -1)]).astype(np.int32),
        **joined,
    )
