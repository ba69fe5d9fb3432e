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
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.program import Program, Skipped
from sim.trace import Trace

Period = tuple[int, int]
"""(copy a after which the copies that were left out belong, period D in ps)."""


def periods(trace: Trace) -> tuple[Period, ...] | None:
    """Of each block of `trace.program.skipped`; None where one has not settled, or might not for long."""
    found = [_period(trace, block) for block in trace.program.skipped]
    return tuple(period for period in found if period) if all(found) else None


def makespan_ps(trace: Trace, found: Sequence[Period]) -> int:
    """End of the last task of the whole program."""
    blocks = zip(trace.program.skipped, found, strict=True)
    return trace.makespan_ps + sum(block.count * period for block, (_, period) in blocks)


def whole(trace: Trace, found: Sequence[Period]) -> Trace:
    """The trace of the whole program, copies that were left out included."""
    program, times = trace.program, trace.times
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


def _period(trace: Trace, block: Skipped) -> Period | None:
    times, copies = trace.times, block.kept + 1
    end = block.start + copies * block.size
    rows = times[block.start : end].view(np.int64).reshape(copies, block.size, -1)
    if not _balanced(trace.program, block):
        return None
    ready, ended = rows[:, :, 0].min(axis=1), rows[:, :, 3].max(axis=1)
    ended_before = np.maximum.accumulate([times["end"][: block.start].max(initial=-1), *ended])  # before copy c
    ready_after = np.minimum.accumulate([times["ready"][end:].min(initial=np.iinfo(np.int64).max), *ready[::-1]])[::-1]
    moved = np.diff(rows, axis=0)
    alike = (moved == moved[:, :1, :1]).all(axis=(1, 2))  # copy c + 1 is copy c later
    for a in range(1, copies - 1):
        first = a
        while first >= 0 and alike[first] and moved[first, 0, 0] == moved[a, 0, 0]:
            period = int(moved[a, 0, 0])
            before = ended_before[first] < ready[a] and ended_before[first + 1] < ready[a] + period
            after = ready_after[a] >= ready[a] and ready_after[a + 1] >= ready[a] + period
            if period > 0 and before and after and not _straddled(trace, int(ready[a])):
                return a, period
            first -= 1
    return None


def _balanced(program: Program, block: Skipped) -> bool:
    """Whether what is taken of every resource's rate is given back, before the block and in it."""

    def left(first: int, end: int) -> npt.NDArray[np.int64]:
        taken = np.zeros(len(program.resources) + 1, dtype=np.int64)
        np.add.at(taken, program.slows[first:end], program.slow_ppm[first:end])
        return taken

    end = block.start + block.size
    return not (left(0, block.start).any() or left(block.start, end).any())


def _straddled(trace: Trace, time: int) -> bool:
    """Whether a task whose rate may change runs across `time`."""
    program = trace.program
    if not program.slow_ppm.any():
        return False
    slowed = np.isin(program.resource, program.slows[program.slow_ppm != 0])
    holder = np.repeat(np.arange(len(program)), np.diff(program.resource_offset))[slowed]
    return bool(((trace.times["start"][holder] < time) & (trace.times["free"][holder] > time)).any())
