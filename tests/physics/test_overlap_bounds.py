"""No way to hide communication is faster than its compute alone, or than its bytes over their links."""

import numpy as np
import pytest

from sim.simulate.run import run
from sim.specs import load

GPUS = {
    "token halves": ["layout={ffn: tensor_parallel, overlap: token_halves}"],
    "token halves, fused norms": ["layout={ffn: tensor_parallel, overlap: token_halves, fused_norm: true}"],
    "asynchronous": ["layout={ffn: megatron_sequence_parallel, overlap: collective_matmul}"],
    "micro-batches": ["layout={ffn: tensor_parallel, overlap: micro_batches}"],
    "chunks": ["layout={ffn: tensor_parallel, overlap: chunked_matmul}"],
    "ladder": ["layout={ffn: tensor_parallel, residual: ladder}"],
    "ring": ["layout={uses: {context: [g]}}", "mesh={g: 8}"],
    "ulysses": ["layout={uses: {context: [g]}, context: heads}", "mesh={g: 8}"],
}
TORUS = {
    "token halves": ["layout={ffn: megatron_sequence_parallel, overlap: token_halves, communication: own_stream}"],
    "asynchronous": [
        "layout={uses: {heads: [x], d_ff: [x], batch: [y], residual: {x: tokens}}, overlap: collective_matmul}"
    ],
    "ring": ["layout={uses: {context: [x], batch: [y]}}"],
    "ulysses": ["layout={uses: {context: [x], batch: [y]}, context: heads}"],
}
PREFILL = "workload={phase: prefill, batch: 8, prompt: 4096, weights: bf16}"
DECODE = "workload={phase: decode, batch: 64, context: 4096, generate: 1, weights: bf16}"
MACHINES = {("dgx_h100", "vllm"): GPUS, ("tpu_v5e_4x4", "jax_tpu"): TORUS}
CASES = [(*machine, PREFILL, *case) for machine, schemes in MACHINES.items() for case in schemes.items()] + [
    (*machine, DECODE, "asynchronous", schemes["asynchronous"]) for machine, schemes in MACHINES.items()
]


@pytest.mark.parametrize(("machine", "stack", "workload", "name", "settings"), CASES, ids=lambda value: str(value)[:30])
def test_no_scheme_beats_its_compute_or_its_links(
    machine: str, stack: str, workload: str, name: str, settings: list[str]
):
    scenario = load.scenario(
        "vllm_llama3_70b_tp8",
        [
            f"topology={machine}",
            f"stack={stack}",
            "model=llama3_8b",
            "model.layers=4",
            workload,
            "collectives={}",
            *settings,
        ],
    )
    found = run(scenario)
    (part,) = found.passes
    trace, topology = part.whole()
    program, step_s = trace.program, found.report.simulated.latency_s
    chip = topology.chip
    per_chip = np.bincount(program.chip, program.flops, minlength=topology.chips)
    assert per_chip.min() > 0
    assert per_chip.max() / chip.peak_flops["bf16"] < step_s
    sends = np.flatnonzero(program.resource >= topology.chips)
    links = program.resource[sends] - topology.chips
    known = links < len(topology.links)
    carried = np.bincount(links[known], program.bytes[sends[known]], minlength=len(topology.links))
    bandwidth = np.array([link.bandwidth for link in topology.links])
    assert (carried / bandwidth).max() < step_s
    assert carried.max() > 0
