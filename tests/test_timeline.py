"""The timeline figure: what is drawn, not how it looks."""

from pathlib import Path

import pytest
from handmade import two_chips
from matplotlib.figure import Figure

from sim.plots import timeline


def texts(figure: Figure) -> list[str]:
    """All texts inside the panels, top panel first."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_equal_chips_are_drawn_once_and_unequal_ones_apart() -> None:
    same = texts(timeline.make(*two_chips(slower_us=0)))
    assert [text for text in same if text.startswith("chip")] == [
        "chip 0 of 2 (all identical): 60% compute, 40% exposed communication, 0% idle"
    ] * 2
    apart = texts(timeline.make(*two_chips(slower_us=2)))
    starts = [text.split(":")[0] for text in apart if text.startswith("chip")]
    assert starts == ["chip 1 of 2 (critical)", "chip 0 of 2"] * 2


def test_lanes_and_names_in_bars() -> None:
    figure = timeline.make(*two_chips(slower_us=0), title="by hand")
    whole, layer = figure.axes
    assert [label.get_text() for label in whole.get_yticklabels()] == ["compute", "collectives", "x+", "x-"]
    names = texts(figure)
    for name in ("q_wi", "attention", "all-gather(x) residual", "reduce-scatter(x) q_wi", "all-reduce(x) out"):
        assert name in names
    assert whole.get_xlim() == (0, 30)  # us
    assert figure.get_suptitle() == "by hand"
    assert "Layer 0 of layers 0 to 0" in layer.get_title(loc="left")


def test_many_layers_become_shares_and_a_middle_layer_is_drawn_in_full() -> None:
    trace, topology = two_chips(layers=10, slower_us=0)
    whole, layer = timeline.make(trace, topology).axes
    assert [label.get_text() for label in whole.get_yticklabels()] == ["compute", "collectives", "links, mean of 2"]
    assert [label.get_text() for label in layer.get_yticklabels()] == ["compute", "collectives", "x+", "x-"]
    assert "Layer 5 of layers 0 to 9" in layer.get_title(loc="left")
    busy = [text.get_text() for text in whole.texts if text.get_text().endswith("%")]
    assert busy == ["60%", "73%", "27%"]  # 18, 22 and (16 + 0) / 2 of 30 us


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_trace_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    trace, topology = two_chips(layers=8)
    for name in ("a", "b"):
        timeline.draw(trace, topology, tmp_path / f"{name}{suffix}", title="same")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
