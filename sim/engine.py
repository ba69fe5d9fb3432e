"""The engine: tasks on resources, one rule, whole picoseconds.

A ready task queues at each of its resources, keyed (ready time, task id). It starts when it heads all its queues and
all are idle, holds its resources for `busy_ps`, then flies for `flight_ps`, and ends; a task is ready when all its
dependencies have ended. Arrivals and releases of one instant apply before anything starts at that instant, so results
do not depend on the order of events. A task without resources starts the moment it is ready; if it ends at that same
instant, that end is one of the instant's arrivals. A task that takes no time but holds resources ends in the instant's
next round.

The least key of all queued tasks heads every queue it stands in, so queues alone cannot deadlock: only a dependency
that never ends can, and that raises `DeadlockError`.

SimPy keeps the clock: one SimPy event per instant at which anything frees or ends, its callback applies the rule to all
tasks of that instant. (A process per task, the usual way to write SimPy, is an order of magnitude slower, and
symmetric programs tie by the thousand.)
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np
import simpy

from sim.errors import DeadlockError
from sim.program import Program
from sim.trace import Trace


def simulate(program: Program) -> Trace:
    """Run `program` and return when everything happened.

    Raises:
        DeadlockError: tasks are left that can never become ready; the message names the first few.
    """
    count = len(program)
    busy, flight = program.busy_ps.tolist(), program.flight_ps.tolist()
    waiting = np.diff(program.dep_offset).tolist()
    dependents_of, dependents = _dependents(program)
    first_held, also_held = _held(program)
    queues: list[list[int]] = [[] for _ in program.resources]
    idle = bytearray(b"\x01" * len(program.resources))
    ready, start = [-1] * count, [-1] * count

    env = simpy.Environment()
    all_done = env.event()
    agenda: dict[int, tuple[list[int], list[int]]] = {}  # instant -> (tasks that free resources, tasks that end)
    touched: list[int] = []  # resources at whose head something may start in this instant
    unfinished = count

    def book(time: int) -> tuple[list[int], list[int]]:
        slot = agenda.get(time)
        if slot is None:
            slot = agenda[time] = ([], [])
            env.timeout(time - env.now).callbacks.append(at_instant)
        return slot

    def arrive(task: int, now: int, ended: list[int]) -> None:
        ready[task] = now
        first = first_held[task]
        if first < 0:
            start[task] = now
            duration = busy[task] + flight[task]
            (book(now + duration)[1] if duration else ended).append(task)
            return
        key = now * count + task  # orders as (ready time, task id), and compares faster than a tuple
        heappush(queues[first], key)
        touched.append(first)
        if task in also_held:
            for resource in also_held[task]:
                heappush(queues[resource], key)

    def at_instant(_: simpy.Event) -> None:
        nonlocal unfinished
        now = int(env.now)
        freed, ended = agenda.pop(now)
        for task in freed:
            first = first_held[task]
            idle[first] = 1
            touched.append(first)
            if task in also_held:
                for resource in also_held[task]:
                    idle[resource] = 1
                    touched.append(resource)
        for task in ended:  # grows while it is read: resource-less tasks that take no time
            for dependent in dependents[dependents_of[task] : dependents_of[task + 1]]:
                left = waiting[dependent] - 1
                waiting[dependent] = left
                if not left:
                    arrive(dependent, now, ended)
        unfinished -= len(ended)
        for resource in touched:
            queue = queues[resource]
            if not queue or not idle[resource]:
                continue
            key = queue[0]
            task = key % count
            if task in also_held:
                others = (first_held[task], *also_held[task])
                if not all(idle[other] and queues[other][0] == key for other in others):
                    continue
                for other in others:
                    heappop(queues[other])
                    idle[other] = 0
            else:
                heappop(queue)
                idle[resource] = 0
            start[task] = now
            slot = book(now + busy[task])
            slot[0].append(task)
            if flight[task]:
                slot = book(now + busy[task] + flight[task])
            slot[1].append(task)
        touched.clear()
        if not unfinished:
            all_done.succeed()

    if count:
        roots = book(0)[1]
        for task in np.flatnonzero(np.diff(program.dep_offset) == 0).tolist():
            arrive(task, 0, roots)
        try:
            env.run(until=all_done)
        except RuntimeError as error:  # SimPy: no event left before all_done
            raise _deadlock(program, waiting, start, int(env.now)) from error
    return Trace.of(program, np.array(ready, dtype=np.int64), np.array(start, dtype=np.int64))


def _dependents(program: Program) -> tuple[list[int], list[int]]:
    """Dependencies turned round: (offsets [N + 1], tasks that wait for each task)."""
    count = len(program)
    waiter = np.repeat(np.arange(count, dtype=np.int32), np.diff(program.dep_offset))
    order = np.argsort(program.deps, kind="stable")
    offsets = np.concatenate(([0], np.cumsum(np.bincount(program.deps, minlength=count))))
    return offsets.tolist(), waiter[order].tolist()


def _held(program: Program) -> tuple[list[int], dict[int, tuple[int, ...]]]:
    """First resource of each task (-1 for none), and the others of the tasks that hold several."""
    counts = np.diff(program.resource_offset)
    first = np.full(len(program), -1, dtype=np.int64)
    some = counts > 0
    first[some] = program.resource[program.resource_offset[:-1][some]]
    several = {task: tuple(program.resources_of(task)[1:].tolist()) for task in np.flatnonzero(counts > 1).tolist()}
    return first.tolist(), several


def _deadlock(program: Program, waiting: list[int], start: list[int], now: int) -> DeadlockError:
    stuck = [task for task in range(len(program)) if start[task] < 0]
    lines = []
    for task in stuck[:5]:
        blockers = [int(d) for d in program.dependencies(task) if start[d] < 0]
        names = ", ".join(f"task {d} {program.describe(d)}" for d in blockers[:3])
        lines.append(f"task {task} {program.describe(task)} waits for {waiting[task]}: {names}")
    more = f" and {len(stuck) - 5} more" if len(stuck) > 5 else ""
    return DeadlockError(f"deadlock at {now} ps, {len(stuck)} tasks never start: {'; '.join(lines)}{more}")
