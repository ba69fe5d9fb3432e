"""Crossings of the lines of a sweep: where another becomes the best, on the axes of the figure."""

from __future__ import annotations

import math

import pytest

from sim.plots.figure import Crossing, Line
from sim.specs import load
from sim.studies.sweep import chart
from sim.studies.sweep.crossings import find_crossings

X = (1.0, 4.0, 16.0)


def line(label: str, *y: float, x: tuple[float, ...] = X) -> Line:
    return Line(label, x, y, (math.nan,) * len(y), (True,) * len(y))


def test_lines_cross_where_they_are_equal_between_two_points() -> None:
    # a - b is -3 at 1 and 1 at 4: equal after three quarters of the way.
    (found,) = find_crossings([line("a", 1, 5, 6), line("b", 4, 4, 4)], more_is_better=False, log="")
    assert found == Crossing(pytest.approx(3.25), pytest.approx(4.0), "a", "b")
    (found,) = find_crossings([line("a", 1, 5, 6), line("b", 4, 4, 4)], more_is_better=True, log="")
    assert (found.before, found.after) == ("b", "a")


def test_on_logarithmic_axes_powers_are_straight() -> None:
    # x**2 and 3 x are equal at x = 3.
    quadratic, linear = line("q", *(x**2 for x in X)), line("l", *(3 * x for x in X))
    (found,) = find_crossings([quadratic, linear], more_is_better=False, log="xy")
    assert (found.x, found.y) == pytest.approx((3.0, 9.0))


def test_lines_that_are_never_the_best_or_lack_a_point_do_not_count() -> None:
    worst = line("worst", 9, 9, 9)
    assert not list(find_crossings([line("a", 1, 2, 3), line("b", 2, 3, 4), worst], more_is_better=False, log=""))
    assert not list(find_crossings([line("a", 1, 5, 6), line("b", 4, x=(1.0,))], more_is_better=False, log=""))
    assert not list(find_crossings([], more_is_better=False, log=""))


@pytest.mark.parametrize(("first", "last", "crossings"), [(0.98, 1.02, 1), (0.995, 1.02, 0), (0.98, 1.005, 0)])
def test_lines_cross_only_where_they_differ_by_a_hundredth_on_both_sides(first: float, last: float, crossings: int):
    found = list(find_crossings([line("a", first, 1, last), line("b", 1, 1, 1)], more_is_better=False, log=""))
    assert len(found) == crossings


def test_a_crossing_is_where_lines_are_equal_though_they_differ_little_beside_it() -> None:
    # a - b is -0.5, -0.001, 0.001, 0.5: equal half way between the second point and the third.
    x = (1.0, 2.0, 4.0, 8.0)
    lines = [line("a", 0.5, 0.999, 1.001, 1.5, x=x), line("b", 1, 1, 1, 1, x=x)]
    (found,) = find_crossings(lines, more_is_better=False, log="")
    assert found == Crossing(pytest.approx(3.0), pytest.approx(1.0), "a", "b")


def test_factors_of_a_sweep_stand_on_its_axis() -> None:
    scenario = load.scenario("palm540b_decode_ws2d", ["sweep={topology.link.bandwidth: [0.5x, 1x, 2x]}"])
    figure = chart.figure_of(scenario, list(scenario.sweep))
    assert chart.build_chart(scenario, figure, []).x_label == "link bandwidth, times that of the file"
