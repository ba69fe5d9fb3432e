"""Expands the trace of a folded machine to other chips: each has the same tasks at the same times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec.structs import replace

from sim.program import COLUMNS, Ids, Ints, Kind, Program
from sim.program.trace import TIMES, Trace
from sim.topology.graph import Topology


def expand_to_all_chips(trace: Trace, folded: Topology, program: Program) -> Trace:
    """Returns the trace of `program`, the same scenario lowered for the machine with all its chips.

    Every task takes the times of the task of its op at the same place on the chip that represents its chip.

    Args:
        trace: of the machine `folded`.
        program: without the layers that the trace leaves out.
    """
    if folded.folding is None:
        raise ValueError(f"{folded.name} is not folded")
    number = {name: op for op, name in enumerate(trace.program.op_names)}
    op = np.array([number[name] for name in program.op_names])[program.op]
    ops = len(number)
    key, mine = folded.folding.representative[program.chip] * ops + op, trace.program.chip * ops + trace.program.op
    own = np.argsort(mine, kind="stable")
    first = np.searchsorted(mine[own], np.arange(folded.chips * ops))
    times = np.empty(len(program), dtype=TIMES)
    times[:] = trace.times[own[first[key] + _places(program.chip.astype(np.int64) * ops + op)]]
    return Trace(program, times)


def _places(key: Ints) -> Ints:
    """Returns [n] how many earlier entries equal each entry."""
    order = np.argsort(key, kind="stable")
    new = np.concatenate(([True], np.diff(key[order]) != 0)) if len(key) else np.empty(0, dtype=np.bool_)
    begins = np.flatnonzero(new)
    places = np.empty(len(key), dtype=np.int64)
    places[order] = np.arange(len(key)) - np.repeat(begins, np.diff(np.append(begins, len(key))))
    return places


def expand_to_chips(trace: Trace, folded: Topology, chips: Sequence[int]) -> Trace:
    """Returns the tasks of some chips of a folded torus, chip after chip, on their own resources and without waits.

    Args:
        trace: of the machine `folded`.
        chips: as the whole machine numbers them.
    """
    if folded.folding is None:
        raise ValueError(f"{folded.name} is not folded")
    whole, program, stand_in = folded.folding.machine, trace.program, folded.folding.representative
    names, table = _resources(program, folded)
    rows = [np.flatnonzero(program.chip == stand_in[chip]) for chip in chips]
    task = np.concatenate([np.empty(0, dtype=np.int64), *rows])
    counts = np.array([len(own) for own in rows], dtype=np.int64)
    chip = np.repeat(np.asarray(chips, dtype=np.int32), counts)
    first, place = np.repeat(np.cumsum(counts) - counts, counts), _places(program.chip.astype(np.int64))
    rank = _places(stand_in.astype(np.int64))

    held, slows, follows = program.resource[task], program.slows[task], program.follows[task]
    sends = (program.kind[task] == Kind.SEND) & (held >= 0)
    ends = whole.link_column("dst")
    passed = np.flatnonzero(follows >= 0)
    before = first[passed] + place[follows[passed]]
    at, known = chip.copy(), False  # the chip whose link each holds: a message is passed on by chips on its way
    while not known:
        resource = np.where(held >= 0, table[held, rank[at]], np.int32(-1))
        onward = ends[resource[before] - whole.chips]
        known = bool((at[passed] == onward).all())
        at[passed] = onward
    peer = np.full(len(task), -1, dtype=np.int32)
    last = first + place[_last_of_messages(program)[task]]
    peer[sends] = ends[resource[last[sends]] - whole.chips]
    renamed = ("chip", "peer", "slows", "resource", "follows")
    columns: dict[str, Any] = {name: getattr(program, name)[task] for name in COLUMNS if name not in renamed}
    own = replace(
        program,
        resources=tuple(names),
        chip=chip,
        peer=peer,
        slows=np.where(slows >= 0, table[slows, rank[chip]], np.int32(-1)),
        resource=resource,
        follows=np.full(len(task), -1, dtype=np.int32),
        deps=np.empty(0, dtype=np.int32),
        dep_offset=np.zeros(len(task) + 1, dtype=np.int64),
        **columns,
    )
    return Trace(own, trace.times[task])


def _last_of_messages(program: Program) -> Ints:
    """Returns [tasks] the last task of each task's message: itself if none follows."""
    follower, last = program.followers(), np.arange(len(program))
    while len(going := np.flatnonzero(follower[last] >= 0)):
        last[going] = follower[last[going]]
    return last


def keep_chips(trace: Trace, machine: Topology, chips: Sequence[int]) -> Trace:
    """Returns the tasks of some chips, and of others on links to and from these, without waits.

    Layers that the program leaves out stay left out, so that `sim.shortcuts.periodic.unroll` adds those of these chips
    alone.
    """
    program = trace.program
    ends = np.isin(machine.link_column("src"), chips) | np.isin(machine.link_column("dst"), chips)
    links = machine.chips + np.flatnonzero(ends)
    chosen = np.isin(program.chip, chips) | np.isin(program.resource, links)
    before = np.concatenate(([0], np.cumsum(chosen)))
    columns: dict[str, Any] = {name: getattr(program, name)[chosen] for name in COLUMNS}
    follows = columns["follows"]
    known = (follows >= 0) & chosen[follows]
    columns["follows"] = np.where(known, before[follows], -1).astype(np.int32)
    skipped = (
        replace(block, start=int(before[block.start]), size=int(before[block.start + block.size] - before[block.start]))
        for block in program.skipped
    )
    own = replace(
        program,
        deps=np.empty(0, dtype=np.int32),
        dep_offset=np.zeros(int(chosen.sum()) + 1, dtype=np.int64),
        skipped=tuple(skipped),
        **columns,
    )
    return Trace(own, trace.times[chosen])


def _resources(program: Program, folded: Topology) -> tuple[list[str], Ids]:
    """Returns the names of all resources of the machine, and [folded resources, rank] those that each represents.

    The rank of a chip is its place among the chips with the same representative; each represents as many chips.
    """
    if folded.folding is None:
        raise ValueError(f"{folded.name} is not folded")
    whole, here = folded.folding.machine, folded.folding
    chips = np.argsort(here.representative, kind="stable").reshape(folded.chips, -1).astype(np.int32)
    links = np.argsort(here.representative_link, kind="stable").reshape(len(folded.links), -1).astype(np.int32)
    names = [f"{chip}:compute" for chip in range(whole.chips)] + [link.name for link in whole.links]
    others = program.resources[folded.chips + len(folded.links) :]
    for kind in dict.fromkeys(name.partition(":")[2] for name in others if ":" in name):
        names += [f"{chip}:{kind}" for chip in range(whole.chips)]
    names += [name for name in others if ":" not in name]
    number = {name: i for i, name in enumerate(names)}
    rest = []
    for name in others:
        chip, colon, kind = name.partition(":")
        rest.append([number[f"{own}:{kind}" if colon else name] for own in chips[int(chip) if colon else 0].tolist()])
    table = np.concatenate([chips, whole.chips + links, np.array(rest, dtype=np.int32).reshape(-1, chips.shape[1])])
    return names, table.astype(np.int32)
