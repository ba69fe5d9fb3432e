"""Equations of "Efficiently Scaling Transformer Inference" (Pope et al. 2022, arXiv 2211.05102v1), as printed.

| symbol | meaning | | symbol | meaning |
|---|---|---|---|---|
| B | batch, sequences | | X, Y, Z | lengths of the torus axes; YZ = Y Z |
| L | positions per sequence in this pass | | n | chips, X Y Z |
| C | cached positions per sequence | | N | chips that a weight is gathered over; parameters in 2N |
| E | d_model | | K | chips of one collective |
| F | d_ff, of an FFN of two matrices | | bw | interconnect bandwidth of a chip, bytes/s |
| H | heads that are computed | | hbm | memory bandwidth, bytes/s |
| Q | d_head | | peak | matmul rate, FLOP/s |

Volumes are elements per chip and layer; bytes are volumes times bytes per element; times are seconds. bw is what all
links of a chip carry one way, whatever axes a collective uses: 270 GB/s on TPU v4 (section 4), 6 links of 45 GB/s.

What the equations leave out: that a collective has only the links of its axes; (K-1)/K, outside appendix A.1; latency;
the third matrix of SwiGLU, queries and keys; the all-to-alls of section 3.3, for which the paper has no formula; that a
gathered weight is read from memory in full. `sim.closed_form.pass_time` puts them in.
"""

from __future__ import annotations

from math import prod

from msgspec import Struct

from sim.closed_form.prediction import PAPER_LAYOUTS, Prediction
from sim.errors import InputError, suggest
from sim.specs import DTYPE_BYTES, Model, Scenario

# --- communication of one FFN layer: sections 3.2.1 to 3.2.3, appendix A.2 -------------------------------------------


class Volume(Struct, frozen=True):
    """Elements that one chip sends, or receives, in one FFN layer."""

    activations: float
    weights: float = 0.0

    def bytes(self, activation_bytes: float = 2, weight_bytes: float = 2) -> float:
        """Bytes per chip: gathered weights travel as they are stored, activations stay bf16 (section 3.6)."""
        return self.activations * activation_bytes + self.weights * weight_bytes

    def time(self, bw: float, activation_bytes: float = 2, weight_bytes: float = 2) -> float:
        """bytes / bw, s: appendix A.1 with (K-1)/K dropped, as in all of A.2."""
        return self.bytes(activation_bytes, weight_bytes) / bw


def weight_stationary_1d(B: float, L: float, E: float) -> Volume:
    """2 B L E: all-gather BLE_xyz -> BLE and reduce-scatter back, whatever n. Section 3.2.1."""
    return Volume(2 * B * L * E)


def weight_stationary_2d(B: float, L: float, E: float, F: float, X: float, YZ: float) -> Volume:
    """2 B L (E/X + F/(YZ)): BLE_x over yz and BLF_yz over x, gathered once and scattered once each. Appendix A.2.1."""
    return Volume(2 * B * L * (E / X + F / YZ))


def weight_gathered(B: float, L: float, E: float, F: float, N: float, n: float) -> Volume:
    """2 B L E/N activations and 2 E F N/n weights, gathered over N of n chips. Section 3.2.3, appendix A.2.2.

    With N = n each chip has whole sequences and no activation moves (section 3.2.3, Figure 3).
    """
    return Volume(2 * B * L * E / N if n > N else 0.0, 2 * E * F * N / n)


Lengths = tuple[int, int, int]
"""(X, Y, Z)."""


def gathered_over(layout: str, lengths: Lengths) -> int:
    """N: chips over which a layout gathers its weights and splits the batch; 1 where the weights are stationary.

    Raises:
        InputError: a layout that the paper does not have.
    """
    X, Y, Z = lengths
    chips = {
        "weight_stationary_1d": 1,
        "weight_stationary_2d": 1,
        "weight_gathered_x": X,
        "weight_gathered_xy": X * Y,
        "weight_gathered_xyz": X * Y * Z,
    }
    if layout not in chips:
        rule = "Pope et al. have no formula for this layout"
        raise InputError(rule, where="layout.ffn", got=layout, hint=suggest(layout, chips))
    return chips[layout]


def ffn_volume(layout: str, B: float, L: float, E: float, F: float, lengths: Lengths) -> Volume:
    """Returns the communication volume of one FFN layer in a layout by name. Raises InputError."""
    X, Y, Z = lengths
    N = gathered_over(layout, lengths)
    if layout == "weight_stationary_1d":
        return weight_stationary_1d(B, L, E)
    if layout == "weight_stationary_2d":
        return weight_stationary_2d(B, L, E, F, X, Y * Z)
    return weight_gathered(B, L, E, F, N, X * Y * Z)


# --- crossovers ------------------------------------------------------------------------------------------------------


def crossovers(E: float, F: float, X: int, Y: int, Z: int) -> dict[tuple[str, str], float]:
    """Tokens B L at which two layouts send equally many elements; above, the second sends fewer.

    Solved from the volumes of section 3.2; the paper draws the first three in Figure 3.
    """
    n = X * Y * Z
    ws, x, xy, xyz = "weight_stationary_2d", "weight_gathered_x", "weight_gathered_xy", "weight_gathered_xyz"
    return {
        (ws, x): E,
        (x, xy): F * X**2 * Y / n,
        (xy, xyz): F * X * Y * (n - X * Y) / n,
        (ws, xyz): E * F / (E / X + F / (Y * Z)),
    }


# --- attention: section 3.3 ------------------------------------------------------------------------------------------


def cache_split(attention: str, cached_heads: int, B: int, n: int, N: int = 1) -> int:
    """Chips over which the KV cache is split rather than repeated. Section 3.3, Figures 4 and 5.

    Over batch: n, but a chip holds whole sequences. Over heads: a chip holds whole heads, so a multi-query cache is
    repeated on every chip, a multi-head one where n > H; where weights are gathered, the batch is split N ways as well.
    """
    if attention == "batch":
        return min(n, B)
    return min(n // N, cached_heads) * min(N, B)


def cache_bytes(layers: int, cached_heads: int, Q: int, BC: float, split: float, c: float = 2) -> float:
    """KV cache per chip: layers x (key and value) x heads x Q x B C values of c bytes, over `split` chips. Section 2.1.

    Multi-head, 64 chips, by heads: split 64. Multi-query by heads: 1 head, split 1; by batch: 1 head, split 64.
    """
    return layers * 2 * cached_heads * Q * BC * c / split


def memory_time(parameters: float, weight_bytes: float, cache: float, n: int, hbm: float) -> float:
    """Weights, split over the chips, and the chip's `cache` bytes, each read once a pass, s. Section 2.1."""
    return (parameters * weight_bytes / n + cache) / hbm


# --- compute, MFU, cost: sections 2, 2.1 and 4.4 ---------------------------------------------------------------------


def matmul_flops(N: float, tokens: float) -> float:
    """2N per token, for N parameters; the attention scores and values are not counted. Section 2."""
    return 2 * N * tokens


def compute_time(N: float, tokens: float, n: int, peak: float) -> float:
    """Matmul FLOPs at the peak of all chips, s. Section 2.1."""
    return matmul_flops(N, tokens) / (n * peak)


def mfu(N: float, tokens: float, n: int, peak: float, latency: float) -> float:
    """Tokens per second over those of `compute_time`, N without head padding. Section 2 (model FLOPS utilisation)."""
    return compute_time(N, tokens, n, peak) / latency


def cost(n: int, latency: float, B: float, L: float) -> float:
    """Chip-seconds per token: n time/(B L). Section 4.4."""
    return n * latency / (B * L)


# --- one forward pass of a scenario ----------------------------------------------------------------------------------


def cached_heads(model: Model) -> int:
    """Heads of the KV cache: those computed for multi-head attention, padding included, else the key-value heads."""
    return model.computed_heads if model.kv_heads == model.heads else model.kv_heads


def covers(scenario: Scenario) -> bool:
    """Returns True if the paper has formulas for the machine, the layout and the model."""
    known = scenario.model.experts is None and scenario.model.latent is None and scenario.layout.kv_transfer is None
    return known and bool(scenario.topology.lines) and scenario.layout.preset in PAPER_LAYOUTS


def bandwidth_of_chip(scenario: Scenario) -> float:
    """Bytes/s that all links of a chip of a torus carry one way; the paper has one kind of link, here the slowest."""
    links = scenario.topology.line_links.values()
    return 2 * len(links) * min(link.bandwidth.value for link in links)


def paper(scenario: Scenario) -> Prediction:
    """Predicts one forward pass of the scenario's workload: max(compute, weights + cache) + communication.

    A pass of another phase or layout is that of `scenario.model_copy(update={"workload": ...})`. A torus of one or two
    axes has Z, or Y and Z, of 1; of more, Z is the product of the rest. A single chip has nothing to send.

    Raises:
        InputError: no torus, or a layout that the paper does not have.
    """
    machine, model, work, layout = scenario.topology, scenario.model, scenario.workload, scenario.layout
    if not machine.lines:
        raise InputError("the closed form of Pope et al. needs a torus", got=machine.kind)
    lengths = [axis.size for axis in scenario.part.lines.values()]
    X, Y, Z = lengths[0], prod(lengths[1:2]), prod(lengths[2:])
    n = X * Y * Z
    B, L = work.batch, work.tokens_per_step
    a, w, c = (DTYPE_BYTES[dtype] for dtype in (work.activations, work.weights, work.kv_cache))
    N = scenario.parameters
    bw = bandwidth_of_chip(scenario)
    hbm, peak = machine.chip.hbm_bandwidth.value, scenario.matmul_peak.value

    heads = cached_heads(model)
    split = cache_split(layout.attention, heads, B, n, gathered_over(layout.preset, (X, Y, Z)))
    cache = cache_bytes(scenario.layers, heads, model.d_head, B * work.mean_cache_length, split, c)
    volume = ffn_volume(layout.preset, B, L, model.d_model, model.d_ff, (X, Y, Z))
    terms = {
        "compute": compute_time(N, B * L, n, peak),
        "weights": memory_time(N, w, 0, n, hbm),
        "kv_cache": memory_time(0, w, cache, n, hbm),
        "communication": scenario.layers * volume.time(bw, a, w) if n > 1 else 0.0,
    }
    step_s = max(terms["compute"], terms["weights"] + terms["kv_cache"]) + terms["communication"]
    return Prediction(step_s, terms, ("leaves out latency, overheads and on which links a collective runs",))
