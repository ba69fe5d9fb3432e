"""Periodicity: identical layers reach a steady state, and from then on every layer is the one before, later.

A program may leave out copies of a repeated block (`Program.skipped`). What happened in the part that was simulated
tells whether they may be left out, and then when everything happens in the whole.

*When they may.* Let copy c of a block have its first task ready at T(c). If everything before some copy has ended
before T(a), the copies from it up to a + 1 are each the one before, later by D in every time of every task, and nothing
after copy a is ready before T(a + 1) = T(a) + D, then the state of the machine at T(a + 1) (who is queued where, since
when and in what order, what is held and in flight and for how much longer) is that at T(a) with copy c + 1 in place of
copy c. The engine is deterministic and what follows is the same program, so another copy at that point repeats the
period once more, and all that comes later comes D later. Where resources slow down, no task whose rate changes may run
across T(a), and every block must give back all it takes.

*What follows.* From T(a) on, every copy that was left out adds to the whole one window of time, as long as the period,
in which the same happens in each: the copies before c have ended, those from it on are each the one before, later, and
copy a + 1 is not there yet. Integers that add up over time or over tasks (picoseconds covered on a chip, picoseconds of
an operation, tasks), and the end of the last task of a chip, so grow by the same with every such copy. Those of the
whole follow from those of the part and of the part with one copy more (`longer`, `over_all`), without its trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sim.program import Ints, Period, Program, Skipped
from sim.program.trace import Trace
from sim.units import on_clock


def periods(trace: Trace) -> tuple[Period, ...] | None:
    """Of each block of `trace.program.skipped`; None where one has not settled, or might not for long.

    Raises:
        OverflowError: the whole program ends later than the clock counts.
    """
    found = settled(trace.program, trace.times.view(np.int64).reshape(-1, 4).T[:, :, None])
    if any(after[0] < 0 for after, _ in found):
        return None
    result = tuple((int(after[0]), int(period[0])) for after, period in found)
    makespan_ps(trace, result)
    return result


def settled(program: Program, times: Ints) -> tuple[tuple[Ints, Ints], ...]:
    """Of each block of `program.skipped` the copies a and the periods D [S], -1 where it has not settled.

    Args:
        times: [4, N, S] ready, start, free and end of S traces.
    """
    return tuple(_settled(program, times, block) for block in program.skipped)


def makespan_ps(trace: Trace, found: Sequence[Period]) -> int:
    """Returns the end of the last task of the whole program, ps.

    Raises:
        OverflowError: it is later than the clock counts.
    """
    blocks = zip(trace.program.skipped, found, strict=True)
    return on_clock(trace.makespan_ps + sum(block.count * period for block, (_, period) in blocks))


def tasks(program: Program) -> int:
    """Of the whole program."""
    return len(program) + sum(block.count * block.size for block in program.skipped)


def longer(trace: Trace, found: Sequence[Period]) -> tuple[Trace, ...]:
    """The trace with no copy of those that were left out, then for each block with one of its own."""

    def one_of(block: Skipped, period: Period) -> Trace:
        one = replace(trace.program, skipped=(replace(block, count=1),))
        return whole(Trace(one, trace.times), [period])

    blocks = zip(trace.program.skipped, found, strict=True)
    return trace, *(one_of(block, period) for block, period in blocks)


def over_all(program: Program, figures: Sequence[Ints]) -> Ints:
    """Returns integers of the whole program from those of `longer`; they must add up over time or tasks, or be ends.

    Raises:
        OverflowError: one does not fit in 64 bits.
    """
    first, *others = figures
    moved = [(block.count, other - first) for block, other in zip(program.skipped, others, strict=True)]
    estimate = first + sum((float(count) * each for count, each in moved), np.zeros(first.shape))
    on_clock(int(estimate.max(initial=0)))
    return first + sum((count * each for count, each in moved), np.zeros(first.shape, dtype=np.int64))


def often(program: Program, found: Sequence[Period]) -> Ints:
    """[tasks] how often each, with all that it has but its times, stands in the whole program."""
    result = np.ones(len(program), dtype=np.int64)
    for block, (after, _) in zip(program.skipped, found, strict=True):
        first = block.start + after * block.size
        result[first : first + block.size] += block.count
    return result


def whole(trace: Trace, found: Sequence[Period]) -> Trace:
    """The trace of the whole program, copies that were left out included."""
    program, times = trace.program, trace.times
    if not program.skipped:
        return trace
    for block, (after, period) in reversed(list(zip(program.skipped, found, strict=True))):
        cut = block.start + (after + 1) * block.size
        copies = np.tile(times[cut - block.size : cut], block.count)
        later = np.repeat(np.arange(1, block.count + 1, dtype=np.int64) * period, block.size)
        tail = times[cut:].copy()
        for name in times.dtype.names or ():
            copies[name] += later
            tail[name] += block.count * period
        times = np.concatenate([times[:cut], copies, tail])
    return Trace(program.whole(), times)


def _settled(program: Program, times: Ints, block: Skipped) -> tuple[Ints, Ints]:
    copies, columns = block.kept + 1, times.shape[2]
    end = block.start + copies * block.size
    rows = times[:, block.start : end].reshape(4, copies, block.size, columns)
    found_after, found_period = np.full(columns, -1), np.full(columns, -1)
    if not _balanced(program, block):
        return found_after, found_period
    ready, ended = rows[0].min(axis=1), rows[3].max(axis=1)  # [copies, S]
    ended_first = times[3, : block.start].max(axis=0, initial=-1)
    ready_last = times[0, end:].min(axis=0, initial=np.iinfo(np.int64).max)
    ended_before = np.maximum.accumulate([ended_first, *ended])  # before copy c
    ready_after = np.minimum.accumulate([ready_last, *ready[::-1]])[::-1]
    moved = np.diff(rows, axis=1)
    later = moved[0, :, 0]  # [copies - 1, S]
    alike = (moved == moved[:1, :, :1]).all(axis=(0, 2))  # copy c + 1 is copy c later
    for a in range(1, copies - 1):
        period = later[a]
        after = (period > 0) & (ready_after[a] >= ready[a]) & (ready_after[a + 1] >= ready[a] + period)
        going = after & (found_after < 0) & ~_straddled(program, times, ready[a])
        for first in range(a, -1, -1):
            going &= alike[first] & (later[first] == period)
            if not going.any():
                break
            before = (ended_before[first] < ready[a]) & (ended_before[first + 1] < ready[a] + period)
            found_after[going & before], found_period[going & before] = a, period[going & before]
    return found_after, found_period


def _balanced(program: Program, block: Skipped) -> bool:
    """Whether what is taken of every resource's rate is given back, before the block and in it."""

    def left(first: int, end: int) -> npt.NDArray[np.int64]:
        taken = np.zeros(len(program.resources) + 1, dtype=np.int64)
        np.add.at(taken, program.slows[first:end], program.slow_ppm[first:end])
        return taken

    end = block.start + block.size
    return not (left(0, block.start).any() or left(block.start, end).any())


def _straddled(program: Program, times: Ints, at: Ints) -> npt.NDArray[np.bool_]:
    """[S] whether a task whose rate may change runs across the time `at` [S]."""
    if not program.slow_ppm.any():
        return np.zeros(len(at), dtype=np.bool_)
    holder = np.flatnonzero(np.isin(program.resource, program.slows[program.slow_ppm != 0]))
    across: npt.NDArray[np.bool_] = ((times[1, holder] < at) & (times[2, holder] > at)).any(axis=0)
    return across
