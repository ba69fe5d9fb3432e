"""Times of a program under other durations, from the order in which its tasks took their resources.

Every resource serves its tasks by (time at which they were ready, task id), so once that order is known no queue has to
be kept: a task is ready when the last of its dependencies has ended, or once the head of its message has flown from the
task that it follows, and starts when it is ready and the task before it has left its resource. Where rates change, the
order also says which changes come while a task runs. That is done here for many columns of durations at once.

*When it is exact.* Say the times that follow are again such that on every resource each task comes after the one before
it by (ready, id). Then they are the engine's: whatever has a lesser key has been ready earlier or in the same instant,
so it heads the queue before its successor does. Likewise changes of a rate must come one after the other, and before,
during or after each task as they did. All of that is checked for each column. Left to the engine are tasks that poll,
tasks that hold a resource and take no time, after whose end a task may become ready in an instant in which another of
the same ready time has started, and for the same reason tasks that are ready at the start of the one that they follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.program import Ints, Program
from sim.program.trace import Trace
from sim.shortcuts.rate_changes import LONGEST_PS, Slowed, Slowing, renumbered

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """Who took each resource after whom in a trace.

    Inside, tasks are numbered level by level, those of a level waiting only for earlier ones; N is none. A *row* is one
    of the four times of a task: its place in TIMES x (N + 1) + the task's number.
    """

    program: Program
    _tasks: Ints
    """[N] by number."""
    _levels: tuple[_Level, ...]
    _rules: Ints
    """[3, rules] rows a, b and d: the time of a is to be at least d before that of b."""

    @classmethod
    def of(cls, trace: Trace) -> Order | None:
        """That of a trace; None where times do not follow from it."""
        program, count = trace.program, len(trace.program)
        if program.poll_ps.any():
            return None
        slowing, before = Slowing.of(trace), _before(trace)
        later, following = np.flatnonzero(before < count), np.flatnonzero(program.follows >= 0)
        waits = np.stack((program.deps, np.repeat(np.arange(count), np.diff(program.dep_offset))))
        ways = np.stack((program.follows[following], following))
        queues = np.stack((before[later], later))
        depth = _depths(count, *np.concatenate((waits, ways, queues, slowing.edges()), axis=1))
        tasks = np.argsort(depth, kind="stable")
        number = np.append(np.empty(count, dtype=np.int64), count)
        number[tasks] = np.arange(count)
        ends = np.cumsum(np.bincount(depth)).tolist()
        levels = tuple(
            _Level.of(program, slice(first, end), tasks[first:end], number, before, slowing)
            for first, end in zip([0, *ends[:-1]], ends, strict=True)
        )
        in_line = np.stack((*queues, queues[0] > queues[1]))  # rows of when they are ready
        a, b, least = np.concatenate((in_line, slowing.rules), axis=1)
        return cls(program, tasks, levels, np.stack((renumbered(a, number), renumbered(b, number), least)))

    def times(self, busy_ps: Ints) -> tuple[Ints, Bools]:
        """Times under other durations, and whether they are the engine's.

        Args:
            busy_ps: [N, S] S columns of durations.

        Returns:
            times [4, N, S]: ready, start, free, end; and [S], whether each column kept the order.
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


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """Tasks that do not wait for each other."""

    tasks: slice
    deps: Ints
    """Flat; each task has one at least, N where it has none."""
    first: Ints
    """Where each task's dependencies begin."""
    each: int
    """How many dependencies every task has; 0 where not all have as many."""
    before: Ints
    """The task before on each task's resource."""
    following: Ints
    """Those that follow a task."""
    followed: Ints
    """Which."""
    slowed: Slowed | None

    @classmethod
    def of(cls, program: Program, own: slice, tasks: Ints, number: Ints, before: Ints, slowing: Slowing) -> _Level:
        """Of `tasks`, numbered `own`; `before` [N] is not renumbered yet."""
        counts = program.dep_offset[tasks + 1] - program.dep_offset[tasks]
        width = np.maximum(counts, 1)
        deps, first = np.full(width.sum(), len(program)), np.cumsum(width) - width
        deps[_ranges(first, counts)] = program.deps[_ranges(program.dep_offset[tasks], counts)]
        each = int(width[0]) if (width == width[0]).all() else 0
        following = tasks[program.follows[tasks] >= 0]
        ways = number[following], number[program.follows[following]]
        return cls(own, number[deps], first, each, number[before[tasks]], *ways, slowing.of_tasks(tasks, number))

    def fill(self, times: Ints, busy: Ints, flight: Ints) -> None:
        """The four times [4, N + 1, S] of the level's tasks."""
        ready, start, free, end = times
        own, columns = self.tasks, times.shape[2]
        ended = end[self.deps]
        if self.each:
            ended.reshape(-1, self.each, columns).max(axis=1, out=ready[own])
        else:
            np.maximum.reduceat(ended, self.first, axis=0, out=ready[own])
        if len(self.following):
            ready[self.following] = start[self.followed] + flight[self.followed]
        np.maximum(ready[own], free[self.before], out=start[own])
        np.add(start[own], busy[own], out=free[own])
        if self.slowed:
            free[self.slowed.tasks] = self.slowed.free(times, busy)
        if len(self.following):
            arrived = np.maximum(free[self.following], end[self.followed])
        np.add(free[own], flight[own], out=end[own])
        if len(self.following):
            end[self.following] = arrived + flight[self.following]


def _before(trace: Trace) -> Ints:
    """[N] the task before on each task's resource, N for the first and for tasks that hold none."""
    resource = trace.program.resource
    line = np.lexsort((np.arange(len(resource)), trace.times["ready"], resource))
    after = (resource[line[:-1]] == resource[line[1:]]) & (resource[line[1:]] >= 0)
    result = np.full(len(resource), len(resource))
    result[line[1:][after]] = line[:-1][after]
    return result


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1, ... of each range, one after the other."""
    result: Ints = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    return result


def _depths(count: int, earlier: Ints, later: Ints) -> Ints:
    """[N] longest way back from each task, from `later` to `earlier`."""
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
