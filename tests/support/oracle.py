"""The engine rule again, written slowly and without SimPy, heaps or event lists: the reference for `sim.engine`."""

from fractions import Fraction
from math import ceil

from sim.engine import MIN_RATE_PPM
from sim.program import FULL_PPM, Program


def oracle(program: Program) -> list[tuple[int, int, int]]:
    """(ready, start, free) of every task, by looking at every task again at every instant. Quadratic and worse."""
    count = len(program)
    deps = [program.dependencies(t).tolist() for t in range(count)]
    held, follows = program.resource.tolist(), program.follows.tolist()
    busy, flight = program.busy_ps.tolist(), program.flight_ps.tolist()
    poll = program.poll_ps.tolist()
    slows, ppm, yields = program.slows.tolist(), program.slow_ppm.tolist(), program.yields_ppm.tolist()
    ready: dict[int, int] = {}
    start: dict[int, int] = {}
    free: dict[int, int] = {}
    left: dict[int, Fraction] = {}  # picoseconds of work of each task that runs
    visible: set[int] = set()  # tasks whose end has been applied
    now = 0

    def rate(task: int) -> Fraction:
        """That of the task's resource, as much less as the task yields."""
        taken = sum(p for t, p in enumerate(ppm) if slows[t] == held[task] and (t in start if p > 0 else t in visible))
        return Fraction(max(MIN_RATE_PPM, FULL_PPM - taken * yields[task] // FULL_PPM), FULL_PPM)

    def end(task: int) -> int | None:
        """When its last byte, which comes from the task it follows, has flown; that is known once it is free."""
        if task not in free:
            return None
        before = follows[task]
        left_before = free.get(before, start[before] + busy[before]) if before >= 0 else 0
        return max(free[task], tail(before, left_before) if before >= 0 else 0) + flight[task]

    def tail(task: int, left: int) -> int:
        """When the last byte of a message that leaves a link then is at the end of it."""
        before = follows[task]
        earlier = tail(before, free.get(before, start[before] + busy[before])) if before >= 0 else 0
        return max(left, earlier) + flight[task]

    def sees(task: int, begun: set[int]) -> bool:
        return all(d in visible for d in deps[task]) and (follows[task] < 0 or follows[task] in begun)

    def due(task: int) -> int:
        """When it sees that all of its dependencies have ended, at once or when it next looks; or its message."""
        if follows[task] >= 0:
            before = follows[task]
            return start[before] + flight[before]
        last, period = max((end(d) for d in deps[task]), default=0), poll[task]
        if not period or not deps[task]:
            return last
        since = end(deps[task][0])
        return since + ceil(Fraction(last - since, period)) * period

    while len(visible) < count:
        # Releases of this instant, then arrivals and resource-less tasks that end in it, before anything starts.
        # Tasks started later in this instant are not released yet.
        for task in [t for t in start if t not in free and left[t] <= 0]:
            free[task] = now
        released, begun = set(free), set(start)
        changed = True
        while changed:
            changed = False
            for task in range(count):
                if task in free and task not in visible and end(task) <= now:
                    visible.add(task)
                    changed = True
                if task not in ready and sees(task, begun) and due(task) <= now:
                    ready[task] = now
                    changed = True
                    if held[task] < 0:
                        start[task], free[task] = now, now + busy[task]
        occupied = {held[t] for t in start if t not in released}
        queued = [t for t in ready if t not in start]

        def heads(task: int, queued: list[int] = queued) -> bool:
            rivals = [t for t in queued if held[t] == held[task]]
            return min(rivals, key=lambda t: (ready[t], t)) == task

        starting = [t for t in queued if held[t] not in occupied and heads(t)]
        for task in starting:
            start[task], left[task] = now, Fraction(busy[task])
        coming = [t for t in range(count) if t not in ready and follows[t] in start and due(t) <= now]
        if coming or any(busy[t] == 0 for t in starting):
            continue  # another round of the same instant
        running = [t for t in left if t not in free]
        later = [now + ceil(left[t] / rate(t)) for t in running]
        later += [m for t in free for m in (free[t], end(t)) if m > now]
        later += [due(t) for t in range(count) if t not in ready and sees(t, set(start))]
        if not later:
            break
        then = min(later)
        for task in running:
            left[task] -= (then - now) * rate(task)
        now = then
    return [(ready.get(t, -1), start.get(t, -1), free.get(t, -1)) for t in range(count)]
