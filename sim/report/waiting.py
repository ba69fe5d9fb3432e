"""Time in collectives before and after the last peer has entered: waiting for a late peer, and transferring."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from sim.program import Ints, Kind, Period, Program
from sim.program.trace import Trace
from sim.report.spans import sums_ps
from sim.shortcuts import periodic
from sim.units import PS_PER_S


class OpWaiting(Struct, frozen=True):
    """Collectives of one name, seconds: the mean over all chips of the sum over one step."""

    op: str
    waiting_s: float
    """Time in the collective before the last chip of its group has entered."""
    transferring_s: float
    """Time in the collective after that."""


class Waiting(Struct, frozen=True):
    """Time of chips in collectives whose last peer has not entered yet, in one step; seconds."""

    ops: tuple[OpWaiting, ...]
    """Collectives in program order."""
    waiting_s: float
    """Waiting in all collectives, mean over the chips."""
    transferring_s: float
    least_chip: int
    """Chip that waits least, the lowest of them: the late one, or one that its delay bounds."""
    least_s: float
    most_chip: int
    """Chip that waits most, the lowest of them."""
    most_s: float


def measure_waiting(trace: Trace, chips: int, periods: Sequence[Period] = ()) -> Waiting | None:
    """Measures waiting and transferring in the collectives of `trace` on a machine of `chips`; None if there are none.

    Collectives of the layers that were left out count too; `periods` says how these follow (`sim.shortcuts.periodic`).

    A chip enters a collective with its BEGIN and leaves with its END. Its group are the chips that the collective's
    messages join to it. What it does before the last of them has entered is waiting, though early messages may be on
    their way by then; a chip that leaves before (a sender that needs nothing) waits until it leaves.
    """
    program = trace.program
    if not (program.kind == Kind.BEGIN).any():
        return None
    sums = [_sums(copy, chips) for copy in periodic.extrapolate(trace, periods)]
    waits, moves = (
        column / PS_PER_S / chips for column in periodic.sum_over_copies(program, [pair[0] for pair in sums])
    )
    of_chip = periodic.sum_over_copies(program, [pair[1] for pair in sums]) / PS_PER_S
    names, ops = program.op_names, np.unique(program.op[program.kind == Kind.BEGIN]).tolist()
    least, most = int(of_chip.argmin()), int(of_chip.argmax())
    return Waiting(
        ops=tuple(OpWaiting(names[i], float(waits[i]), float(moves[i])) for i in ops),
        waiting_s=float(waits.sum()),
        transferring_s=float(moves.sum()),
        least_chip=least,
        least_s=float(of_chip[least]),
        most_chip=most,
        most_s=float(of_chip[most]),
    )


def _sums(trace: Trace, chips: int) -> tuple[Ints, Ints]:
    """Returns waiting and transferring of all chips, [2, ops] ps, and waiting of each chip, [chips] ps."""
    program, times = trace.program, trace.times
    begin, end = np.flatnonzero(program.kind == Kind.BEGIN), np.flatnonzero(program.kind == Kind.END)
    begin = begin[np.argsort(_key(program, begin, chips), kind="stable")]
    end = end[np.argsort(_key(program, end, chips), kind="stable")]
    entered, left = times["start"][begin], times["end"][end]
    group = _groups(program, _key(program, begin, chips), chips)
    last = np.full(len(begin), np.iinfo(np.int64).min)
    np.maximum.at(last, group, entered)
    waits = np.minimum(last[group], left) - entered
    op = program.op[begin]
    per_op = [sums_ps(op, values, len(program.op_names)) for values in (waits, left - entered - waits)]
    return np.stack(per_op), sums_ps(program.chip[begin], waits, chips)


def _key(program: Program, tasks: Ints, chips: int) -> Ints:
    """Returns a number for the (collective, chip) of each task."""
    return program.collective[tasks].astype(np.int64) * chips + program.chip[tasks]


def _groups(program: Program, keys: Ints, chips: int) -> Ints:
    """Returns the first row of each (collective, chip)'s group, [keys]: the chips that sends join, directly or through
    others."""
    sends = np.flatnonzero((program.kind == Kind.SEND) & (program.collective >= 0))
    to = program.collective[sends].astype(np.int64) * chips + program.peer[sends]
    sends, to = sends[np.isin(to, keys)], to[np.isin(to, keys)]  # a one-sided message has no chip that waits for it
    here, there = np.searchsorted(keys, _key(program, sends, chips)), np.searchsorted(keys, to)
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
