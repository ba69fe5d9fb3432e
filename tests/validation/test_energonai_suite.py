"""Published rows of EnergonAI, FasterTransformer and gpt-fast: tolerance, effects, and how rows are read."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.validations import validation

from sim.errors import InputError
from sim.report.present.validation import Outcome
from sim.specs import load
from sim.specs.suite import RequestSuite
from sim.studies.validate.cases import Case, read
from sim.studies.validate.padded_lengths import lengths_of_batch, read_lengths
from sim.studies.validate.runs import ScenarioRun
from sim.studies.validate.validate import simulate_case


@cache
def cases() -> dict[str, Case]:
    return {case.case_id: case for case in read("energonai")[1] if isinstance(case.run, ScenarioRun)}


@cache
def outcomes() -> dict[str, Outcome]:
    return {outcome.case_id: outcome for outcome in validation("energonai").outcomes}


@cache
def predicted(case_id: str, *settings: str) -> float:
    return simulate_case(cases()[case_id], *settings)


@pytest.mark.slow
def test_the_rows_come_within_their_tolerance():
    assert validation("energonai").passes
    assert len(validation("energonai").outcomes) == 202


def _time_error(case: Case) -> float:
    """Simulated time over the published one, less 1."""
    ratio = outcomes()[case.case_id].simulated / case.published
    return (ratio if case.metric == "latency_s" else 1 / ratio) - 1


@pytest.mark.slow
def test_no_engine_is_fast_or_slow_throughout():
    """With one set of constants for each stack, the mean error of its rows is below 4 %."""
    errors: dict[str, list[float]] = {}
    for case in cases().values():
        if case.metric != "memory_bandwidth_per_gpu":  # tokens/s times a constant
            errors.setdefault(case.run.scenario().stack.name, []).append(_time_error(case))
    assert set(errors) == {"fastertransformer", "energonai", "gpt_fast"}
    for stack, own in errors.items():
        assert abs(np.mean(own)) < 0.04, stack


def test_rows_of_a_stack_differ_in_no_constant():
    """But for the kind of chip, and what two engines of one stack call: the algorithm of the all-reduce."""
    found: dict[tuple[str, str], set[str]] = {}
    for case in cases().values():
        scenario = case.run.scenario()
        key = scenario.stack.name, scenario.topology.chip.name
        found.setdefault(key, set()).add(scenario.stack.model_dump_json())
    assert all(len(constants) == 1 for constants in found.values())


def test_with_full_lengths_the_rows_of_bert_would_beat_the_peak():
    """12 d_model^2 weights in each of 32 layers, two FLOPs each and token: 1,024 tokens in 26.36 ms are 500 TFLOP/s."""
    case = cases()["ft_bert6b_tp1_b32_i32"]
    scenario = case.run.scenario()
    per_token = 2 * 12 * 4096**2 * 32
    assert scenario.packed_rows == 357
    peak = scenario.topology.chip.peak["fp16"].value
    assert 32 * 32 * per_token / case.published > 1.6 * peak
    assert 357 * per_token / case.published < 0.56 * peak


@pytest.mark.slow
def test_times_of_bert_are_linear_in_the_tokens_drawn():
    """On one GPU, from 290 tokens on: so long per token, per score and per pass, 2.6 % off (root mean square).

    With as many tokens in the mean, but half of each padded length, 13 %.
    """

    def off(real: bool) -> float:
        rows, ones = [], []
        for case in cases().values():
            scenario = case.run.scenario()
            batch, padded = scenario.workload.batch, scenario.workload.prompt
            if scenario.model.name != "bert_6b" or scenario.layout.mesh.tensor != 1 or batch * padded < 384:
                continue
            tokens = scenario.packed_rows if real else batch * padded / 2
            rows.append(np.array([tokens, batch * padded**2, 1]) / case.published)
            ones.append(1.0)
        per, *_ = np.linalg.lstsq(np.array(rows), np.array(ones), rcond=None)
        return float(np.sqrt(np.mean((np.array(rows) @ per - 1) ** 2)))

    assert off(real=True) < 0.03
    assert off(real=False) > 0.12


def test_the_controller_costs_at_batch_1_what_it_costs_at_batch_16():
    """Two calls, the way back, up to a poll of 1 ms: a fifth of the latency at batch 1, a thirtieth at batch 16."""
    shares, call_s = [], 1.75e-3
    for batch in (1, 16):
        case = f"energonai_fig_tp2_b{batch}_energonai"
        free = predicted(case, "layout.pipeline.controller=null")
        shares.append((predicted(case) - free) / predicted(case))
        assert 3 * call_s < predicted(case) - free < 3 * call_s + 1e-3
    assert shares[0] > 5 * shares[1]


def test_two_all_reduces_of_gpt_fast_differ_by_more_on_more_gpus():
    """Published: 11, 19 and 32 us per all-reduce, two in each of 80 layers, of one size. Simulated: 23, 28, 37."""
    gaps = [
        (1 / predicted(f"gptfast_llama2_70b_tp{tp}_nccl") - 1 / predicted(f"gptfast_llama2_70b_tp{tp}_custom")) / 160
        for tp in (2, 4, 8)
    ]
    assert 0 < gaps[0] < gaps[1] < gaps[2]
    assert gaps[2] == pytest.approx(32e-6, rel=0.25)  # what the suite allows its worst row


def test_steps_of_a_generation_are_linear_so_the_mean_stands_for_all():
    case = cases()["ft_gpt20b_tp2_b1_i20_o8"]
    each, mean = (simulate_case(case, f"engine.steps={steps}") for steps in ("each", "mean"))
    assert mean == pytest.approx(each, rel=1e-3)


def test_lengths_of_bert_are_those_of_its_table():
    """One row of the table, and the row of the suite that takes it; a batch that the table has not is named."""
    scenario = cases()["ft_bert6b_tp1_b4_i384"].run.scenario()
    assert scenario.padding.lengths(4, 384) == (321, 307, 5, 219)
    table = load.data_root() / "scenarios" / "published" / "bert_6b_lengths.csv"
    assert lengths_of_batch(table, 4, 384) == (321, 307, 5, 219)
    with pytest.raises(InputError, match="no such batch and padded length, got '3 x 384'"):
        lengths_of_batch(table, 3, 384)


def test_every_length_of_bert_lies_within_its_padded_length():
    for (batch, padded), lengths in read_lengths(
        load.data_root() / "scenarios" / "published" / "bert_6b_lengths.csv"
    ).items():
        assert len(lengths) == batch
        assert all(1 <= length <= padded for length in lengths)


HEAD = "case_id,source,system,model,layers,tp,pp,batch,input_len,real_len,output_len,engine,dtype,metric,value\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,,abacus,gpt-20b,,1,1,1,20,20,8,fastertransformer,fp16,latency_s,1", "'systems', got 'abacus'"),
        ("a,,8xA100,gpt-3,,1,1,1,20,20,8,fastertransformer,fp16,latency_s,1", "'models', got 'gpt-3'"),
        ("a,,8xA100,gpt-20b,,1,1,1,20,20,8,vllm,fp16,latency_s,1", "'engines', got 'vllm'"),
        ("a,,8xA100,gpt-20b,,1,1,1,20,20,8,fastertransformer,fp16,joules,1", "unknown metric"),
    ],
)
def test_rows_that_no_scenario_fits_are_named(row: str, message: str, tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text(HEAD + row + "\n")
    with pytest.raises(InputError, match=message):
        read("energonai", file)


def test_rows_of_other_layers_stages_and_lengths_are_read(tmp_path: Path):
    file = tmp_path / "rows.csv"
    file.write_text(
        HEAD + "a,,8xA100,gpt-20b,12,2,2,4,64,32,,energonai,fp16,latency_s,1\nenergonai_claim_x,,,,,,,,,,,,,,\n"
    )
    suite, found = read("energonai", file)
    assert isinstance(suite, RequestSuite)
    (case,) = found
    assert isinstance(case.run, ScenarioRun)
    scenario = case.run.scenario()
    assert (scenario.layers, scenario.layout.mesh.tensor, scenario.layout.mesh.pipeline) == (12, 2, 2)
    assert scenario.packed_rows == 4 * 32
