"""What serving engines add to a step: the host, weights to convert, launches, their pipeline, sums in the switch."""

from functools import cache
from typing import Any

import pytest

from sim import topology as machines
from sim.errors import InputError
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.simulate.latency import latency_s, step_s
from sim.simulate.predict import predict
from sim.simulate.run import run
from sim.specs import Scenario, TorusSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec

BASE = "gpt20b_tp2_ft"
FEW = ("engine.layers=2", "stack.graph_capture=true")


def scenario(*settings: str) -> Scenario:
    return load.scenario(BASE, [*FEW, *settings])


def test_the_host_takes_its_time_once_per_token():
    """A prefill and 19 decode steps, each of which gives a token: 20 times 1 ms."""
    without, with_host = (latency_s(scenario(f"stack.step_overhead={time}")) for time in ("0 s", "1 ms"))
    assert with_host - without == pytest.approx(20e-3, abs=1e-9)


def test_a_pass_that_gives_no_token_does_not_wait_for_the_host():
    encoder = "bert_6b_tp2", ["engine.layers=2", "stack.step_overhead=1 s"]
    assert latency_s(load.scenario(*encoder)) < 0.1


def test_the_closed_form_knows_the_host_exactly():
    """One GPU, one decode step, no collectives: the form is exact with the host as without it."""
    settings = (
        "layout.mesh={tensor: 1}",
        "workload={phase: decode, batch: 1, context: 60, generate: 1, weights: fp16}",
    )
    report = run(scenario(*settings, "stack.step_overhead=3 ms")).report
    assert report.closed_form is not None
    assert report.closed_form.detailed_terms["host"] == pytest.approx(3e-3)
    assert report.closed_form.detailed_latency_s == pytest.approx(report.simulated.latency_s, rel=1e-6)


def test_where_constants_come_from_makes_no_form_inexact():
    """Of one shipped chip of each stack that says what it was fitted on."""
    for stack, machine_name in (("fastertransformer", "dgx_a100"), ("vllm", "dgx_h100"), ("tensorrt_llm", "hgx_h200")):
        form = predict(scenario("stack=" + stack, f"topology={machine_name}", "workload.generate=1").phases[1])
        assert form is not None
        assert not any("fitted_on" in reason for reason in form.inexact)


def decode_s(weights: str, share: str) -> float:
    workload = f"workload={{phase: decode, batch: 1, context: 5, generate: 1, weights: {weights}}}"
    ideal = ("stack=ideal", "topology=dgx_a100", "layout.mesh={tensor: 1}", workload)
    return step_s(
        load.scenario("gpt20b_tp2_ft", ["engine.layers=1", *ideal, f"stack.dequantizing_hbm_efficiency={share}"])
    )


def test_only_weights_that_are_converted_are_read_at_a_rate_of_their_own():
    """8-bit weights at half the rate of HBM take what 16-bit weights take at all of it, activations apart."""
    assert decode_s("bf16", "50 %") == decode_s("bf16", "null")
    assert decode_s("int8", "50 %") == pytest.approx(decode_s("bf16", "null"), rel=0.01)
    assert decode_s("int8", "null") == pytest.approx(decode_s("bf16", "null") / 2, rel=0.01)


def launches(*settings: str) -> int:
    given = load.scenario(BASE, ["engine.layers=2", *settings]).phases[0]
    return int((lower(given, mesh_of(given)).program.kind == Kind.LAUNCH).sum())


def test_a_stack_says_whether_ops_are_captured_and_the_layout_overrides_it():
    assert launches() > 0  # FasterTransformer launches its kernels one by one
    assert launches("layout.graph_capture=true") == 0
    assert launches("stack=gpt_fast") == 0
    assert launches("stack=gpt_fast", "layout.graph_capture=false") > 0


def test_small_models_wait_for_the_host():
    """A step takes at least as long as the host needs to launch all of it."""
    small = ("model.d_model=64", "model.d_ff=256", "model.heads=4", "model.kv_heads=4", "model.d_head=16")
    each, layers = 50e-6, 2
    given = (
        "stack.graph_capture=false",
        f"stack.launch={each} s",
        "stack.op_overhead=1 us",
        "stack.matmul_overhead=null",
    )
    step = load.scenario(BASE, [f"engine.layers={layers}", *small, *given, "layout.mesh={tensor: 1}"]).phases[1]
    ops = int((lower(step, mesh_of(step)).program.kind == Kind.LAUNCH).sum())
    assert step_s(step) > ops * each
    assert step_s(step) < ops * each + 5e-3


@pytest.mark.parametrize(
    ("stack", "schedule"),
    [("fastertransformer", "blocking"), ("energonai", "non_blocking"), ("gpt_fast", "sequential")],
)
def test_stages_run_as_the_engine_runs_them(stack: str, schedule: str):
    given = load.scenario(BASE, [f"stack={stack}", "layout.mesh={tensor: 2, pipeline: 2}"])
    assert given.pipeline is not None
    assert (given.pipeline.schedule, given.pipeline.requests) == (schedule, 1)


def test_stages_that_a_stack_runs_blocking_cannot_share_out_what_differs():
    shape = ("layout.mesh={tensor: 2, pipeline: 2}", "layout.residual=desync4")
    with pytest.raises(InputError, match=r"layout.residual: (requires a layout|is not supported) .*, got 'desync4'"):
        load.scenario(BASE, [*shape])
    assert load.scenario(BASE, ["stack=energonai", *shape]).pipeline


def test_stages_of_fastertransformer_work_on_micro_batches():
    """A prefill of 32 x 60 tokens on two stages is cut in two: shorter than one stage after the other."""
    shape = ("workload={phase: prefill, batch: 32, prompt: 60, weights: fp16}", "layout.mesh={tensor: 1, pipeline: 2}")
    one_by_one = "layout.pipeline={schedule: sequential, requests: 1}"
    assert latency_s(scenario(*shape)) < 0.9 * latency_s(scenario(*shape, one_by_one))


def all_reduce_s(algorithm: str, size: float) -> float:
    topology = machines.build(*load.machine("dgx_h100", ["stack=vllm"]))
    return bench.run_collective(topology, CollectiveSpec("all_reduce", ("g",), size, algorithm)).time_s


def test_a_kernel_on_multicast_memory_is_faster_than_that_of_nccl_which_waits_for_its_chunks():
    for size in (17e6, 134e6, 1074e6):
        assert 9 / 8 * size / 370.8e9 < all_reduce_s("multimem", size) < all_reduce_s("nvls", size)


@cache
def on_gpus_with_a_reference() -> tuple[str, ...]:
    found = []
    for name in load.shipped("scenario"):
        given: Any = load.scenario(name)
        if given.reference and not isinstance(given.topology, TorusSpec):
            found.append(name)
    return tuple(found)


@pytest.mark.slow
def test_every_shipped_scenario_on_gpus_is_within_the_tolerance_of_its_reference():
    assert len(on_gpus_with_a_reference()) >= 6
    for name in on_gpus_with_a_reference():
        given = load.scenario(name)
        assert given.reference is not None
        error = latency_s(given) / given.reference.latency - 1
        assert abs(error) <= given.reference.tolerance, f"{name}: {error:+.1%}"
