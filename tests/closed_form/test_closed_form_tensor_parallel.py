"""The closed forms of tensor parallelism: exact where nothing but they is at work, and what they say of Ladder."""

import ast
from pathlib import Path
from types import ModuleType

import pytest

from sim.closed_form import (
    attention_operations,
    expert_operations,
    latent_operations,
    operation_counts,
    operations,
    pass_builder,
    pass_time,
)
from sim.simulate.communication import Communication
from sim.simulate.latency import step_s
from sim.simulate.predict import predict
from sim.simulate.run import run
from sim.specs import load

IDEAL = (
    "stack.stream_wait=0 s",
    "stack.matmul_balance=null",
    "collectives={all_reduce: one_shot, all_gather: one_shot, reduce_scatter: one_shot}",
)
"""Hand-written kernels, joins are free, collectives slow nothing: what is left are the formulas' own assumptions."""
SCHEMES = ("standard", "parallel", "ladder", "desync2", "desync4", "no_communication")


def scenario(*settings: str):
    return load.scenario("llama3_8b_tp8_ladder", ["engine.layers=5", *IDEAL, *settings])


def exact(*settings: str) -> None:
    """Every task is rounded to picoseconds: half of one, a few hundred of them after each other."""
    chosen = scenario(*settings)
    form = pass_time.predict_per_operation(chosen, Communication(chosen))
    assert form.inexact == ()
    assert form.step_s == pytest.approx(step_s(chosen), abs=1e-9)


@pytest.mark.parametrize("residual", SCHEMES)
@pytest.mark.parametrize("batch", [1, 3])
def test_every_scheme_is_exact(residual: str, batch: int):
    exact(f"layout.residual={residual}", f"workload.batch={batch}")


def test_a_hybrid_is_exact_also_where_standard_layers_end():
    exact("layout.residual=hybrid", "layout.hybrid={ladder_layers: 29}")  # of the 5 simulated the last two are Ladder


@pytest.mark.parametrize(
    "setting",
    [
        "layout.mesh.tensor=1",
        "layout.mesh.tensor=2",
        "layout.mesh.tensor=16; topology.chips=16",  # two chips hold copies of a key-value head
        "layout.mesh.tensor=4; model.kv_heads=32",
        "layout.head=sharded",
        "layout.kv_heads=shared",
        "workload.sampling=greedy",
        "workload.kv_cache=int8",
        "workload.weights=int8",
        "stack.elementwise=fused",
        "stack.attention=fused",
        "layout.communication=compute_stream",
        "model.ffn=mlp",
        "topology.link.bandwidth=1 GB/s",  # sums take longer than halves: Ladder exposes what is left
        "workload.phase=prefill; workload.prompt=96; workload.context=null; workload.generate=null",
    ],
)
@pytest.mark.parametrize("residual", ["standard", "ladder"])
def test_every_choice_is_exact(setting: str, residual: str):
    exact(*setting.split("; "), f"layout.residual={residual}")


@pytest.mark.parametrize("residual", ["standard", "parallel"])
def test_sequence_parallelism_is_exact(residual: str):
    exact("layout.sequence_parallel=true", f"layout.residual={residual}", "workload.batch=8", "layout.logits=last")


def test_ladder_exposes_nothing_but_the_last_sum():
    """Each half of 70 B takes longer than a one-shot all-reduce; the last one's has nothing to hide under."""
    chosen = scenario("model=llama3_70b", "engine.layers=all")
    to = Communication(chosen)
    form = pass_time.predict_per_sublayer(chosen, to)
    exposed = sum(time for name, time in form.terms.items() if name != "compute")
    assert exposed == pytest.approx(to.collective("all_reduce", ("t",), 8192 * 2)[0], rel=1e-12)


def test_standard_exposes_two_sums_a_layer():
    chosen = scenario("layout.residual=standard")
    to = Communication(chosen)
    form = pass_time.predict_per_sublayer(chosen, to)
    assert form.step_s - form.terms["compute"] == pytest.approx(
        2 * 5 * to.collective("all_reduce", ("t",), 4096 * 2)[0], rel=1e-12
    )


def test_the_usual_sublayer_by_hand():
    """One layer, batch 1, 8 chips of 100 % efficiency: weights and cache of 1536 positions at 3350 GB/s.

    An eighth of attention (4096 x 4096 x (1 + 1 + 2/4)), the cache of one key-value head, an eighth of the FFN
    (3 x 4096 x 14336), the whole head (4096 x 128256): 2 bytes each.
    """
    full = ("stack.hbm_efficiency=1.0", "stack.matmul_hbm_efficiency=1.0")
    chosen = scenario("engine.layers=1", "layout.residual=no_communication", *full)
    weights = (4096 * 4096 * 2.5 + 3 * 4096 * 14336) / 8 + 4096 * 128256
    cache = 2 * 1536 * 128
    form = pass_time.predict_per_sublayer(chosen, Communication(chosen))
    assert form.step_s == pytest.approx(2 * (weights + cache) / 3350e9, rel=1e-12)


def test_both_stand_beside_the_simulation():
    chosen = load.scenario("llama3_8b_tp8_ladder", ["engine.layers=4"])
    report = run(chosen).report
    form = predict(chosen)
    assert form is not None
    assert report.closed_form == form
    assert form.latency_s < form.detailed_latency_s < report.simulated.latency_s
    assert sum(form.detailed_terms.values()) == pytest.approx(form.detailed_latency_s)
    assert "uses NCCL's tuner for all_reduce" in form.inexact
    assert "leaves out stack.stream_wait" in form.inexact


@pytest.mark.parametrize(
    "module",
    [
        *(operations, pass_builder, attention_operations, latent_operations, expert_operations),
        *(operation_counts, pass_time),
    ],
)
def test_it_shares_nothing_with_the_simulation(module: ModuleType):
    source = Path(module.__file__ or "").read_text(encoding="utf-8")
    modules = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module}
    packages = {".".join(name.split(".")[:2]) for name in modules if name.startswith("sim.")}
    assert packages <= {"sim.errors", "sim.specs", "sim.closed_form"}
