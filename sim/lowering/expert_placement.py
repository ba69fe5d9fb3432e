"""Placement of experts and their copies on chips, as EPLB places them (github.com/deepseek-ai/EPLB, eplb.py).

Groups of experts are packed to boxes. In each box every further copy goes to the expert with the largest load per copy,
and copies are packed to the box's chips. Packing goes by falling load, each item to the pack with the least load so far
that has room. In one box, with one group of all experts, this is EPLB's global policy (balanced), which it takes where
boxes do not divide the groups.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.errors import InputError
from sim.specs.experts import ExpertsLayout, ExpertsSpec

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Placement(Struct, frozen=True, eq=False):
    """Places of experts and their copies. A place is chip x slots + slot."""

    copies: Ints
    """[experts] copies of each, the expert itself included."""
    places: Ints
    """[all copies] the place of each: those of the first expert, then those of the second, and so on."""


def place_experts(
    load: Floats, experts: ExpertsSpec, layout: ExpertsLayout, holders: int, box: tuple[int, ...] | None
) -> Placement:
    """Places experts with these loads [experts] on chips.

    Args:
        holders: number of chips with different experts.
        box: [holders] number of each chip's box; None if all are in one.

    Raises:
        InputError: groups of experts and boxes that do not fit a placement box by box.
    """
    slots, policy = (experts.count + layout.replicas) // holders, layout.placement
    if policy is None:
        fits = box is not None and experts.groups % (max(box) + 1) == 0
        policy = "in_order" if not layout.replicas else "hierarchical" if fits else "balanced"
    if policy == "in_order":
        copies = _replicate(load, layout.replicas)[0]
        return Placement(copies, np.arange(copies.sum()))
    by_box = policy == "hierarchical"
    members = _boxes(box or (0,) * holders, experts.groups) if by_box else [np.arange(holders)]
    groups = experts.groups if by_box else 1
    size = experts.count // groups
    pack, rank = _pack(load.reshape(groups, size).sum(axis=1), len(members))
    copies, place_of = np.empty(experts.count, dtype=np.int64), {}
    for number, chips in enumerate(members):
        here = np.flatnonzero(pack == number)
        held = (here[np.argsort(rank[here])][:, None] * size + np.arange(size)).ravel()
        copies[held], expert, copy = _replicate(load[held], slots * len(chips) - len(held))
        chip, slot = _pack((load[held] / copies[held])[expert], len(chips))
        for each in range(len(expert)):
            place_of[int(held[expert[each]]), int(copy[each])] = int(chips[chip[each]]) * slots + int(slot[each])
    return Placement(copies, np.array([place_of[each] for each in sorted(place_of)]))


def _boxes(box: tuple[int, ...], groups: int) -> list[Ints]:
    """Returns the chips of each box. Raises InputError."""
    members = [np.flatnonzero(np.array(box) == number) for number in range(max(box) + 1)]
    if groups % len(members) or len({len(chips) for chips in members}) > 1:
        rule = f"hierarchical requires boxes of equally many chips whose number divides the {groups} groups of experts"
        got = f"boxes of {', '.join(str(len(chips)) for chips in members)} chips"
        raise InputError(rule, where="layout.experts.placement", got=got, hint="choose balanced")
    return members


def _pack(load: Floats, packs: int) -> tuple[Ints, Ints]:
    """Returns [items] (pack, place in it) of items with these loads, equally many to a pack (balanced_packing)."""
    room = len(load) // packs
    if room == 1:
        return np.arange(packs), np.zeros(packs, dtype=np.int64)
    pack, rank = np.empty(len(load), dtype=np.int64), np.empty(len(load), dtype=np.int64)
    held, used = np.zeros(packs), np.zeros(packs, dtype=np.int64)
    for item in np.argsort(-load, kind="stable"):
        least = int(np.argmin(np.where(used < room, held, np.inf)))
        pack[item], rank[item] = least, used[least]
        held[least] += load[item]
        used[least] += 1
    return pack, rank


def _replicate(load: Floats, replicas: int) -> tuple[Ints, Ints, Ints]:
    """Returns [experts] copies, and [all copies] (expert, copy): first one of each (replicate_experts)."""
    copies = np.ones(len(load), dtype=np.int64)
    expert, copy = list(range(len(load))), [0] * len(load)
    for _ in range(replicas):
        fullest = int(np.argmax(load / copies))
        expert.append(fullest)
        copy.append(int(copies[fullest]))
        copies[fullest] += 1
    return copies, np.array(expert), np.array(copy)
