"""From a scenario to its report: folding changes nothing, phases add up, the mean step stands for all steps."""

import numpy as np
import pytest

from sim.report import spans
from sim.simulate.latency import latency_s, step_s
from sim.simulate.run import run
from sim.specs import load

SMALL = ("engine.layers=3",)
GENERATE = "workload={phase: generate, batch: 64, prompt: 128, generate: 5, weights: int8}"


def flat(data, name=""):
    """A report's fields by dotted name."""
    if not isinstance(data, dict | list):
        return {name: data}
    items = data.items() if isinstance(data, dict) else enumerate(data)
    return {key: value for part, each in items for key, value in flat(each, f"{name}.{part}").items()}


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["layout.overlap=none", "layout.attention=heads"],
        ["layout.ffn=weight_gathered_xy", "layout.block=serial"],
        ["topology=tpu_v4_4x4x8", "layout.ffn=weight_stationary_1d", "workload.batch=128"],
    ],
)
def test_folding_changes_no_figure(settings):
    folded, full = (
        run(load.scenario("palm540b_decode_ws2d", [*SMALL, *settings, f"engine.shortcuts={which}"]))
        for which in ("auto", "layers")
    )
    assert folded.report.folded
    assert not full.report.folded
    one, all_chips = folded.report.to_dict(), full.report.to_dict()
    assert all_chips.pop("engine")["tasks"] == one.pop("engine")["tasks"] * full.report.chips
    one, all_chips = flat(one), flat(all_chips)
    assert one.keys() == all_chips.keys()
    for name, value in one.items():  # sums of floats may be taken in another order
        assert all_chips[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), name


def test_the_whole_trace_of_a_folded_run_is_the_unfolded_one():
    folded, full = (
        run(load.scenario("palm540b_decode_ws2d", [*SMALL, f"engine.shortcuts={which}"]))
        for which in ("auto", "layers")
    )
    trace, topology = folded.passes[0].whole()
    assert topology.chips == 64
    assert trace.times.tobytes() == full.passes[0].trace.times.tobytes()


def test_the_trace_of_some_chips_of_a_folded_run_is_theirs_in_the_unfolded_one():
    folded, full = (
        run(load.scenario("palm540b_decode_ws2d", [*SMALL, f"engine.shortcuts={which}"]))
        for which in ("auto", "layers")
    )
    (mine, topology), whole = folded.passes[0].of_chips([3, 17]), full.passes[0].trace
    assert topology.chips == 64
    rows = np.concatenate([np.flatnonzero(whole.program.chip == chip) for chip in (3, 17)])
    assert (mine.times == whole.times[rows]).all()
    for name in ("chip", "peer", "kind", "bytes", "collective", "layer"):
        assert (getattr(mine.program, name) == getattr(whole.program, name)[rows]).all()
    assert (mine.program.resource == whole.program.resource[rows]).all()
    assert mine.program.resources == whole.program.resources


@pytest.mark.parametrize("machine", ["tpu_v5e_4x4", "tpu_v4_2x2x4", "tpu_v4_4x4x4"])
def test_collectives_of_one_chip_of_a_pipeline_are_those_in_the_trace_of_all(machine):
    """Also where its trace lacks the chip it sends to or receives from."""
    staged = ["layout.mesh.pipeline=2", f"topology={machine}", "layout.overlap=none"]
    part = run(load.scenario("palm540b_decode_ws2d", [*SMALL, *staged])).passes[0]
    whole, topology = part.whole()
    every = spans.collective_spans(whole)
    for chip in range(topology.chips):
        mine, theirs = (each.of_lane(chip) for each in (spans.collective_spans(part.of_chips([chip])[0]), every))
        assert len(mine)
        assert (mine.start == theirs.start).all()
        assert (mine.end == theirs.end).all()


@pytest.mark.parametrize("machine", ["tpu_v4_2x2x2", "tpu_v4_4x4x8_twisted"])
def test_chips_that_are_not_alike_are_not_folded(machine):
    batch = "workload.batch=128"
    assert not run(load.scenario("palm540b_decode_ws2d", [*SMALL, batch, f"topology={machine}"])).report.folded


def test_a_generation_is_its_prefill_and_every_decode_step():
    scenario = load.scenario("palm540b_decode_ws2d", [*SMALL, GENERATE])
    report = run(scenario).report
    prefill, decode = scenario.phases
    steps = [step_s(decode.model_copy(update={"workload": workload})) for workload in decode.workload.each_step]
    assert [workload.mean_cache_length for workload in decode.workload.each_step] == [129, 130, 131, 132, 133]
    assert report.simulated.ttft_s == step_s(prefill)
    assert report.simulated.tpot_s == pytest.approx(sum(steps) / 5)
    assert report.simulated.latency_s == pytest.approx(step_s(prefill) + sum(steps))
    assert latency_s(scenario) == pytest.approx(report.simulated.latency_s)
    assert [phase.simulated.mfu for phase in report.phases] == sorted(
        (phase.simulated.mfu for phase in report.phases), reverse=True
    )  # a prefill uses the chips better than a decode step


def test_phases_may_use_the_machine_differently():
    changes = [*SMALL, GENERATE, "layout.prefill={ffn: weight_gathered_xyz, overlap: none}"]
    prefill, decode = load.scenario("palm540b_decode_ws2d", changes).phases
    assert (prefill.layout.ffn, prefill.overlap) == ("weight_gathered_xyz", "none")
    assert (decode.layout.ffn, decode.overlap) == ("weight_stationary_2d", "collective_matmul")


def test_the_step_of_mean_cache_length_is_the_mean_of_the_steps():
    """Attention reads as many bytes more in each step; nothing else changes. Rounding: half a picosecond a task."""
    scenario = load.scenario("palm540b_decode_ws2d", [*SMALL, "workload.generate=16"])
    steps = [step_s(scenario.model_copy(update={"workload": each})) for each in scenario.workload.each_step]
    assert len(set(steps)) > 1
    assert step_s(scenario) == pytest.approx(sum(steps) / 16, abs=3 * 1e-12)


def test_what_does_not_fit_says_so():
    memory = run(
        load.scenario("palm540b_decode_ws2d", [*SMALL[:0], "workload.weights=bf16", "workload.batch=8192"])
    ).report
    assert not memory.memory.fits
    assert memory.memory.excess_bytes > 0


def test_a_batch_that_fills_no_axis_is_noted():
    report = run(load.scenario("palm540b_decode_ws2d", [*SMALL, "workload.batch=63"])).report
    assert report.notes == ("attention over batch: 63 sequences split over no mesh axis, heads over the others",)


@pytest.mark.parametrize(
    ("settings", "noted"),
    [
        (["layout.mesh.tensor=16"], []),
        (["layout.mesh.tensor=8"], ["uses 8 of the machine's 16 chips: layout.mesh.tensor; set it to 16 for all"]),
        (
            ["layout.mesh={tensor: 4, pipeline: 2}"],
            ["uses 8 of the machine's 16 chips: layout.mesh.tensor x layout.mesh.pipeline; a product of 16 uses all"],
        ),
        (
            ["layout.mesh={}", "mesh={a: 2, b: 2}"],
            ["uses 4 of the machine's 16 chips: mesh; a mesh of 16 uses all"],
        ),
    ],
)
def test_chips_that_are_left_out_are_noted(settings, noted):
    two_boxes = ["topology=dgx_h100_x2", "engine.layers=2", "layout.residual=standard", *settings]
    notes = run(load.scenario("llama3_70b_tp8_standard", two_boxes)).report.notes
    assert [note for note in notes if "of the machine's" in note] == noted
