"""Stacked bars of the parts of a step: as long as the step, each part as long as its share."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure
from support.legible import illegible

from sim.plots.step_parts import Bar, draw
from sim.plots.style import page_width
from sim.simulate.run import run
from sim.specs import load
from sim.studies.step_parts import PARTS, attribute_point, describe_choices
from sim.studies.sweep.points import Point

BARS = [
    Bar("dgx_h100, batch 16, tensor_parallel, ladder", {"compute": 6e-3, "message latency": 3e-3, "waits": 1e-3}),
    Bar(
        "tpu_v5e_4x4, batch 16, weight_stationary_2d",
        {"compute": 1.5e-3, "slowed compute": 0.5e-3, "overhead": 2e-3, "message transfer": 1e-3},
        memory_bytes=3 * 2**30,
    ),
]


def lengths(figure: Figure) -> list[float]:
    return [patch.get_width() for patch in figure.axes[0].patches]


def test_a_part_is_as_long_as_its_time_and_its_share_stands_in_it() -> None:
    made = draw(BARS, "parts")
    assert lengths(made) == pytest.approx([6, 3, 1, 1.5, 0.5, 2, 1])  # ms
    texts = [text.get_text().strip() for text in made.axes[0].texts]
    assert {"60%", "30%", "10 ms", "5 ms, 3.00 GiB"} <= set(texts)
    assert [text.get_text() for text in made.legends[0].get_texts()] == list(PARTS)


@pytest.mark.parametrize("width_in", [None, 3.3], ids=str)
def test_text_is_legible(width_in: float | None) -> None:
    with page_width(width_in):
        assert illegible(draw(BARS, "parts of a step")) == []


def test_parts_of_a_point_add_up_to_its_step() -> None:
    settings = ("workload.batch=1", "engine.layers=2")
    parts = attribute_point("palm540b_decode_ws2d", Point({}, settings))
    (step,) = run(load.scenario("palm540b_decode_ws2d", settings)).passes
    assert sum(parts.values()) == pytest.approx(step.report.simulated.step_s, rel=1e-12)
    assert tuple(parts) == tuple(PARTS)


def test_numbers_are_named_by_their_field() -> None:
    choices = {"layout.ffn": "tensor_parallel", "topology.link.bandwidth": "0.5x", "workload.batch": "16"}
    assert describe_choices(choices) == "tensor_parallel, bandwidth 0.5x, batch 16"
