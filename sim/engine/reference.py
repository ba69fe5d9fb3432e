"""Reference engine: runs tasks on resources by one rule, in whole picoseconds.

A ready task queues at its resource, ordered by (ready time, task id). It starts when it heads the queue and the
resource is idle, holds the resource for `busy_ps`, then flies for `flight_ps`, and ends. A task is ready when all its
dependencies have ended. Arrivals and releases of an instant apply before any task starts at that instant, so results do
not depend on the order of events. A task without a resource starts as soon as it is ready; if it ends in the same
instant, the tasks that wait for it arrive in this instant too. A task that takes no time but holds a resource ends in
the instant's next round.

Messages: a message that crosses several links is one task per link, each of which follows the task on the link before
(`Program.follows`; virtual cut-through: Kermani and Kleinrock, Computer Networks 3, 1979). It is ready when the head of
the message has arrived, one flight after the start of the task that it follows; without flight it arrives in the
instant's next round. Its flight begins when it has released its link and the last byte has arrived from the link
before: it ends at max(released, end of the task that it follows) + flight. So a link is never idle while a message
waits at it, and is held only for the message's bytes at its own bandwidth. A message alone takes the sum of the
latencies and the time of its bytes on the slowest link. Nodes buffer any number of messages: back-pressure is not
modelled. A task cannot follow one on a resource whose rate changes.

Polling: a task with a period (`Program.poll_ps`) looks for its dependencies once per period, counted from the end of
the first dependency on its list: it is ready at the first whole number of periods at which all have ended. A task
without dependencies does not poll.

Interference: a task may take a share of a resource's rate (`Program.slows`): a positive `slow_ppm` takes it at the
task's start, a negative one gives it back at the task's end. All shares taken at once add up, and a task loses their
sum times its `yields_ppm`. A task on a resource below the full rate advances by rate x time. Work is counted in
millionths of a picosecond, so rates apply exactly from the instant at which they change, and a task is done at the
first whole picosecond at which no work is left. A rate never falls below MIN_RATE_PPM.

No task holds one resource while it waits for another, so queues cannot deadlock: only a dependency that never ends can,
and that raises `DeadlockError`.

SimPy keeps the clock, with one SimPy event per instant at which a task frees a resource, ends or looks for its
dependencies; its callback applies the rule to all tasks of that instant. (A SimPy process per task would be an order of
magnitude slower, and symmetric programs have thousands of ties.) `sim.engine.kernel` is the same rule compiled, and
tests compare their times byte by byte.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
import simpy

from sim.errors import DeadlockError
from sim.program import FULL_PPM, Program
from sim.program.trace import Trace

MIN_RATE_PPM = 10_000
"""Lowest rate of a resource, parts per million."""

_NO_TIMES = np.empty(0, dtype=np.int64)

Instant = tuple[list[int], list[int], list[int]]
"""Tasks that free resources, that end, and that look for their dependencies at one instant."""
_FREES, _ENDS, _LOOKS = range(3)
"""Entries of an `Instant`."""


def run(program: Program) -> Trace:
    """Runs a program by the rule. Raises DeadlockError."""
    return _Run(program).trace() if len(program) else Trace.from_start_times(program, _NO_TIMES, _NO_TIMES)


class _Run:
    """One run of a program: queues and resources as they are now, and the instants to come."""

    def __init__(self, program: Program) -> None:
        count = len(program)
        self.program, self.count, self.unfinished = program, count, count
        self.busy, self.flight = program.busy_ps.tolist(), program.flight_ps.tolist()
        self.resource, self.follows = program.resource.tolist(), program.follows.tolist()
        self.follower = program.followers().tolist()
        self.first_dependent, self.dependents = _dependents(program)
        self.waiting: list[int] = np.diff(program.dep_offset).tolist()
        """Number of dependencies of each task that have not ended."""
        self.end: dict[int, int] = {}
        """End of each task that another follows."""
        self.ready, self.start = [-1] * count, [-1] * count
        self.queues: list[list[int]] = [[] for _ in program.resources]
        self.idle = bytearray(b"\x01" * len(program.resources))
        self.dirty: list[int] = []
        """Resources on which a task may start in this instant."""
        self.rates = _Rates(program) if program.slow_ppm.any() else None
        self.has_rate = self.rates.tracks if self.rates else bytearray(count)
        self.slow_ppm = self.rates.slow_ppm if self.rates else [0] * count
        self.polls = _Polls(program)
        self.agenda: dict[int, Instant] = {}
        self.clock = simpy.Environment()
        self.all_done = self.clock.event()

    def trace(self) -> Trace:
        self.at(0)[_LOOKS].extend(self.program.roots().tolist())
        try:
            self.clock.run(until=self.all_done)
        except RuntimeError as error:  # SimPy: no event left before all_done
            raise deadlock(self.program, self.waiting, self.start, int(self.clock.now)) from error
        times = (np.array(column, dtype=np.int64) for column in (self.ready, self.start))
        trace = Trace.from_start_times(self.program, *times)
        if not self.rates:
            return trace
        free = trace.times["free"].copy()
        free[list(self.rates.free)] = list(self.rates.free.values())
        return trace.with_release_times(free)

    def at(self, time: int) -> Instant:
        """Returns the instant at that time, and makes a SimPy event of it if it is new."""
        instant = self.agenda.get(time)
        if instant is None:
            instant = self.agenda[time] = ([], [], [])
            self.clock.timeout(time - self.clock.now).callbacks.append(self.apply)
        return instant

    def apply(self, _: simpy.Event) -> None:
        """Applies the rule to all tasks of the instant that is now."""
        now = int(self.clock.now)
        freed, ended, looking = self.agenda.pop(now)
        self.release(freed, ended, now)
        for task in looking:
            self.arrive(task, ended, now)
        self.finish(ended, now)
        self.start_heads(now)
        if not self.unfinished:
            self.all_done.succeed()

    def release(self, freed: list[int], ended: list[int], now: int) -> None:
        for task in freed:
            if self.has_rate[task]:
                if self.rates and not self.rates.done(task, now):
                    continue
                end = self.lead(task, now, now)
                (self.at(end)[_ENDS] if end > now else ended).append(task)
            self.idle[self.resource[task]] = 1
            self.dirty.append(self.resource[task])

    def arrive(self, task: int, ended: list[int], now: int) -> None:
        """Queues up a task that is ready, or starts it at once if it holds no resource."""
        self.ready[task] = now
        resource = self.resource[task]
        if resource >= 0:
            heappush(self.queues[resource], now * self.count + task)  # orders as (ready, task id), faster than a tuple
            self.dirty.append(resource)
            return
        self.start[task] = now
        if self.slow_ppm[task] > 0:
            self.change_rate(task, now)
        end = self.lead(task, now, now + self.busy[task])
        (self.at(end)[_ENDS] if end > now else ended).append(task)

    def finish(self, ended: list[int], now: int) -> None:
        """Ends tasks, also those that start and end in this instant, and lets what waited for them arrive."""
        waiting, dependents, first_dependent, polls = self.waiting, self.dependents, self.first_dependent, self.polls
        for task in ended:  # grows while it is read
            if task in polls.since:
                polls.since[task] = now
            for dependent in dependents[first_dependent[task] : first_dependent[task + 1]]:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    if dependent in polls.anchor and (wait := polls.wait(dependent, now)):
                        self.at(now + wait)[_LOOKS].append(dependent)
                    else:
                        self.arrive(dependent, ended, now)
            if self.slow_ppm[task] < 0:
                self.change_rate(task, now)
        self.unfinished -= len(ended)

    def start_heads(self, now: int) -> None:
        """Starts the head of each queue whose resource is idle."""
        follows, follower, has_rate, slow_ppm = self.follows, self.follower, self.has_rate, self.slow_ppm
        for resource in self.dirty:
            queue = self.queues[resource]
            if not queue or not self.idle[resource]:
                continue
            task = heappop(queue) % self.count
            self.idle[resource] = 0
            self.start[task] = now
            if slow_ppm[task] > 0:
                self.change_rate(task, now)
            if has_rate[task] and self.rates:
                self.at(self.rates.start(task, now, self.busy[task]))[_FREES].append(task)
                continue
            free = now + self.busy[task]
            self.at(free)[_FREES].append(task)
            leads = follower[task] >= 0 or follows[task] >= 0
            end = self.lead(task, now, free) if leads else free + self.flight[task]
            self.at(end)[_ENDS].append(task)
        self.dirty.clear()

    def lead(self, task: int, now: int, free: int) -> int:
        """Returns the end of a task that starts now and releases its resource at `free`; its follower looks later."""
        before, follower = self.follows[task], self.follower[task]
        end: int = (max(free, self.end[before]) if before >= 0 else free) + self.flight[task]
        if follower >= 0:
            self.end[task] = end
            self.at(now + self.flight[task])[_LOOKS].append(follower)
        return end

    def change_rate(self, task: int, now: int) -> None:
        """Takes or gives back a share of a resource's rate, and moves the end of the task that runs there."""
        if self.rates and (moved := self.rates.change(task, now)):
            self.at(moved[1])[_FREES].append(moved[0])


class _Polls:
    """Tasks that poll for their dependencies."""

    def __init__(self, program: Program) -> None:
        polling = np.flatnonzero((program.poll_ps > 0) & (np.diff(program.dep_offset) > 0))
        first = program.deps[program.dep_offset[polling]]
        self._period = dict(zip(polling.tolist(), program.poll_ps[polling].tolist(), strict=True))
        self.anchor = dict(zip(polling.tolist(), first.tolist(), strict=True))
        """First dependency of each task that polls."""
        self.since = dict.fromkeys(self.anchor.values(), 0)
        """End of each of these dependencies."""

    def wait(self, task: int, now: int) -> int:
        """Returns the time until a task looks next; 0 if it looks now."""
        period: int = self._period[task]
        return (self.since[self.anchor[task]] - now) % period


class _Rates:
    """Resources whose rate changes, and when the tasks on them are done."""

    def __init__(self, program: Program) -> None:
        self.slow_ppm = program.slow_ppm.tolist()
        self._slows = program.slows.tolist()
        self._taken = dict.fromkeys(program.slows[program.slow_ppm != 0].tolist(), 0)
        """Share of each resource's rate that is taken, parts per million."""
        self._held, self._yields = program.resource.tolist(), program.yields_ppm.tolist()
        self.tracks = bytearray(resource in self._taken for resource in self._held)
        """[tasks] 1 if a task holds such a resource."""
        self._running: dict[int, int] = {}  # resource -> task
        self._work: dict[int, tuple[int, int, int, int]] = {}  # task -> (work left, rate, since when, done when)
        self.free: dict[int, int] = {}  # done task -> when

    def start(self, task: int, now: int, busy_ps: int) -> int:
        """Starts a task and returns the time at which it will be done."""
        self._running[self._held[task]] = task
        return self._resume(task, now, busy_ps * FULL_PPM)

    def done(self, task: int, now: int) -> bool:
        """Returns True if the task is done now: its end may have moved since this time was put on the agenda."""
        if task not in self._work or self._work[task][3] != now:
            return False
        del self._work[task]
        del self._running[self._held[task]]
        self.free[task] = now
        return True

    def change(self, task: int, now: int) -> tuple[int, int] | None:
        """Changes a rate, and returns the task that runs there and its new end; None if its end stays the same."""
        resource = self._slows[task]
        self._taken[resource] += self.slow_ppm[task]
        if (running := self._running.get(resource)) is None:
            return None
        left, rate, since, before = self._work[running]
        after = self._resume(running, now, left - (now - since) * rate)
        return (running, after) if after != before else None

    def _resume(self, task: int, now: int, left: int) -> int:
        lost: int = self._taken[self._held[task]] * self._yields[task] // FULL_PPM
        rate = max(MIN_RATE_PPM, FULL_PPM - lost)
        done = now + -(-left // rate)
        self._work[task] = (left, rate, now, done)
        return done


def _dependents(program: Program) -> tuple[list[int], list[int]]:
    """Returns the tasks that wait for each task: (offsets [N + 1], flat list)."""
    count = len(program)
    waiter = np.repeat(np.arange(count, dtype=np.int32), np.diff(program.dep_offset))
    order = np.argsort(program.deps, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(program.deps, minlength=count))))
    return offsets.tolist(), waiter[order].tolist()


def deadlock(program: Program, waiting: list[int], start: list[int], now: int) -> DeadlockError:
    """Returns the error that names the first tasks that never start, and the tasks that they wait for."""
    stuck = [task for task in range(len(program)) if start[task] < 0]
    lines = []
    for task in stuck[:5]:
        before = [*program.dependencies(task), *program.follows[[task]]]
        blockers = [int(d) for d in before if d >= 0 and start[d] < 0]
        names = ", ".join(f"task {d} {program.describe(d)}" for d in blockers[:3])
        lines.append(f"task {task} {program.describe(task)} waits for {max(waiting[task], 1)}: {names}")
    more = f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""
    return DeadlockError(f"deadlock at {now} ps, {len(stuck)} tasks never start: {'; '.join(lines)}{more}")
