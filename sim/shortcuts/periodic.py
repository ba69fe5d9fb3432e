"""Steady state of repeated layers: layers that a program leaves out follow from those that were simulated.

A program may leave out copies of a repeated block (`Program.skipped`). The trace of the simulated part shows whether
the copies have reached a steady state, and then gives the times of all tasks of the full program.

*Condition.* Let copy c of a block have its first task ready at T(c). Suppose that every task before some copy c has
ended before T(a); that the copies c to a + 1 each repeat the one before, with every time of every task D later; and
that no task after copy a is ready before T(a + 1) = T(a) + D. Then the state of the machine at T(a + 1) (who is queued
where, since when and in what order, what is held and in flight and for how much longer) equals the state at T(a) with
copy c + 1 in place of copy c. The engine is deterministic and the program after that point is the same, so one more
copy there repeats the period once more and moves all later tasks by D. Where resources slow down, no task whose rate
changes may run across T(a), and every block must give back all that it takes.

*Consequence.* From T(a) on, every copy that was left out adds one window of length D, and the same tasks run in each
window. Integers that add up over time or over tasks (picoseconds covered on a chip, picoseconds of an operation,
numbers of tasks), and the end of the last task of a chip, therefore grow by the same amount with every copy. Totals of
the full program follow from those of the simulated part and of the part with one copy more (`extrapolate`,
`sum_over_copies`), without its trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.program import Ints, Period, Program, Skipped
from sim.program.trace import Trace
from sim.units import on_clock


def detect_periods(trace: Trace) -> tuple[Period, ...] | None:
    """Detects the period of each block of `trace.program.skipped`; None if one has reached no steady state.

    Raises:
        OverflowError: the full program ends later than the clock counts.
    """
    states = steady_states(trace.program, trace.times.view(np.int64).reshape(-1, 4).T[:, :, None])
    if any(after[0] < 0 for after, _ in states):
        return None
    result = tuple((int(after[0]), int(period[0])) for after, period in states)
    makespan_ps(trace, result)
    return result


def steady_states(program: Program, times: Ints) -> tuple[tuple[Ints, Ints], ...]:
    """Detects, per block of `program.skipped`, the copies a and periods D of its steady state [S]; -1 if none.

    Args:
        times: [4, N, S] ready, start, free and end of S traces.
    """
    return tuple(_steady_state(program, times, block) for block in program.skipped)


def makespan_ps(trace: Trace, periods: Sequence[Period]) -> int:
    """Returns the end of the last task of the full program, ps.

    Raises:
        OverflowError: it is later than the clock counts.
    """
    blocks = zip(trace.program.skipped, periods, strict=True)
    return on_clock(trace.makespan_ps + sum(block.count * period for block, (_, period) in blocks))


def count_tasks(program: Program) -> int:
    """Returns the number of tasks of the full program."""
    return len(program) + sum(block.count * block.size for block in program.skipped)


def extrapolate(trace: Trace, periods: Sequence[Period]) -> tuple[Trace, ...]:
    """Returns the simulated trace, then for each block the trace with one more copy of that block."""

    def with_one_copy(block: Skipped, period: Period) -> Trace:
        program = replace(trace.program, skipped=(replace(block, count=1),))
        return unroll(Trace(program, trace.times), [period])

    blocks = zip(trace.program.skipped, periods, strict=True)
    return trace, *(with_one_copy(block, period) for block, period in blocks)


def sum_over_copies(program: Program, figures: Sequence[Ints]) -> Ints:
    """Returns integers of the full program from those of `extrapolate`.

    They must be sums over time or over tasks, or ends of last tasks.

    Raises:
        OverflowError: one does not fit in 64 bits.
    """
    first, *others = figures
    growth = [(block.count, other - first) for block, other in zip(program.skipped, others, strict=True)]
    estimate = first + sum((float(count) * per_copy for count, per_copy in growth), np.zeros(first.shape))
    on_clock(int(estimate.max(initial=0)))
    return first + sum((count * per_copy for count, per_copy in growth), np.zeros(first.shape, dtype=np.int64))


def copies_per_task(program: Program, periods: Sequence[Period]) -> Ints:
    """Returns [tasks] how many times the full program contains each simulated task."""
    result = np.ones(len(program), dtype=np.int64)
    for block, (after, _) in zip(program.skipped, periods, strict=True):
        first = block.start + after * block.size
        result[first : first + block.size] += block.count
    return result


def unroll(trace: Trace, periods: Sequence[Period]) -> Trace:
    """Returns the trace of the full program, including the copies that were left out."""
    program, times = trace.program, trace.times
    if not program.skipped:
        return trace
    for block, (after, period) in reversed(list(zip(program.skipped, periods, strict=True))):
        cut = block.start + (after + 1) * block.size
        copies = np.tile(times[cut - block.size : cut], block.count)
        later = np.repeat(np.arange(1, block.count + 1, dtype=np.int64) * period, block.size)
        tail = times[cut:].copy()
        for name in times.dtype.names or ():
            copies[name] += later
            tail[name] += block.count * period
        times = np.concatenate([times[:cut], copies, tail])
    return Trace(program.unroll(), times)


def _steady_state(program: Program, times: Ints, block: Skipped) -> tuple[Ints, Ints]:
    copies, columns = block.kept + 1, times.shape[2]
    end = block.start + copies * block.size
    rows = times[:, block.start : end].reshape(4, copies, block.size, columns)
    copy, period = np.full(columns, -1), np.full(columns, -1)
    if not _is_balanced(program, block):
        return copy, period
    ready, ended = rows[0].min(axis=1), rows[3].max(axis=1)  # [copies, S]
    ended_first = times[3, : block.start].max(axis=0, initial=-1)
    ready_last = times[0, end:].min(axis=0, initial=np.iinfo(np.int64).max)
    ended_before = np.maximum.accumulate([ended_first, *ended])  # before copy c
    ready_after = np.minimum.accumulate([ready_last, *ready[::-1]])[::-1]
    moved = np.diff(rows, axis=1)
    later = moved[0, :, 0]  # [copies - 1, S]
    alike = (moved == moved[:1, :, :1]).all(axis=(0, 2))  # copy c + 1 is copy c later
    for a in range(1, copies - 1):
        shift = later[a]
        in_order = (shift > 0) & (ready_after[a] >= ready[a]) & (ready_after[a + 1] >= ready[a] + shift)
        candidate = in_order & (copy < 0) & ~_has_rate_changes_across(program, times, ready[a])
        for first in range(a, -1, -1):
            candidate &= alike[first] & (later[first] == shift)
            if not candidate.any():
                break
            ended_in_time = (ended_before[first] < ready[a]) & (ended_before[first + 1] < ready[a] + shift)
            steady = candidate & ended_in_time
            copy[steady], period[steady] = a, shift[steady]
    return copy, period


def _is_balanced(program: Program, block: Skipped) -> bool:
    """Returns True if the block, and the tasks before it, give back all that they take of every resource's rate."""

    def still_taken(first: int, end: int) -> npt.NDArray[np.int64]:
        taken = np.zeros(len(program.resources) + 1, dtype=np.int64)
        np.add.at(taken, program.slows[first:end], program.slow_ppm[first:end])
        return taken

    end = block.start + block.size
    return not (still_taken(0, block.start).any() or still_taken(block.start, end).any())


def _has_rate_changes_across(program: Program, times: Ints, at: Ints) -> npt.NDArray[np.bool_]:
    """Returns [S] True if a task whose rate may change runs across the time `at` [S]."""
    if not program.slow_ppm.any():
        return np.zeros(len(at), dtype=np.bool_)
    holder = np.flatnonzero(np.isin(program.resource, program.slows[program.slow_ppm != 0]))
    across: npt.NDArray[np.bool_] = ((times[1, holder] < at) & (times[2, holder] > at)).any(axis=0)
    return across
