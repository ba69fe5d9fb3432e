"""Tasks whose rate changes while they run, in the order of a trace: for `sim.shortcuts.task_order`.

Changes of a rate are numbered resource by resource, in the order in which they came. A task runs from after change
i - 1 to before change j of its resource; changes i .. j - 1 come while it runs. While that stays so, when it is done
follows from its start and from the times of these changes, as in the engine in millionths of a picosecond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sim.engine import MIN_RATE_PPM
from sim.program import FULL_PPM, Ints
from sim.program.trace import Trace

LONGEST_PS = 2**62 // FULL_PPM
"""Work of a shorter task can be counted in 64 bits."""
_START, _FREE, _END = 1, 2, 3
"""Places in TIMES."""


@dataclass(frozen=True, slots=True, eq=False)
class Slowed:
    """Tasks that do not run at the full rate from start to end, W changes of it at most."""

    tasks: Ints
    changes: Ints
    """[n, W] rows of the changes while the task runs, the last again where there are fewer, its start for none."""
    rates: Ints
    """[n, W + 1] before each and after the last, parts per million."""

    def free(self, times: Ints, busy: Ints) -> Ints:
        """[n, S] when they are done, from times [4, N + 1, S]."""
        at, left = times[_START, self.tasks], busy[self.tasks] * FULL_PPM
        rows = times.reshape(-1, times.shape[2])
        for k in range(self.changes.shape[1]):
            changed = rows[self.changes[:, k]]
            left -= (changed - at) * self.rates[:, k, None]
            at = changed
        done: Ints = at - -left // self.rates[:, -1, None]
        return done


@dataclass(frozen=True, slots=True, eq=False)
class Slowing:
    """Which changes of its rate come while a task runs. Rows are of task ids."""

    changes: Ints
    """Rows of the changes, resource by resource, -1 before the first and after the last of each."""
    taken: Ints
    """Of the rate before each change, and after the last of each resource, parts per million."""
    yields: Ints
    """[N] how much of that each task loses, parts per million."""
    first: Ints
    """[N] the change that comes first after a task's start; -1 where its rate never changes."""
    after: Ints
    """[N] the change that comes first after its end."""
    rules: Ints
    """[3, rules] rows a, b and d: the time of a is to be at least d before that of b."""

    @classmethod
    def of(cls, trace: Trace) -> Slowing:
        """Of the tasks of a trace."""
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
            own = np.flatnonzero(program.resource == resource)
            first[own] = base + np.searchsorted(when[line], times["start"][own], side="right")
            after[own] = base + np.searchsorted(when[line], times["free"][own], side="left")
        after = np.maximum(first, after)
        rows, yields = np.concatenate(changes), program.yields_ppm.astype(np.int64)
        return cls(rows, np.concatenate(taken), yields, first, after, _rules(rows, first, after))

    def edges(self) -> Ints:
        """[2, edges] changes while a task runs: (the task that changes its rate, the task)."""
        count = self.after - self.first
        running = np.repeat(np.arange(len(count)), count)
        at = np.repeat(self.first - np.cumsum(count) + count, count) + np.arange(len(running))
        return np.stack((self.changes[at] % (len(count) + 1), running))

    def of_tasks(self, tasks: Ints, number: Ints) -> Slowed | None:
        """Those of `tasks` whose rate is not the full one throughout, under other numbers [N + 1]; None for none."""
        first, after = self.first[tasks], self.after[tasks]
        some = (first >= 0) & ((after > first) | (self.taken[first] != 0))
        if not some.any():
            return None
        own, first, after = number[tasks[some]], first[some, None], after[some, None]
        k = np.arange((after - first).max() + 1)
        changes = renumbered(self.changes[np.minimum(first + k[:-1], after - 1)], number)
        changes = np.where(after > first, changes, _START * len(number) + own[:, None])
        lost = self.taken[np.minimum(first + k, after)] * self.yields[tasks[some], None] // FULL_PPM
        return Slowed(own, changes, np.maximum(MIN_RATE_PPM, FULL_PPM - lost))


def renumbered(rows: Ints, number: Ints) -> Ints:
    """Rows of tasks that have other numbers [N + 1]."""
    kind, task = np.divmod(rows, len(number))
    result: Ints = kind * len(number) + number[task]
    return result


def _rules(changes: Ints, first: Ints, after: Ints) -> Ints:
    """What must stay so: the order of changes, and which come before, during and after each task."""
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
