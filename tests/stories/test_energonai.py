"""Du et al. 2022, EnergonAI: non-blocking pipelines, padding left out of the computation, memory of a peer GPU."""

from __future__ import annotations

import functools

import pytest

from sim.simulate.latency import latency_s
from sim.simulate.run import run
from sim.specs import load
from sim.studies.validate.cases import Case, read
from sim.studies.validate.validate import simulate_case

# --- the non-blocking pipeline ---------------------------------------------------------------------------------------


def tokens_per_s(schedule: str, stages: int) -> float:
    settings = [f"layout.pipeline.schedule={schedule}", f"layout.mesh.pipeline={stages}", "sweep=null", "figure=null"]
    return run(load.scenario("energonai_pipeline", settings)).report.simulated.tokens_per_s


def test_a_non_blocking_pipeline_scales_better_than_a_blocking_one():
    """16 requests on four stages: EnergonAI 3.3 times as fast as on one, FasterTransformer 2.0 times."""
    one = tokens_per_s("non_blocking", 1)
    non_blocking, blocking = (tokens_per_s(schedule, 4) / one for schedule in ("non_blocking", "blocking"))
    assert non_blocking > 3 > 2.1 > blocking


def test_a_sequential_pipeline_gains_nothing_from_more_stages():
    """One request is in flight at a time, and the sends between stages are added."""
    one, four = (tokens_per_s("sequential", stages) for stages in (1, 4))
    assert 0.99 * one < four < one


def test_a_sequential_pipeline_of_eight_is_four_to_six_times_slower_than_eight_way_tensor_parallelism():
    """Published: 230 ms against 44 ms per token of BLOOM-176B."""
    assert 4 <= latency_s(load.scenario("bloom_176b_sequential")) / latency_s(load.scenario("bloom_176b_tp8")) <= 6


# --- padding removal (DRCE) ------------------------------------------------------------------------------------------


@functools.cache
def cases() -> dict[str, Case]:
    return {case.case_id: case for case in read("energonai")[1]}


@functools.cache
def predicted(case_id: str, *settings: str) -> float:
    return simulate_case(cases()[case_id], *settings)


def time_over_fastertransformer(batch: int) -> float:
    """Tensor parallel 2, real lengths half of the padded."""
    return predicted(f"energonai_fig_tp2_b{batch}_energonai") / predicted(f"energonai_fig_tp2_b{batch}_ft")


def test_energonai_saves_a_third_at_batch_16_and_loses_at_batch_1():
    """Published: 0.66, 0.69 and 1.16 of FasterTransformer's time. Simulated: 0.62, 0.69, 1.06."""
    assert 0.60 < time_over_fastertransformer(16) < time_over_fastertransformer(4) < 0.72
    assert 1.04 < time_over_fastertransformer(1) < 1.16


def test_padding_removal_saves_less_at_batch_1():
    """64 rows in place of 128: weights are read all the same. At batch 16 it saves nearly half.

    A seventh is still saved at batch 1, as FLOPs that do not overlap with reading weights count by their number and not
    by whole tiles.
    """

    def saved(batch: int) -> float:
        case = f"energonai_fig_tp2_b{batch}_energonai"
        return 1 - predicted(case) / predicted(case, "padding.eliminate=false")

    assert saved(16) > 0.4
    assert saved(1) < saved(16) / 3


# --- peer memory pooling (PMEP) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["peer", "host"])
def test_layers_in_peer_memory_cost_nothing_and_layers_in_host_memory_cost_what_the_formula_says(to: str):
    """24 layers, every fourth elsewhere, 1024 tokens: hidden over NVLink, not over PCI Express."""
    pool = run(load.scenario(f"pmep_gpt3_{to}")).report.pool
    assert pool is not None
    if to == "peer":
        assert pool.slower < 0.001
    else:
        assert pool.slower > 1
        assert pool.stall_s == pytest.approx(pool.closed_form_stall_s, rel=0.02)
    assert pool.layers_that_fit_without < 24 <= pool.layers_that_fit
