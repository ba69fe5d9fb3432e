"""Closed form of "Efficiently Scaling Transformer Inference" (Pope et al. 2022, arXiv 2211.05102), for one scenario.

Two forms, both per forward pass:

`paper`     the equations as printed: matmul FLOPs 2N per token, weights and cache read once, every collective at the
            chip's whole interconnect bandwidth, (K-1)/K dropped, an FFN of two matrices, nothing else on the wire.
`per_axis`  the same dataflow with what the equations leave out: a collective has only the links of its axes, the
            volumes of SwiGLU, queries, keys and attention all-to-alls, (K-1)/K, hop latency, launch overheads, one roofline per
            operation. Without overlap the simulation must equal it where no two messages share a link.

| symbol | meaning |
|---|---|
| B, L | batch; positions per sequence in this pass (1 when decoding) |
| C | cached positions per sequence, mean over the steps |
| E, F, H, Q | d_model, d_ff, heads (padded), d_head; Kv key-value heads |
| X, YZ | mesh lengths: first axis; product of the others; n = X YZ chips |
| m | FFN input matrices: 2 for SwiGLU, 1 for an MLP |
| N | nominal parameters |
| a, w, c | bytes of an activation, a weight, a cached value |
| bw | interconnect bandwidth of a chip, all its links one way (TPU v4: 6 x 45 GB/s = 270 GB/s, section 4) |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from sim.closed_form import collectives
from sim.errors import InputError
from sim.specs import DTYPE_BYTES, Scenario, TorusSpec


@dataclass(frozen=True, slots=True)
class Prediction:
    """Named terms of one forward pass, s, and what they come to."""

    step_s: float
    terms: Mapping[str, float]
    exact: bool = True
    """False where a collective has no closed form on this mesh and its lower bound stands in."""


def _torus(scenario: Scenario) -> TorusSpec:
    if not isinstance(scenario.topology, TorusSpec):
        raise InputError("the closed form of Pope et al. needs a torus", got=scenario.topology.kind)
    return scenario.topology


def paper(scenario: Scenario) -> Prediction:
    """The paper's own formula: max(compute, weights + cache) + communication.

    Compute and memory time: section 2.1. Communication of 2D weight-stationary: Appendix A.2.1,
    T = (2 B L / bw) (E/X + F/(YZ)) elements a layer.
    """
    torus, model, work = _torus(scenario), scenario.model, scenario.workload
    lengths = [axis.size for axis in torus.axes.values()]
    X, YZ, n = lengths[0], prod(lengths[1:]), prod(lengths)
    B, L, E, F = work.batch, work.tokens_per_step, model.d_model, model.d_ff
    a, w, c = (DTYPE_BYTES[dtype] for dtype in (work.activations, work.weights, work.kv_cache))
    N = model.nominal_parameters * scenario.layers / model.layers
    bw = 2 * len(lengths) * torus.link.bandwidth.value
    hbm, peak = torus.chip.hbm_bandwidth.value, torus.chip.peak[work.activations].value

    # Section 3.3: a multi-query cache is whole on every chip, or split over the batch; a multi-head one splits by head.
    split = n if scenario.layout.attention == "batch" or model.kv_heads > 1 else 1
    cache = scenario.layers * 2 * model.kv_heads * model.d_head * B * work.mean_cache_length / split
    terms = {
        "compute": 2 * N * B * L / (n * peak),
        "weights": N * w / (n * hbm),
        "kv_cache": cache * c / hbm,
        "communication": scenario.layers * 2 * B * L * (E / X + F / YZ) * a / bw,
    }
    return Prediction(max(terms["compute"], terms["weights"] + terms["kv_cache"]) + terms["communication"], terms)


def per_axis(scenario: Scenario) -> Prediction:
    """Alpha-beta and roofline of every operation of the 2D weight-stationary layer, one after the other."""
    torus, model, work = _torus(scenario), scenario.model, scenario.workload
    axes = [(axis.size, axis.wrap and not axis.twist) for axis in torus.axes.values()]
    lengths = [size for size, _ in axes]
    X, YZ, n = lengths[0], prod(lengths[1:]), prod(lengths)
    x, yz = axes[:1], axes[1:]
    B, L, C = work.batch, work.tokens_per_step, work.mean_cache_length
    E, F, H, Q, Kv = model.d_model, model.d_ff, model.computed_heads, model.d_head, model.kv_heads
    a, w, c = (DTYPE_BYTES[dtype] for dtype in (work.activations, work.weights, work.kv_cache))
    m = 2 if model.ffn == "swiglu" else 1
    hbm = torus.chip.hbm_bandwidth.value * torus.chip.hbm_efficiency.value
    peak = torus.chip.peak[work.activations].value * torus.chip.matmul_efficiency.value
    terms: dict[str, float] = {}
    exact = torus.chip.elementwise == "fused"  # kernels of their own are not in these terms

    def op(name: str, flops: float, moved: float) -> None:
        terms[name] = max(flops / peak, moved / hbm) + torus.chip.op_overhead.value

    def wire(name: str, collective: str, over: list[tuple[int, bool]], size: float) -> None:
        nonlocal exact
        if prod(length for length, _ in over) == 1:
            return
        link = torus.link
        bandwidth, latency = link.bandwidth.value * link.efficiency.value, link.latency.value
        algorithm = scenario.collectives.get(collective, torus.collectives.get(collective, "multi_axis"))
        time = collectives.predict(collective, algorithm, over, size, bandwidth, latency)
        if time is None:
            exact = False
            time = collectives.bound(collective, over, size, bandwidth, latency)
        terms[name] = time + torus.collective_overhead.value

    def matmul(name: str, rows: float, inputs: float, outputs: float) -> None:
        """[rows, inputs] x [inputs, outputs] on each chip."""
        op(name, 2 * rows * inputs * outputs, inputs * outputs * w + rows * (inputs + outputs) * a)

    parallel = scenario.block == "parallel"
    wire("residual all-gather", "all_gather", yz, B * L * E / X * a)
    wire("norm all-reduce", "all_reduce", x, B * L * 4)  # sums of squares, 32-bit
    first = (m * F + H * Q) / YZ if parallel else H * Q / YZ
    matmul("q_wi", B * L, E / X, first)
    wire("q_wi reduce-scatter", "reduce_scatter", x, B * L * first * a)

    if scenario.layout.attention == "batch":
        matmul("kv", B * L / YZ, E / X, 2 * Kv * Q)
        wire("kv reduce-scatter", "reduce_scatter", x, B * L / YZ * 2 * Kv * Q * a)
        wire("q all-to-all", "all_to_all", yz + x, B * L * H * Q / n * a)
        cached, rows = B / n * 2 * Kv * Q * C, B * L / n * H * Q
    else:
        z = lengths[-1] if len(lengths) > 1 and 0 in (B % lengths[-1], L % lengths[-1]) else 1
        matmul("kv", B * L / z, E / X, 2 * Kv * Q)
        wire("kv all-reduce", "all_reduce", x, B * L / z * 2 * Kv * Q * a)
        if z > 1:
            wire("kv all-gather", "all_gather", axes[-1:], B * L * 2 * Kv * Q * a)
        cached, rows = B * 2 * Kv * Q * C, B * L * H * Q / n
    op("attention", 4 * rows * C, cached * c + 2 * rows * a)  # scores and values; queries in, values out
    if scenario.layout.attention == "batch":
        wire("attention all-to-all", "all_to_all", yz + x, B * L * H * Q / n * a)

    if not parallel:
        wire("o all-gather", "all_gather", x, B * L * H * Q / YZ * a)
        matmul("o", B * L, H * Q / YZ, E / X)
        wire("attention residual reduce-scatter", "reduce_scatter", yz, B * L * E / X * a)
        wire("ffn residual all-gather", "all_gather", yz, B * L * E / X * a)
        wire("ffn norm all-reduce", "all_reduce", x, B * L * 4)
        matmul("wi", B * L, E / X, m * F / YZ)
        wire("wi reduce-scatter", "reduce_scatter", x, B * L * m * F / YZ * a)
    last = (F + H * Q) / YZ if parallel else F / YZ
    wire("o_wo all-gather", "all_gather", x, B * L * last * a)
    matmul("o_wo", B * L, last, E / X)
    wire("residual reduce-scatter", "reduce_scatter", yz, B * L * E / X * a)
    terms = {name: scenario.layers * time for name, time in terms.items()}
    return Prediction(sum(terms.values()), terms, exact)
