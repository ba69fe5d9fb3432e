"""Folding: the sends of one chip that stand for those of all, when all chips do the same.

Let every send be of a kind: the how-manieth of its chip it is. Where

1. every chip sends one message of each kind, of the same size over links that the folded machine makes one, and one of
   each kind arrives at every chip,
2. a message waits for the same kinds of messages, whichever chip sends it,
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

from sim.collectives.schedule import Int32s, Schedule
from sim.topology.folding import NotFoldableError, owner_of
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
    if (np.bincount(plan.src, minlength=chips) != each).any():
        raise NotFoldableError(f"{plan.collective}: chips send different numbers of messages")
    narrow = plan.src.astype(np.uint16) if chips <= 2**16 else plan.src  # numpy sorts 16 bits by radix
    rows = np.argsort(narrow, kind="stable")  # chip after chip, each chip's sends in schedule order
    kind_of = np.empty(sends, dtype=np.int32)  # the how-manieth send of its chip each send is
    kind_of[rows] = np.tile(np.arange(each, dtype=np.int32), chips)
    link, ingress, between = (_here(links, stands_for) for links in (plan.link, plan.ingress, plan.between))

    # Steps, directions and halves are by what loops of matmuls choose sends.
    columns = [link, ingress, *between.T, plan.share, plan.dep_counts, plan.step, plan.direction, plan.half]
    by_chip = (column[rows].reshape(chips, each) for column in columns)
    if not all((column == column[:1]).all() for column in by_chip):
        raise NotFoldableError(f"{plan.collective}: chips do different things")
    if not _one_of_each_arrives(plan, kind_of, each):
        raise NotFoldableError(f"{plan.collective}: chips receive different messages")
    if not _in_one_order(plan, kind_of, stands_for):
        raise NotFoldableError(f"{plan.collective}: links carry messages in different orders")

    # Per chip, all its (send, what it waits for), sorted: their order in the list is no matter.
    counts = plan.dep_counts[rows[:each]].astype(np.int64)
    of = np.repeat(np.arange(each), counts)
    starts = (np.cumsum(plan.dep_counts, dtype=np.int64) - plan.dep_counts)[rows].reshape(chips, each)
    at = starts[:, of] + (np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts))
    waits = kind_of[plan.deps[at]] + of * each
    if each < 2**15:
        waits = waits.astype(np.int32)
    waits.sort(axis=1)
    if not (waits == waits[:1]).all():
        raise NotFoldableError(f"{plan.collective}: chips wait for different messages")

    mine = rows[:each]
    nowhere = np.zeros(each, dtype=np.int32)
    names = ("share", "step", "direction", "own", "dep_counts", "part", "half", "origin", "target")
    return replace(
        plan,
        src=nowhere,
        dst=nowhere,
        link=link[mine],
        ingress=ingress[mine],
        between=between[mine] if len(between) else between,
        deps=(waits[0] % each).astype(np.int32),
        **{name: getattr(plan, name)[mine] for name in names},
    )


def _here(links: Int32s, stands_for: StandsFor) -> Int32s:
    """The folded machine's links for those of the whole, -1 for none."""
    return np.where(links >= 0, stands_for.link[links], np.int32(-1))


def _one_of_each_arrives(plan: Schedule, kind_of: Int32s, each: int) -> bool:
    arrives = np.zeros(len(plan), dtype=np.bool_)
    arrives[plan.dst.astype(np.int64) * each + kind_of] = True
    return bool(arrives.all())


def _in_one_order(plan: Schedule, kind_of: Int32s, stands_for: StandsFor) -> bool:
    """Whether all links that are made one carry the same kinds of sends, ever later ones of their chip."""
    whole = stands_for.whole
    owner = np.array([owner_of(whole, link) for link in whole.links], dtype=np.int32)
    if (plan.ingress < 0).all() and (owner[plan.link] == plan.src).all():
        return True  # every chip uses its own links only, so each carries its chip's sends in their order
    held = np.concatenate([plan.link[:, None], plan.ingress[:, None], plan.between.reshape(len(plan), -1)], axis=1)
    send, column = np.nonzero(held >= 0)
    link, kind = held[send, column], kind_of[send]
    for here in np.unique(stands_for.link[link]).tolist():
        own, members = stands_for.link[link] == here, np.flatnonzero(stands_for.link == here)
        counts = np.bincount(link[own], minlength=len(whole.links))[members]
        if (counts != counts[0]).any():
            return False
        kinds = kind[own][np.argsort(link[own], kind="stable")].reshape(len(members), -1)
        if (kinds != kinds[:1]).any() or (np.diff(kinds[0]) <= 0).any():
            return False
    return True


def folding(make: Callable[..., Schedule]) -> Callable[..., Schedule]:
    """A maker of schedules that keeps them and, asked for a folded topology, folds the whole machine's schedule."""
    refused: dict[tuple[Hashable, ...], Schedule] = {}  # the last that did not fold: it is asked for next

    @functools.lru_cache(maxsize=64)
    def kept(topology: Topology, *args: Hashable) -> Schedule | str:
        whole = topology.unfolded
        if whole is None:
            plan = refused.pop((topology, *args), None)
            return make(topology, *args) if plan is None else plan
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
