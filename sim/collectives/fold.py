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
    rows = np.argsort(plan.src, kind="stable")  # chip after chip, each chip's sends in schedule order
    if (np.bincount(plan.src, minlength=chips) != each).any():
        raise NotFoldableError(f"{plan.collective}: chips send different numbers of messages")
    kind_of = np.empty(sends, dtype=np.int32)  # the how-manieth send of its chip each send is
    kind_of[rows] = np.tile(np.arange(each, dtype=np.int32), chips)
    ports = sum(link.src == 0 for link in topology.links)  # links are numbered chip after chip, all alike
    link = (plan.link % ports).astype(np.int32)

    # Dependencies as a table [sends, most], sorted, -1 where a send has fewer: their order in the list is no matter.
    waits = np.full((sends, int(plan.dep_counts.max(initial=0))), -1, dtype=np.int32)
    waits[np.arange(waits.shape[1]) < plan.dep_counts[:, None]] = kind_of[plan.deps]
    waits.sort(axis=1)
    from_neighbours = (plan.dst[plan.deps] == np.repeat(plan.src, plan.dep_counts)).all()
    columns = (link, plan.share, plan.step, plan.direction, plan.part, plan.half, waits)
    by_chip = [column[rows].reshape(chips, each, -1) for column in columns]
    if not from_neighbours or not all((column == column[:1]).all() for column in by_chip):
        raise NotFoldableError(f"{plan.collective}: chips do different things")

    mine = rows[:each]
    nowhere = np.zeros(each, dtype=np.int32)
    names = ("ingress", "share", "step", "direction", "own", "dep_counts", "part", "half", "origin", "target")
    return replace(
        plan,
        src=nowhere,
        dst=nowhere,
        link=link[mine],
        deps=waits[mine][waits[mine] >= 0],
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
