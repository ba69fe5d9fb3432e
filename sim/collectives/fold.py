"""Folding: the sends of one chip that stand for those of all, when all chips do the same.

On a machine whose chips are all alike, a collective in which every chip does the same looks, from each chip, as it does
from chip 0: whatever chip c waits for from a neighbour, chip 0 waits for from its own neighbour in that direction, at
the same time. So chip 0's sends, with every arrival taken from its own send of that kind, have the times of the whole.
That all chips do the same is checked send by send, not taken on trust.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Concatenate, ParamSpec

import numpy as np

from sim.collectives.schedule import Schedule
from sim.topology.graph import Topology

P = ParamSpec("P")


class NotFoldableError(ValueError):
    """Chips do different things, so no chip can stand for all."""


def fold(plan: Schedule, topology: Topology) -> Schedule:
    """Chip 0's part of `plan`, a schedule on the whole `topology`.

    Raises:
        NotFoldableError: some chip's sends differ from chip 0's, in the given order, or the machine is no torus.
    """
    if topology.kind != "torus":
        raise NotFoldableError(f"{plan.collective}: chips do not send to their neighbours only")
    chips, sends = topology.chips, len(plan)
    each = sends // chips
    if not sends:
        return plan
    if (np.bincount(plan.src, minlength=chips) != each).any():
        raise NotFoldableError(f"{plan.collective}: chips send different numbers of messages")
    narrow = plan.src.astype(np.uint16) if chips <= 2**16 else plan.src  # numpy sorts 16 bits by radix
    rows = np.argsort(narrow, kind="stable")  # chip after chip, each chip's sends in schedule order
    kind_of = np.empty(sends, dtype=np.int32)  # the how-manieth send of its chip each send is
    kind_of[rows] = np.tile(np.arange(each, dtype=np.int32), chips)
    ports = sum(link.src == 0 for link in topology.links)  # links are numbered chip after chip, all alike
    link = (plan.link % ports).astype(np.int32)

    columns = (link, plan.share, plan.step, plan.direction, plan.part, plan.half, plan.dep_counts)
    by_chip = (column[rows].reshape(chips, each) for column in columns)
    from_neighbours = (plan.dst[plan.deps] == np.repeat(plan.src, plan.dep_counts)).all()
    if not from_neighbours or not all((column == column[:1]).all() for column in by_chip):
        raise NotFoldableError(f"{plan.collective}: chips do different things")

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
        raise NotFoldableError(f"{plan.collective}: chips do different things")

    mine = rows[:each]
    nowhere = np.zeros(each, dtype=np.int32)
    names = ("ingress", "share", "step", "direction", "own", "dep_counts", "part", "half", "origin", "target")
    return replace(
        plan,
        src=nowhere,
        dst=nowhere,
        link=link[mine],
        deps=(waits[0] % each).astype(np.int32),
        **{name: getattr(plan, name)[mine] for name in names},
    )


def folding(
    make: Callable[Concatenate[Topology, P], Schedule],
) -> Callable[Concatenate[Topology, P], Schedule]:
    """A maker of schedules that, asked for a folded topology, folds the whole machine's schedule."""

    @functools.wraps(make)
    def made(topology: Topology, /, *args: P.args, **kwargs: P.kwargs) -> Schedule:
        if topology.unfolded is None:
            return make(topology, *args, **kwargs)
        return fold(make(topology.unfolded, *args, **kwargs), topology.unfolded)

    return made
