"""The engine rule again, written slowly and without SimPy, heaps or event lists: the reference for `sim.engine`."""

from sim.program import Program


def oracle(program: Program) -> list[tuple[int, int]]:
    """(ready, start) of every task, by looking at every task again at every instant. Quadratic and worse."""
    count = len(program)
    deps = [program.dependencies(t).tolist() for t in range(count)]
    held = [program.resources_of(t).tolist() for t in range(count)]
    busy, flight = program.busy_ps.tolist(), program.flight_ps.tolist()
    ready: dict[int, int] = {}
    start: dict[int, int] = {}
    visible: set[int] = set()  # tasks whose end has been applied
    now = 0

    def end(task: int) -> int:
        return start[task] + busy[task] + flight[task]

    while len(visible) < count:
        # Arrivals and releases of this instant, and of resource-less tasks that end in it, before anything starts.
        # A release is applied with the round it belongs to: tasks started later in this instant are not released yet.
        released = {t for t in start if start[t] + busy[t] <= now}
        changed = True
        while changed:
            changed = False
            for task in range(count):
                if task in start and task not in visible and end(task) <= now and (task in released or not held[task]):
                    visible.add(task)
                    changed = True
                if task not in ready and all(d in visible for d in deps[task]):
                    ready[task] = now
                    changed = True
                    if not held[task]:
                        start[task] = now
        occupied = {r for t in start if t not in released for r in held[t]}
        queued = [t for t in ready if t not in start]

        def heads_all(task: int, queued: list[int] = queued) -> bool:
            rivals = [t for t in queued if set(held[t]) & set(held[task])]
            return min(rivals, key=lambda t: (ready[t], t)) == task

        starting = [t for t in queued if not occupied & set(held[t]) and heads_all(t)]
        for task in starting:
            start[task] = now
        if any(busy[t] == 0 for t in starting):
            continue  # another round of the same instant
        later = [m for t in start for m in (start[t] + busy[t], end(t)) if m > now]
        if not later:
            break
        now = min(later)
    return [(ready.get(t, -1), start.get(t, -1)) for t in range(count)]
