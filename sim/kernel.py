"""The loop of the compiled engine, for numba: the rule of `sim.engine` over the same columns. Called by `sim.compiled`.

Instants are slots: a slot has a time and three linked lists of tasks, those that free their resources then, those that
end and those that look for their dependencies. A heap orders the slots by time. A small table, indexed by the time,
remembers the slot last made for it; where two times share an entry a second slot of the same time is made, and slots of
one time are read together. Tasks whose rate may change are on a heap of their own, from which an entry is dropped when
the task's time has changed since.

A queue is a binary heap of (number of the instant at which a task was ready, task id) in one integer; queues lie side
by side in one array, each with room for all tasks that ever hold its resource.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

_TABLE = 4096
"""Entries of the table of slots; a power of two."""
_READY, _START, _FREE, _END = range(4)
"""Columns of `times`, as of `sim.trace.TIMES`."""
_LEFT, _RATE, _SINCE, _DONE = range(4)
"""Columns of `work`: millionths of a picosecond left, rate in parts per million, since when, done when."""
_FULL_PPM = 1_000_000


@njit(cache=True)
def _push(heap: Any, first: int, size: int, key: Any) -> None:
    """Add a key to the binary heap heap[first : first + size]."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[first + above] <= key:
            break
        heap[first + at] = heap[first + above]
        at = above
    heap[first + at] = key


@njit(cache=True)
def _pop(heap: Any, first: int, size: int) -> None:
    """Remove the least key of heap[first : first + size]."""
    key = heap[first + size - 1]
    size -= 1
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and heap[first + below + 1] < heap[first + below]:
            below += 1
        if heap[first + below] >= key:
            break
        heap[first + at] = heap[first + below]
        at = below
    heap[first + at] = key


@njit(cache=True)
def _push_at(times: Any, values: Any, size: int, time: int, value: int) -> None:
    """Add (time, value) to a heap of two columns, ordered by time alone."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if times[above] <= time:
            break
        times[at], values[at] = times[above], values[above]
        at = above
    times[at], values[at] = time, value


@njit(cache=True)
def _pop_at(times: Any, values: Any, size: int) -> None:
    """Remove the least of a heap of two columns."""
    time, value = times[size - 1], values[size - 1]
    size -= 1
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        if below + 1 < size and times[below + 1] < times[below]:
            below += 1
        if times[below] >= time:
            break
        times[at], values[at] = times[below], values[below]
        at = below
    times[at], values[at] = time, value


@njit(cache=True)
def _go_on(
    work: Any, taken: Any, resource_offset: Any, resource: Any, task: Any, now: Any, left: Any, least_ppm: int
) -> Any:
    """Note that `task` has `left` to do from now on; when it will be done."""
    most = 0
    for i in range(resource_offset[task], resource_offset[task + 1]):
        most = max(most, taken[resource[i]])
    rate = max(least_ppm, _FULL_PPM - most)
    done = now + -(-left // rate)
    work[task, _LEFT], work[task, _RATE], work[task, _SINCE], work[task, _DONE] = left, rate, now, done
    return done


class Agenda(NamedTuple):
    """What will happen when. Arrays have room for the most there can be; memory is taken only as it is used."""

    slot_time: Any
    """-1 where the slot is not in use."""
    first: Any
    """[slots, 3] the first task that frees its resources, that ends, that looks for its dependencies; -1 for none."""
    last: Any
    next: Any
    """[N, 3] the task after each in those lists."""
    heap_time: Any
    heap_slot: Any
    table: Any
    unused: Any
    """Slots used before and not now."""
    counts: Any
    """Slots on the heap, unused slots, slots never used so far."""


@njit(cache=True)
def _book(agenda: Agenda, time: Any, task: Any, what: int) -> None:
    """At `time`, `task` frees its resources (what = 0), ends (1) or looks for its dependencies (2)."""
    entry = (time ^ (time >> 12)) & (_TABLE - 1)
    slot = agenda.table[entry]
    if agenda.slot_time[slot] != time:
        if agenda.counts[1] > 0:
            agenda.counts[1] -= 1
            slot = agenda.unused[agenda.counts[1]]
        else:
            slot = agenda.counts[2]
            agenda.counts[2] += 1
        agenda.slot_time[slot] = time
        agenda.first[slot, 0] = agenda.first[slot, 1] = agenda.first[slot, 2] = -1
        agenda.table[entry] = slot
        _push_at(agenda.heap_time, agenda.heap_slot, agenda.counts[0], time, slot)
        agenda.counts[0] += 1
    if agenda.first[slot, what] < 0:
        agenda.first[slot, what] = task
    else:
        agenda.next[agenda.last[slot, what], what] = task
    agenda.last[slot, what] = task
    agenda.next[task, what] = -1


@njit(cache=True)
def _collect(agenda: Agenda, slot: int, what: int, tasks: Any, count: int) -> int:
    """Append the slot's tasks to tasks[:count]; how many there are then."""
    task = agenda.first[slot, what]
    while task >= 0:
        tasks[count] = task
        count += 1
        task = agenda.next[task, what]
    return count


@njit(cache=True)
def loop(
    busy: Any,
    flight: Any,
    dep_offset: Any,
    deps: Any,
    resource_offset: Any,
    resource: Any,
    resources: int,
    slows: Any,
    slow_ppm: Any,
    poll: Any,
    tracked: Any,
    interferes: bool,
    least_ppm: int,
    times: Any,
) -> Any:
    """Fill in `times` [N, 4]: ready, start, free and end, which are -1 before; return the last instant.

    Args:
        tracked: [N] whether a task holds a resource whose rate changes.
        interferes: whether there are any.
    """
    count = len(busy)

    # Dependencies turned round.
    waiting = np.empty(count, dtype=np.int32)
    of = np.zeros(count + 1, dtype=np.int32)
    for dep in deps:
        of[dep + 1] += 1
    task: Any
    for task in range(count):
        waiting[task] = dep_offset[task + 1] - dep_offset[task]
        of[task + 1] += of[task]
    dependents = np.empty(len(deps), dtype=np.int32)
    place = of[:-1].copy()
    for task in range(count):
        for i in range(dep_offset[task], dep_offset[task + 1]):
            dependents[place[deps[i]]] = task
            place[deps[i]] += 1

    queue_at = np.zeros(resources + 1, dtype=np.int32)
    for held in resource:
        queue_at[held + 1] += 1
    for held in range(resources):
        queue_at[held + 1] += queue_at[held]
    queues = np.empty(len(resource), dtype=np.int64)
    queued = np.zeros(resources, dtype=np.int64)
    idle = np.ones(resources, dtype=np.bool_)

    slots = 2 * count + 2
    agenda = Agenda(
        np.empty(slots, dtype=np.int64),
        np.empty((slots, 3), dtype=np.int32),
        np.empty((slots, 3), dtype=np.int32),
        np.empty((count, 3), dtype=np.int32),
        np.empty(slots, dtype=np.int64),
        np.empty(slots, dtype=np.int64),
        np.zeros(_TABLE, dtype=np.int64),
        np.empty(slots, dtype=np.int64),
        np.array([0, 0, 1]),
    )
    agenda.slot_time[0] = -1  # slot 0 is what the table holds where there is none

    # Of tasks whose rate changes.
    work = np.empty((count if interferes else 0, 4), dtype=np.int64)
    taken = np.zeros(resources, dtype=np.int64)
    running = np.full(resources, -1, dtype=np.int64)
    most_done = 4 * count + 1 if interferes else 0  # each start and each change books one time
    done_time, done_task = np.empty(most_done, dtype=np.int64), np.empty(most_done, dtype=np.int64)
    done_count = 0

    freed, ended = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    looking = np.empty(count, dtype=np.int32)
    touched = np.empty(2 * len(resource), dtype=np.int32)  # where something may start in this round
    changed = np.empty(2 * count, dtype=np.int32)  # resources whose rate may have changed in this round
    unfinished, now, ordinal = count, np.int64(0), np.int64(0)
    looking_count = 0
    for task in range(count):
        if waiting[task] == 0:  # as if it looked in the beginning
            looking[looking_count] = task
            looking_count += 1
    beginning = True
    while unfinished > 0:
        freed_count = ended_count = touched_count = changed_count = 0
        before = now
        if not beginning:
            looking_count = 0
            if agenda.counts[0] == 0 and done_count == 0:
                return now  # deadlock
            if agenda.counts[0] > 0 and (done_count == 0 or agenda.heap_time[0] <= done_time[0]):
                now = agenda.heap_time[0]
            else:
                now = done_time[0]
            while agenda.counts[0] > 0 and agenda.heap_time[0] == now:
                slot = agenda.heap_slot[0]
                _pop_at(agenda.heap_time, agenda.heap_slot, agenda.counts[0])
                agenda.counts[0] -= 1
                agenda.slot_time[slot] = -1
                agenda.unused[agenda.counts[1]] = slot
                agenda.counts[1] += 1
                freed_count = _collect(agenda, slot, 0, freed, freed_count)
                ended_count = _collect(agenda, slot, 1, ended, ended_count)
                looking_count = _collect(agenda, slot, 2, looking, looking_count)
            while done_count > 0 and done_time[0] == now:
                task = done_task[0]
                _pop_at(done_time, done_task, done_count)
                done_count -= 1
                if times[task, _FREE] >= 0 or work[task, _DONE] != now:
                    continue
                freed[freed_count] = task
                freed_count += 1
                times[task, _FREE], times[task, _END] = now, now + flight[task]
        if now != before:
            ordinal += 1

        # Releases.
        for i in range(freed_count):
            task = freed[i]
            for j in range(resource_offset[task], resource_offset[task + 1]):
                held = resource[j]
                idle[held] = True
                if queued[held] > 0:
                    touched[touched_count] = held
                    touched_count += 1
                if tracked[task]:
                    running[held] = -1
            if tracked[task]:
                if flight[task] == 0:
                    ended[ended_count] = task
                    ended_count += 1
                else:
                    _book(agenda, now + flight[task], task, 1)

        # Ends, and arrivals of what waited for them; of tasks without resources and time the end is in this round too.
        done = -1
        while done < ended_count:
            if done < 0:
                first, last = 0, looking_count
            else:
                task = ended[done]
                first, last = of[task], of[task + 1]
                if slow_ppm[task] < 0:
                    taken[slows[task]] += slow_ppm[task]
                    changed[changed_count] = slows[task]
                    changed_count += 1
            for j in range(first, last):
                if done < 0:
                    task = looking[j]
                else:
                    task = dependents[j]
                    waiting[task] -= 1
                    if waiting[task] > 0:
                        continue
                    if poll[task] > 0:
                        later = (times[deps[dep_offset[task]], _END] - now) % poll[task]
                        if later > 0:
                            _book(agenda, now + later, task, 2)
                            continue
                times[task, _READY] = now
                if resource_offset[task] < resource_offset[task + 1]:
                    key = (ordinal << 32) | task
                    for k in range(resource_offset[task], resource_offset[task + 1]):
                        held = resource[k]
                        _push(queues, queue_at[held], queued[held], key)
                        queued[held] += 1
                        if idle[held]:
                            touched[touched_count] = held
                            touched_count += 1
                    continue
                times[task, _START], times[task, _FREE] = now, now + busy[task]
                times[task, _END] = times[task, _FREE] + flight[task]
                if slow_ppm[task] > 0:
                    taken[slows[task]] += slow_ppm[task]
                    changed[changed_count] = slows[task]
                    changed_count += 1
                if busy[task] + flight[task] == 0:
                    ended[ended_count] = task
                    ended_count += 1
                else:
                    _book(agenda, times[task, _END], task, 1)
            done += 1
        beginning = False
        unfinished -= ended_count

        # Starts.
        for i in range(touched_count):
            at = touched[i]
            if queued[at] == 0 or not idle[at]:
                continue
            key = queues[queue_at[at]]
            task = key & 0xFFFFFFFF
            first, last = resource_offset[task], resource_offset[task + 1]
            able = True
            for k in range(first, last):
                held = resource[k]
                if not idle[held] or queues[queue_at[held]] != key:
                    able = False
                    break
            if not able:
                continue
            for k in range(first, last):
                held = resource[k]
                _pop(queues, queue_at[held], queued[held])
                queued[held] -= 1
                idle[held] = False
            times[task, _START] = now
            if slow_ppm[task] > 0:
                taken[slows[task]] += slow_ppm[task]
                changed[changed_count] = slows[task]
                changed_count += 1
            if tracked[task]:
                for k in range(first, last):
                    running[resource[k]] = task
                then = _go_on(work, taken, resource_offset, resource, task, now, busy[task] * _FULL_PPM, least_ppm)
                _push_at(done_time, done_task, done_count, then, task)
                done_count += 1
                continue
            then = now + busy[task]
            times[task, _FREE], times[task, _END] = then, then + flight[task]
            _book(agenda, then, task, 0)
            _book(agenda, times[task, _END], task, 1)

        # What runs on resources whose rate changed is done at another time.
        for i in range(changed_count):
            task = running[changed[i]]
            if task < 0:
                continue
            left = work[task, _LEFT] - (now - work[task, _SINCE]) * work[task, _RATE]
            previous = work[task, _DONE]
            then = _go_on(work, taken, resource_offset, resource, task, now, left, least_ppm)
            if then != previous:
                _push_at(done_time, done_task, done_count, then, task)
                done_count += 1
    return now
