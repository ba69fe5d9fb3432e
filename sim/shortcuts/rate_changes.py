"""Rate changes of resources, as needed to re-time tasks in the order of a trace (`sim.shortcuts.task_order`).

Rate changes are numbered resource by resource, in the order in which they happened. A task that starts after change
i - 1 and ends before change j of its resource runs through the changes i .. j - 1. As long as these numbers stay the
same, the end of the task follows from its start and from the times of those changes, counted in millionths of a
picosecond as in the engine.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from sim.engine import MIN_RATE_PPM
from sim.program import FULL_PPM, Ints
from sim.program.trace import Trace

LONGEST_PS = 2**62 // FULL_PPM
"""Longest task whose work fits in 64 bits."""
_START, _FREE, _END = 1, 2, 3
"""Columns of TIMES."""


class SlowedTasks(Struct, frozen=True, eq=False):
    """Tasks that run below the full rate at some time, with at most W rate changes each."""

    tasks: Ints
    changes: Ints
    """[n, W] rows of the changes while the task runs, padded with the last one, or with the task's start if none."""
    rates: Ints
    """[n, W + 1] rates before each change and after the last, parts per million."""

    def release_times(self, times: Ints, busy: Ints) -> Ints:
        """Returns [n, S] the times at which they are done, from times [4, N + 1, S]."""
        at, left = times[_START, self.tasks], busy[self.tasks] * FULL_PPM
        rows = times.reshape(-1, times.shape[2])
        for k in range(self.changes.shape[1]):
            changed = rows[self.changes[:, k]]
            left -= (changed - at) * self.rates[:, k, None]
            at = changed
        done: Ints = at - -left // self.rates[:, -1, None]
        return done


class RateChanges(Struct, frozen=True, eq=False):
    """Rate changes that happen while each task runs. Rows are numbered by task ids."""

    changes: Ints
    """Rows of the changes, resource by resource, -1 before the first and after the last of each."""
    taken: Ints
    """Share of the rate taken before each change, and after the last of each resource, parts per million."""
    yields: Ints
    """[N] share of that which each task loses, parts per million."""
    first: Ints
    """[N] the first change after the task's start; -1 if its rate never changes."""
    after: Ints
    """[N] the first change after the task's end."""
    rules: Ints
    """[3, rules] rows a, b and d: the time of a must be at least d before the time of b."""

    @classmethod
    def from_trace(cls, trace: Trace) -> RateChanges:
        """Finds the rate changes during the tasks of a trace."""
        program, times, count = trace.program, trace.times, len(trace.program)
        changes, taken = [np.array([-1])], [np.array([0])]
        first, after = np.full((2, count), -1)
        for resource in np.unique(program.slows[program.slow_ppm != 0]):
            base = sum(map(len, changes))
            changing = np.flatnonzero((program.slow_ppm != 0) & (program.slows == resource))
            begins = program.slow_ppm[changing] > 0
            when = np.where(begins, times["start"][changing], times["end"][changing])
            line = np.argsort(when, kind="stable")
            changes += [np.where(begins, _START, _END)[line] * (count + 1) + changing[line], np.array([-1])]
            taken += [np.append(0, np.cumsum(program.slow_ppm[changing][line], dtype=np.int64))]
            tasks = np.flatnonzero(program.resource == resource)
            first[tasks] = base + np.searchsorted(when[line], times["start"][tasks], side="right")
            after[tasks] = base + np.searchsorted(when[line], times["free"][tasks], side="left")
        after = np.maximum(first, after)
        rows, yields = np.concatenate(changes), program.yields_ppm.astype(np.int64)
        return cls(rows, np.concatenate(taken), yields, first, after, _rules(rows, first, after))

    def edges(self) -> Ints:
        """Returns [2, edges] pairs: a task that changes a rate, and a task that runs meanwhile."""
        count = self.after - self.first
        running = np.repeat(np.arange(len(count)), count)
        at = np.repeat(self.first - np.cumsum(count) + count, count) + np.arange(len(running))
        return np.stack((self.changes[at] % (len(count) + 1), running))

    def select_slowed(self, tasks: Ints, number: Ints) -> SlowedTasks | None:
        """Returns the slowed ones of `tasks`, renumbered by `number` [N + 1]; None if there are none."""
        first, after = self.first[tasks], self.after[tasks]
        slowed = (first >= 0) & ((after > first) | (self.taken[first] != 0))
        if not slowed.any():
            return None
        numbers, first, after = number[tasks[slowed]], first[slowed, None], after[slowed, None]
        k = np.arange((after - first).max() + 1)
        changes = renumber(self.changes[np.minimum(first + k[:-1], after - 1)], number)
        changes = np.where(after > first, changes, _START * len(number) + numbers[:, None])
        lost = self.taken[np.minimum(first + k, after)] * self.yields[tasks[slowed], None] // FULL_PPM
        return SlowedTasks(numbers, changes, np.maximum(MIN_RATE_PPM, FULL_PPM - lost))


def renumber(rows: Ints, number: Ints) -> Ints:
    """Returns the rows after their tasks were renumbered by `number` [N + 1]."""
    kind, task = np.divmod(rows, len(number))
    result: Ints = kind * len(number) + number[task]
    return result


def _rules(changes: Ints, first: Ints, after: Ints) -> Ints:
    """Returns the conditions that keep the order of changes, and those before, during and after each task."""
    count = len(first) + 1
    known = changes >= 0
    task = np.flatnonzero(first >= 0)
    i, j = first[task], after[task]
    start, free = _START * count + task, _FREE * count + task
    begun, during, goes_on = known[i - 1], j > i, known[j]
    follows = np.flatnonzero(known[:-1] & known[1:])
    rules = [
        (changes[follows], changes[follows + 1], 0),
        (changes[i[begun] - 1], start[begun], 0),
        (start[during], changes[i[during]], 0),
        (changes[j[during] - 1], free[during], 1),
        (free[goes_on], changes[j[goes_on]], 0),
    ]
    return np.concatenate([np.stack((a, b, np.full(len(a), d))) for a, b, d in rules], axis=1)
