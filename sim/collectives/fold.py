"""Folding: the sends of one chip that stand for those of all, when all chips do the same.

Let every send be of a kind: the how-manieth of its chip it is. Where

1. every chip sends one message of each kind, of the same size over links that the folded machine makes one, and one of
   each kind arrives at every chip,
2. a message waits for the same kinds of messages, and follows one of the same kind, whichever chip sends it,
3. every link carries the same kinds of messages, one of each, in the order in which the first chip sends them,

the queues of all links that the folded machine makes one are the same at all times, task for task: whatever a message
waits for, on chip c or on a port that many chips share, has the times of the first chip's message of that kind. So that
chip's messages, with every arrival taken from its own message of that kind, have the times of the whole. This is what
is checked, send by send; nothing is taken on trust.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.collectives.schedule import PER_SEND, Int32s, Schedule
from sim.topology.folding import NotFoldableError, owners
from sim.topology.graph import StandsFor, Topology


def fold(plan: Schedule, folded: Topology) -> Schedule:
    """The first chip's part of `plan`, a schedule on the whole of which `folded` is the one chip.

    Raises:
        NotFoldableError: some chip's sends differ from the first's, in the given order.
    """
    if folded.stands_for is None:
        raise ValueError(f"{folded.name} is not folded")
    stands_for, chips, sends = folded.stands_for, folded.mesh_chips, len(plan)
    each = sends // chips
    if not sends:
        return plan
    if len(plan.timings) > 1:
        raise NotFoldableError(f"{plan.collective}: groups are served by different kernels")
    if (np.bincount(plan.src, minlength=chips) != each).any():
        raise NotFoldableError(f"{plan.collective}: chips send different numbers of messages")
    made, order = plan, _by_kind(plan.src, chips)
    kind_of = np.repeat(np.arange(each, dtype=np.int32), chips)
    kind_as_made = kind_of
    if order is not None:
        plan, kind_as_made = reordered(plan, order), np.empty_like(kind_of)
        kind_as_made[order] = kind_of
    link = stands_for.link[plan.link]
    follows = np.where(plan.follows >= 0, kind_of[plan.follows], np.int32(-1))

    # Steps, directions and halves are by what loops of matmuls choose sends.
    columns = [link, follows, plan.share, plan.way, plan.dep_counts, plan.step, plan.direction, plan.half]
    if not all(_rows_alike(column.reshape(each, chips, 1)) for column in columns):
        raise NotFoldableError(f"{plan.collective}: chips do different things")
    if not _one_of_each_arrives(plan, kind_of, each):
        raise NotFoldableError(f"{plan.collective}: chips receive different messages")
    if not _in_one_order(made, kind_as_made, stands_for):
        raise NotFoldableError(f"{plan.collective}: links carry messages in different orders")

    counts = plan.dep_counts[::chips].astype(np.int64)
    ends = np.cumsum(counts)
    waits = np.empty(int(counts.sum()), dtype=np.int32)
    for count in np.unique(counts).tolist():
        kinds = np.flatnonzero(counts == count)
        first = (ends[kinds] - count)[:, None]
        found = kind_of[plan.deps[first * chips + np.arange(chips * count)]].reshape(len(kinds), chips, count)
        found.sort(axis=2)  # their order in the list is no matter
        if not _rows_alike(found):
            raise NotFoldableError(f"{plan.collective}: chips wait for different messages")
        waits[first + np.arange(count)] = found[:, 0]

    mine = np.flatnonzero(plan.src == 0)
    nowhere = np.zeros(each, dtype=np.int32)
    names = ("share", "step", "direction", "own", "way", "dep_counts", "part", "half", "origin", "target")
    return replace(
        plan,
        src=nowhere,
        dst=nowhere,
        link=link[mine],
        follows=follows[mine],
        deps=waits,
        groups=plan.groups[:1],
        **{name: getattr(plan, name)[mine] for name in names},
    )


def _by_kind(src: Int32s, chips: int) -> npt.NDArray[np.int64] | None:
    """Sends kind after kind, one of each chip; None where they are in such an order, as most schedules are made."""
    each = len(src) // chips
    seen = np.zeros((each, chips), dtype=np.bool_)
    seen[np.arange(each)[:, None], src.reshape(each, chips)] = True
    return None if seen.all() else np.argsort(src, kind="stable").reshape(chips, each).T.ravel()


def reordered(plan: Schedule, order: npt.NDArray[np.int64]) -> Schedule:
    """The same sends under other numbers, whatever that makes of their order."""
    number = np.empty(len(plan), dtype=np.int32)
    number[order] = np.arange(len(plan), dtype=np.int32)
    counts = plan.dep_counts[order].astype(np.int64)
    starts = (np.cumsum(plan.dep_counts, dtype=np.int64) - plan.dep_counts)[order]
    at = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(len(plan.deps))
    columns = {name: getattr(plan, name)[order] for name in (*PER_SEND, "dep_counts")}
    follows = np.where(plan.follows >= 0, number[plan.follows], np.int32(-1))[order]
    return replace(plan, deps=number[plan.deps[at]], follows=follows, **columns)


def _rows_alike(values: npt.NDArray[np.generic]) -> bool:
    """Whether in each block of [blocks, rows, n] all rows are the same."""
    return bool((values == values[:, :1]).all())


def _one_of_each_arrives(plan: Schedule, kind_of: Int32s, each: int) -> bool:
    arrives = np.zeros(len(plan), dtype=np.bool_)
    arrives[plan.dst.astype(np.int64) * each + kind_of] = True
    return bool(arrives.all())


def _in_one_order(plan: Schedule, kind_of: Int32s, stands_for: StandsFor) -> bool:
    """Whether all links that are made one carry the same kinds of sends, ever later ones of their chip."""
    whole = stands_for.whole
    if (owners(whole)[plan.link] == plan.src).all():
        return True  # every chip uses its own links only, so each carries its chip's sends in their order
    for here in np.unique(stands_for.link[plan.link]).tolist():
        own, members = stands_for.link[plan.link] == here, np.flatnonzero(stands_for.link == here)
        counts = np.bincount(plan.link[own], minlength=len(whole.links))[members]
        if (counts != counts[0]).any():
            return False
        kinds = kind_of[own][np.argsort(plan.link[own], kind="stable")].reshape(len(members), -1)
        if (kinds != kinds[:1]).any() or (np.diff(kinds[0]) <= 0).any():
            return False
    return True


Maker = Callable[..., Schedule]


def folding(plans_one_chip: Callable[..., bool] = lambda *_: False) -> Callable[[Maker], Maker]:
    """A maker of schedules that keeps them and, given a folded topology, folds the whole machine's schedule.

    Args:
        plans_one_chip: whether, with the same arguments, the maker plans the sends of a folded machine directly.
    """

    def wrap(make: Maker) -> Maker:
        refused: dict[tuple[Hashable, ...], Schedule] = {}  # the last that did not fold: it is asked for next

        @functools.lru_cache(maxsize=64)
        def kept(topology: Topology, *args: Hashable) -> Schedule | str:
            whole = topology.unfolded
            if whole is None:
                plan = refused.pop((topology, *args), None)
                return make(topology, *args) if plan is None else plan
            if plans_one_chip(topology, *args):
                return make(topology, *args)
            plan = make(whole, *args)
            try:
                return fold(plan, topology)
            except NotFoldableError as error:
                refused.clear()
                refused[whole, *args] = plan
                return str(error)

        @functools.wraps(make)
        def made(topology: Topology, *args: Hashable) -> Schedule:
            found = kept(topology, *args)
            if isinstance(found, str):
                raise NotFoldableError(found)
            return found

        return made

    return wrap
