"""The waterfall from the paper's formula to the simulated step: that it adds up, and that each bar is what it says.

The machine's numbers may be anything: only their algebra is tested.
"""

import itertools
import json
import sys
from functools import cache
from itertools import product
from pathlib import Path

import pytest
from support.selection import each_once

from sim import cli
from sim.closed_form import pass_time, pope
from sim.closed_form.pass_time import predict_per_operation
from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.errors import InputError
from sim.plots import waterfall
from sim.plots.style import save
from sim.report.present.explanation import FORMULA, PER_SUBLAYER, Explanation
from sim.simulate.communication import Communication
from sim.simulate.latency import step_s
from sim.simulate.run import run
from sim.specs import load
from sim.specs.uses import PRESETS
from sim.studies.explain import explain
from sim.studies.explain.changes import IDEAL, with_fields

SHIPPED = ("palm540b_decode_ws2d", "palm540b_decode_ws2d_b512", "palm540b_prefill_ws2d_b1")
SMALL = ("engine.layers=3",)
UNEQUAL = ("topology=tpu_v4_4x4x8", "workload.batch=128", "model.padded_heads=128")
LINES = ("topology=tpu_v4_2x2x2", "workload.batch=64")
GENERATE = ("workload={phase: generate, batch: 64, prompt: 128, generate: 3, weights: int8}",)


@cache
def explained(name: str, *settings: str) -> tuple[Explanation, ...]:
    return explain(run(load.scenario(name, settings)))


def one(name: str, *settings: str) -> Explanation:
    (only,) = explained(name, *settings)
    return only


def seconds(explanation: Explanation) -> dict[str, float]:
    return {bar.name: bar.seconds for bar in explanation.bars}


# --- it adds up ------------------------------------------------------------------------------------------------------


def telescopes(explanation: Explanation, paper_s: float, step: float, formula: str = FORMULA) -> None:
    """Each bar starts where the one before ended, the first at nothing, the last ends at the simulated step."""
    ends = [0.0, *(bar.running_s for bar in explanation.bars)]
    assert [bar.seconds for bar in explanation.bars] == [b - a for a, b in itertools.pairwise(ends)]
    assert explanation.step_s == step
    assert explanation.paper_s == pytest.approx(paper_s, rel=1e-12)
    effects = sum(bar.seconds for bar in explanation.bars if bar.group != formula)
    assert effects == pytest.approx(step - paper_s, rel=1e-9, abs=1e-12)


def hinges(explanation: Explanation, layers: int) -> None:
    """Where formulas end and simulations begin, both are the same to the rounding of whole picoseconds.

    A layer has at most 40 operations and hops one after another, each rounded to half a picosecond.
    """
    contention = explanation.bars[explanation.ideal_at]
    assert contention.group == "Contention"
    if explanation.exact:
        assert abs(contention.seconds) <= (layers + 1) * 40 * 0.5e-12
    else:
        assert contention.seconds > -(layers + 1) * 40 * 0.5e-12  # the closed form holds a lower bound


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_scenarios_add_up(name):
    result = run(load.scenario(name))
    (found,) = explain(result)
    telescopes(found, pope.paper(result.scenario).step_s, result.passes[0].report.simulated.step_s)
    assert found.exact
    hinges(found, layers=118)
    assert found.published_s == pytest.approx(result.scenario.reference.latency / result.scenario.workload.steps)


MACHINES = {
    "batch": ("batch", "parallel", ()),
    "heads": ("heads", "parallel", ()),
    "serial": ("batch", "serial", ()),
    "unequal axes": ("batch", "parallel", UNEQUAL),
    "lines": ("heads", "serial", LINES),
}


@pytest.mark.parametrize(("ffn", "kind"), each_once(product(PAPER_LAYOUTS, MACHINES)))
def test_every_layout_adds_up(ffn, kind):
    attention, block, machine = MACHINES[kind]
    for workload, overlap in (
        ("{phase: prefill, batch: 128, prompt: 128, weights: bf16}", "none"),
        ("{phase: decode, batch: 128, context: 2048, generate: 64, weights: int8}", "collective_matmul"),
    ):
        layout = f"{{ffn: {ffn}, attention: {attention}, block: {block}, overlap: {overlap}}}"
        settings = (f"workload={workload}", f"layout={layout}", *machine, "engine.layers=2")
        scenario = load.scenario("palm540b_decode_ws2d", settings)
        found = one("palm540b_decode_ws2d", *settings)
        telescopes(found, pope.paper(scenario).step_s, step_s(scenario))
        hinges(found, layers=2)
        ideal = with_fields(scenario, IDEAL)
        assert found.ideal_s == pytest.approx(predict_per_operation(ideal, Communication(ideal)).step_s, rel=1e-12)


@pytest.mark.parametrize("kv_heads", [8, 48])
def test_models_with_more_key_value_heads_add_up(kv_heads):
    settings = (*SMALL, f"model.kv_heads={kv_heads}", "model.ffn=mlp")
    scenario = load.scenario("palm540b_decode_ws2d", settings)
    found = one("palm540b_decode_ws2d", *settings)
    telescopes(found, pope.paper(scenario).step_s, step_s(scenario))
    hinges(found, layers=3)
    assert "Third FFN matrix" not in seconds(found)


def test_each_phase_of_a_generation_is_explained():
    scenario = load.scenario("palm540b_decode_ws2d", (*SMALL, *GENERATE))
    result = run(scenario)
    prefill, decode = explain(result)
    assert (prefill.phase, decode.phase) == ("prefill", "decode")
    for found, part in zip((prefill, decode), result.passes, strict=True):
        telescopes(found, pope.paper(part.scenario).step_s, part.report.simulated.step_s)
        assert found.published_s is None
    assert prefill.step_s + 3 * decode.step_s == pytest.approx(result.report.simulated.latency_s)


def test_a_few_layers_stand_for_all_where_every_chip_is_simulated():
    """Layers take equal times, so 3, 4 and 5 of them give the time of 14; the last bar, all simulated, meets it."""
    settings = ("engine.layers=14", *LINES, "stack.op_overhead=0 s")
    scenario = load.scenario("palm540b_decode_ws2d", settings)
    part = run(scenario).passes[0]
    assert not part.topology.is_folded
    found = one("palm540b_decode_ws2d", *settings)
    telescopes(found, pope.paper(scenario).step_s, part.report.simulated.step_s)
    assert found.scale.is_rounding(seconds(found).get("Launches of the pieces", 0.0))
    assert found.ideal_s + seconds(found)["Shared links"] == pytest.approx(
        step_s(with_fields(scenario, IDEAL)), rel=1e-12
    )


# --- each bar is what it says ----------------------------------------------------------------------------------------


def test_the_formula_is_split_in_the_terms_that_count():
    """Small batches wait for weights, large ones for matmuls; what hides under the other is no bar."""
    small, large = (one("palm540b_decode_ws2d", *SMALL, f"workload.batch={batch}") for batch in (64, 1024))
    names = [[bar.name for bar in each.bars if bar.group == FORMULA] for each in (small, large)]
    assert names == [
        ["Weights from memory", "KV cache from memory", "Communication"],
        ["Matmuls at peak", "Communication"],
    ]


def test_own_share_and_axes_of_the_paper_s_volumes():
    """2D on 4x4x4: D_yz = 2 B E/X and D_x = 2 B F/(YZ) elements, each (K-1)/K of it; then on 4 and 2 of 6 links.

    sum D (K-1)/K/(6 w) - sum D/(6 w), then D_yz (15/16)/(4 w) + D_x (3/4)/(2 w) instead.
    """
    found = seconds(one("palm540b_decode_ws2d", *SMALL))
    w = load.scenario("palm540b_decode_ws2d").topology.link.bandwidth.value
    yz, x = 3 * 2 * 64 * 18432 / 4 * 2, 3 * 2 * 64 * 73728 / 16 * 2
    assert found["Own share stays: (K-1)/K"] == pytest.approx(-(yz / 16 + x / 4) / (6 * w))
    share = yz * 15 / 16, x * 3 / 4
    assert found["Only the links of its axes"] == pytest.approx(
        share[0] * (1 / 4 - 1 / 6) / w + share[1] * (1 / 2 - 1 / 6) / w
    )
    assert found["Third FFN matrix"] == pytest.approx(x / 2 * 3 / 4 / (2 * w))


def test_weights_gathered_over_all_axes_have_all_links():
    found = seconds(one("palm540b_decode_ws2d", *SMALL, "layout.ffn=weight_gathered_xyz", "workload.weights=bf16"))
    assert "Only the links of its axes" not in found
    assert "All-to-alls" not in found
    assert found["Gathered weights are read in full"] > 0


def test_padded_heads_are_their_parameters():
    """16 more heads of 540B: 2 E Q 16 a layer, in int8 over 64 chips, where weights are what a step waits for."""
    found = seconds(one("palm540b_decode_ws2d", *SMALL))
    hbm = load.scenario("palm540b_decode_ws2d").topology.chip.hbm_bandwidth.value
    assert found["Padded heads"] == pytest.approx(3 * 2 * 18432 * 256 * 16 / 64 / hbm)


@pytest.mark.parametrize("name", SHIPPED)
def test_signs(name):
    """The own share is less; what the formula leaves out, slow parts and latency are more; overlap hides."""
    found = one(name, *SMALL)
    less = {bar.name for bar in found.bars if bar.seconds < 0 and not found.scale.is_rounding(bar.seconds)}
    assert less <= {"Own share stays: (K-1)/K", "Embedding and logits", "Hidden under matmuls"}
    assert {"Own share stays: (K-1)/K", "Hidden under matmuls"} <= less


def test_nothing_contends_on_equal_rings_and_something_on_unequal_ones():
    equal, unequal = one("palm540b_decode_ws2d", *SMALL), one("palm540b_decode_ws2d", *SMALL, *UNEQUAL)
    assert equal.exact
    assert equal.scale.is_rounding(seconds(equal)["Shared links"])
    assert not unequal.exact
    assert seconds(unequal)["Shared links"] > 0


def test_an_effect_that_is_not_there_is_no_bar():
    ideal = ("topology.link.latency=0 s", "stack.hbm_efficiency=1", "layout.overlap=none")
    names = set(seconds(one("palm540b_decode_ws2d", *SMALL, *ideal)))
    assert not names & {"Hop latency", "Memory bandwidth reached", "Hidden under matmuls", "No wraparound"}


def test_lines_cost_what_rings_do_not():
    assert seconds(one("palm540b_decode_ws2d", *SMALL, *LINES))["No wraparound"] > 0


@pytest.mark.slow
def test_latency_and_launches_scale_with_their_constants():
    """Nothing overlaps: three times the constant is three times the bar."""
    plain = (*SMALL, "layout.overlap=none")
    for name, field in (
        ("Hop latency", "topology.link.latency"),
        ("Launches of collectives", "stack.collective_overhead"),
        ("Launches of operations", "stack.op_overhead"),
    ):
        # long hops and launches, so that all-to-alls wait for latency and not for bytes in both
        once, thrice = (seconds(one("palm540b_decode_ws2d", *plain, f"{field}={us} us"))[name] for us in (100, 300))
        assert thrice == pytest.approx(3 * once, rel=0.01)


# --- what is printed and drawn ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_and_writes_it(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def call(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", ["sim", "run", SHIPPED[0], "--set", SMALL[0], "--explain", *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        return capsys.readouterr().out

    printed = json.loads(call("--json", "--out", "one"))
    (folder,) = (tmp_path / "one").iterdir()
    explained = json.loads((folder / "explain.json").read_text())
    assert printed["explain"] == explained
    bars = explained[0]["bars"]
    assert {"name", "group", "seconds", "running_s", "why"} <= set(bars[0])
    assert bars[-1]["running_s"] == printed["simulated"]["step_s"]
    assert "Hidden under matmuls" in call("--out", "two")
    again = next((tmp_path / "two").iterdir())
    for name in ("waterfall.png", "explain.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_no_label_of_the_figure_covers_another_or_leaves_it():
    for settings in (LINES, UNEQUAL, ("layout.ffn=weight_gathered_xyz", "layout.overlap=none")):
        made = waterfall.draw(one("palm540b_decode_ws2d", *SMALL, *settings))
        made.canvas.draw()
        axes = made.axes[0]
        texts = [*axes.texts, *made.texts, *axes.get_xticklabels(), axes.xaxis.label]
        boxes = [text.get_window_extent() for text in texts if text.get_text()]
        assert all(made.bbox.x0 <= box.x0 and box.x1 <= made.bbox.x1 for box in boxes)
        assert not [1 for a, b in itertools.combinations(boxes, 2) if a.shrunk(0.98, 0.9).overlaps(b.shrunk(0.98, 0.9))]


def test_all_bars_are_drawn_with_their_reasons():
    found = one("palm540b_decode_ws2d", *SMALL)
    texts = {text.get_text().replace("\n", " ") for text in waterfall.draw(found).axes[0].texts}
    assert {bar.name for bar in found.bars} | {bar.why for bar in found.bars} <= texts


# --- tensor parallelism ----------------------------------------------------------------------------------------------

EXACT = (
    "engine.layers=4",
    "collectives={all_reduce: one_shot}",  # a hand-written kernel: its formula is exact
)


@pytest.mark.parametrize("residual", ["standard", "parallel", "ladder", "desync2"])
def test_tensor_parallelism_goes_from_the_usual_formula_over_operations_to_the_simulation(residual: str):
    found = one("llama3_8b_tp8_ladder", *EXACT, f"layout.residual={residual}")
    chosen = load.scenario("llama3_8b_tp8_ladder", [*EXACT, f"layout.residual={residual}"])
    form = run(chosen).report.closed_form
    assert form is not None
    steps = chosen.workload.steps
    assert found.paper_s == pytest.approx(form.latency_s / steps, rel=1e-12)
    assert found.ideal_s == pytest.approx(form.detailed_latency_s / steps, rel=1e-12)
    assert found.step_s == step_s(chosen)
    assert found.exact
    assert found.scale.is_rounding(seconds(found)["Collectives step by step"])


@pytest.mark.parametrize("name", ["palm540b_decode_ws2d", "llama3_8b_tp8_ladder"])
@pytest.mark.parametrize("ffn", [preset for preset in PRESETS if preset not in PAPER_LAYOUTS])
def test_every_other_preset_adds_up_on_tori_and_switches(ffn: str, name: str):
    """From the usual formula over the closed form per operation; exact, the simulation of it is the same."""
    settings = ("engine.layers=2", "layout.residual=standard", "workload.batch=64", f"layout.ffn={ffn}")
    layout = () if name.startswith("palm") else ("layout.communication=compute_stream", *EXACT[1:])
    found = one(name, *settings, *layout, "layout.block=serial")
    scenario = load.scenario(name, (*settings, *layout, "layout.block=serial"))
    telescopes(
        found,
        pass_time.predict_per_sublayer(scenario, Communication(scenario)).step_s,
        step_s(scenario),
        PER_SUBLAYER.group,
    )
    assert found.scale.is_rounding(seconds(found)["Collectives step by step"]) or not found.exact


def test_joins_of_the_standard_residual_are_two_a_layer():
    found = one("llama3_8b_tp8_ladder", *EXACT, "layout.residual=standard")
    wait = load.scenario("llama3_8b_tp8_ladder").stack.stream_wait.value
    assert seconds(found)["Joins of streams"] == pytest.approx(2 * 4 * wait, rel=1e-9)


def test_what_collectives_slow_is_a_bar_of_ladder_alone():
    assert seconds(one("llama3_8b_tp8_ladder", "engine.layers=4"))["Other kernels beside collectives"] > 0
    standard = one("llama3_8b_tp8_ladder", "engine.layers=4", "layout.residual=standard")
    assert "Other kernels beside collectives" not in seconds(standard)


def test_the_waterfall_of_tensor_parallelism_speaks_of_its_own_formulas(tmp_path: Path):
    found = one("llama3_8b_tp8_ladder", *EXACT)
    rows = [row.name for row in waterfall.list_rows(found)]
    assert rows[0] == "The usual formula"
    assert "Closed form, per sublayer" in rows
    assert "Closed form, per operation" in rows
    assert not any("paper" in row for row in rows)
    save(waterfall.draw(found), tmp_path / "waterfall.png")


def test_a_pipeline_has_no_formula_to_start_from():
    settings = ["engine.layers=4", "layout.mesh={tensor: 2, pipeline: 2}"]
    with pytest.raises(InputError, match="no closed form covers a pipeline"):
        explain(run(load.scenario("llama3_8b_tp8_ladder", settings)))
