"""Re-times a program without queues: new durations, same order of tasks on every resource.

Every resource serves its tasks by (ready time, task id). Once that order is known no queue has to be simulated: a task
is ready when the last of its dependencies has ended, or when the head of its message has flown from the task that it
follows; it starts when it is ready and the task before it has left its resource. Where rates change, the order also
fixes the changes that happen while a task runs. Many columns of durations are re-timed at once.

*When it is exact.* If the new times again order the tasks of every resource by (ready time, task id) as before, they
equal the engine's: a task with a smaller key was ready earlier or in the same instant, so it heads the queue before its
successor does. Likewise rate changes must keep their order, and must come before, during or after each task as they
did. All of this is checked for each column. The engine must simulate three cases: tasks that poll; tasks that hold a
resource and take no time, because a task may become ready at their end in an instant in which another of the same
ready time has started; and, for the same reason, tasks that are ready at the start of the one that they follow.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.program import Ints, Program
from sim.program.trace import Trace
from sim.shortcuts.rate_changes import LONGEST_PS, RateChanges, SlowedTasks, renumber

Bools = npt.NDArray[np.bool_]


class TaskOrder(Struct, frozen=True, eq=False):
    """Order in which the tasks of a trace took each resource.

    Inside, tasks are numbered level by level; tasks of a level wait only for earlier levels, and N means none. A *row*
    is one of the four times of a task: its column of TIMES x (N + 1) + the task's number.
    """

    program: Program
    _tasks: Ints
    """[N] by number."""
    _levels: tuple[_Level, ...]
    _rules: Ints
    """[3, rules] rows a, b and d: the time of a must be at least d before the time of b."""

    @classmethod
    def from_trace(cls, trace: Trace) -> TaskOrder | None:
        """Returns the order of a trace; None if the program polls, so that times do not follow from it."""
        program, count = trace.program, len(trace.program)
        if program.poll_ps.any():
            return None
        rate_changes, before = RateChanges.from_trace(trace), _before(trace)
        later, following = np.flatnonzero(before < count), np.flatnonzero(program.follows >= 0)
        waits = np.stack((program.deps, np.repeat(np.arange(count), np.diff(program.dep_offset))))
        ways = np.stack((program.follows[following], following))
        queues = np.stack((before[later], later))
        depth = _depths(count, *np.concatenate((waits, ways, queues, rate_changes.edges()), axis=1))
        tasks = np.argsort(depth, kind="stable")
        number = np.append(np.empty(count, dtype=np.int64), count)
        number[tasks] = np.arange(count)
        ends = np.cumsum(np.bincount(depth)).tolist()
        levels = tuple(
            _Level.build(program, slice(first, end), tasks[first:end], number, before, rate_changes)
            for first, end in zip([0, *ends[:-1]], ends, strict=True)
        )
        in_line = np.stack((*queues, queues[0] > queues[1]))  # rows of when they are ready
        a, b, least = np.concatenate((in_line, rate_changes.rules), axis=1)
        return cls(program, tasks, levels, np.stack((renumber(a, number), renumber(b, number), least)))

    def retime(self, busy_ps: Ints) -> tuple[Ints, Bools]:
        """Returns the times under other durations, and whether they equal the engine's.

        Args:
            busy_ps: [N, S] S columns of durations.

        Returns:
            times [4, N, S]: ready, start, free, end; and [S] True where a column kept the order.
        """
        count, columns = busy_ps.shape
        busy, flight = busy_ps[self._tasks], self.program.flight_ps[self._tasks][:, None]
        times = np.zeros((4, count + 1, columns), dtype=np.int64)
        kept = np.ones(columns, dtype=np.bool_)
        for level in self._levels:
            level.fill(times, busy, flight)
            if level.slowed:
                kept &= (busy[level.slowed.tasks] < LONGEST_PS).all(axis=0)
        a, b, least = self._rules
        rows = times.reshape(-1, columns)
        kept &= (rows[a] + least[:, None] <= rows[b]).all(axis=0)
        holds = self.program.resource[self._tasks] >= 0
        kept &= ((busy + flight)[holds] > 0).all(axis=0)
        for level in self._levels:
            kept &= (times[0, level.following] > times[1, level.followed]).all(axis=0)
        result = np.empty((4, count, columns), dtype=np.int64)
        result[:, self._tasks] = times[:, :-1]
        return result, kept


class _Level(Struct, frozen=True, eq=False):
    """Tasks that do not wait for each other."""

    tasks: slice
    deps: Ints
    """Dependencies, task after task; N for a task without any."""
    first: Ints
    """Index of each task's first dependency."""
    deps_per_task: int
    """Number of dependencies of every task; 0 if it differs."""
    before: Ints
    """The task before on each task's resource."""
    following: Ints
    """Tasks that follow another."""
    followed: Ints
    """The task that each of them follows."""
    slowed: SlowedTasks | None

    @classmethod
    def build(
        cls, program: Program, numbers: slice, tasks: Ints, number: Ints, before: Ints, rate_changes: RateChanges
    ) -> _Level:
        """Builds the level of `tasks`, which get `numbers`; `before` [N] is not renumbered yet."""
        counts = program.dep_offset[tasks + 1] - program.dep_offset[tasks]
        width = np.maximum(counts, 1)
        deps, first = np.full(width.sum(), len(program)), np.cumsum(width) - width
        deps[_ranges(first, counts)] = program.deps[_ranges(program.dep_offset[tasks], counts)]
        deps_per_task = int(width[0]) if (width == width[0]).all() else 0
        following = tasks[program.follows[tasks] >= 0]
        ways = number[following], number[program.follows[following]]
        slowed = rate_changes.select_slowed(tasks, number)
        return cls(numbers, number[deps], first, deps_per_task, number[before[tasks]], *ways, slowed)

    def fill(self, times: Ints, busy: Ints, flight: Ints) -> None:
        """Fills in the four times [4, N + 1, S] of the level's tasks."""
        ready, start, free, end = times
        tasks, columns = self.tasks, times.shape[2]
        ended = end[self.deps]
        if self.deps_per_task:
            ended.reshape(-1, self.deps_per_task, columns).max(axis=1, out=ready[tasks])
        else:
            np.maximum.reduceat(ended, self.first, axis=0, out=ready[tasks])
        if len(self.following):
            ready[self.following] = start[self.followed] + flight[self.followed]
        np.maximum(ready[tasks], free[self.before], out=start[tasks])
        np.add(start[tasks], busy[tasks], out=free[tasks])
        if self.slowed:
            free[self.slowed.tasks] = self.slowed.release_times(times, busy)
        if len(self.following):
            arrived = np.maximum(free[self.following], end[self.followed])
        np.add(free[tasks], flight[tasks], out=end[tasks])
        if len(self.following):
            end[self.following] = arrived + flight[self.following]


def _before(trace: Trace) -> Ints:
    """Returns [N] the task before on each task's resource, N for the first and for tasks that hold none."""
    resource = trace.program.resource
    line = np.lexsort((np.arange(len(resource)), trace.times["ready"], resource))
    after = (resource[line[:-1]] == resource[line[1:]]) & (resource[line[1:]] >= 0)
    result = np.full(len(resource), len(resource))
    result[line[1:][after]] = line[:-1][after]
    return result


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """Returns start, start + 1, ... of each range, one after the other."""
    result: Ints = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return result


def _depths(count: int, earlier: Ints, later: Ints) -> Ints:
    """Returns [N] the length of the longest path back from each task, along edges from `later` to `earlier`."""
    order = np.argsort(earlier, kind="stable")
    followers, offset = later[order], np.concatenate(([0], np.cumsum(np.bincount(earlier, minlength=count))))
    waiting = np.bincount(later, minlength=count)
    depth = np.zeros(count, dtype=np.int64)
    front, level = np.flatnonzero(waiting == 0), 0
    while len(front):
        depth[front] = level
        reached = followers[_ranges(offset[front], offset[front + 1] - offset[front])]
        np.subtract.at(waiting, reached, 1)
        front, level = np.unique(reached[waiting[reached] == 0]), level + 1
    return depth
