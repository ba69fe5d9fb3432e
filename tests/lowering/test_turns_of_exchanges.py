"""Micro-batches around an exchange of tokens: DeepSeek's five stages, and matmuls that leave it multiprocessors."""

import numpy as np
import pytest
from support.served_mixture import mixture

from sim.program import Kind
from sim.report.metrics import OpMeasure
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.run import run

H800 = ("topology=hgx_h800", "stack=sglang", "layout.overlap=micro_batches")
PREFILL = "workload={phase: prefill, batch: 16, prompt: 4096, weights: fp8, operands: fp8, dispatch: fp8}"
STAGES = {"qkv": 0, "attention": 1, "dispatch send": 2, "dispatch receive": 3, "combine send": 3, "combine receive": 4}
"""Stage of each operation."""


def stages_of_layer(*settings: str) -> list[str]:
    """Order of the stages on the compute stream in a middle layer, such as `0:2` of part 0."""
    trace = simulate_pass(mixture(*H800, "model.layers=5", "engine.shortcuts=chips", *settings)).trace
    program, found = trace.program, []
    layer = (program.layer == 3) & (program.kind == Kind.COMPUTE) & (program.chip == 0)
    for task in np.flatnonzero(layer)[np.argsort(trace.times["start"][layer], kind="stable")]:
        name = program.op_names[program.op[task]]
        for what, stage in STAGES.items():
            for part in ("0", "1"):
                if name in (f"{what} {part}", f"experts {part} {what}"):
                    found.append(f"{part}:{stage}")
    return list(dict.fromkeys(found))


def test_one_batch_is_two_of_five_stages_behind_the_other():
    """sglang 0.4.7, srt/operations_strategy.py: tbo_delta_stages 2 of a decode step's stages. The part behind computes
    the experts of the layer before under the other's projections."""
    assert stages_of_layer() == ["0:0", "1:3", "0:1", "1:4", "0:2", "1:0", "0:3", "1:1", "0:4", "1:2"]


def ops(*settings: str) -> dict[str, OpMeasure]:
    return {op.op: op for op in run(mixture(*H800, *settings)).report.ops}


def test_kernels_of_the_compute_stream_send_and_receive_in_the_exchanges_overhead():
    """29 us of deep_ep, half to send and half to receive; the rows are on their way in what is left."""
    staged, whole = ops(), ops("stack.exchange_turns=by_sublayer")
    for way in ("dispatch", "combine"):
        for part in ("0", "1"):
            halves = [staged[f"experts {part} {way} {half}"] for half in ("send", "receive")]
            assert [half.time_s / half.count for half in halves] == pytest.approx([14.5e-6, 14.5e-6])
            one, other = staged[f"{way}(t) experts {part}"], whole[f"{way}(t) experts {part}"]
            assert one.time_s / one.count + 29e-6 == pytest.approx(other.time_s / other.count, rel=1e-3)
    assert not [name for name in whole if name.endswith(("send", "receive"))]


def test_no_other_overlap_phase_or_kernel_is_in_stages():
    for settings in (["layout.overlap=none"], ["layout.experts.kernel=normal"], [PREFILL]):
        assert not [name for name in ops(*settings) if name.endswith(("send", "receive"))]


def test_matmuls_leave_multiprocessors_to_the_exchange_all_the_time():
    """DeepEP's kernels hold 20 of 132 multiprocessors: what FLOPs limit takes 132/112 as long, beside an exchange or
    not; other kernels lose theirs while an exchange runs."""
    left, all_of_them = ops(PREFILL), ops(PREFILL, "stack.beside_exchange=all")
    for name in ("experts wi 0", "experts wi 1", "o 0"):
        assert left[name].compute_s / all_of_them[name].compute_s == pytest.approx(132 / 112, rel=0.1)
        assert left[name].memory_s == pytest.approx(all_of_them[name].memory_s)
        assert left[name].time_s <= left[name].compute_s + left[name].memory_s + left[name].overhead_s
    assert left["logits"].time_s == all_of_them["logits"].time_s


def test_shortcuts_take_stages_across_layers_as_they_are():
    """A part's tokens are on their way where a layer ends; of some layers or of all, of one chip or of all chips."""
    whole, short = (
        simulate_pass(mixture(*H800, "model.layers=24", f"engine.shortcuts={each}")) for each in ("off", "auto")
    )
    assert whole.makespan_ps == short.makespan_ps
    assert sum(block.count for block in short.lowered.program.skipped) > 0
    assert short.topology.chips < whole.topology.chips
