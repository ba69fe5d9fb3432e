"""Crossings of the lines of a sweep: where another of them becomes the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.plots.figure import Crossing, Line


LEAST = 0.01
"""Difference below which lines are equal: assumed, as that of loads drawn from another seed."""


def find_crossings(lines: Sequence[Line], *, more_is_better: bool, log: str) -> Iterator[Crossing]:
    """Yields the points at which another line becomes the best, in order of x.

    Lines that differ by less than `LEAST` are equal: another becomes the best where it is better by more, if the line
    that was best was better than it by more before. Between two values of x a line is assumed straight on the axes of
    the figure.

    Args:
        log: logarithmic axes, as `Chart.log`.
    """
    from sim.plots.figure import Crossing

    values = [dict(zip(line.x, line.y, strict=True)) for line in lines]
    shared = sorted(set.intersection(*(set(each) for each in values))) if values else []
    shared = [x for x in shared if all(math.isfinite(each[x]) for each in values)]

    def best_at(x: float) -> int:
        sign = -1.0 if more_is_better else 1.0
        return min(range(len(lines)), key=lambda i: sign * values[i][x])

    best = best_at(shared[0]) if shared else 0
    for end, at in enumerate(shared):
        one, two = values[best], values[after := best_at(at)]
        if not _are_apart(one, two, at):
            continue
        ahead = [i for i in range(end) if (one[shared[i]] < two[shared[i]]) != (one[at] < two[at])]
        if any(_are_apart(one, two, shared[i]) for i in ahead):
            left, right = shared[ahead[-1] : ahead[-1] + 2]
            x0, x1 = (_scaled(x, "x" in log) for x in (left, right))
            gaps = [_scaled(one[x], "y" in log) - _scaled(two[x], "y" in log) for x in (left, right)]
            share = gaps[0] / (gaps[0] - gaps[1])
            height = [_scaled(one[x], "y" in log) for x in (left, right)]
            x, y = x0 + share * (x1 - x0), height[0] + share * (height[1] - height[0])
            yield Crossing(_unscaled(x, "x" in log), _unscaled(y, "y" in log), lines[best].label, lines[after].label)
        best = after


def _are_apart(one: Mapping[float, float], two: Mapping[float, float], x: float) -> bool:
    return abs(one[x] - two[x]) > LEAST * max(abs(one[x]), abs(two[x]))


def _scaled(value: float, is_log: bool) -> float:
    return math.log(value) if is_log else value


def _unscaled(value: float, is_log: bool) -> float:
    return math.exp(value) if is_log else value
