"""The engine: tasks on resources, one rule, whole picoseconds.

A ready task queues at its resource, keyed (ready time, task id). It starts when it heads the queue and the resource is
idle, holds it for `busy_ps`, then flies for `flight_ps`, and ends; a task is ready when all its dependencies have
ended. Arrivals and releases of one instant apply before anything starts at that instant, so results do not depend on
the order of events. A task without a resource starts the moment it is ready; if it ends at that same instant, that end
is one of the instant's arrivals. A task that takes no time but holds a resource ends in the instant's next round.

Messages: a message that crosses several links is a task on each, which follows the one on the link before
(`Program.follows`; virtual cut-through: Kermani and Kleinrock, Computer Networks 3, 1979). It is ready when its head
has flown there, the flight of that one after its start; with no flight it arrives in the instant's next round. Its own
flight begins once it has released its link and its last byte has come from the link before: it ends at max(released,
end of the one it follows) + flight. So a link is never idle while a message waits at it, and is held only for the
message's bytes at its own bandwidth. A message alone takes the sum of the latencies and the time of its bytes on the
slowest link. Nodes on the way have room for all that waits there: no back-pressure. What a message follows may not be
on a resource whose rate changes.

Polling: a task with a period (`Program.poll_ps`) looks for its dependencies once in that time, from the end of the
first of them on its list: it is ready at the first whole number of periods after it at which all have ended. A task
that waits for nothing does not look.

Interference: a task may slow a resource (`Program.slows`), from its start by a positive `slow_ppm`, or back to what it
was from its end by a negative one. All that slow a resource at once add up, and a task loses that, times its
`yields_ppm`. While its rate is less than one, a task advances by rate x time. Work is counted in millionths
of a picosecond, so rates apply exactly from the instant they change, and a task is done at the first whole picosecond
at which nothing is left. A rate never falls below MIN_RATE_PPM.

No task holds one resource and waits for another, so queues alone cannot deadlock: only a dependency that never ends
can, and that raises `DeadlockError`.

SimPy keeps the clock: one SimPy event per instant at which anything frees or ends, its callback applies the rule to all
tasks of that instant. (A process per task, the usual way to write SimPy, is an order of magnitude slower, and
symmetric programs tie by the thousand.) SimPy is the reference; `sim.engine.kernel` is the same rule compiled, to the
byte.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
import simpy

from sim.errors import DeadlockError
from sim.program import FULL_PPM, Program
from sim.program.trace import Trace

Slot = tuple[list[int], list[int], list[int]]
"""Of an instant: tasks that free resources, tasks that end, tasks that look for their dependencies."""

MIN_RATE_PPM = 10_000
"""The lowest rate, parts per million."""


def run(program: Program) -> Trace:
    """Runs a program by the rule. Raises DeadlockError."""
    count = len(program)
    busy, flight = program.busy_ps.tolist(), program.flight_ps.tolist()
    waiting = np.diff(program.dep_offset).tolist()
    dependents_of, dependents = _dependents(program)
    resource_of, follower, follows = program.resource.tolist(), program.followers().tolist(), program.follows.tolist()
    ends: dict[int, int] = {}  # of tasks that are followed
    queues: list[list[int]] = [[] for _ in program.resources]
    idle = bytearray(b"\x01" * len(program.resources))
    ready, start = [-1] * count, [-1] * count
    rates = _Rates(program) if program.slow_ppm.any() else None
    tracked = rates.tracks if rates else bytearray(count)
    changes = rates.slow_ppm if rates else [0] * count
    polls = _Polls(program)

    env = simpy.Environment()
    all_done = env.event()
    agenda: dict[int, Slot] = {}
    touched: list[int] = []  # resources at whose head something may start in this instant
    unfinished = count

    def book(time: int) -> Slot:
        slot = agenda.get(time)
        if slot is None:
            slot = agenda[time] = ([], [], [])
            env.timeout(time - env.now).callbacks.append(at_instant)
        return slot

    def change(task: int, now: int) -> None:
        """A task slows a resource, or gives back what another took: what runs there is done at another time."""
        if rates and (moved := rates.change(task, now)):
            book(moved[1])[0].append(moved[0])

    def leads(task: int, now: int, free: int) -> int:
        """When a task that starts now and releases its resource at `free` ends; it leads the one that follows it."""
        end: int = (max(free, ends[follows[task]]) if follows[task] >= 0 else free) + flight[task]
        if follower[task] >= 0:
            ends[task] = end
            book(now + flight[task])[2].append(follower[task])
        return end

    def arrive(task: int, now: int, ended: list[int]) -> None:
        ready[task] = now
        resource = resource_of[task]
        if resource < 0:
            start[task] = now
            if changes[task] > 0:
                change(task, now)
            end = leads(task, now, now + busy[task])
            (book(end)[1] if end > now else ended).append(task)
            return
        heappush(queues[resource], now * count + task)  # orders as (ready time, task id), and faster than a tuple
        touched.append(resource)

    def at_instant(_: simpy.Event) -> None:
        nonlocal unfinished
        now = int(env.now)
        freed, ended, looking = agenda.pop(now)
        for task in freed:
            if tracked[task]:
                if rates and not rates.done(task, now):
                    continue
                end = leads(task, now, now)
                (book(end)[1] if end > now else ended).append(task)
            idle[resource_of[task]] = 1
            touched.append(resource_of[task])
        for task in looking:
            arrive(task, now, ended)
        for task in ended:  # grows while it is read: resource-less tasks that take no time
            if task in polls.since:
                polls.since[task] = now
            for dependent in dependents[dependents_of[task] : dependents_of[task + 1]]:
                left = waiting[dependent] - 1
                waiting[dependent] = left
                if not left:
                    if dependent in polls.anchor and (wait := polls.wait(dependent, now)):
                        book(now + wait)[2].append(dependent)
                    else:
                        arrive(dependent, now, ended)
            if changes[task] < 0:
                change(task, now)
        unfinished -= len(ended)
        for resource in touched:
            queue = queues[resource]
            if not queue or not idle[resource]:
                continue
            task = heappop(queue) % count
            idle[resource] = 0
            start[task] = now
            if changes[task] > 0:
                change(task, now)
            if tracked[task] and rates:
                book(rates.start(task, now, busy[task]))[0].append(task)
                continue
            free = now + busy[task]
            book(free)[0].append(task)
            end = leads(task, now, free) if follower[task] >= 0 or follows[task] >= 0 else free + flight[task]
            book(end)[1].append(task)
        touched.clear()
        if not unfinished:
            all_done.succeed()

    if count:
        book(0)[2].extend(program.roots().tolist())
        try:
            env.run(until=all_done)
        except RuntimeError as error:  # SimPy: no event left before all_done
            raise deadlock(program, waiting, start, int(env.now)) from error
    trace = Trace.from_start_times(program, np.array(ready, dtype=np.int64), np.array(start, dtype=np.int64))
    if rates:
        free = trace.times["free"].copy()
        free[list(rates.free)] = list(rates.free.values())
        return trace.with_release_times(free)
    return trace


class _Polls:
    """Tasks that look for their dependencies from time to time."""

    def __init__(self, program: Program) -> None:
        polling = np.flatnonzero((program.poll_ps > 0) & (np.diff(program.dep_offset) > 0))
        first = program.deps[program.dep_offset[polling]]
        self._period = dict(zip(polling.tolist(), program.poll_ps[polling].tolist(), strict=True))
        self.anchor = dict(zip(polling.tolist(), first.tolist(), strict=True))
        """Task -> the first of its dependencies."""
        self.since = dict.fromkeys(self.anchor.values(), 0)
        """That -> when it ended."""

    def wait(self, task: int, now: int) -> int:
        """Time until it next looks; 0 if it looks now."""
        period: int = self._period[task]
        return (self.since[self.anchor[task]] - now) % period


class _Rates:
    """Resources whose rate changes, and when the tasks on them are done."""

    def __init__(self, program: Program) -> None:
        self.slow_ppm = program.slow_ppm.tolist()
        self._slows = program.slows.tolist()
        self._taken = dict.fromkeys(program.slows[program.slow_ppm != 0].tolist(), 0)
        """Resource -> parts per million of its rate that are taken."""
        self._held, self._yields = program.resource.tolist(), program.yields_ppm.tolist()
        self.tracks = bytearray(resource in self._taken for resource in self._held)
        """Per task, whether it holds such a resource."""
        self._running: dict[int, int] = {}  # resource -> task
        self._work: dict[int, tuple[int, int, int, int]] = {}  # task -> (work left, rate, since when, done when)
        self.free: dict[int, int] = {}  # done task -> when

    def start(self, task: int, now: int, busy_ps: int) -> int:
        """When a task that starts now will be done."""
        self._running[self._held[task]] = task
        return self._go_on(task, now, busy_ps * FULL_PPM)

    def done(self, task: int, now: int) -> bool:
        """Whether the task is done now, for the first time: its time may have changed since it was booked."""
        if task not in self._work or self._work[task][3] != now:
            return False
        del self._work[task]
        del self._running[self._held[task]]
        self.free[task] = now
        return True

    def change(self, task: int, now: int) -> tuple[int, int] | None:
        """`task` changes a rate now: (what runs there, when it will be done), if that is another time than before."""
        resource = self._slows[task]
        self._taken[resource] += self.slow_ppm[task]
        if (running := self._running.get(resource)) is None:
            return None
        left, rate, since, before = self._work[running]
        after = self._go_on(running, now, left - (now - since) * rate)
        return (running, after) if after != before else None

    def _go_on(self, task: int, now: int, left: int) -> int:
        lost: int = self._taken[self._held[task]] * self._yields[task] // FULL_PPM
        rate = max(MIN_RATE_PPM, FULL_PPM - lost)
        done = now + -(-left // rate)
        self._work[task] = (left, rate, now, done)
        return done


def _dependents(program: Program) -> tuple[list[int], list[int]]:
    """Dependencies turned round: (offsets [N + 1], tasks that wait for each task)."""
    count = len(program)
    waiter = np.repeat(np.arange(count, dtype=np.int32), np.diff(program.dep_offset))
    order = np.argsort(program.deps, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(program.deps, minlength=count))))
    return offsets.tolist(), waiter[order].tolist()


def deadlock(program: Program, waiting: list[int], start: list[int], now: int) -> DeadlockError:
    stuck = [task for task in range(len(program)) if start[task] < 0]
    lines = []
    for task in stuck[:5]:
        before = [*program.dependencies(task), *program.follows[[task]]]
        blockers = [int(d) for d in before if d >= 0 and start[d] < 0]
        names = ", ".join(f"task {d} {program.describe(d)}" for d in blockers[:3])
        lines.append(f"task {task} {program.describe(task)} waits for {max(waiting[task], 1)}: {names}")
    more = f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""
    return DeadlockError(f"deadlock at {now} ps, {len(stuck)} tasks never start: {'; '.join(lines)}{more}")
