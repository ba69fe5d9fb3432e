"""Search finds the paper's choices (Pope et al. 2022)."""

import json

import pytest
from typer.testing import CliRunner

from sim import load, search
from sim.cli import app
from sim.errors import InputError
from sim.plots import pareto
from sim.run import latency_s
from sim.specs import chips_of
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
        ("dgx_h100", [], ["1", "2", "4", "8"]),
    ],
)
def test_every_order_of_unlike_axes_once(machine, settings, expected):
    found = search.machines([machine], None, settings)
    assert [each.mesh for each in found] == expected
    assert len({each.settings for each in found}) == len(found)


def test_candidates_run_on_the_mesh_that_they_name():
    points = search.candidates("palm_540b", ["tpu_v4_8x4x4"], "decode", [64], 2048, 64, "int8", ["engine.layers=1"])
    for point in points:
        axes = load.scenario(search.BASE, point.settings).topology.axes
        assert "x".join(str(axis.size) for axis in axes.values()) == point.choices["mesh"]


def searched(machine: str, phase: str, batches: list[int], weights: str, **fields):
    points = search.candidates("palm_540b", [machine], phase, batches, 2048, 64, weights, **fields)
    points = [point for point in points if point.choices["ffn"].startswith("weight_stationary")][::4]
    return [(point, measure(search.BASE, point)) for point in points]


def test_published_points_are_of_what_was_searched():
    """Section 4.4: a step of 28.5 ms at batch 64 in int8; table 2: 64 steps in 1.82 s; chip-s per token = 64 t / 64."""
    found = search.published(searched("tpu_v4_4x4x4", "decode", [64], "int8"))
    assert {(m.layout, m.chips, m.batch) for m in found} == {("weight_stationary_2d", 64, 64)}
    assert sorted(m.step_s for m in found) == pytest.approx([1.82 / 64, 0.0285])
    assert [m.cost_chip_s for m in found] == pytest.approx([m.step_s for m in found])


def test_all_layers_and_their_number_are_one_search():
    """PaLM 540B has 118 layers."""
    every, counted = (
        search.published(searched("tpu_v4_4x4x4", "decode", [64], "int8", settings=[f"engine.layers={layers}"]))
        for layers in ("all", 118)
    )
    assert every
    assert every == counted


def test_all_layers_and_their_number_are_simulated_once():
    known: dict[str, float] = {}
    for layers in ("all", 118):
        latency_s(load.scenario(search.BASE, [f"engine.layers={layers}"]), known)
    assert len(known) == 1


def test_a_published_prefill_costs_its_time_on_all_chips_per_token():
    """Figure 1: 0.2876 s for one sequence of 2048 tokens on 64 chips."""
    (found,) = search.published(searched("tpu_v4_4x4x4", "prefill", [1], "bf16"))
    assert (found.step_s, found.cost_chip_s) == pytest.approx((0.2876, 64 * 0.2876 / 2048))


def test_other_layers_and_machines_have_no_published_points():
    assert not search.published(searched("tpu_v4_4x4x4", "decode", [64], "int8", settings=["engine.layers=8"]))
    assert not search.published(searched("tpu_v5p_4x4x4", "decode", [64], "int8"))


def test_the_figure_has_every_choice_once_and_the_front_of_each_layout():
    measured = searched("tpu_v4_4x4x4", "decode", [64, 128], "int8", settings=["engine.layers=8"])
    fitting = search.fitting([row for _, row in measured])
    chart = search.chart("", "decode", fitting, search.published(measured))
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


def test_a_layout_that_is_wholly_beyond_the_axes_says_so_in_the_legend():
    near, far = pareto.Spot(1, 1, "a"), pareto.Spot(3.1, 1, "b")
    chart = pareto.Chart(
        "", "x", "y", (pareto.Line("l", (near,), (near,)), pareto.Line("m", (far,), (far,))), (near,), ""
    )
    (legend,) = pareto.make(chart).legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["l", "m (beyond the axes)"]


@pytest.mark.parametrize("top", [1.0, 100.0, 10_000.0])
def test_labels_of_the_front_stay_above_the_x_axis(top: float):
    front = tuple(pareto.Spot(x, top**y, "C256 B512") for x, y in ((1.0, 1.0), (2.0, 0.5), (3.0, 0.0)))
    made = pareto.make(pareto.Chart("", "x", "y", (pareto.Line("l", front, front),), front, "chips C and batch B"))
    made.draw_without_rendering()
    (axes,) = made.axes
    assert all(text.get_window_extent().y0 > axes.bbox.y0 for text in axes.texts)


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


@pytest.mark.parametrize(
    ("chips", "expected"),
    [
        ("4,16", ["2x2x1", "2x1x2", "1x2x2", "2x2x4", "2x4x2", "4x2x2"]),
        ("64", ["4x4x4"]),
        ("65..256", ["4x4x8", "4x8x4", "8x4x4", "4x8x8", "8x4x8", "8x8x4"]),
    ],
)
def test_numbers_of_chips_are_slices_of_the_family_in_every_order_of_their_axes(chips, expected):
    """Of TPU v4 only, and each once though 4x4x8 is shipped with its long axis first too; twists are not asked for."""
    found = search.machines(["tpu_v4_4x4x4"], search.counts(chips))
    assert [each.mesh for each in found] == expected
    for each in found:
        spec = load.scenario(search.BASE, [f"topology={each.topology}", *each.settings, "sweep=null"]).topology
        assert (spec.chip.name, chips_of(spec)) == ("tpu_v4", each.chips)
        assert "x".join(str(axis.size) for axis in spec.axes.values()) == each.mesh


def test_a_family_has_the_twisted_torus_that_is_named():
    found = search.machines(["tpu_v4_4x4x8_twisted"], search.counts("128"))
    assert [(each.topology, each.mesh) for each in found] == [("tpu_v4_4x4x8_twisted", "4x4x8")]


@pytest.mark.parametrize(
    ("chips", "message"),
    [
        ("48", "--chips: no machine like tpu_v4_4x4x4 has so many chips, got '48'; there are 4, 8, 16, 32, 64, 128"),
        ("64,x", "--chips: must be numbers of chips or ranges of them, got '64,x'"),
        ("256..64", "--chips: must be numbers"),
    ],
)
def test_numbers_of_chips_that_there_are_not_are_one_clear_line(chips, message):
    with pytest.raises(InputError) as caught:
        search.machines(["tpu_v4_4x4x4"], search.counts(chips))
    assert str(caught.value).startswith(message)


def test_axes_and_numbers_of_chips_do_not_go_together():
    with pytest.raises(InputError, match="chooses the axes"):
        search.machines(["tpu_v4_4x4x4"], search.counts("64"), ["topology.axes.x.size=8"])


def test_more_chips_are_faster_and_fewer_are_cheaper_as_in_figure_1(tmp_path):
    """PaLM 540B in int8, batch 64: 256 chips for the latency, 64 for the cost; 16 do not hold it."""
    sets = ["--set", "engine.layers=8", "--out", str(tmp_path)]
    options = ["--phase", "decode", "--batch", "64", "--chips", "64,256", "--json"]
    command = ["search", "--model", "palm_540b", "--topology", "tpu_v4_4x4x4", *sets, *options]
    best = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)["best"]
    assert [best[each]["outcome"]["chips"] for each in ("latency", "cost")] == [256, 64]


def test_gpus_are_searched_as_tensor_parallel_groups_of_every_size():
    """Llama-3 70B in bf16, 132 GiB: not on one H100 of 80 GB; two are cheapest at batch 1, eight fastest."""
    points = search.candidates("llama3_70b", ["dgx_h100"], "decode", [1, 8], 1024, 64, "bf16", ["engine.layers=80"])
    assert {point.choices["mesh"] for point in points} == {"1", "2", "4", "8"}
    rows = [measure(search.BASE, point) for point in points]
    fitting = search.fitting(rows)
    assert {row.outcome.chips for row in fitting} == {2, 4, 8}
    assert search.best([row for row in fitting if row.choices["batch"] == "1"], "cost").outcome.chips == 2
    assert search.best(fitting, "latency").outcome.chips == 8
    chart = search.chart("", "decode", fitting, [])
    assert [line.label for line in chart.lines] == [f"tensor parallel over {chips}" for chips in (2, 4, 8)]


def test_where_nothing_fits_it_says_what_is_needed():
    points = search.candidates("llama3_70b", ["dgx_h100"], "decode", [1], 1024, 64, "bf16", chips=search.counts("1"))
    with pytest.raises(InputError, match=r"fits the chips' memory; the least needs 13\d.* GiB on each"):
        search.fitting([measure(search.BASE, point) for point in points])


def test_where_nothing_can_run_it_says_why():
    """7 sequences: they are no multiple of the 4 chips of an axis over which weights are gathered."""
    points = search.candidates("palm_540b", ["tpu_v4_4x4x4"], "decode", [7], 1024, 64, "bf16")
    gathered = [point for point in points if "gathered" in point.choices["ffn"]]
    with pytest.raises(InputError, match=r"not one candidate can run; the first: .*batch must be a multiple of"):
        search.fitting([measure(search.BASE, point) for point in gathered])
