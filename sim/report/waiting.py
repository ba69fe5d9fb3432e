"""Time in collectives before and after the last peer has entered: waiting for a late one apart from transferring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.program import Ints, Kind, Program
from sim.trace import Trace
from sim.units import PS_PER_S


@dataclass(frozen=True, slots=True)
class OpWaiting:
    """Collectives of one name, seconds: the mean over all chips of the sum over one step."""

    op: str
    waiting_s: float
    """In the collective before the last chip of its group has entered."""
    transferring_s: float
    """After that."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """How long chips are in collectives whose last peer has not entered yet. Of one step; seconds."""

    ops: tuple[OpWaiting, ...]
    """In program order."""
    waiting_s: float
    """Of all collectives, mean over the chips."""
    transferring_s: float
    least_chip: int
    """The chip that waits least, the lowest of them: the one that is late, or bound by what is."""
    least_s: float
    most_chip: int
    """The chip that waits most, the lowest of them."""
    most_s: float


def waiting(trace: Trace, chips: int) -> Waiting | None:
    """Waiting and transferring of the collectives of `trace` on a machine of `chips`; None where there is none.

    A chip enters a collective with its BEGIN and leaves with its END. Its group are the chips that the collective's
    messages join to it. What it does before the last of them has entered is waiting, though early messages may be on
    their way by then; a chip that leaves before (a sender that needs nothing) waits until it leaves.
    """
    program, times = trace.program, trace.times
    begin, end = np.flatnonzero(program.kind == Kind.BEGIN), np.flatnonzero(program.kind == Kind.END)
    if not len(begin):
        return None
    begin = begin[np.argsort(_key(program, begin, chips), kind="stable")]
    end = end[np.argsort(_key(program, end, chips), kind="stable")]
    entered, left = times["start"][begin], times["end"][end]
    group = _groups(program, _key(program, begin, chips), chips)
    last = np.full(len(begin), np.iinfo(np.int64).min)
    np.maximum.at(last, group, entered)
    waits = np.minimum(last[group], left) - entered
    moves = left - entered - waits
    names, op, chip = program.op_names, program.op[begin], program.chip[begin]
    per_op = [np.bincount(op, weights=values, minlength=len(names)) / PS_PER_S / chips for values in (waits, moves)]
    of_chip = np.bincount(chip, weights=waits, minlength=chips) / PS_PER_S
    least, most = int(of_chip.argmin()), int(of_chip.argmax())
    return Waiting(
        ops=tuple(OpWaiting(names[i], float(per_op[0][i]), float(per_op[1][i])) for i in np.unique(op).tolist()),
        waiting_s=float(per_op[0].sum()),
        transferring_s=float(per_op[1].sum()),
        least_chip=least,
        least_s=float(of_chip[least]),
        most_chip=most,
        most_s=float(of_chip[most]),
    )


def _key(program: Program, tasks: Ints, chips: int) -> Ints:
    """Number of (collective, chip) of each task."""
    return program.collective[tasks].astype(np.int64) * chips + program.chip[tasks]


def _groups(program: Program, keys: Ints, chips: int) -> Ints:
    """[keys] first row of the group of each (collective, chip): those that sends join, directly or through others."""
    sends = np.flatnonzero((program.kind == Kind.SEND) & (program.collective >= 0))
    here = np.searchsorted(keys, _key(program, sends, chips))
    there = np.searchsorted(keys, program.collective[sends].astype(np.int64) * chips + program.peer[sends])
    # What a chip sends itself goes by a switch that reduces, as all chips of the collective do.
    looped = here == there
    there[looped] = np.searchsorted(keys, program.collective[sends[looped]].astype(np.int64) * chips)
    label = np.arange(len(keys))
    while True:
        before = label.copy()
        np.minimum.at(label, here, label[there])
        np.minimum.at(label, there, label[here])
        label = label[label]
        if (label == before).all():
            return label
