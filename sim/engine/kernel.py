"""The loop of the compiled engine, for numba: the rule of `sim.engine.reference` over the same columns.

Large programs are bound by memory, so all that the rule needs of a task is one record of half a cache line, and so are
its times, which are written when it starts.

Instants are slots: a slot has a time and three linked lists of tasks, those that free their resources then, those that
end and those that look for their dependencies. A heap orders the slots by time. A small table, indexed by the time,
remembers the slot last made for it; where two times share an entry a second slot of the same time is made, and slots of
one time are read together. Tasks whose rate may change are on a heap of their own, from which an entry is dropped when
the task's time has changed since.

A queue is a run of (number of the instant at which a task was ready, task id), each in one integer, in order; since
instants only grow, new ones belong at its end. Queues lie side by side in one array, each with room for all tasks that
ever hold its resource.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

TASK = np.dtype(
    [
        ("busy", np.int64),
        ("flight", np.int64),
        ("resource", np.int32),
        ("first", np.int32),
        ("end", np.int32),
        ("next", np.int32),
    ]
)
"""The resource held, -1 for none; where its dependents begin and end; the next of its list."""
RESOURCE = np.dtype([("first", np.int32), ("end", np.int32), ("idle", np.int32), ("running", np.int32)])
"""Where its queue begins and ends; whether no task holds it; which holds it or was the last to."""

_TABLE = 4096
"""Entries of the table of slots; a power of two."""
_FREES, _ENDS, _LOOKS = 1, 3, 5
"""Columns of `slots`: the first and last task of each list, after the time."""
_READY, _START, _FREE, _END = range(4)
"""Columns of `times`, as of `sim.program.trace.TIMES`."""
_LEFT, _RATE, _SINCE, _DONE = range(4)
"""Columns of `work`: millionths of a picosecond left, rate in parts per million, since when, done when."""
_FULL_PPM = 1_000_000


@njit(cache=True)
def _queue_up(resources: Any, queues: Any, held: int, key: Any) -> None:
    """Add a task to a resource's queue. Those that became ready in the same instant may have to stand behind it."""
    first, at = resources[held].first, resources[held].end
    while at > first and queues[at - 1] > key:
        queues[at] = queues[at - 1]
        at -= 1
    queues[at] = key
    resources[held].end += 1


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
def _go_on(work: Any, lost: Any, task: Any, now: Any, left: Any, least_ppm: int) -> Any:
    """Note that `task`, which loses `lost` of its rate, has `left` to do from now on; when it will be done."""
    rate = max(least_ppm, _FULL_PPM - lost)
    done = now + -(-left // rate)
    work[task, _LEFT], work[task, _RATE], work[task, _SINCE], work[task, _DONE] = left, rate, now, done
    return done


class Agenda(NamedTuple):
    """What will happen when. Arrays have room for the most there can be; memory is taken only as it is used."""

    slots: Any
    """[slots, 8] time, -1 where not in use; first and last task of each list, -1 for none; the last is not used."""
    heap_time: Any
    heap_slot: Any
    table: Any
    unused: Any
    """Slots used before and not now."""
    counts: Any
    """Slots on the heap, unused slots, slots never used so far."""


@njit(cache=True)
def _book(agenda: Agenda, tasks: Any, time: Any, task: Any, what: int) -> None:
    """Put `task` on a list of the instant `time`."""
    entry = (time ^ (time >> 12)) & (_TABLE - 1)
    slot = agenda.table[entry]
    slots = agenda.slots
    if slots[slot, 0] != time:
        if agenda.counts[1] > 0:
            agenda.counts[1] -= 1
            slot = agenda.unused[agenda.counts[1]]
        else:
            slot = agenda.counts[2]
            agenda.counts[2] += 1
        slots[slot, 0] = time
        slots[slot, _FREES] = slots[slot, _ENDS] = slots[slot, _LOOKS] = -1
        agenda.table[entry] = slot
        _push_at(agenda.heap_time, agenda.heap_slot, agenda.counts[0], time, slot)
        agenda.counts[0] += 1
    if slots[slot, what] < 0:
        slots[slot, what] = task
    else:
        tasks[slots[slot, what + 1]].next = task
    slots[slot, what + 1] = task
    tasks[task].next = -1


@njit(cache=True)
def _collect(agenda: Agenda, tasks: Any, slot: int, what: int, found: Any, count: int) -> int:
    """Append a list of the slot to found[:count]; how many there are then."""
    task = agenda.slots[slot, what]
    while task >= 0:
        found[count] = task
        count += 1
        task = tasks[task].next
    return count


@njit(cache=True)
def _turn_round(tasks: Any, dep_offset: Any, deps: Any) -> Any:
    """All tasks' dependents; each task's are noted in `tasks`."""
    count = len(tasks)
    place = np.zeros(count, dtype=np.int32)
    for dep in deps:
        place[dep] += 1
    total = 0
    for task in range(count):
        tasks[task].first = total
        total += place[task]
        tasks[task].end = place[task] = total
    dependents = np.empty(len(deps), dtype=np.int32)
    for task in range(count - 1, -1, -1):  # each task's are filled in from the end
        for i in range(dep_offset[task], dep_offset[task + 1]):
            place[deps[i]] -= 1
            dependents[place[deps[i]]] = task
    return dependents


@njit(cache=True)
def _describe(tasks: Any, busy: Any, flight: Any, resource: Any) -> None:
    """What `tasks` says of durations and resources."""
    for task in range(len(tasks)):
        tasks[task].busy, tasks[task].flight, tasks[task].resource = busy[task], flight[task], resource[task]


@njit(cache=True)
def _ends(times: Any, tasks: Any, follows: Any, task: Any, free: Any) -> Any:
    """When a task ends that is free of its resource then: not before the one it follows has."""
    if len(follows) > 0 and follows[task] >= 0:
        free = max(free, times[follows[task], _END])
    return free + tasks[task].flight


@njit(cache=True)
def loop(
    tasks: Any,
    resources: Any,
    busy: Any,
    flight: Any,
    dep_offset: Any,
    deps: Any,
    resource: Any,
    follows: Any,
    follower: Any,
    slows: Any,
    slow_ppm: Any,
    yields_ppm: Any,
    poll: Any,
    tracked: Any,
    interferes: bool,
    polls: bool,
    least_ppm: int,
    times: Any,
) -> Any:
    """Fill in `times` [N, 4]: ready, start, free and end, which are -1 before; return the last instant.

    Args:
        tasks: [N] of TASK, 0.
        resources: [R] of RESOURCE, 0.
        follows, follower: [N] the task that each follows, and that follows each, -1 for none; [0] where there are none.
        tracked: [N] whether a task holds a resource whose rate changes.
        interferes: whether there are any.
        polls: whether any task polls.
    """
    count = len(tasks)
    _describe(tasks, busy, flight, resource)
    dependents = _turn_round(tasks, dep_offset, deps)
    leads = len(follower) > 0
    for held in resource:
        if held >= 0:
            resources[held].end += 1
    first = 0
    for held in range(len(resources)):
        resources[held].first = first
        first += resources[held].end
        resources[held].end = resources[held].first
        resources[held].idle = 1
        resources[held].running = -1
    queues = np.empty(len(resource), dtype=np.int64)

    most = count + 1  # a task waits for one instant at a time: until it looks, frees or ends; and slot 0
    agenda = Agenda(
        np.empty((most, 8), dtype=np.int64),
        np.empty(most, dtype=np.int64),
        np.empty(most, dtype=np.int64),
        np.zeros(_TABLE, dtype=np.int64),
        np.empty(most, dtype=np.int64),
        np.array([0, 0, 1]),
    )
    agenda.slots[0, 0] = -1  # slot 0 is what the table holds where there is none
    # Of tasks whose rate changes.
    work = np.empty((count if interferes else 0, 4), dtype=np.int64)
    taken = np.zeros(len(resources), dtype=np.int64)
    most_done = 2 * count if interferes else 0  # each start and each change of a rate books one time
    done_time, done_task = np.empty(most_done, dtype=np.int64), np.empty(most_done, dtype=np.int64)
    done_count = 0

    # A task looks, frees and ends once each; every time booked for its being done is an instant, too, also one that a
    # change of its rate has made void.
    instants = np.empty(3 * count + most_done + 1, dtype=np.int64)
    """Times by the number in the keys of queues."""

    freed, ended = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    looking = np.empty(count, dtype=np.int32)
    touched = np.empty(2 * len(resource), dtype=np.int32)  # where something may start in this round
    started = np.empty(count, dtype=np.int64)
    changed = np.empty(2 * count, dtype=np.int32)  # resources whose rate may have changed in this round
    unfinished, now, ordinal = count, np.int64(0), np.int64(0)
    instants[0] = 0
    looking_count = 0
    waiting = np.empty(count, dtype=np.int32)  # by itself: it is what is looked at most
    task: Any
    for task in range(count):
        waiting[task] = dep_offset[task + 1] - dep_offset[task]
        if waiting[task] == 0 and not (leads and follows[task] >= 0):  # as if it looked in the beginning
            looking[looking_count] = task
            looking_count += 1
    beginning = True
    while unfinished > 0:
        freed_count = ended_count = touched_count = changed_count = 0
        if not beginning:
            looking_count = 0
            if agenda.counts[0] == 0 and done_count == 0:
                return now  # deadlock
            before = now
            if agenda.counts[0] > 0 and (done_count == 0 or agenda.heap_time[0] <= done_time[0]):
                now = agenda.heap_time[0]
            else:
                now = done_time[0]
            if now != before:
                ordinal += 1
                instants[ordinal] = now
            while agenda.counts[0] > 0 and agenda.heap_time[0] == now:
                slot = agenda.heap_slot[0]
                _pop_at(agenda.heap_time, agenda.heap_slot, agenda.counts[0])
                agenda.counts[0] -= 1
                agenda.slots[slot, 0] = -1
                agenda.unused[agenda.counts[1]] = slot
                agenda.counts[1] += 1
                freed_count = _collect(agenda, tasks, slot, _FREES, freed, freed_count)
                ended_count = _collect(agenda, tasks, slot, _ENDS, ended, ended_count)
                looking_count = _collect(agenda, tasks, slot, _LOOKS, looking, looking_count)
            while done_count > 0 and done_time[0] == now:
                task = done_task[0]
                _pop_at(done_time, done_task, done_count)
                done_count -= 1
                if times[task, _FREE] >= 0 or work[task, _DONE] != now:
                    continue
                freed[freed_count] = task
                freed_count += 1
                times[task, _FREE], times[task, _END] = now, _ends(times, tasks, follows, task, now)

        # Releases.
        for i in range(freed_count):
            task = freed[i]
            held = tasks[task].resource
            resources[held].idle = 1
            resources[held].running = -1
            if resources[held].first < resources[held].end:
                touched[touched_count] = held
                touched_count += 1
            if times[task, _END] == now:
                ended[ended_count] = task
                ended_count += 1
            else:
                _book(agenda, tasks, times[task, _END], task, _ENDS)

        # Ends, and arrivals of what waited for them; of tasks without resources and time the end is in this round too.
        done = -1
        while done < ended_count:
            if done < 0:
                begin, end = 0, looking_count
            else:
                task = ended[done]
                begin, end = tasks[task].first, tasks[task].end
                if interferes and slow_ppm[task] < 0:
                    taken[slows[task]] += slow_ppm[task]
                    changed[changed_count] = slows[task]
                    changed_count += 1
            for j in range(begin, end):
                if done < 0:
                    task = looking[j]
                else:
                    task = dependents[j]
                    waiting[task] -= 1
                    if waiting[task] > 0:
                        continue
                    if polls and poll[task] > 0:
                        later = (times[deps[dep_offset[task]], _END] - now) % poll[task]
                        if later > 0:
                            _book(agenda, tasks, now + later, task, _LOOKS)
                            continue
                held = tasks[task].resource
                if held >= 0:
                    _queue_up(resources, queues, held, (ordinal << 32) | task)
                    if resources[held].idle:
                        touched[touched_count] = held
                        touched_count += 1
                    continue
                free = now + tasks[task].busy
                then = _ends(times, tasks, follows, task, free)
                times[task, _READY], times[task, _START], times[task, _FREE], times[task, _END] = now, now, free, then
                if interferes and slow_ppm[task] > 0:
                    taken[slows[task]] += slow_ppm[task]
                    changed[changed_count] = slows[task]
                    changed_count += 1
                if then == now:
                    ended[ended_count] = task
                    ended_count += 1
                else:
                    _book(agenda, tasks, then, task, _ENDS)
                if leads and follower[task] >= 0:
                    _book(agenda, tasks, now + tasks[task].flight, follower[task], _LOOKS)
            done += 1
        beginning = False
        unfinished -= ended_count

        # Starts: who may, then what that means, in two loops that each look at little.
        started_count = 0
        for i in range(touched_count):
            at = touched[i]
            if resources[at].first == resources[at].end or not resources[at].idle:
                continue
            key = queues[resources[at].first]
            task = key & 0xFFFFFFFF
            resources[at].first += 1
            resources[at].idle = 0
            resources[at].running = task
            started[started_count] = key
            started_count += 1
        for i in range(started_count):
            key = started[i]
            task = key & 0xFFFFFFFF
            times[task, _READY], times[task, _START] = instants[key >> 32], now
            if interferes and slow_ppm[task] > 0:
                taken[slows[task]] += slow_ppm[task]
                changed[changed_count] = slows[task]
                changed_count += 1
            if interferes and tracked[task]:
                left = tasks[task].busy * _FULL_PPM
                lost = taken[tasks[task].resource] * yields_ppm[task] // _FULL_PPM
                then = _go_on(work, lost, task, now, left, least_ppm)
                _push_at(done_time, done_task, done_count, then, task)
                done_count += 1
                continue
            then = now + tasks[task].busy
            times[task, _FREE], times[task, _END] = then, _ends(times, tasks, follows, task, then)
            _book(agenda, tasks, then, task, _FREES)
            if leads and follower[task] >= 0:
                _book(agenda, tasks, now + tasks[task].flight, follower[task], _LOOKS)

        # What runs on resources whose rate changed is done at another time.
        for i in range(changed_count):
            task = resources[changed[i]].running
            if task < 0:
                continue
            left = work[task, _LEFT] - (now - work[task, _SINCE]) * work[task, _RATE]
            previous = work[task, _DONE]
            then = _go_on(work, taken[changed[i]] * yields_ppm[task] // _FULL_PPM, task, now, left, least_ppm)
            if then != previous:
                _push_at(done_time, done_task, done_count, then, task)
                done_count += 1
    return now
