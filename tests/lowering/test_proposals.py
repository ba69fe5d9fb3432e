"""Multi-token prediction in a decode step: work, weights and cache of the module, its place, its closed form."""

from itertools import pairwise

import numpy as np
import pytest

from sim.api import predict
from sim.errors import InputError
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind, Program
from sim.simulate.run import run
from sim.specs import Scenario, load

DRAFT = "{draft: 1, acceptance: 0.85}"


def decode(*settings: str, draft: str = DRAFT, mtp: int = 1) -> Scenario:
    fields = ["model.layers=4", "workload.batch=256", f"workload.speculation={draft}", f"model.mtp={mtp}"]
    return load.scenario("deepseek_v3_speculation", ["sweep=null", "figure=null", *fields, *settings])


def program(given: Scenario) -> Program:
    return lower(given, mesh_of(given)).program


def flops(tasks: Program, op: str) -> float:
    return float(tasks.flops[(tasks.chip == 0) & (tasks.op == tasks.op_names.index(op))].sum())


def test_parameters_are_those_on_disk():
    """deepseek-ai/DeepSeek-V3, README_WEIGHTS: 671B in the main model, 11.5B of the module's own, and the copies of
    embedding and head (0.9B each) that the files hold for it: 684.5B in all, which Hugging Face prints as 685B."""
    model = decode("model.layers=61").model
    assert model.counted_parameters - model.module_parameters == pytest.approx(671e9, rel=0.5 / 671)
    assert model.module_parameters == pytest.approx(11.6e9, rel=0.05 / 11.6)
    on_disk = model.counted_parameters + 2 * model.vocabulary * model.d_model
    assert on_disk == pytest.approx(684.5e9, rel=0.05 / 684.5)
    assert model.active_parameters == decode("model.layers=61", mtp=0).model.active_parameters
    # Attention, 8 + 1 experts of 3 x 7168 x 2048, the router and the projection.
    attention = 7168 * (1536 + 576) + 1536 * 128 * 192 + 512 * 128 * 256 + 128 * 128 * 7168
    assert model.active_module_parameters == attention + 9 * 3 * 7168 * 2048 + 7168 * 256 + 2 * 7168**2


def test_a_model_without_proposals_runs_no_module():
    plain = decode("workload.speculation=null", mtp=0)
    assert program(decode("workload.speculation=null")).equals(program(plain))
    assert not any("mtp" in op for op in program(decode(mtp=0)).op_names)


def test_the_module_has_a_layer_of_its_own_in_memory():
    """All weights on each of 16 chips but 240 of the routed experts; 576 values of a token in its cache."""
    ours, plain = (lower(given, mesh_of(given)) for given in (decode(), decode(mtp=0)))
    model = decode().model
    rest = model.module_parameters - 256 * 3 * 7168 * 2048
    norms = 3 * 7168 + 2 * 7168 + 1536 + 512  # the module's, and its layer's
    held = (rest + 256 / 16 * 3 * 7168 * 2048 + norms) * (1 + 4 / 128)
    assert ours.weights_bytes - plain.weights_bytes == pytest.approx(held, rel=1e-9)
    assert ours.kv_cache_bytes / plain.kv_cache_bytes == 5 / 4


@pytest.mark.parametrize("proposals", [1, 3])
def test_passes_have_the_verified_tokens_then_one(proposals: int):
    """n + 1 rows of each sequence in the first pass, one in each later; logits of one position."""
    tasks = program(decode(draft=f"{{draft: {proposals}, acceptance: 0.5}}"))
    each = 256 / 16
    project = 2 * 2 * 7168**2 * each
    assert flops(tasks, "project mtp") == project * (proposals + 1)
    logits = flops(tasks, "logits")
    assert flops(tasks, "logits mtp") == logits / (proposals + 1)
    if proposals > 1:
        assert flops(tasks, "project mtp again") == project * (proposals - 1)
        assert flops(tasks, "logits mtp again") == flops(tasks, "logits mtp") * (proposals - 1)


def test_a_proposal_waits_for_the_token_before_it():
    found = run(decode(draft="{draft: 2, acceptance: 0.5}"))
    tasks, times = found.passes[0].trace.program, found.passes[0].trace.times

    def span(op: str) -> tuple[int, int]:
        mine = (tasks.chip == 0) & (tasks.op == tasks.op_names.index(op))
        mine &= np.isin(tasks.kind, (Kind.COMPUTE, Kind.BEGIN, Kind.END))
        return int(times["start"][mine].min()), int(times["end"][mine].max())

    order = ["token", "embedding mtp", "logits mtp", "token mtp", "embedding mtp again", "logits mtp again"]
    for before, after in pairwise(order):
        assert span(before)[1] <= span(after)[0], (before, after)
    proposals = found.report.proposals
    assert proposals is not None
    assert proposals.tokens == 2
    plain = run(decode(draft="{draft: 2, acceptance: 0.5}", mtp=0)).report.simulated.step_s
    added_s = found.report.simulated.step_s - plain
    assert proposals.time_s == pytest.approx(added_s, rel=0.01)  # the last layer's shared experts are added before it
    assert proposals.share == pytest.approx(proposals.time_s / found.report.simulated.step_s, rel=1e-12)


@pytest.mark.parametrize(
    "model", ["", "model={name: small, layers: 3, d_model: 1024, d_ff: 2048, heads: 8, kv_heads: 8, "]
)
@pytest.mark.parametrize("draft", [1, 3])
def test_the_closed_form_knows_the_module(draft: int, model: str):
    """Where nothing is left out, to the rounding of every task."""
    dense = (
        f"{model}d_head: 128, vocabulary: 32000, ffn: swiglu, block: serial, mtp: 1}}" if model else "model.layers=4"
    )
    given = load.scenario(
        "llama3_70b_tp8_standard",
        [
            *(["model=deepseek_v3", "model.mtp=1", "stack=ideal"] if not model else ["stack=ideal"]),
            dense,
            "workload={phase: decode, batch: 64, context: 512, generate: 1, weights: bf16}",
            f"workload.speculation={{draft: {draft}, acceptance: 0.7}}",
            "layout={ffn: tensor_parallel, logits: last}",
            "collectives={all_reduce: one_shot, all_gather: one_shot, reduce_scatter: one_shot}",
        ],
    )
    form, report = predict(given), run(given).report
    assert form is not None
    assert form.inexact == ()
    assert abs(report.simulated.latency_s - form.detailed_latency_s) <= report.tasks * 1e-12


@pytest.mark.parametrize(
    "settings",
    [
        ["topology=tpu_v5e_4x4", "stack=jax_tpu", "layout={ffn: weight_stationary_2d, attention: batch}"],
        ["layout={ffn: fsdp}"],
    ],
)
def test_a_stream_that_is_split_is_refused_in_one_line(settings: list[str]):
    formats = "workload={phase: decode, batch: 256, context: 64, generate: 1, weights: int8}"
    with pytest.raises(InputError, match=r"model.mtp: multi-token prediction requires whole positions") as error:
        run(
            load.scenario(
                "llama3_70b_v5e_ladder",
                [
                    "model.mtp=1",
                    formats,
                    "workload.speculation={draft: 1, acceptance: 1}",
                    "layout.residual=standard",
                    *settings,
                ],
            )
        )
    assert "\n" not in str(error.value)
