"""Search finds the paper's choices (Pope et al. 2022)."""

import json
from math import prod

import pytest
from support.selection import release
from typer.testing import CliRunner

from sim.cli import build_app
from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.errors import InputError
from sim.lowering.placement import mesh_of, used_chips
from sim.plots import pareto
from sim.simulate.latency import latency_s
from sim.specs import load
from sim.studies import search
from sim.studies.search.pruned import min_candidate_s
from sim.studies.step_parts import attribute_point
from sim.studies.sweep.rows import run_point

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


PAPER = ["--layouts", ",".join(PAPER_LAYOUTS)]


def candidates(
    model: str, topology: str, phase: str, batches: list[int], tokens: int = 2048, weights: str = "bf16", **more
):
    chips, settings = more.pop("chips", None), more.pop("settings", [])
    work = search.Work(model, phase, batches, tokens, weights=weights, **more)
    return search.list_candidates(work, search.list_machines([topology], chips, settings), settings)


def found(*options: str) -> dict:
    done = CliRunner().invoke(build_app(()), ["search", *ON, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_decode_takes_two_dimensions_and_attention_over_the_batch():
    """Section 4.1 and 4.2: 2D weight-stationary at 64 chips, the cache split over the batch."""
    rows = found(*PAPER, "--phase", "decode", "--batch", "64..512", "--weights", "int8")["best_per_batch"]
    assert {row["choices"]["ffn"] for row in rows} == {"weight_stationary_2d"}
    assert {row["choices"]["attention"] for row in rows} == {"batch"}


@pytest.mark.release
def test_prefill_gathers_the_more_weights_the_larger_the_batch():
    """Figure 7: weight-stationary for few tokens, then X, XY and at last XYZ weight-gathered."""
    rows = found(*PAPER, "--phase", "prefill", "--batch", "1..512")["best_per_batch"]
    order = ["weight_stationary_2d", "weight_gathered_x", "weight_gathered_xy", "weight_gathered_xyz"]
    chosen = [order.index(row["choices"]["ffn"]) for row in rows]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (0, 3)


def test_the_front_is_what_nothing_beats_and_only_what_fits_is_on_it():
    points = candidates("palm_540b", "tpu_v4_4x4x4", "decode", [64, 128], weights="int8")
    rows = [run_point(search.BASE, point) for point in points[::3]]
    goal = search.Goal()
    fitting = goal.fitting(rows)
    front = goal.pareto(fitting)

    def figures(row):
        return row.outcome.simulated.step_s, row.outcome.simulated.cost_chip_s

    for row in fitting:
        assert any(one[0] <= figures(row)[0] and one[1] <= figures(row)[1] for one in map(figures, front))
    for one in front:
        others = [figures(row) for row in fitting if row is not one]
        assert not any(o[0] < figures(one)[0] and o[1] < figures(one)[1] for o in others)


# --- meshes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("tpu_v4_4x4x4", [], {64: ["4x4x4", "4x16", "16x4", "64"]}),
        ("tpu_v4_8x4x4", [], {128: ["8x4x4", "4x8x4", "4x4x8", "8x16", "4x32", "32x4", "16x8", "128"]}),
        ("tpu_v4_4x4x8_twisted", [], {128: ["4x4x8"]}),  # its twist names axes
        ("tpu_v4_2x2x1", [], {4: ["2x2x1", "4x1"]}),
        ("dgx_h100", [], {1: ["1"], 2: ["2"], 4: ["4", "2x2"], 8: ["8", "2x4", "4x2"]}),
        (
            "dgx_h100_x2",
            ["topology.name=two"],
            {1: ["1"], 2: ["2"], 4: ["4", "2x2"], 8: ["8", "2x4", "4x2"], 16: ["16", "2 boxes x 8", "8 x 2 boxes"]},
        ),
    ],
)
def test_meshes_whose_axes_are_alike_come_once(name, settings, expected):
    assert {
        each.chips: [mesh.label for mesh in each.meshes] for each in search.list_machines([name], None, settings)
    } == expected


@pytest.mark.parametrize("name", ["tpu_v4_8x4x4", "dgx_h100_x2"])
def test_candidates_run_on_the_mesh_that_they_name(name):
    """Where chips hold copies of key-value heads their one axis is two: Llama-3 70B has 8 of them."""
    for point in candidates("llama3_70b", name, "decode", [128], settings=["engine.layers=1"]):
        scenario = load.scenario(search.BASE, point.settings)
        axes = {axis.name: axis.size for axis in mesh_of(scenario).mesh}
        if own := scenario.layout.uses:  # several axes used as one
            first = own.d_model or list(own.residual) or own.batch
            assert point.choices["mesh"].split("x")[0] == str(prod(axes[axis] for axis in first))
            continue
        sizes = "x".join(map(str, axes.values()))
        shown = point.choices["mesh"].replace(" boxes", "").replace(" ", "")
        assert sizes == {"16": "8x2"}.get(shown, shown)


def test_no_two_candidates_are_one():
    """By their weights, groups of chips of every collective and operations of a pass: what decides all that it does."""
    from sim.simulate.communication import Communication
    from sim.topology.mesh import mesh_groups

    points = candidates("llama3_70b", "dgx_h100", "decode", [8], settings=["engine.layers=2"])
    known = {}
    for point in points:
        scenario = load.scenario(search.BASE, point.settings)
        to = Communication(scenario)
        uses = [getattr(to.uses, use) for use in ("d_model", "heads", "d_ff", "gather", "batch", "stream", "tokens")]
        groups = [frozenset(map(frozenset, mesh_groups(to.topology, axes).tolist())) if axes else 0 for axes in uses]
        key = to.topology.chips, point.choices["attention"], *groups
        assert key not in known, (point.choices, known[key])
        known[key] = point.choices


def test_the_execution_mode_that_was_validated_is_a_candidate():
    """Tensor parallel over the machine's own mesh, as its stack runs: the scenarios of the suites."""
    (point,) = (
        point
        for point in candidates("llama3_70b", "dgx_h100_x2", "decode", [8], tokens=1024)
        if point.choices
        == {"topology": "dgx_h100_x2", "chips": "16", "mesh": "16", "batch": "8"}
        | {"ffn": "tensor_parallel", "attention": "heads"}
    )
    scenario = load.scenario(search.BASE, point.settings)
    assert (scenario.mesh, scenario.layout.overlap, scenario.layout.residual) == (None, None, None)


# --- pruning ---------------------------------------------------------------------------------------------------------

SMALL = [
    ("llama3_8b", "tpu_v5e_2x4", "decode", {"overlaps": ("own", "chunked_matmul", "collective_matmul")}),
    ("llama3_8b", "tpu_v5e_2x4", "prefill", {}),
    ("palm_8b", "tpu_v4_2x2x2", "decode", {"overlaps": ("own", "none")}),
    (
        "llama3_8b",
        "dgx_h100",
        "decode",
        {"chips": ((4, 4),), "residuals": ("own", "ladder"), "overlaps": ("own", "micro_batches", "collective_matmul")},
    ),
    ("llama3_8b", "dgx_h100_x2", "decode", {"chips": ((16, 16),)}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name", "phase", "more"),
    [SMALL[2], *release([*SMALL[:2], *SMALL[3:]])],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pruning_loses_nothing_and_no_simulation_beats_its_bound(model, name, phase, more):
    points = candidates(model, name, phase, [16], 512, settings=["engine.layers=2"], **more)
    every = dict(search.run_candidates(points, prune=False))
    some = {number: row for number, row in search.run_candidates(points) if row}
    for number, row in every.items():
        if row.outcome:  # tasks are rounded to ps
            assert min_candidate_s(points[number]) <= row.outcome.simulated.step_s * (1 + 1e-6), points[number].choices
            assert min_candidate_s(points[number]) > 0
    goal = search.Goal()
    whole, pruned = (goal.fitting([rows[number] for number in sorted(rows)]) for rows in (every, some))
    assert goal.pareto(pruned) == goal.pareto(whole)
    assert search.fastest_rows(pruned, search.KEPT) == search.fastest_rows(whole, search.KEPT)
    for objective in goal.objectives:
        assert goal.best(pruned, objective) == goal.best(whole, objective)
    assert len(some) < len(every)


@pytest.mark.slow
def test_slower_than_the_target_is_skipped_and_does_not_win():
    """PaLM 540B on 64 chips in int8, 8 layers: about 2 ms at batch 64, and cheaper per token at 512."""
    least = found("--phase", "decode", "--batch", "64..512", "--weights", "int8")
    step_s = least["best"]["cost"]["outcome"]["simulated"]["step_s"]
    target = step_s * 0.9
    fast = found("--phase", "decode", "--batch", "64..512", "--weights", "int8", "--max-step", f"{target * 1e6:.3f}us")
    assert fast["pruned"] > least["pruned"]
    assert fast["best"]["latency"] == least["best"]["latency"]
    assert fast["best"]["cost"]["outcome"]["simulated"]["step_s"] < target
    with pytest.raises(InputError, match="must allow a candidate that fits, got '1 us'; the fastest tried takes"):
        CliRunner().invoke(
            build_app(()),
            ["search", *ON, "--phase", "decode", "--batch", "64", "--weights", "int8", "--max-step", "1us"],
            catch_exceptions=False,
        )


# --- cost ------------------------------------------------------------------------------------------------------------


def test_a_price_makes_cost_dollars_per_million_tokens():
    """2.5 $ per chip and hour: a chip-second per token is 2.5e6/3600 $ per million."""
    data = found("--phase", "decode", "--batch", "64", "--weights", "int8", "--price", "2.5")
    row = data["best"]["cost"]
    assert data["cost_unit"] == "$/million tokens"
    assert row["cost"] == pytest.approx(row["outcome"]["simulated"]["cost_chip_s"] * 2.5e6 / 3600, rel=1e-12)


def test_prices_of_chips_decide_between_machines():
    chips = {"tpu": "tpu_v5e", "gpu": "h100_sxm"}
    goal = search.parse_goal("", "tpu_v5e=1.2,h100_sxm=2.5", chips)
    assert goal.prices == {"tpu": 1.2, "gpu": 2.5}
    assert search.parse_goal("", "3, tpu_v5e=1.2", chips).prices == {"tpu": 1.2, "gpu": 3}


@pytest.mark.parametrize(
    ("max_step", "price", "message"),
    [
        ("20", "", "--max-step: must be a number with a unit"),
        ("-1ms", "", "--max-step: must be more than 0"),
        ("", "cheap", "--price: must be dollars per chip and hour"),
        ("", "-2", "--price: must be dollars per chip and hour"),
        ("", "=2", "--price: must be dollars per chip and hour"),
        ("", "h100=2", "--price: must be a chip of a machine, got 'h100'; did you mean 'h100_sxm'"),
        ("", "h100_sxm=2", "--price: must have a price of every chip, and tpu has tpu_v5e"),
    ],
)
def test_what_is_no_goal_is_one_clear_line(max_step, price, message):
    with pytest.raises(InputError) as caught:
        search.parse_goal(max_step, price, {"tpu": "tpu_v5e", "gpu": "h100_sxm"})
    assert str(caught.value).startswith(message)


# --- why -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tpu_v5e_2x4", "dgx_h100"])
def test_parts_of_a_step_add_up_to_it(name):
    points = candidates("llama3_8b", name, "decode", [8], 512, settings=["engine.layers=8"])
    for point in points[-3:]:
        parts = attribute_point(search.BASE, point)
        assert sum(parts.values()) == pytest.approx(run_point(search.BASE, point).outcome.simulated.step_s, rel=1e-12)
        assert min(parts["compute"], parts["message latency"], parts["message transfer"]) > 0


def test_why_names_the_winner_and_the_next_with_the_same_work():
    data = found("--phase", "decode", "--batch", "64..128", "--weights", "int8")
    winners = [data["best"][name] for name in ("latency", "cost")]
    firsts = [group[0] for group in data["why"]]
    for winner in winners:
        assert winner["choices"] in [first["choices"] for first in firsts]
    for group in data["why"]:
        assert len(group) == search.KEPT
        assert len({row["choices"]["batch"] for row in group}) == 1
        steps = [row["outcome"]["simulated"]["step_s"] for row in group]
        assert steps == sorted(steps)
        assert [sum(row["step_parts_s"].values()) for row in group] == pytest.approx(steps, rel=1e-12)


def test_one_table_has_all_rows_that_are_best_at_something_and_names_the_time_by_its_phase():
    options = ["--model", "llama3_8b", "--topology", "dgx_h100", "--phase", "prefill", "--tokens", "128"]
    more = ["--set", "engine.layers=2", "--layouts", "tensor_parallel", "--batch", "4", "--no-plots"]
    printed = CliRunner().invoke(build_app(()), ["search", *options, *more], catch_exceptions=False).stdout
    best, why = (part.splitlines() for part in printed.partition("why:")[::2])
    assert {"prefill", "step"} & set(best[2].split()) == {"prefill"}
    assert "prefill" in why[1].split()
    notes = [line[: best[2].index("topology")].split() for line in best[4:] if line]
    assert sorted(note.strip(",") for row in notes for note in row if note != "Pareto") == [
        "cost",
        "latency",
        "throughput",
    ]
    assert sum("Pareto" in row for row in notes) >= 1


def test_machines_on_different_kinds_of_stacks_are_told():
    def said(*stacks: str) -> str | None:
        settings = ("tpu_v4_2x2x1", f"stack={stacks[0]}"), ("tpu_v4_2x2x2", f"stack={stacks[1]}")
        points = [
            candidates("palm_8b", name, "decode", [8], settings=["engine.layers=1", stack])[0]
            for name, stack in settings
        ]
        return search.describe_stacks([(point, run_point(search.BASE, point)) for point in points])

    assert said("ideal", "ideal") is None
    assert said("jax_tpu", "jax_tpu") is None
    text = said("jax_tpu", "ideal") or ""
    assert text.startswith("machines run on different kinds of stacks: tpu_v4_2x2x2 on ideal (")
    assert "tpu_v4_2x2x1 on jax_tpu" in text


def test_names_of_residuals_and_overlaps_are_checked():
    assert search.parse_names("own, ladder", "residual") == ("own", "ladder")
    with pytest.raises(InputError, match="--residual: no such name, got 'laddr'; did you mean 'ladder'"):
        search.parse_names("laddr", "residual")


def test_ladder_of_a_parallel_block_makes_it_serial():
    points = candidates("palm_8b", "tpu_v4_2x2x2", "decode", [16], residuals=("own", "ladder"))
    blocks = {point.choices["residual"]: load.scenario(search.BASE, point.settings).block for point in points}
    assert blocks == {"own": "parallel", "ladder": "serial"}


# --- published points and the figure ---------------------------------------------------------------------------------


def measured(name: str, phase: str, batches: list[int], weights: str, **more):
    points = candidates("palm_540b", name, phase, batches, weights=weights, **more)
    points = [point for point in points if point.choices["ffn"].startswith("weight_stationary")][::4]
    return [(point, run_point(search.BASE, point)) for point in points]


def test_published_points_are_of_what_was_searched():
    """Section 4.4: a step of 28.5 ms at batch 64 in int8; table 2: 64 steps in 1.82 s; chip-s per token = 64 t / 64."""
    found = search.published_steps(measured("tpu_v4_4x4x4", "decode", [64], "int8"))
    assert {(m.layout, m.chips, m.batch) for m in found} == {("weight_stationary_2d", 64, 64)}
    assert sorted(m.step_s for m in found) == pytest.approx([1.82 / 64, 0.0285])
    assert [m.cost_chip_s for m in found] == pytest.approx([m.step_s for m in found])


def test_all_layers_and_their_number_are_one_search():
    """PaLM 540B has 118 layers."""
    every, counted = (
        search.published_steps(measured("tpu_v4_4x4x4", "decode", [64], "int8", settings=[f"engine.layers={layers}"]))
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
    (found,) = search.published_steps(measured("tpu_v4_4x4x4", "prefill", [1], "bf16"))
    assert (found.step_s, found.cost_chip_s) == pytest.approx((0.2876, 64 * 0.2876 / 2048))


def test_other_layers_and_machines_have_no_published_points():
    assert not search.published_steps(measured("tpu_v4_4x4x4", "decode", [64], "int8", settings=["engine.layers=8"]))
    assert not search.published_steps(measured("tpu_v5p_4x4x4", "decode", [64], "int8"))


def test_the_figure_has_every_choice_once_and_the_front_of_each_layout():
    tried = measured("tpu_v4_4x4x4", "decode", [64, 128], "int8", settings=["engine.layers=8"])
    goal = search.Goal()
    fitting = goal.fitting([row for _, row in tried])
    chart = search.build_chart("", "decode", fitting, search.published_steps(tried), goal)
    choices = [spot for line in chart.lines for spot in line.choices]
    expected = [(1e3 * r.outcome.simulated.step_s, 1e3 * r.outcome.simulated.cost_chip_s) for r in fitting]
    assert sorted((spot.x, spot.y) for spot in choices) == sorted(expected)
    fronts = [spot for line in chart.lines for spot in line.front]
    assert set(chart.front) <= set(fronts) <= set(choices)
    assert {spot.label for spot in chart.front} == {"B64", "B128"}


@pytest.mark.slow
def test_the_figure_tells_machines_and_layouts_apart():
    names = ["tpu_v5e_2x4", "dgx_h100"]
    work = search.Work("llama3_8b", "decode", [8], 512, residuals=("own", "ladder"))
    points = search.list_candidates(work, search.list_machines(names), ["engine.layers=1"])
    goal = search.parse_goal("", "2.5", search.chip_names(names))
    fitting = goal.fitting([run_point(search.BASE, point) for point in points])
    chart = search.build_chart("", "decode", fitting, [], goal)
    assert (chart.machines, len(chart.lines)) == (tuple(names), 10)
    assert chart.lines[-1].label == "others"
    assert chart.y_label == "cost, $/million tokens"
    spots = [spot for line in chart.lines for spot in line.choices]
    assert len(spots) == len(fitting)
    assert {spot.machine for spot in spots} == {0, 1}
    pareto.draw(chart).draw_without_rendering()


def test_far_choices_are_left_out_and_counted():
    near, far = pareto.Spot(1, 1, "a"), pareto.Spot(3.1, 1, "b")
    chart = pareto.Chart("", "x", "y", (pareto.Line("l", (near, far), (near,)),), (near,), "batch")
    assert [pareto.list_outside(chart, line) for line in chart.lines] == [[far]]
    with_far = pareto.Line("l", (near, far), (near,), published=(pareto.Spot(2, 1, "c"),))
    assert pareto.list_outside(pareto.Chart("", "x", "y", (with_far,), (near,), "batch"), with_far) == []


def test_a_layout_that_is_wholly_beyond_the_axes_says_so_in_the_legend():
    near, far = pareto.Spot(1, 1, "a"), pareto.Spot(3.1, 1, "b")
    chart = pareto.Chart(
        "", "x", "y", (pareto.Line("l", (near,), (near,)), pareto.Line("m", (far,), (far,))), (near,), ""
    )
    (legend,) = pareto.draw(chart).legends
    assert [text.get_text() for text in legend.get_texts()][:2] == ["l", "m\n(1 of 1 beyond, the best 3.1, 1)"]


@pytest.mark.parametrize("top", [1.0, 100.0, 10_000.0])
def test_labels_of_the_front_stay_above_the_x_axis(top: float):
    front = tuple(pareto.Spot(x, top**y, "C256 B512") for x, y in ((1.0, 1.0), (2.0, 0.5), (3.0, 0.0)))
    made = pareto.draw(pareto.Chart("", "x", "y", (pareto.Line("l", front, front),), front, "chips C and batch B"))
    made.draw_without_rendering()
    (axes,) = made.axes
    assert all(text.get_window_extent().y0 > axes.bbox.y0 for text in axes.texts)


def test_search_writes_its_figure_and_says_where(tmp_path):
    options = [*ON[:-2], "--phase", "decode", "--batch", "64", "--out", str(tmp_path)]
    done = CliRunner().invoke(build_app(()), ["search", *options], catch_exceptions=False)
    path = tmp_path / "search_palm_540b_decode,tpu_v4_4x4x4,batch=64,engine.layers=8.png"
    assert f"figure in {path}" in "".join(done.stdout.splitlines())
    assert path.read_bytes().startswith(b"\x89PNG")


def test_fields_with_other_values_than_the_defaults_are_named():
    assert search.Work("palm_540b", "decode", [64]).changed_fields == []
    work = search.Work("palm_540b", "decode", [64], 1024, weights="int8", residuals=("own", "ladder"))
    assert work.changed_fields == ["tokens=1024", "weights=int8", "residuals=own+ladder"]


def test_a_row_says_over_which_axes_its_attention_ran():
    """4 sequences are too few for 8 chips: the row named after the batch splits heads as well."""
    options = ["--model", "palm_8b", "--topology", "tpu_v4_2x2x2", "--phase", "decode", "--batch", "4", "--no-plots"]
    more = ["--set", "engine.layers=1", "--set", "layout.attention=batch", "--layouts", "weight_stationary_2d"]
    printed = CliRunner().invoke(build_app(()), ["search", *options, *more], catch_exceptions=False).stdout
    assert "batch (1)" in printed
    assert "(1) attention over batch: 4 sequences split over " in printed
    rows = json.loads(CliRunner().invoke(build_app(()), ["search", *options, *more, "--json"]).stdout)["best_per_batch"]
    assert {row["notes"][0].partition(":")[0] for row in rows} == {"attention over batch"}


@pytest.mark.parametrize(("text", "expected"), [("64", [64]), ("1..8", [1, 2, 4, 8]), ("3..13", [3, 6, 12])])
def test_batches(text, expected):
    assert search.parse_batches(text) == expected


@pytest.mark.parametrize("text", ["", "0", "8..4", "1..", "a..b", "-1"])
def test_what_is_no_batch_is_one_clear_line(text):
    with pytest.raises(InputError, match="must be a batch"):
        search.parse_batches(text)


@pytest.mark.parametrize(
    ("chips", "expected"),
    [
        ("4,16", ["2x2x1", "2x2x4"]),
        ("64", ["4x4x4"]),
        ("65..256", ["4x4x8", "4x8x8"]),
    ],
)
def test_numbers_of_chips_are_slices_of_the_family(chips, expected):
    """Of TPU v4 only, and each once though 4x4x8 is shipped with its long axis first too; twists are not asked for."""
    found = search.list_machines(["tpu_v4_4x4x4"], search.parse_counts(chips))
    assert [each.meshes[0].label for each in found] == expected
    for each in found:
        scenario = load.scenario(search.BASE, [f"topology={each.topology}", "sweep=null"])
        assert (scenario.topology.chip.name, used_chips(scenario)) == ("tpu_v4", each.chips)


def test_a_family_has_the_twisted_torus_that_is_named():
    found = search.list_machines(["tpu_v4_4x4x8_twisted"], search.parse_counts("128"))
    assert [(each.topology, len(each.meshes)) for each in found] == [("tpu_v4_4x4x8_twisted", 1)]


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
        search.list_machines(["tpu_v4_4x4x4"], search.parse_counts(chips))
    assert str(caught.value).startswith(message)


def test_axes_and_numbers_of_chips_do_not_go_together():
    with pytest.raises(InputError, match=r"is not supported with --set topology\.axes"):
        search.list_machines(["tpu_v4_4x4x4"], search.parse_counts("64"), ["topology.axes.x.size=8"])


def test_more_chips_are_faster_and_fewer_are_cheaper_as_in_figure_1(tmp_path):
    """PaLM 540B in int8, batch 64: 256 chips for the latency, 64 for the cost; 16 do not hold it."""
    sets = ["--set", "engine.layers=8", "--out", str(tmp_path)]
    options = ["--phase", "decode", "--batch", "64", "--chips", "64,256", "--json"]
    command = ["search", "--model", "palm_540b", "--topology", "tpu_v4_4x4x4", *PAPER, *sets, *options]
    best = json.loads(CliRunner().invoke(build_app(()), command, catch_exceptions=False).stdout)["best"]
    assert [best[each]["outcome"]["chips"] for each in ("latency", "cost")] == [256, 64]


def test_gpus_are_searched_in_groups_of_every_size():
    """Llama-3 70B in bf16, 132 GiB: not on one H100 of 80 GB; two are cheapest at batch 1, eight fastest."""
    points = candidates("llama3_70b", "dgx_h100", "decode", [1, 8], 1024, layouts=("tensor_parallel",))
    assert {point.choices["chips"] for point in points} == {"1", "2", "4", "8"}
    goal = search.Goal()
    fitting = goal.fitting([run_point(search.BASE, point) for point in points])
    assert {row.outcome.chips for row in fitting} == {2, 4, 8}
    assert goal.best([row for row in fitting if row.choices["batch"] == "1"], "cost").outcome.chips == 2
    assert goal.best(fitting, "latency").outcome.chips == 8


def test_where_nothing_fits_it_says_what_is_needed():
    points = candidates("llama3_70b", "dgx_h100", "decode", [1], 1024, chips=search.parse_counts("1"))
    with pytest.raises(InputError, match=r"fit the chips' memory; the least needs 13\d.* GiB on each"):
        search.Goal().fitting([run_point(search.BASE, point) for point in points])


def test_where_nothing_can_run_it_says_why():
    """7 sequences: they are no multiple of the 4 chips of an axis over which weights are gathered."""
    points = candidates("palm_540b", "tpu_v4_4x4x4", "decode", [7], 1024, layouts=("weight_gathered_x",))
    with pytest.raises(
        InputError, match=r"at least one candidate must be able to run; the first: .*batch must be a multiple of"
    ):
        search.Goal().fitting([run_point(search.BASE, point) for point in points])
