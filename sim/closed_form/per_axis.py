"""The layouts of Pope et al. 2022 (arXiv 2211.05102), each operation at what it costs on the links and memory it uses.

Where `sim.closed_form.pope` divides everything by the bandwidth of all links, here a collective has only the links of
its axes, with hop latency, launch overhead and (K-1)/K; the volumes are those of SwiGLU, queries, keys and the
attention all-to-alls; every operation has its own roofline; and all of them follow each other. Without overlap the
simulation must equal it where no two messages share a link.

A layout is three groups of mesh axes, of e, f and g chips together:

    e  split E of the weights that a chip multiplies with, and the sums of its products
    f  split F and the heads of those weights
    g  the weights are gathered over, and split the batch

| tensor | sharding | elements per chip |
|---|---|---|
| residual stream | B_g L E_(e f) | B L E/n |
| input of a layer, normalised | B_g L E_e | B L E/(g e) |
| weights multiplied with | E_e F_f | E F/(e f) |
| products, a partial sum over e | B_g L F_f | B L F/(g f) |
| keys' and values' weights, not gathered | E_e Kv Q | E Kv Q/e |

B, L batch and positions in this pass; C cached positions, mean over the steps; E, F, H, Q d_model, d_ff, heads
computed, d_head; Kv key-value heads; m matrices into the FFN, 2 for SwiGLU; a, w, c bytes of an activation, a weight, a
cached value; n = e f g chips. All times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from sim.closed_form import collectives
from sim.closed_form.prediction import Prediction, torus_of
from sim.errors import InputError, suggest
from sim.specs import DTYPE_BYTES, Scenario

Axes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Groups:
    """The axes of a layout, outermost first."""

    e: Axes = ()
    f: Axes = ()
    g: Axes = ()


def groups(layout: str, axes: Axes) -> Groups:
    """Groups of a layout by name on a mesh, of which the first axis is the paper's x and the second its y.

    Weights are stored E_x F_zy in all but the one-dimensional layout, so that gathering over x, then y, then z frees
    whole axes (section 3.2.3).

    Raises:
        InputError: a layout that the paper does not have.
    """
    x, xy, zy = axes[:1], axes[:2], axes[:0:-1]
    layouts = {
        "weight_stationary_1d": Groups(f=zy + x),  # section 3.2.1
        "weight_stationary_2d": Groups(e=x, f=zy),  # section 3.2.2
        "weight_gathered_x": Groups(f=zy, g=x),  # section 3.2.3
        "weight_gathered_xy": Groups(f=zy[:-1], g=xy),
        "weight_gathered_xyz": Groups(g=axes),
    }
    if layout not in layouts:
        rule = "Pope et al. have no formula for this layout"
        raise InputError(rule, where="layout.ffn", got=layout, hint=suggest(layout, layouts))
    return layouts[layout]


class Ledger:
    """The terms of one layer, s, one entry per operation and collective."""

    def __init__(self, scenario: Scenario) -> None:
        self.terms: dict[str, float] = {}
        self.torus = torus_of(scenario)
        self.exact = self.torus.chip.elementwise == "fused"
        """Norms and activations that are kernels of their own are not in these terms."""
        self._algorithms = {**self.torus.collectives, **scenario.collectives}
        self._dtype = scenario.workload.activations

    def ways(self, axes: Axes) -> int:
        """Chips of a group."""
        return prod(self.torus.axes[axis].size for axis in axes)

    def op(self, name: str, flops: float, moved: float) -> None:
        """max(FLOPs at the reached rate, bytes at the reached memory bandwidth) + overhead."""
        chip = self.torus.chip
        compute = flops / (chip.peak[self._dtype].value * chip.matmul_efficiency.value)
        memory = moved / (chip.hbm_bandwidth.value * chip.hbm_efficiency.value)
        self._add(name, max(compute, memory) + chip.op_overhead.value)

    def wire(self, name: str, collective: str, over: Axes, size: float) -> None:
        """A collective of `size` bytes, as `collectives.predict` counts them; a group of one chip needs none.

        On axes that have no closed form together, its lower bound.
        """
        if self.ways(over) == 1:
            return
        axes = [self.torus.axes[axis] for axis in over]
        rings = [(axis.size, axis.wrap and not axis.twist) for axis in axes]
        link = self.torus.link
        bandwidth, latency = link.bandwidth.value * link.efficiency.value, link.latency.value
        algorithm = self._algorithms.get(collective, "multi_axis")
        time = collectives.predict(collective, algorithm, rings, size, bandwidth, latency)
        if time is None:
            self.exact = False
            time = collectives.bound(collective, rings, size, bandwidth, latency)
        self._add(f"{name} {collective.replace('_', '-')}", time + self.torus.collective_overhead.value)

    def _add(self, name: str, time: float) -> None:
        self.terms[name] = self.terms.get(name, 0.0) + time


def per_axis(scenario: Scenario) -> Prediction:
    """One forward pass: every operation and collective of every layer, one after the other.

    Raises:
        InputError: no torus, or a layout that the paper does not have.
    """
    ledger, model, work = Ledger(scenario), scenario.model, scenario.workload
    axes = groups(scenario.layout.ffn, tuple(ledger.torus.axes))
    e, f, g = ledger.ways(axes.e), ledger.ways(axes.f), ledger.ways(axes.g)
    B, L, C = work.batch / g, work.tokens_per_step, work.mean_cache_length  # B of one group: B_g
    E, F, HQ, KvQ = model.d_model, model.d_ff, model.computed_heads * model.d_head, model.kv_heads * model.d_head
    a, w, c = (DTYPE_BYTES[dtype] for dtype in (work.activations, work.weights, work.kv_cache))
    m = 2 if model.ffn == "swiglu" else 1

    def matmul(name: str, rows: float, inputs: float, outputs: float) -> None:
        """[rows, inputs] x [inputs, outputs] on each chip."""
        ledger.op(name, 2 * rows * inputs * outputs, inputs * outputs * w + rows * (inputs + outputs) * a)

    def read_residual(name: str, norm: str) -> None:
        """B_g L E_(e f) -> B_g L E_e, and its norm."""
        ledger.wire(name, "all_gather", axes.f, B * L * E / e * a)
        ledger.wire(norm, "all_reduce", axes.e, B * L * 4)  # sums of squares, 32-bit

    def into(name: str, width: float) -> None:
        """B_g L E_e times E x width, split f ways: -> B_g L width_(f e)."""
        ledger.wire(f"{name} weights", "all_gather", axes.g, E / e * width / f * w)
        matmul(name, B * L, E / e, width / f)
        ledger.wire(name, "reduce_scatter", axes.e, B * L * width / f * a)

    def out_of(name: str, width: float, residual: str) -> None:
        """B_g L width_(f e) times width x E: -> B_g L E_(e f), to be added to the residual stream."""
        ledger.wire(name, "all_gather", axes.e, B * L * width / f * a)
        ledger.wire(f"{name} weights", "all_gather", axes.g, width / f * E / e * w)
        matmul(name, B * L, width / f, E / e)
        ledger.wire(residual, "reduce_scatter", axes.f, B * L * E / e * a)

    def attention_by_batch() -> None:
        """Every chip attends with all heads of its own sequences (section 3.3, Figure 4(c))."""
        matmul("kv", B * L / f, E / e, 2 * KvQ)
        ledger.wire("kv", "reduce_scatter", axes.e, B * L / f * 2 * KvQ * a)
        ledger.wire("q", "all_to_all", axes.f + axes.e, B * L * HQ / (f * e) * a)
        attend(B / (f * e) * 2 * KvQ * C, B * L * HQ / (f * e))
        ledger.wire("attention", "all_to_all", axes.f + axes.e, B * L * HQ / (f * e) * a)

    def attention_by_heads() -> None:
        """Every chip attends with its own heads; key-value heads are on every chip of e and f (Figure 4(b)).

        The chips of the last axis of f project a part of the tokens each and gather the rest.
        """
        last = axes.f[-1:]
        if all(tokens % ledger.ways(last) for tokens in (B, L)):
            last = ()
        part = B * L / ledger.ways(last)
        matmul("kv", part, E / e, 2 * KvQ)
        ledger.wire("kv", "all_reduce", axes.e, part * 2 * KvQ * a)
        ledger.wire("kv", "all_gather", last, B * L * 2 * KvQ * a)
        attend(B * 2 * KvQ * C, B * L * HQ / (f * e))

    def attend(cached: float, queries: float) -> None:
        """Scores and values; the cache is read, queries in, values out."""
        ledger.op("attention", 4 * queries * C, cached * c + 2 * queries * a)

    attention = {"batch": attention_by_batch, "heads": attention_by_heads}[scenario.layout.attention]
    read_residual("residual", "norm")
    if scenario.block == "parallel":
        into("q_wi", m * F + HQ)
        attention()
        out_of("o_wo", F + HQ, "residual")
    else:
        into("q", HQ)
        attention()
        out_of("o", HQ, "attention residual")
        read_residual("ffn residual", "ffn norm")
        into("wi", m * F)
        out_of("wo", F, "ffn residual")
    terms = {name: scenario.layers * time for name, time in ledger.terms.items()}
    return Prediction(sum(terms.values()), terms, ledger.exact)
