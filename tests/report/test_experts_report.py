"""Figures of experts: rows of chips, the fullest expert, bytes and links of the exchange."""

from pathlib import Path

import pytest
from support.served_mixture import BATCH, CHIPS, COUNT, D_MODEL, K, mixture

from sim.report.present import text
from sim.simulate.run import run
from sim.specs import load


def test_a_uniform_load_is_the_same_on_all_chips():
    """A chip has B k / 8 rows, sends as many of 2 d_model bytes, 7/8 of them to others; experts have B k / 32 each."""
    experts = run(mixture()).report.experts
    assert experts is not None
    assert (experts.rows_mean, experts.rows_most, experts.balance) == (BATCH * K / CHIPS,) * 2 + (1.0,)
    assert (experts.experts_held, experts.fullest_expert_rows) == (4, BATCH * K / COUNT)
    for each in experts.exchanges:
        assert each.mean_bytes == each.most_bytes == BATCH * K / CHIPS * 2 * D_MODEL * 7 / 8
    assert experts.compute_least_s == experts.compute_most_s


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize("overlap", ["micro_batches", "token_halves"])
def test_a_layer_has_the_rows_of_all_parts_of_a_batch(overlap: str, phase: str):
    tokens = "context: 64, generate: 1" if phase == "decode" else "prompt: 64"
    work = f"workload={{phase: {phase}, batch: {BATCH}, {tokens}, weights: bf16}}"
    whole, parts = (run(mixture(work, f"layout.overlap={each}")).report.experts for each in ("none", overlap))
    assert whole is not None
    assert parts is not None
    assert (parts.rows_mean, parts.fullest_expert_rows) == (whole.rows_mean, whole.fullest_expert_rows)
    assert [each.mean_bytes for each in parts.exchanges] == [each.mean_bytes for each in whole.exchanges]
    assert parts.experts_hit == pytest.approx(whole.experts_hit, rel=1e-12)
    assert parts.expected_fullest_rows == whole.expected_fullest_rows


def test_a_drawn_load_has_the_rows_of_all_parts_of_a_batch():
    load_ = "workload.routing={load: hot_rank, spread: 0.9, seed: 3}"
    part = run(mixture("layout.overlap=micro_batches", load_, "workload.batch=16")).passes[0]
    rows, found = part.lowered.expert_rows, part.report.experts
    assert rows is not None
    assert found is not None
    assert rows.held.sum() == 16 * K
    assert rows.hit.tolist() == (rows.held > 0).sum(axis=1).tolist()
    assert found.fullest_expert_rows == rows.held.max()


@pytest.mark.parametrize("overlap", ["micro_batches", "token_halves"])
@pytest.mark.parametrize(
    "load_", ["{load: zipf}", "{load: hot_rank, seed: 3}", "{load: ragged_sources}", "{trace: t.csv}"]
)
def test_parts_of_a_batch_have_the_tokens_of_the_whole_and_each_its_own(
    overlap: str, load_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Together they have the rows of every expert, on its chip, that the whole batch has."""
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("".join(f"{i % COUNT},{(i + 1 + i // COUNT) % COUNT}\n" for i in range(0, 7 * COUNT, 4)))
    work = f"workload={{phase: prefill, batch: {BATCH}, prompt: 16, weights: bf16, routing: {load_}}}"
    whole, parts = (run(mixture(work, f"layout.overlap={each}")).passes[0].lowered for each in ("none", overlap))
    assert whole.expert_rows is not None
    assert parts.expert_rows is not None
    assert parts.expert_rows.held.tolist() == whole.expert_rows.held.tolist()
    assert parts.expert_rows.sent.tolist() == whole.expert_rows.sent.tolist()


def test_a_hot_rank_is_the_busiest_and_its_links_are():
    """It receives what dispatch brings, and sends what combine takes back; rows and bytes add up as drawn."""
    result = run(mixture("workload.routing={load: hot_rank, spread: 0.7}"))
    experts, rows = result.report.experts, result.passes[0].lowered.expert_rows
    assert experts is not None
    assert rows is not None
    assert rows.of_chips.sum() == BATCH * K
    assert experts.busiest_chip == 0
    assert experts.rows_most > 3 * experts.rows_mean
    dispatch, combine = experts.exchanges
    assert (dispatch.most_chip, dispatch.most_direction) == (0, "receives")
    assert (combine.most_chip, combine.most_direction) == (0, "sends")
    assert dispatch.busiest_link == "gpu0:ingress"
    assert combine.busiest_link == "gpu0:egress"
    assert dispatch.most_bytes == rows.bytes_between("dispatch")[:, 0].sum() == rows.bytes_between("combine")[0].sum()
    assert experts.compute_most_s > experts.compute_mean_s > experts.compute_least_s
    assert result.report.waiting is not None


@pytest.mark.parametrize(("load_", "says"), [("uniform", "if tokens choose at random"), ("zipf", "; closed form: ")])
def test_the_report_says_what_was_expected(load_: str, says: str):
    report = run(mixture(f"workload.routing={{load: {load_}}}")).report
    lines = [part.text for block in text.step_blocks(report) for part in block if isinstance(part, text.Line)]
    assert any(says in line for line in lines)
    assert report.to_dict()["experts"]["expected_fullest_rows"] > BATCH * K / COUNT


def test_models_of_experts_and_latent_attention_report_parameters_and_cache():
    """DeepSeek-V3 has 671 billion parameters, of which a token uses 37 (section 4.2); 61 layers cache 576 values."""
    settings = ("topology=gb200_nvl72", "layout={ffn: expert_parallel, mesh: {tensor: 8}}", "stack=vllm")
    work = "workload={phase: decode, batch: 8, context: 64, generate: 1, weights: fp8, kv_cache: bf16}"
    given = load.scenario("llama3_70b_tp8_standard", ["model=deepseek_v3", work, "engine.layers=4", *settings])
    model = run(given).report.model
    assert model is not None
    assert round(model.parameters / 1e9) == 671
    assert round(model.active_parameters / 1e9) == 38
    assert model.kv_cache_bytes_per_token == 61 * 576 * 2
    assert run(load.scenario("llama3_70b_tp8_standard")).report.model is None
