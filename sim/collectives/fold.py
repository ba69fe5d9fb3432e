"""Folding: the sends of a few chips that represent those of all, where each chip does the same as one of the few.

The kind of a send is the chip that represents its sender, and its place among the sends of its chip. Where

1. every chip sends one message of each kind of its own, of the same size over links that the folded machine makes one,
   and one of each kind arrives at every chip that the same chip represents,
2. a message waits for the same kinds of messages, and follows one of the same kind, whichever chip sends it,
3. links that the folded machine makes one carry the same kinds of messages, one of each, in the order of the kinds,

the queues of all links that the folded machine makes one are the same at all times, task for task: whatever a message
waits for, on chip c or on a link that many chips share, has the times of the message of that kind whose sender
represents the others. So the messages of those chips, with every arrival taken from their own message of that kind,
have the times of the whole. This is what is checked, send by send; nothing is taken on trust.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.collectives.schedule import PER_SEND, Int32s, Schedule
from sim.topology.folding import NotFoldableError, owners
from sim.topology.graph import Folding, Topology


def fold(plan: Schedule, folded: Topology) -> Schedule:
    """Returns the part of `plan`, a schedule on the whole machine, that the chips of the folded machine have in it.

    Raises:
        NotFoldableError: some chip's sends differ from those of the chip that represents it.
    """
    if folded.folding is None:
        raise ValueError(f"{folded.name} is not folded")
    folding, chips = folded.folding, folded.total_chips
    alike = chips // folded.chips
    if not len(plan):
        return plan
    if len(plan.timings) > 1:
        raise NotFoldableError(f"{plan.collective}: groups are served by different kernels")
    each = np.bincount(plan.src, minlength=chips)
    if (each != each[folding.chips][folding.representative]).any():
        raise NotFoldableError(f"{plan.collective}: chips send different numbers of messages")
    made, kind_as_made = plan, _kinds(plan.src, each, folding)
    if (np.diff(kind_as_made) < 0).any():
        plan = reordered(plan, np.argsort(kind_as_made, kind="stable"))
    kinds = len(plan) // alike
    kind_of = np.repeat(np.arange(kinds, dtype=np.int32), alike)
    link, dst = folding.representative_link[plan.link], folding.representative[plan.dst]
    follows = np.where(plan.follows >= 0, kind_of[plan.follows], np.int32(-1))

    # Steps, directions and halves are by what loops of matmuls choose sends.
    columns = [link, dst, follows, plan.share, plan.way, plan.dep_counts, plan.step, plan.direction, plan.half]
    if not all(_rows_alike(column.reshape(kinds, alike, 1)) for column in columns):
        raise NotFoldableError(f"{plan.collective}: chips do different things")
    if not _one_of_each_arrives(plan, kind_of, folding):
        raise NotFoldableError(f"{plan.collective}: chips receive different messages")
    if not _in_one_order(made, kind_as_made, folding):
        raise NotFoldableError(f"{plan.collective}: links carry messages in different orders")

    counts = plan.dep_counts[::alike].astype(np.int64)
    ends = np.cumsum(counts)
    waits = np.empty(int(counts.sum()), dtype=np.int32)
    for count in sorted(set(counts.tolist())):
        rows = np.flatnonzero(counts == count)
        first = (ends[rows] - count)[:, None]
        kinds_waited_for = kind_of[plan.deps[first * alike + np.arange(alike * count)]].reshape(len(rows), alike, count)
        kinds_waited_for.sort(axis=2)  # their order in the list is no matter
        if not _rows_alike(kinds_waited_for):
            raise NotFoldableError(f"{plan.collective}: chips wait for different messages")
        waits[first + np.arange(count)] = kinds_waited_for[:, 0]

    stand_in = folding.representative[plan.src]
    mine = np.flatnonzero(folding.chips[stand_in] == plan.src)
    names = ("share", "step", "direction", "own", "way", "dep_counts", "part", "half", "origin", "target")
    return replace(
        plan,
        src=stand_in[mine],
        dst=dst[mine],
        link=link[mine],
        follows=follows[mine],
        deps=waits,
        groups=plan.groups[:1],
        **{name: getattr(plan, name)[mine] for name in names},
    )


def _kinds(src: Int32s, each: npt.NDArray[np.int64], folding: Folding) -> Int32s:
    """[sends] The kind of each, numbered by the first send of each kind, so that messages wait for lower kinds.

    Args:
        each: [chips] number of sends.
    """
    by_chip, ends = np.argsort(src, kind="stable"), np.cumsum(each[folding.chips])
    kind = np.empty(len(src), dtype=np.int64)
    kind[by_chip] = np.arange(len(src)) - np.repeat(np.cumsum(each) - each, each)
    kind += (ends - each[folding.chips])[folding.representative[src]]
    first = np.empty(ends[-1], dtype=np.int64)
    first[kind[::-1]] = np.arange(len(src))[::-1]
    number = np.empty(len(first), dtype=np.int32)
    number[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return number[kind]


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
    """Returns True if all rows of each block of [blocks, rows, n] are equal."""
    return bool((values == values[:, :1]).all())


def _one_of_each_arrives(plan: Schedule, kind_of: Int32s, folding: Folding) -> bool:
    """Returns True if every chip with the same representative receives one send of each kind."""
    alike = len(folding.representative) // len(folding.chips)
    place = np.empty(len(folding.representative), dtype=np.int64)
    place[np.argsort(folding.representative, kind="stable")] = np.arange(len(place)) % alike
    arrives = np.zeros(len(plan), dtype=np.bool_)
    arrives[kind_of.astype(np.int64) * alike + place[plan.dst]] = True
    return bool(arrives.all())


def _in_one_order(plan: Schedule, kind_of: Int32s, folding: Folding) -> bool:
    """Returns True if links with the same representative carry one send of each kind, in the order of kinds."""
    if (owners(folding.machine)[plan.link] == plan.src).all():
        return True  # every chip uses its own links only, so each carries its chip's sends in their order
    alike = len(folding.representative) // len(folding.chips)
    if (np.bincount(folding.representative_link)[folding.representative_link[plan.link]] != alike).any():
        return False
    order = np.argsort(plan.link, kind="stable")
    link, kind = plan.link[order], kind_of[order]
    return bool(((np.diff(kind) > 0) | (np.diff(link) > 0)).all())


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
            whole = topology.unfold()
            if not topology.is_folded:
                plan = refused.pop((topology, *args), None)
                return make(topology, *args) if plan is None else plan
            if plans_one_chip(topology, *args):
                return make(topology, *args)
            plan = refused.pop((whole, *args), None)
            plan = make(whole, *args) if plan is None else plan
            try:
                return fold(plan, topology)
            except NotFoldableError as error:
                refused.clear()
                refused[whole, *args] = plan
                return str(error)

        @functools.wraps(make)
        def made(topology: Topology, *args: Hashable) -> Schedule:
            plan = kept(topology, *args)
            if isinstance(plan, str):
                raise NotFoldableError(plan)
            return plan

        return made

    return wrap
