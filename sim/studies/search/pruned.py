"""Measuring candidates, but those that cannot be among the fastest of the same machine, number of chips and batch.

In such a group all goals follow the step time, so neither a winner nor a point of the Pareto front is lost: a candidate
is skipped where its lower bound (`sim.studies.search.bound`) is above the times of the fastest that fit.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Generator, Sequence
from contextlib import closing

from sim.specs import load, plugins
from sim.studies.search.bound import min_step_s
from sim.studies.search.candidates import BASE
from sim.studies.search.choose import work_key
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import Row
from sim.studies.sweep.workers import run_points

KEPT = 3
"""The fastest of each group that are never lost: the winner and its runners-up."""

_ROUNDED = 1e-6
"""By which share a simulation, which counts picoseconds, may be faster."""


def run_candidates(
    points: Sequence[Point], jobs: int = 1, max_step_s: float = float("inf"), *, prune: bool = True
) -> Generator[tuple[int, Row | None]]:
    """Yields (number of a candidate, its row, None if skipped), in rounds: those of the least bounds first.

    Args:
        jobs: processes on this computer.
        max_step_s: slower ones are no winners.
        prune: whether any are skipped.
    """
    if not prune:
        yield from run_points(BASE, points, jobs)
        return
    bounds = [min_candidate_s(point) for point in points]
    groups: dict[tuple[str, ...], list[int]] = {}
    for number in sorted(range(len(points)), key=bounds.__getitem__):
        groups.setdefault(work_key(points[number]), []).append(number)
    fastest: dict[tuple[str, ...], list[float]] = {key: [] for key in groups}
    first = min(range(len(points)), key=bounds.__getitem__)  # tried in any case: to say how fast the fastest is
    while any(groups.values()):
        todo: list[int] = []
        for key, left in groups.items():
            limit = min([max_step_s, *fastest[key][KEPT - 1 : KEPT]])
            while left and left[-1] != first and bounds[left[-1]] * (1 - _ROUNDED) > limit:
                yield left.pop(), None
            todo += left[:KEPT]
            del left[:KEPT]
        with closing(run_points(BASE, [points[number] for number in todo], jobs)) as rows:
            for i, row in rows:
                if row.outcome and row.outcome.fits:
                    insort(fastest[work_key(row)], row.outcome.simulated.step_s)
                yield todo[i], row


def min_candidate_s(point: Point) -> float:
    """Returns the bound of a candidate, s; 0 for one that cannot run, so that it is run and says why.

    It counts the operations of shipped residual schemes, and is 0 for others.
    """
    try:
        (phase,) = load.scenario(BASE, point.settings).phases
        if plugins.owner("residual_scheme", phase.residual):
            return 0.0
        return min_step_s(phase)
    except Exception:  # of one candidate, and the others can still run
        return 0.0
