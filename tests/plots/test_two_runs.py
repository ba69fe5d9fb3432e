"""Two runs one above the other: the same axis, the speed-up as a factor and in per cent."""

from __future__ import annotations

from matplotlib.axes import Axes
from support.handmade import two_chips

from sim.plots.comparison import Side, draw
from sim.report.present.comparison import describe_speedup


def titles(axes: Axes) -> str:
    return axes.get_title(loc="left")


def test_both_runs_have_the_axis_of_the_longer_one() -> None:
    # A slower matmul makes A longer by 8 us.
    sides = [Side(name, *two_chips(slower_us=slower_us)) for name, slower_us in (("a", 8), ("b", 0))]
    longest_ps, shorter_ps = (side.trace.makespan_ps for side in sides)
    assert longest_ps > shorter_ps
    made = draw(sides, "one step", "A above B")
    whole_a, whole_b, layer_a, layer_b = made.axes
    assert whole_a.get_xlim() == whole_b.get_xlim() == (0, longest_ps / 1e6)
    assert layer_a.get_xlim() == layer_b.get_xlim()
    assert [titles(axes).split(":")[0] for axes in made.axes] == ["A", "B", "A", "B"]
    assert describe_speedup(longest_ps, shorter_ps) in made.get_suptitle().replace("\n", " ")
    assert f"B {shorter_ps / longest_ps - 1:+.1%}" in [text.get_text() for text in whole_b.texts]


def test_a_speed_up_is_a_factor_and_per_cent_of_the_time() -> None:
    assert describe_speedup(4.0, 3.0) == "B is 1.33x as fast as A (25.0% less time)"
    assert describe_speedup(3.0, 4.0) == "B is 33.3% slower than A"
    assert describe_speedup(1.0, 3.368) == "B takes 3.37 times as long as A"
    assert describe_speedup(3.0, 3.0) == "B takes the same time as A"
