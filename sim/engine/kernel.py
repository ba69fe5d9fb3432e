"""Loop of the compiled engine, for numba: the rule of `sim.engine.reference` over the same columns.

Memory limits large programs, so a task is one record of half a cache line, and so are its times, which are written when
it starts.

Instants are slots: a slot has a time and three linked lists of tasks: those that free their resources then, those that
end, and those that look for their dependencies. A heap orders the slots by time. A small table, indexed by the time,
holds the slot last made for it; if two times share an entry, a second slot of the same time is made, and slots of one
time are read together. Tasks whose rate may change are on a separate heap; an entry is dropped if the task's time has
changed since.

A queue is a sorted run of keys (number of the instant at which a task became ready, task id), each in one integer.
Instants only grow, so new keys belong at its end. Queues lie side by side in one array, each with room for all tasks
that ever hold its resource.

All of it is one module, because numba's cache of machine code notices changes of the caller's file only.
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
"""A task: the resource it holds, -1 for none; first and end of its dependents; the next task of its list."""
RESOURCE = np.dtype([("first", np.int32), ("end", np.int32), ("idle", np.int32), ("running", np.int32)])
"""A resource: first and end of its queue; 1 if no task holds it; the task that holds it, -1 for none."""

_TABLE = 4096
"""Entries of the table of slots; a power of two."""
_FREES, _ENDS, _LOOKS = 1, 3, 5
"""Columns of `slots`: first task of each list; the last one is in the next column."""
_READY, _START, _FREE, _END = range(4)
"""Columns of `times`, as in `sim.program.trace.TIMES`."""
_LEFT, _RATE, _SINCE, _DONE = range(4)
"""Columns of `work`: work left (millionths of a picosecond), rate (parts per million), time since which, end."""
_FULL_PPM = 1_000_000


@njit(cache=True)
def _queue_up(resources: Any, queues: Any, held: int, key: Any) -> None:
    """Adds a key to a resource's queue, before those with higher task ids of the same instant."""
    first, at = resources[held].first, resources[held].end
    while at > first and queues[at - 1] > key:
        queues[at] = queues[at - 1]
        at -= 1
    queues[at] = key
    resources[held].end += 1


@njit(cache=True)
def _push_at(times: Any, values: Any, size: int, time: int, value: int) -> None:
    """Adds (time, value) to a heap of two columns, ordered by time alone."""
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
    """Removes the least entry of a heap of two columns."""
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


class Agenda(NamedTuple):
    """Events to come. Arrays have room for the largest number; the system gives memory only as it is used."""

    slots: Any
    """[slots, 8] time, -1 if not in use; first and last task of each list, -1 for none; one unused column."""
    heap_time: Any
    heap_slot: Any
    table: Any
    unused: Any
    """Slots that are free again."""
    counts: Any
    """Number of slots on the heap, of free slots, and of slots used so far."""


@njit(cache=True)
def _schedule(agenda: Agenda, tasks: Any, time: Any, task: Any, what: int) -> None:
    """Puts `task` on a list of the instant `time`."""
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


class Columns(NamedTuple):
    """Columns of the program that are read while it runs."""

    dep_offset: Any
    deps: Any
    follows: Any
    """[N] the task that each follows; [0] if no task follows another."""
    follower: Any
    """[N] the task that follows each; [0] if no task follows another."""
    slows: Any
    slow_ppm: Any
    yields_ppm: Any
    poll: Any
    """[N] poll_ps; [0] if no task polls."""
    tracked: Any
    """[N] True if a task holds a resource whose rate changes; [0] if there is no such resource."""


class Rates(NamedTuple):
    """Resources whose rate changes, and the tasks on them."""

    work: Any
    taken: Any
    """[R] parts per million of the rate that are taken."""
    end_time: Any
    end_task: Any
    """With `end_time`, a heap of the times at which tasks may end."""
    changed: Any
    """Resources whose rate may have changed in this round."""
    counts: Any
    """Numbers of entries of the heap and of `changed`."""
    least_ppm: int


@njit(cache=True)
def _collect(agenda: Agenda, tasks: Any, slot: int, what: int, found: Any, count: int) -> int:
    """Appends a list of the slot to found[:count], and returns the new count."""
    task = agenda.slots[slot, what]
    while task >= 0:
        found[count] = task
        count += 1
        task = tasks[task].next
    return count


@njit(cache=True)
def _list_dependents(tasks: Any, dep_offset: Any, deps: Any) -> Any:
    """Returns the dependents of all tasks, and notes in `tasks` where those of each begin and end."""
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
def _make_queues(tasks: Any, resources: Any) -> Any:
    """Returns an array with room for the queues of all resources, which are idle."""
    for task in range(len(tasks)):
        if tasks[task].resource >= 0:
            resources[tasks[task].resource].end += 1
    first = 0
    for held in range(len(resources)):
        resources[held].first = first
        first += resources[held].end
        resources[held].end = resources[held].first
        resources[held].idle = 1
        resources[held].running = -1
    return np.empty(len(tasks), dtype=np.int64)


@njit(cache=True)
def _make_agenda(count: int) -> Agenda:
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
    return agenda


@njit(cache=True)
def _make_rates(count: int, resources: int, least_ppm: int) -> Rates:
    most = 2 * count  # each start and each change of a rate adds one time
    return Rates(
        np.empty((count, 4), dtype=np.int64),
        np.zeros(resources, dtype=np.int64),
        np.empty(most, dtype=np.int64),
        np.empty(most, dtype=np.int64),
        np.empty(most, dtype=np.int32),
        np.zeros(2, dtype=np.int64),
        least_ppm,
    )


@njit(cache=True)
def _ends(times: Any, tasks: Any, follows: Any, task: Any, free: Any) -> Any:
    """Returns the end of a task that releases its resource at `free`: not before the end of the one it follows."""
    if len(follows) > 0 and follows[task] >= 0:
        free = max(free, times[follows[task], _END])
    return free + tasks[task].flight


@njit(cache=True)
def _change_rate(rates: Rates, columns: Columns, task: Any) -> None:
    """Lets a task take from a resource's rate, or give back."""
    held = columns.slows[task]
    rates.taken[held] += columns.slow_ppm[task]
    rates.changed[rates.counts[1]] = held
    rates.counts[1] += 1


@njit(cache=True)
def _resume(rates: Rates, columns: Columns, held: Any, task: Any, now: Any, left: Any, before: Any) -> None:
    """Sets the end of `task`, which has `left` to do at the rate of its resource, if it was not `before`."""
    rate = max(rates.least_ppm, _FULL_PPM - rates.taken[held] * columns.yields_ppm[task] // _FULL_PPM)
    end, work = now + -(-left // rate), rates.work
    work[task, _LEFT], work[task, _RATE], work[task, _SINCE], work[task, _DONE] = left, rate, now, end
    if end != before:
        _push_at(rates.end_time, rates.end_task, rates.counts[0], end, task)
        rates.counts[0] += 1


@njit(cache=True)
def _apply_changes(rates: Rates, columns: Columns, resources: Any, now: Any) -> None:
    """Gives tasks on resources whose rate changed in this round a new end."""
    for i in range(rates.counts[1]):
        held = rates.changed[i]
        task = resources[held].running
        if task >= 0:
            left = rates.work[task, _LEFT] - (now - rates.work[task, _SINCE]) * rates.work[task, _RATE]
            _resume(rates, columns, held, task, now, left, rates.work[task, _DONE])
    rates.counts[1] = 0


@njit(cache=True)
def _take_ends(rates: Rates, times: Any, tasks: Any, follows: Any, now: Any, freed: Any, count: int) -> int:
    """Appends the tasks on changing resources that are done now to freed[:count], and returns the new count."""
    while rates.counts[0] > 0 and rates.end_time[0] == now:
        task = rates.end_task[0]
        _pop_at(rates.end_time, rates.end_task, rates.counts[0])
        rates.counts[0] -= 1
        if times[task, _FREE] < 0 and rates.work[task, _DONE] == now:
            freed[count] = task
            count += 1
            times[task, _FREE], times[task, _END] = now, _ends(times, tasks, follows, task, now)
    return count


@njit(cache=True, forceinline=True)
def _next_instant(heap_time: Any, on_heap: Any, end_time: Any, ends: Any) -> Any:
    """Returns the time of the next event, -1 if there is none."""
    if on_heap > 0 and (ends == 0 or heap_time[0] <= end_time[0]):
        return heap_time[0]
    return end_time[0] if ends > 0 else np.int64(-1)


@njit(cache=True, forceinline=True)
def _pop_slot(agenda: Agenda) -> Any:
    """Takes the first slot off the heap."""
    slot = agenda.heap_slot[0]
    _pop_at(agenda.heap_time, agenda.heap_slot, agenda.counts[0])
    agenda.counts[0] -= 1
    agenda.slots[slot, 0] = -1
    agenda.unused[agenda.counts[1]] = slot
    agenda.counts[1] += 1
    return slot


@njit(cache=True)
def loop(tasks: Any, resources: Any, columns: Columns, least_ppm: int, times: Any) -> Any:
    """Runs a program and returns the last instant, ps.

    The rounds of an instant are one function, as passing their state between functions takes longer than they do.

    Args:
        tasks: [N] records of TASK, with durations and resources.
        resources: [R] records of RESOURCE, 0.
        times: [N, 4] ready, start, free and end, to be filled in; -1 before.
    """
    count = len(tasks)
    dep_offset, deps, follows, follower, _, slow_ppm, _, poll, tracked = columns
    leads, polls, interferes = len(follower) > 0, len(poll) > 0, len(tracked) > 0
    dependents = _list_dependents(tasks, dep_offset, deps)
    queues = _make_queues(tasks, resources)
    agenda = _make_agenda(count)
    heap_time, on_agenda = agenda.heap_time, agenda.counts
    rates = _make_rates(count if interferes else 0, len(resources), least_ppm)
    end_time, may_end = rates.end_time, rates.counts
    # A task looks, frees and ends once each; every time at which a task may end is an instant, too, also one that a
    # change of its rate has made void.
    instants = np.empty(3 * count + len(end_time) + 1, dtype=np.int64)  # by their number in the keys of queues
    freed, ended = np.empty(count, dtype=np.int32), np.empty(count, dtype=np.int32)
    looking = np.empty(count, dtype=np.int32)
    dirty = np.empty(2 * count, dtype=np.int32)  # resources on which a task may start in this round
    started = np.empty(count, dtype=np.int64)
    unfinished, now, ordinal = count, np.int64(0), np.int64(0)
    freed_count = ended_count = looking_count = 0
    instants[0] = 0
    waiting = np.empty(count, dtype=np.int32)  # a separate array because it is read most
    task: Any
    for task in range(count):
        waiting[task] = dep_offset[task + 1] - dep_offset[task]
        if waiting[task] == 0 and not (leads and follows[task] >= 0):  # as if it looked in the beginning
            looking[looking_count] = task
            looking_count += 1
    while unfinished > 0:
        # Releases.
        dirty_count = 0
        for i in range(freed_count):
            task = freed[i]
            held = tasks[task].resource
            resources[held].idle = 1
            resources[held].running = -1
            if resources[held].first < resources[held].end:
                dirty[dirty_count] = held
                dirty_count += 1
            if times[task, _END] == now:
                ended[ended_count] = task
                ended_count += 1
            else:
                _schedule(agenda, tasks, times[task, _END], task, _ENDS)

        # Ends, and arrivals of what waited for them; of tasks without resources and time the end is in this round too.
        done = -1
        while done < ended_count:
            if done < 0:
                begin, end = 0, looking_count
            else:
                task = ended[done]
                begin, end = tasks[task].first, tasks[task].end
                if interferes and slow_ppm[task] < 0:
                    _change_rate(rates, columns, task)
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
                            _schedule(agenda, tasks, now + later, task, _LOOKS)
                            continue
                held = tasks[task].resource
                if held >= 0:
                    _queue_up(resources, queues, held, (ordinal << 32) | task)
                    if resources[held].idle:
                        dirty[dirty_count] = held
                        dirty_count += 1
                    continue
                free = now + tasks[task].busy
                then = _ends(times, tasks, follows, task, free)
                times[task, _READY], times[task, _START], times[task, _FREE], times[task, _END] = now, now, free, then
                if interferes and slow_ppm[task] > 0:
                    _change_rate(rates, columns, task)
                if then == now:
                    ended[ended_count] = task
                    ended_count += 1
                else:
                    _schedule(agenda, tasks, then, task, _ENDS)
                if leads and follower[task] >= 0:
                    _schedule(agenda, tasks, now + tasks[task].flight, follower[task], _LOOKS)
            done += 1
        unfinished -= ended_count

        # Starts: first the heads of queues, then their times, in two loops that each read little memory.
        started_count = 0
        for i in range(dirty_count):
            held = dirty[i]
            if resources[held].first == resources[held].end or not resources[held].idle:
                continue
            key = queues[resources[held].first]
            resources[held].first += 1
            resources[held].idle = 0
            resources[held].running = key & 0xFFFFFFFF
            started[started_count] = key
            started_count += 1
        for i in range(started_count):
            key = started[i]
            task = key & 0xFFFFFFFF
            times[task, _READY], times[task, _START] = instants[key >> 32], now
            if interferes and slow_ppm[task] > 0:
                _change_rate(rates, columns, task)
            if interferes and tracked[task]:
                _resume(rates, columns, tasks[task].resource, task, now, tasks[task].busy * _FULL_PPM, -1)
                continue
            then = now + tasks[task].busy
            times[task, _FREE], times[task, _END] = then, _ends(times, tasks, follows, task, then)
            _schedule(agenda, tasks, then, task, _FREES)
            if leads and follower[task] >= 0:
                _schedule(agenda, tasks, now + tasks[task].flight, follower[task], _LOOKS)
        if interferes:
            _apply_changes(rates, columns, resources, now)

        # The next instant.
        freed_count = ended_count = looking_count = 0
        later = _next_instant(heap_time, on_agenda[0], end_time, may_end[0])
        if later < 0 or unfinished == 0:
            return now
        if later != now:
            ordinal += 1
            instants[ordinal] = now = later
        while on_agenda[0] > 0 and heap_time[0] == now:
            slot = _pop_slot(agenda)
            freed_count = _collect(agenda, tasks, slot, _FREES, freed, freed_count)
            ended_count = _collect(agenda, tasks, slot, _ENDS, ended, ended_count)
            looking_count = _collect(agenda, tasks, slot, _LOOKS, looking, looking_count)
        if interferes:
            freed_count = _take_ends(rates, times, tasks, follows, now, freed, freed_count)
    return now
