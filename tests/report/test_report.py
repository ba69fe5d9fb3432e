"""Measures of a hand-made timeline (see `handmade`), and the report made of them."""

import io
import json
import math

import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console
from support.handmade import two_chips
from support.selection import each_once

from sim.program import Labels, ProgramBuilder
from sim.program.trace import Trace
from sim.report.closed_form import ClosedForm
from sim.report.memory import Memory
from sim.report.metrics import PassTrace, measure
from sim.report.ops import classify_ops, parse_op
from sim.report.present.render import render
from sim.report.report import Report, build_report
from sim.simulate.run import run
from sim.specs import load
from sim.units import format_bytes

GIB = 2**30
FITS = Memory(weights_bytes=20 * GIB, kv_cache_bytes=4 * GIB, capacity_bytes=32 * GIB)
FORMS = ClosedForm(latency_s=2e-3, terms={"matmul": 2e-3}, detailed_latency_s=1e-3, detailed_terms={"matmul": 1e-3})


def test_times_of_both_chips() -> None:
    # chip 0: compute 10 + 4 + 4, communication 6 + 6 + 10, of which under compute 6 + 0 + 4; idle the last 2 of 32.
    measures = measure(*two_chips())
    assert measures.makespan_s == pytest.approx(32e-6)
    np.testing.assert_allclose(measures.compute_s, [18e-6, 20e-6])
    np.testing.assert_allclose(measures.communication_s, [22e-6, 22e-6])
    np.testing.assert_allclose(measures.overlapped_communication_s, [10e-6, 10e-6])
    np.testing.assert_allclose(measures.exposed_communication_s, [12e-6, 12e-6])
    np.testing.assert_allclose(measures.idle_s, [2e-6, 0], atol=1e-18)
    assert measures.critical_chip == 1


def test_the_lowest_of_equal_chips_is_the_critical_one() -> None:
    assert measure(*two_chips(slower_us=0)).critical_chip == 0


def test_ops_of_the_critical_chip_in_program_order() -> None:
    measures = measure(*two_chips(layers=2, slower_us=0))
    rows = {op.op: op for op in measures.ops}
    assert list(rows) == [
        "q_wi",
        "all_gather(x) residual",
        "reduce_scatter(x) q_wi",
        "attention",
        "all_reduce(x) out",
        "wo",
    ]
    assert (rows["q_wi"].kind, rows["q_wi"].count, rows["q_wi"].flops) == ("compute", 2, 2e6)
    assert rows["wo"].time_s == pytest.approx(2 * 4e-6)
    exposed_us = {"all_gather(x) residual": 0, "reduce_scatter(x) q_wi": 6, "all_reduce(x) out": 6}
    for op, us in exposed_us.items():
        assert rows[op].exposed_s == pytest.approx(2 * us * 1e-6)
    assert rows["all_reduce(x) out"].bytes == 2 * 8000
    assert sum(op.exposed_s for op in measures.ops) == pytest.approx(measures.exposed_communication_s[0])


def test_links() -> None:
    # x+ of both chips: 4 + 4 + 8 of 32 us, at 1000 bytes/us; x- is never used.
    measures = measure(*two_chips())
    np.testing.assert_allclose(measures.link_busy_s, [16e-6, 0, 16e-6, 0])
    np.testing.assert_allclose(measures.link_utilisation, [0.5, 0, 0.5, 0])
    np.testing.assert_allclose(measures.link_bytes, [16e3, 0, 16e3, 0])
    assert measures.busiest_links == ("0:x+", "1:x+")


def test_an_empty_program_measures_nothing() -> None:
    _, topology = two_chips()
    nothing = np.empty(0, dtype=np.int64)
    measures = measure(
        Trace.from_start_times(ProgramBuilder(["0:compute", "1:compute"]).build(), nothing, nothing), topology
    )
    assert (measures.makespan_s, measures.ops, measures.busiest_links) == (0.0, (), ())


@pytest.mark.parametrize(
    ("name", "group", "over", "operand"),
    [
        ("all_gather(yz) residual", "all-gather", "yz", "residual"),
        ("all_to_all(yzx) attention out", "all-to-all", "yzx", "attention out"),
        ("all_gather(data,tensor) residual", "all-gather", "data,tensor", "residual"),
        ("permute stage", "permute", "", "stage"),
        ("attention", "attention", "", "attention"),
        ("q_wi", "matmul", "", "q_wi"),
    ],
)
def test_names_of_ops(name: str, group: str, over: str, operand: str) -> None:
    op = parse_op(name)
    assert (op.group, op.over, op.operand) == (group, over, operand)


def test_compute_without_flops_is_elementwise() -> None:
    builder = ProgramBuilder(["0:compute"])
    for op, flops in (("norm scale", 0.0), ("wo", 1.0)):
        builder.add(op, 0, [0], labels=Labels(flops=flops))  # type: ignore[arg-type]
    assert classify_ops(builder.build()).tolist() == ["elementwise", "matmul"]


def report(*settings: str, memory: Memory = FITS, closed_form: ClosedForm | None = FORMS) -> Report:
    trace, topology = two_chips()
    return build_report(
        load.scenario("palm540b_decode_ws2d", settings), PassTrace(trace, topology), memory, closed_form
    )


def test_latency_throughput_and_mfu() -> None:
    # 64 sequences, 64 steps of 32 us, 540e9 parameters, two chips at the 275 TFLOP/s of the scenario's.
    simulated = report().simulated
    assert simulated.latency_s == pytest.approx(64 * 32e-6)
    assert simulated.tokens_per_s == pytest.approx(64 / 32e-6)
    parameters = 540e9
    assert simulated.mfu == pytest.approx(2 * parameters * 64 / (2 * 275e12 * 32e-6))


def test_a_run_of_some_layers_counts_their_parameters_and_has_no_published_value() -> None:
    some, all_layers = report("engine.layers=2"), report()
    assert some.simulated.mfu == pytest.approx(all_layers.simulated.mfu * 2 / 118)
    assert some.published is None
    assert all_layers.published is not None
    value = all_layers.published.value
    assert all_layers.published.error == pytest.approx(all_layers.simulated.latency_s / value - 1)


def test_both_closed_forms_are_compared() -> None:
    made = report()
    assert made.difference == pytest.approx(64 * 32e-6 / 2e-3 - 1)
    assert made.detailed_difference == pytest.approx(64 * 32e-6 / 1e-3 - 1)
    assert made.difference_of_forms == pytest.approx(-0.5)
    assert report(closed_form=None).difference is None


def test_json_contract() -> None:
    data = report().to_dict(wall_s=1.5)
    assert {"scenario", "simulated", "closed_form", "difference", "published", "memory", "links", "engine"} <= set(data)
    times = {"compute_s", "communication_s", "exposed_communication_s", "overlapped_communication_s", "idle_s"}
    assert {"latency_s", "step_s", "tokens_per_s", "mfu"} | times <= set(data["simulated"])
    assert {"latency_s", "terms"} <= set(data["closed_form"])
    assert {"value", "error"} <= set(data["published"])
    assert {"weights_bytes", "kv_cache_bytes", "capacity_bytes", "fits"} <= set(data["memory"])
    assert {"busiest", "utilisation", "bytes"} <= set(data["links"])
    assert set(data["engine"]) == {"tasks", "layers_simulated", "folded", "shortcuts", "wall_s"}
    assert json.loads(json.dumps(data))["links"]["busiest"] == ["0:x+", "1:x+"]
    assert report(closed_form=None).to_dict()["closed_form"] is None


def test_without_the_wall_clock_the_json_is_always_the_same() -> None:
    assert "wall_s" not in report().to_dict()["engine"]
    assert json.dumps(report().to_dict()) == json.dumps(report().to_dict())


def rendered(made: Report) -> str:
    out = io.StringIO()
    render(made, Console(file=out, width=80), engine=(1000, 0.25))
    return out.getvalue()


def test_the_terminal_report_fits_80_columns_and_cuts_nothing() -> None:
    text = rendered(report())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for part in (
        "palm540b_decode_ws2d",
        "per operation",
        "published",
        "reduce_scatter(x) q_wi",
        "0:x+, 1:x+",
    ):
        assert part in text


def test_memory_that_does_not_fit_says_by_how_much() -> None:
    tight = Memory(weights_bytes=30 * GIB, kv_cache_bytes=4.5 * GIB, capacity_bytes=32 * GIB)
    assert math.isclose(tight.excess_bytes, 2.5 * GIB)
    assert not tight.fits
    first, *_ = " ".join(rendered(report(memory=tight)).split()).split("latency, all steps")
    assert first.endswith("exceeds memory by 2.50 GiB per chip; times assume unlimited memory ")
    tight = replace(tight, remedies=("workload.batch=28", "about 3 chips"))
    first, *_ = " ".join(rendered(report(memory=tight)).split()).split("latency, all steps")
    assert first.endswith("try workload.batch=28 or about 3 chips ")
    assert "does not fit" not in rendered(report())


def _generations() -> list[tuple[str, tuple[str, ...]]]:
    """Every shipped generation, and one with every two layouts of its phases."""
    run_of = {name: load.scenario(name, ["sweep=null", "figure=null"]) for name in load.shipped("scenario")}
    alone = ("sweep=null", "figure=null", "engine.layers=2")
    shipped = [name for name, scenario in run_of.items() if scenario.workload.phase == "generate"]
    torus = [name for name in shipped if run_of[name].topology.kind == "torus"]
    ffns = ("weight_gathered_x", "weight_gathered_xyz", "weight_stationary_1d", "weight_stationary_2d")
    pairs = [
        (name, (*alone, f"layout.prefill.ffn={first}", f"layout.decode.ffn={then}"))
        for name in torus
        for first in ffns
        for then in ffns
    ]
    return [*((name, alone) for name in shipped), *pairs]


@pytest.mark.parametrize(("name", "settings"), each_once(_generations(), lambda name, settings: (name, *settings)))
def test_a_generation_needs_what_its_larger_phase_needs(name: str, settings: tuple[str, ...]) -> None:
    """It fits just that much, and of a byte less it says so with something to do."""
    found = run(load.scenario(name, settings)).report
    used = max(phase.memory.used_bytes for phase in found.phases)
    assert found.memory.used_bytes == used
    for capacity, fits in ((used, True), (used - 1, False)):
        report = run(load.scenario(name, [*settings, f"topology.chip.hbm_capacity={capacity:.0f} B"])).report
        assert report.memory.fits == fits
        assert bool(report.memory.remedies) != fits
        assert ("does not fit" in printed(report)) != fits
        for phase in report.phases:
            assert f"KV cache {format_bytes(phase.memory.kv_cache_bytes)}" in printed(report)
    weights = {phase.memory.weights_bytes for phase in found.phases}
    if len(weights) > 1:
        assert any("in different shardings" in note for note in found.notes)


def test_phases_that_store_their_weights_differently_say_which() -> None:
    """Gathered matrices are stored as 2D needs them, but not the embedding; 1D splits only d_ff of every matrix."""

    def note(prefill: str) -> str:
        settings = ["engine.layers=2", "layout.decode.ffn=weight_stationary_2d", f"layout.prefill.ffn={prefill}"]
        report = run(load.scenario("pope_offline_example", settings)).report
        return next((note for note in report.notes if "in different shardings" in note), "")

    assert note("weight_stationary_2d") == ""
    assert "embedding" in note("weight_gathered_xyz")
    assert "w_down" not in note("weight_gathered_xyz")
    assert "w_down" in note("weight_stationary_1d")


def test_what_memory_leaves_out_is_said_beside_it() -> None:
    found = printed(run(load.scenario("palm540b_decode_ws2d", ["engine.layers=2"])).report)
    assert "memory does not count activations, workspaces and buffers of libraries" in found


def printed(report: Report) -> str:
    console = Console(width=400, record=True, file=io.StringIO())
    render(report, console)
    return console.export_text()


def test_chips_to_look_at_are_perturbed_or_one_of_each_stage():
    def roles(name, *settings):
        return run(load.scenario(name, [*settings, "engine.layers=2"])).passes[0].chip_roles

    perturbed = "perturb={stragglers: [{chips: [5], factor: 2}], slow_links: [{links: ['0:x+'], factor: 2}]}"
    assert roles("palm540b_decode_ws2d", perturbed) == {5: "straggler", 0: "slow link"}
    stages = roles("energonai_pipeline_queue", "layout.pipeline.stages=[1, 1]", "layout.mesh.pipeline=2")
    assert stages == {0: "stage 0 rank 0", 2: "stage 1 rank 0"}


def test_chosen_chips_come_first_named_with_stage_and_rank():
    settings = ["layout.pipeline.stages=[1, 1]", "layout.mesh.pipeline=2", "engine.layers=2"]
    part = run(load.scenario("energonai_pipeline_queue", settings)).choose_chips([3, 0]).passes[0]
    assert list(part.chip_roles.items()) == [(3, "stage 1 rank 1"), (0, "stage 0 rank 0"), (2, "stage 1 rank 0")]
    assert run(load.scenario("palm540b_decode_ws2d", settings[2:])).choose_chips([7]).passes[0].chip_roles == {
        7: "chosen"
    }
