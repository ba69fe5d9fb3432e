"""Steps as engines serve them: a prefill on a cached prefix, a chunk of prompts beside decoding, proposed tokens."""

import numpy as np
import pytest

from sim.errors import InputError
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.simulate.run import run
from sim.specs import Scenario, load

TP = 8


def scenario(workload: str, *settings: str) -> Scenario:
    return load.scenario(
        "llama3_70b_tp8_standard", [f"workload={workload}", "model.layers=2", "layout.logits=last", *settings]
    )


def flops(given: Scenario) -> dict[str, float]:
    """FLOPs of an op on chip 0."""
    program = lower(given, mesh_of(given)).program
    mine = np.flatnonzero((program.chip == 0) & (program.kind == Kind.COMPUTE))
    found: dict[str, float] = {}
    for task in mine:
        name = program.op_names[program.op[task]]
        found[name] = found.get(name, 0.0) + float(program.flops[task])
    return found


def decode(batch: int, more: str = "") -> str:
    return f"{{phase: decode, batch: {batch}, context: 99, generate: 1, weights: bf16{more}}}"


@pytest.mark.parametrize(("context", "prompt"), [(0, 8), (100, 8), (1000, 1)])
def test_a_prompt_after_a_prefix_attends_to_both(context: int, prompt: int):
    """Query i of L sees C + i positions: 2 x 2 d_head for each, on 64 / 8 heads; L C + L (L + 1) / 2 in all."""
    cached = f", context: {context}" if context else ""
    given = scenario(f"{{phase: prefill, batch: 3, prompt: {prompt}{cached}, weights: bf16}}", "stack.attention=fused")
    seen = prompt * context + prompt * (prompt + 1) / 2
    assert flops(given)["attention"] == 2 * 3 * (64 // TP) * 4 * 128 * seen
    assert given.workload.final_cache_length == context + prompt


def test_a_chunk_shares_matmuls_and_attends_apart():
    """A step of 16 sequences and 32 tokens of one prompt: matmuls of 48 rows, logits of the 16 alone."""
    fused = "stack.attention=fused"
    mixed = flops(scenario(decode(16, ", chunk: {tokens: 32, context: 64}"), fused))
    rows, alone = flops(scenario(decode(48), fused)), flops(scenario(decode(16), fused))
    prompt = flops(scenario("{phase: prefill, batch: 1, prompt: 32, context: 64, weights: bf16}", fused))
    for op in ("qkv", "o", "wi", "wo"):
        assert mixed[op] == rows[op]
    assert mixed["logits"] == alone["logits"]
    assert mixed["attention"] == alone["attention"]
    assert mixed["attention of chunks"] == prompt["attention"]


def test_a_chunk_keeps_its_cache():
    """16 x 100 positions of the sequences and 2 x 96 of two prompts; a head of 128 keys and values on each chip."""
    chunked = scenario(decode(16, ", chunk: {sequences: 2, tokens: 32, context: 64}"))
    lowered = lower(chunked, mesh_of(chunked))
    assert lowered.kv_cache_bytes == 2 * (16 * 100 + 2 * 96) * 2 * 128 * 2


def test_chips_with_sequences_of_their_own_share_the_chunks():
    deal = "layout={uses: {batch: [g]}}", "mesh={g: 8}"
    chunk = ", chunk: {sequences: 8, tokens: 4}"
    whole = flops(scenario(decode(16, chunk), *deal, "stack.attention=fused"))
    assert whole["qkv"] == 2 * 2 * (16 + 32) // 8 * 8192 * (64 + 2 * 8) * 128
    with pytest.raises(InputError, match="batch must be a multiple of the 8 chips"):
        flops(scenario(decode(16, ", chunk: {sequences: 4, tokens: 4}"), *deal))


def test_proposed_tokens_are_queries_of_the_step():
    """Three proposals: four tokens of each sequence in every matmul, logits of all of them."""
    speculative = flops(scenario(decode(16, ", speculation: {draft: 3, acceptance: 1}")))
    plain = flops(scenario(decode(16)))
    for op in ("qkv", "o", "wi", "wo", "logits"):
        assert speculative[op] == 4 * plain[op]


def test_accepted_tokens_make_fewer_steps():
    """Half of the proposals accepted: 1 + 1/2 + 1/4 tokens a step; 70 tokens take 40 steps."""
    proposals = "speculation: {draft: 2, acceptance: 0.5}"
    given = scenario(f"{{phase: decode, batch: 16, context: 100, generate: 70, weights: bf16, {proposals}}}")
    assert given.workload.steps == 40
    report = run(given).report.simulated
    assert report.step_s * 40 == pytest.approx(report.latency_s)
    assert report.tpot_s * 70 == pytest.approx(report.latency_s)
    assert given.workload.mean_cache_length == 100 + 3 + 39 * 1.75 / 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", chunk: {tokens: 4}, speculation: {draft: 1, acceptance: 0.5}", "chunk: is not supported with speculation"),
        (", chunk: {tokens: 4}, static_cache: 4096", "static_cache: is not supported with chunk or speculation"),
    ],
)
def test_what_does_not_go_together_is_refused(more: str, message: str):
    with pytest.raises(InputError, match=message):
        scenario(decode(16, more))


def test_chunks_are_of_decode_steps_in_one_stage():
    with pytest.raises(InputError, match="chunk: is of decode steps"):
        scenario("{phase: prefill, batch: 4, prompt: 8, weights: bf16, chunk: {tokens: 4}}")
    with pytest.raises(InputError, match="chunk: is not supported with stages"):
        scenario(decode(16, ", chunk: {tokens: 4}"), "layout.mesh={tensor: 4, pipeline: 2}")
    with pytest.raises(InputError, match="chunk: is not supported with micro_batches"):
        scenario(decode(16, ", chunk: {tokens: 4}"), "layout.overlap=micro_batches")


def test_the_longest_context_grows_with_the_chips_that_share_the_cache():
    """A latent cache is whole on every chip of 8, or an eighth of its positions: room for eight times as many."""
    small = ("model=deepseek_v3", "topology=hgx_b200", "model.layers=5", "layout.residual=null")
    whole = run(scenario(decode(16), "layout={ffn: tensor_parallel}", *small)).report.memory
    shares = "layout={uses: {heads: [g], d_ff: [g], context: [g]}}"
    shared = run(scenario(decode(16), shares, "mesh={g: 8}", *small)).report.memory
    assert whole.kv_cache_bytes == 5 * 16 * 100 * 576 * 2
    assert shared.kv_cache_bytes == whole.kv_cache_bytes / 8
    room = whole.capacity_bytes - whole.weights_bytes
    assert whole.longest_context == int(100 * room / whole.kv_cache_bytes)
    assert shared.longest_context == int(100 * room / shared.kv_cache_bytes)


def test_two_parts_of_a_batch_send_tokens_under_each_others_compute():
    """Less of the exchange is exposed than of one batch, and the halves' compute takes longer: both weigh."""
    given = ("model=deepseek_v3", "topology=hgx_h200", "model.layers=6", "layout.residual=null", "stack=deep_gemm")
    batch = "workload.batch=4096"
    whole = run(scenario(decode(16), *given, batch, "layout={ffn: expert_parallel}")).report.simulated
    deal = "layout={ffn: expert_parallel, overlap: micro_batches}"
    parts = run(scenario(decode(16), *given, batch, deal)).report.simulated
    assert parts.exposed_communication_s < whole.exposed_communication_s
    assert parts.compute_s > whole.compute_s


def test_copies_let_chips_hold_experts_that_they_do_not_divide():
    """8 experts and 4 copies are two on each of 6 chips, as 8 are on 4; without copies 6 chips do not divide them."""
    mixture = (
        "model=mixtral_8x7b",
        "topology={name: box, kind: switch, chip: h100_sxm, chips: 6, link: nvlink4_port}",
        "stack=ideal",
        "layout.residual=null",
        "mesh=null",
    )

    def layer_bytes(chips: int, layout: str) -> float:
        given = scenario(decode(24), *mixture, f"topology.chips={chips}", f"layout={{ffn: expert_parallel{layout}}}")
        return lower(given, mesh_of(given)).layer_bytes

    assert layer_bytes(6, ", experts: {replicas: 4}") == layer_bytes(4, "")
    with pytest.raises(InputError, match=r"layout.experts.replicas: must make .* such as 4"):
        layer_bytes(6, "")


def test_inputs_are_quantised_by_kernels_of_their_own_where_the_stack_has_them():
    """Each reads 2 bytes a number and writes 1 with its share of a scale: rows x (2 + 1 + 4 / 128) x width."""
    formats = ("workload.weights=fp8", "workload.operands=fp8")
    found: dict[str, dict[str, float]] = {}
    for quantize in ("fused", "kernel"):
        given = scenario(decode(16), *formats, f"stack.quantize={quantize}", "stack.elementwise=kernel")
        program = lower(given, mesh_of(given)).program
        mine = (program.chip == 0) & (program.kind == Kind.COMPUTE)
        sizes = np.bincount(program.op[mine], program.bytes[mine], minlength=len(program.op_names))
        found[quantize] = dict(zip(program.op_names, sizes.tolist(), strict=True))
    apart = {name: size for name, size in found["kernel"].items() if name.endswith(" quantize")}
    assert not [name for name in found["fused"] if name.endswith(" quantize")]
    assert apart["qkv quantize"] == 2 * 16 * 8192 * (2 + 1 + 4 / 128)
    assert apart["wo quantize"] == 2 * 16 * 28672 / 8 * (2 + 1 + 4 / 128)


def test_rows_are_put_in_the_order_of_experts_by_kernels_of_their_own_where_the_stack_has_them():
    """24 tokens on 4 chips with 2 of 8 experts each: 12 rows for the experts of a chip, and 24 (1 - C(6, 2) / C(8, 2))
    tokens that reach it, of 4096 16-bit numbers. Rows that are sent expert by expert are in order."""
    given = (
        "model=mixtral_8x7b",
        "model.layers=2",
        "topology.chips=4",
        "stack.elementwise=kernel",
        "layout.residual=null",
        "mesh=null",
    )
    found: dict[tuple[str, str], dict[str, float]] = {}
    for permute, scheme in (("fused", "per_rank"), ("kernel", "per_rank"), ("kernel", "per_expert")):
        layout = f"layout={{ffn: expert_parallel, experts: {{dispatch: {scheme}}}}}"
        program = lower(step := scenario(decode(24), *given, layout, f"stack.permute={permute}"), mesh_of(step)).program
        mine = (program.chip == 0) & (program.kind == Kind.COMPUTE)
        sizes = np.bincount(program.op[mine], program.bytes[mine], minlength=len(program.op_names))
        sizes_by_op = dict(zip(program.op_names, sizes.tolist(), strict=True))
        found[permute, scheme] = {name: size for name, size in sizes_by_op.items() if name.endswith("permute")}
    moved = 2 * (12 + 24 * (1 - 15 / 28)) * 4096 * 2
    assert found["kernel", "per_rank"] == pytest.approx({"experts wi permute": moved, "experts unpermute": moved})
    assert not found["fused", "per_rank"]
    assert not found["kernel", "per_expert"]


def test_rotary_moves_what_carries_positions_and_plain_attention_copies_whole_keys() -> None:
    """A chip has T tokens and H heads of N + R values, of which R carry the position; C latent values are cached."""
    settings = ["engine.layers=1", "reference=null", "layout.overlap=none"]
    result = run(load.scenario("deepseek_v3_prefill_ep32", settings))
    moved = {op.op: op.bytes for op in result.report.ops}
    T, H, N, R, C, bf16 = 16_384, 128, 128, 64, 512, 2
    assert moved["rotary and cache"] == 2 * T * (H * R + C + R) * bf16
    assert moved["attention keys"] == T * (H * N + R + H * (N + R)) * bf16
