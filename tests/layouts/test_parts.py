"""Parts of a batch: what cannot be cut in two is refused."""

from contextlib import suppress

import pytest

from sim.errors import InputError
from sim.simulate.latency import latency_s
from sim.specs import load

ONE_TOKEN = "workload={phase: decode, batch: 1, context: 64, generate: 1, weights: bf16}"
ON_STREAMS = "layout={ffn: tensor_parallel, mesh: {tensor: 8}, communication: own_stream, overlap: %s}"


@pytest.mark.parametrize(
    ("overlap", "settings", "rule"),
    [
        ("micro_batches", [], "'micro_batches' requires at least 2 sequences, got 1"),
        ("micro_batches", [ONE_TOKEN], "'micro_batches' requires at least 2 sequences, got 1"),
        ("token_halves", [ONE_TOKEN], "'token_halves' requires at least 2 tokens in a pass, got 1"),
    ],
)
def test_what_cannot_be_cut_in_two_is_refused(overlap: str, settings: list[str], rule: str) -> None:
    scenario = load.scenario("vllm_llama3_70b_tp8", [ON_STREAMS % overlap, "engine.layers=1", *settings])
    with pytest.raises(InputError, match=rule):
        latency_s(scenario)


@pytest.mark.parametrize("overlap", ["token_halves", "micro_batches"])
@pytest.mark.parametrize("ffn", ["expert_parallel", "tensor_parallel", "tensor_expert_parallel", "fsdp"])
def test_a_batch_too_small_for_two_parts_is_refused_in_one_line(ffn: str, overlap: str):
    """Eight chips: parts of fewer than eight tokens where the chips share the batch, of none where there is one."""
    settings = (f"layout={{ffn: {ffn}}}", f"layout.overlap={overlap}", "engine.layers=2", "sweep=null", "figure=null")
    if ffn == "fsdp":  # not of mixtures
        settings += ("model=llama3_70b",)
    ran = set()
    for batch in (1, 2, 4, 8, 12, 16):
        with suppress(InputError):
            latency_s(load.scenario("mixtral_8x7b_tp_or_ep", [*settings, f"workload.batch={batch}"]))
            ran.add(batch)
    shared = ffn in ("expert_parallel", "fsdp")
    assert ran == ({16} if shared else {2, 4, 8, 12, 16})
