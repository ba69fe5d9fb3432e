"""Search finds the paper's choices (Pope et al. 2022)."""

import json

import pytest
from typer.testing import CliRunner

from sim import load, search
from sim.cli import app
from sim.errors import InputError
from sim.plots import pareto
from sim.sweep.rows import measure

ON = [
    "--model",
    "palm_540b",
    "--topology",
    "tpu_v4_4x4x4",
    "--set",
    "engine.layers=8",
    "--json",
    "--no-plots",
]


def found(*options: str) -> dict:
    done = CliRunner().invoke(app, ["search", *ON, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_decode_takes_two_dimensions_and_attention_over_the_batch():
    """Section 4.1 and 4.2: 2D weight-stationary at 64 chips, the cache split over the batch."""
    rows = found("--phase", "decode", "--batch", "64..512", "--weights", "int8")["best_per_batch"]
    assert {row["choices"]["ffn"] for row in rows} == {"weight_stationary_2d"}
    assert {row["choices"]["attention"] for row in rows} == {"batch"}


def test_prefill_gathers_the_more_weights_the_larger_the_batch():
    """Figure 7: weight-stationary for few tokens, then X, XY and at last XYZ weight-gathered."""
    rows = found("--phase", "prefill", "--batch", "1..512")["best_per_batch"]
    order = ["weight_stationary_2d", "weight_gathered_x", "weight_gathered_xy", "weight_gathered_xyz"]
    chosen = [order.index(row["choices"]["ffn"]) for row in rows]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (0, 3)


def test_the_front_is_what_nothing_beats_and_only_what_fits_is_on_it():
    points = search.candidates("palm_540b", ["tpu_v4_4x4x4"], "decode", [64, 128], 2048, 64, "int8")
    rows = [measure(search.BASE, point) for point in points[::3]]
    fitting = search.fitting(rows)
    front = search.pareto(fitting)

    def figures(row):
        return row.outcome.simulated.step_s, row.outcome.simulated.cost_chip_s

    for row in fitting:
        assert any(one[0] <= figures(row)[0] and one[1] <= figures(row)[1] for one in map(figures, front))
    for one in front:
        others = [figures(row) for row in fitting if row is not one]
        assert not any(o[0] < figures(one)[0] and o[1] < figures(one)[1] for o in others)


@pytest.mark.parametrize(
    ("machine", "settings", "expected"),
    [
        ("tpu_v4_4x4x4", [], ["4x4x4"]),
        ("tpu_v4_8x4x4", [], ["8x4x4", "4x8x4", "4x4x8"]),
        ("tpu_v4_4x4x8_twisted", [], ["4x4x8"]),  # its twist names axes
        ("tpu_v4_4x4x4", ["topology.axes.x.size=8"], ["8x4x4", "4x8x4", "4x4x8"]),
        ("tpu_v4_4x4x4", ["topology.axes.z={size: 4, wrap: false}"], ["4x4x4"] * 3),  # the open axis is z, y or x
        ("dgx_h100", [], ["8"]),
    ],
)
def test_every_order_of_unlike_axes_once(machine, settings, expected):
    found = search.meshes(machine, settings)
    assert [label for label, _ in found] == expected
    assert len({assigned for _, assigned in found}) == len(found)


def test_candidates_run_on_the_mesh_that_they_name():
    points = search.candidates("palm_540b", ["tpu_v4_8x4x4"], "decode", [64], 2048, 64, "int8", ["engine.layers=1"])
    for point in points:
        axes = load.scenario(search.BASE, point.settings).topology.axes
        assert "x".join(str(axis.size) for axis in axes.values()) == point.choices["mesh"]


def searched(machine: str, phase: str, batches: list[int], weights: str, **fields):
    points = search.candidates("palm_540b", [machine], phase, batches, 2048, 64, weights, **fields)
    points = [point for point in points if point.choices["ffn"].startswith("weight_stationary")][::4]
    return [measure(search.BASE, point) for point in points], points


def test_published_points_are_of_what_was_searched():
    """Section 4.4: a step of 28.5 ms at batch 64 in int8; table 2: 64 steps in 1.82 s; chip-s per token = 64 t / 64."""
    found = search.published(*searched("tpu_v4_4x4x4", "decode", [64], "int8"))
    assert {(m.layout, m.chips, m.batch) for m in found} == {("weight_stationary_2d", 64, 64)}
    assert sorted(m.step_s for m in found) == pytest.approx([1.82 / 64, 0.0285])
    assert [m.cost_chip_s for m in found] == pytest.approx([m.step_s for m in found])


def test_a_published_prefill_costs_its_time_on_all_chips_per_token():
    """Figure 1: 0.2876 s for one sequence of 2048 tokens on 64 chips."""
    (found,) = search.published(*searched("tpu_v4_4x4x4", "prefill", [1], "bf16"))
    assert (found.step_s, found.cost_chip_s) == pytest.approx((0.2876, 64 * 0.2876 / 2048))


def test_other_layers_and_machines_have_no_published_points():
    assert not search.published(*searched("tpu_v4_4x4x4", "decode", [64], "int8", settings=["engine.layers=8"]))
    assert not search.published(*searched("tpu_v5p_4x4x4", "decode", [64], "int8"))


def test_the_figure_has_every_choice_once_and_the_front_of_each_layout():
    rows, points = searched("tpu_v4_4x4x4", "decode", [64, 128], "int8", settings=["engine.layers=8"])
    fitting = search.fitting(rows)
    chart = search.chart("", "decode", fitting, search.published(rows, points))
    choices = [spot for line in chart.lines for spot in line.choices]
    expected = [(1e3 * r.outcome.simulated.step_s, 1e3 * r.outcome.simulated.cost_chip_s) for r in fitting]
    assert sorted((spot.x, spot.y) for spot in choices) == sorted(expected)
    fronts = [spot for line in chart.lines for spot in line.front]
    assert set(chart.front) <= set(fronts) <= set(choices)
    assert {spot.label for spot in chart.front} == {"B64", "B128"}


def test_far_choices_are_left_out_and_counted():
    near, far = pareto.Spot(1, 1, "a"), pareto.Spot(3.1, 1, "b")
    chart = pareto.Chart("", "x", "y", (pareto.Line("l", (near, far), (near,)),), (near,), "batch")
    assert pareto.outside(chart) == 1
    with_far = pareto.Line("l", (near, far), (near,), published=(pareto.Spot(2, 1, "c"),))
    assert pareto.outside(pareto.Chart("", "x", "y", (with_far,), (near,), "batch")) == 0


def test_search_writes_its_figure_and_says_where(tmp_path):
    options = [*ON[:-2], "--phase", "decode", "--batch", "64", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, ["search", *options], catch_exceptions=False)
    path = tmp_path / "search_palm_540b_decode.png"
    assert f"figure in {path}" in done.stdout
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("text", "expected"), [("64", [64]), ("1..8", [1, 2, 4, 8]), ("3..13", [3, 6, 12])])
def test_batches(text, expected):
    assert search.batches(text) == expected


@pytest.mark.parametrize("text", ["", "0", "8..4", "1..", "a..b", "-1"])
def test_what_is_no_batch_is_one_clear_line(text):
    with pytest.raises(InputError, match="must be a batch"):
        search.batches(text)


def test_where_nothing_fits_it_says_so():
    with pytest.raises(InputError, match="fits the chips' memory"):
        search.best([], "latency")
