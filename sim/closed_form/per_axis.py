"""The layouts of Pope et al. 2022 (arXiv 2211.05102), each operation at what it costs on the links and memory it uses.

Where `sim.closed_form.pope` divides everything by the bandwidth of all links, here a collective has only the links of
its axes, with hop latency, launch overhead and (K-1)/K; the volumes are those of SwiGLU, queries, keys and the
attention all-to-alls; every operation has its own roofline; and all of them follow each other. Where nothing is left
out (`KNOWN`) and every collective has a formula, the simulation equals it.

A layout is three groups of mesh axes, of e, f and g chips together:

    e  split E of the weights that a chip multiplies with, and the sums of its products
    f  split F and the heads of those weights; r of them split the residual stream, the others hold it whole
    g  the weights are gathered over, and split the batch

| tensor | sharding | elements per chip |
|---|---|---|
| residual stream | B_g L E_(e r) | B L E/(g e r) |
| input of a layer, normalised | B_g L E_e | B L E/(g e) |
| weights multiplied with | E_e F_f | E F/(e f) |
| products, a partial sum over e | B_g L F_f | B L F/(g f) |
| keys' and values' weights, not gathered | E_e Kv Q | E Kv Q/e |

B, L batch and positions in this pass; C cached positions, mean over the steps; E, F, H, Q d_model computed, d_ff, heads
computed, d_head; Kv key-value heads; m matrices into the FFN, 2 for SwiGLU; a, w, c bytes of an activation, a weight, a
cached value; n = e f g chips. All times are in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, lcm, prod

from sim.closed_form import collectives
from sim.closed_form.heads import key_value_heads_read
from sim.closed_form.prediction import PAPER_LAYOUTS, Prediction, torus_of
from sim.closed_form.scope import ANY, ROOFLINE, TIMELESS, Known, left_out
from sim.errors import InputError, suggest
from sim.specs import DTYPE_BYTES, Scenario

Axes = tuple[str, ...]

KNOWN: Known = {
    **TIMELESS,
    **ROOFLINE,
    "topology.kind": ("torus",),
    "topology.link.bandwidth": ANY,
    "topology.link.efficiency": ANY,
    "topology.link.latency": ANY,
    "topology.axes.*.size": ANY,
    "topology.axes.*.wrap": ANY,
    "topology.axes.*.twist": ANY,
    "topology.axes.*.link": ANY,
    "stack.launch": ANY,  # where no graph is captured, and graph_capture is not known
    "stack.nvls": ANY,  # of NCCL, which runs on no torus
    "stack.pipeline": ("sequential", "non_blocking", "blocking"),  # where there are stages, which no form of a pass has
    "layout.graph_capture": (None, True),
    "stack.l2_speed": ANY,  # read by copies of key-value heads only, and layout.kv_heads is not known
    **dict.fromkeys(
        ("stack.compute_interference", "stack.memory_interference", "stack.channel_rate"), ANY
    ),  # of NCCL, which runs on no torus
    "topology.chip.vector_peak": ANY,  # used where the stack attends in f32, which is not known
    "stack.vector_efficiency": ANY,
    "stack.matmul_split": ANY,  # of tiles, which are not known
    "topology.chip.multiprocessors": ANY,  # read where the stack says how tiles load, which is not known
    "stack.stream_wait": ANY,  # of collectives on a stream of their own
    "layout.communication": (None, "compute_stream"),
    "layout.chunks": ANY,  # of an overlap that is not known
    "layout.ffn": PAPER_LAYOUTS,
    "layout.attention": ("heads", "batch"),
    "layout.logits": ("last", "none"),
}
"""What the form knows; on chips and links alike, one operation after the other."""

_LOGIT, _TOP_K = 4, ("softmax", "top k", "masked softmax", "draw")
"""Bytes of a 32-bit logit, and the kernels of a draw, each of which goes twice through all logits."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The axes of a layout, outermost first."""

    e: Axes = ()
    f: Axes = ()
    g: Axes = ()
    whole: Axes = ()
    """Those of f along which every chip holds the same residual stream."""

    @property
    def r(self) -> Axes:
        """Those of f that split the residual stream."""
        return tuple(axis for axis in self.f if axis not in self.whole)


def groups(layout: str, axes: Axes) -> Groups:
    """Groups of a layout by name on a mesh, of which the first axis is the paper's x and the second its y.

    Weights are stored E_x F_zy in all but the one-dimensional layout, so that gathering over x, then y, then z frees
    whole axes (section 3.2.3).

    Raises:
        InputError: a layout that the paper does not have.
    """
    x, xy, zy = axes[:1], axes[:2], axes[:0:-1]
    layouts = {
        "weight_stationary_1d": Groups(f=zy + x, whole=zy),  # section 3.2.1, as the released code does it
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
        self.torus, self.stack = torus_of(scenario), scenario.stack
        self.inexact: dict[str, None] = {}
        """What of the collectives is not exact."""
        self._algorithms = {**self.torus.collectives, **scenario.collectives}
        self._dtype = scenario.workload.activations

    def ways(self, axes: Axes) -> int:
        """Chips of a group."""
        return prod(self.torus.axes[axis].size for axis in axes)

    def op(self, name: str, flops: float, moved: float, *, tiled: bool = False) -> None:
        """FLOPs at the reached rate or bytes at the reached memory bandwidth, whichever takes longer, what of the
        other does not pass under it, and the overhead.

        Args:
            tiled: a matmul of more than one row.
        """
        chip, stack = self.torus.chip, self.stack
        reached = stack.matmul_hbm_efficiency if tiled and stack.matmul_hbm_efficiency else stack.hbm_efficiency
        compute = flops / (chip.peak[self._dtype].value * stack.matmul_efficiency.value)
        memory = moved / (chip.hbm_bandwidth.value * reached.value)
        beside = (1 - stack.roofline_overlap.value) * min(compute, memory)
        self._add(name, max(compute, memory) + beside + stack.op_overhead.value)

    def elementwise(self, name: str, moved: float) -> None:
        """A norm, activation or add where it is a kernel of its own."""
        if self.stack.elementwise == "kernel":
            self.op(name, 0.0, moved)

    def wire(self, name: str, collective: str, over: Axes, size: float) -> None:
        """A collective of `size` bytes, as `collectives.predict` counts them; a group of one chip needs none.

        On axes that have no closed form together, its lower bound.
        """
        if self.ways(over) == 1:
            return
        axes = [self.torus.axes[axis] for axis in over]
        rings = [(axis.size, axis.wrap and set(axis.twist) <= set(over)) for axis in axes]
        links = [self.torus.link_along(axis) for axis in over]
        bandwidth = max(link.bandwidth.value * link.efficiency.value for link in links)
        latency = min(link.latency.value for link in links) + self.stack.collective_step.value
        algorithm = self._algorithms.get(collective, "multi_axis")
        twisted = any(ring and axis.twist for axis, (_, ring) in zip(axes, rings, strict=True))
        has_form = not twisted and all(link == links[0] for link in links)
        time = collectives.predict(collective, algorithm, rings, size, bandwidth, latency) if has_form else None
        if time is None:
            has = "takes twisted axes for rings in" if twisted else "has only a bound of"
            self.inexact[f"{has} {collective} over {''.join(over)}"] = None
            time = collectives.bound(collective, rings, size, bandwidth, latency)
        elif not collectives.ends_together(algorithm, rings):
            self.inexact[f"assumes that all chips end {collective} over {''.join(over)} together"] = None
        self._add(f"{name} {collective.replace('_', '-')}", time + self.stack.collective_overhead.value)

    def prediction(self, scenario: Scenario) -> Prediction:
        """The terms as those of one pass of the scenario, added up."""
        return Prediction(sum(self.terms.values()), self.terms, (*left_out(scenario, KNOWN), *self.inexact))

    def _add(self, name: str, time: float) -> None:
        self.terms[name] = self.terms.get(name, 0.0) + time


def computed_d_model(scenario: Scenario) -> int:
    """d_model, padded until the e r chips that split the residual stream divide it.

    Weights that are gathered are stored split over the first axis, whose chips divide it as well.

    Raises:
        InputError: no torus, or a layout that the paper does not have.
    """
    lengths = {name: axis.size for name, axis in torus_of(scenario).axes.items()}
    axes = groups(scenario.layout.ffn, tuple(lengths))
    shares = prod(lengths[axis] for axis in axes.e + axes.r)
    if axes.g:
        shares = lcm(shares, next(iter(lengths.values())))
    return ceil(scenario.model.d_model / shares) * shares


def _check(field: str, size: int, ways: int) -> None:
    """A dimension that chips share must be a multiple of their number. Raises InputError."""
    if size % ways:
        raise InputError(f"must be a multiple of the {ways} chips that share it", where=field, got=size)


def per_axis(scenario: Scenario) -> Prediction:
    """One forward pass: embedding, every operation and collective of every layer, logits, one after the other.

    Raises:
        InputError: no torus, a layout that the paper does not have, or chips that do not divide what they share.
    """
    ledger, model, work = Ledger(scenario), scenario.model, scenario.workload
    axes = groups(scenario.layout.ffn, tuple(ledger.torus.axes))
    every = axes.g + axes.e + axes.f
    e, f, g, n = ledger.ways(axes.e), ledger.ways(axes.f), ledger.ways(axes.g), ledger.ways(every)
    r = ledger.ways(axes.r)
    B, L, C = work.batch / g, work.tokens_per_step, work.mean_cache_length  # B of one group: B_g
    E, F, Q = computed_d_model(scenario), model.d_ff, model.d_head
    # Heads are padded until the chips that store their weights divide them: all axes but the first, where weights are
    # gathered. Where nothing else can be split over e, until all chips do.
    storing = ledger.ways(tuple(ledger.torus.axes)[1:]) if axes.g else f
    H = ceil(model.computed_heads / storing) * storing
    if H // f % e and work.batch % e and L % e:
        H = ceil(H / (f * e)) * f * e
    Kv = H if model.kv_heads == model.heads else model.kv_heads
    _check("workload.batch", work.batch, g)
    _check("model.d_ff", F, max(f * e, storing))
    a, w, c = (DTYPE_BYTES[dtype] for dtype in (work.activations, work.weights, work.kv_cache))
    m = 2 if model.ffn == "swiglu" else 1
    # Where the query's sum over e goes: heads if there are enough for all chips, else sequences, else positions.
    to_heads = H % (f * e) == 0
    to_batch = not to_heads and B % e == 0
    own = L if to_heads or to_batch else L / e  # positions of the queries that a chip attends with

    def matmul(name: str, rows: float, inputs: float, outputs: float) -> None:
        """[rows, inputs] x [inputs, outputs] on each chip."""
        moved = inputs * outputs * w + rows * (inputs + outputs) * a
        ledger.op(name, 2 * rows * inputs * outputs, moved, tiled=rows > 1)

    def read_residual(name: str, norm: str) -> None:
        """B_g L E_(e r) -> B_g L E_e, and its norm."""
        ledger.wire(name, "all_gather", axes.r, B * L * E / e * a)
        normalise(norm, B * L, E / e, axes.e)

    def scatter(name: str, size: float) -> None:
        """Sums over f: scattered over r, then made whole over the other axes."""
        ledger.wire(name, "reduce_scatter", axes.r, size)
        ledger.wire(name, "all_reduce", axes.whole, size / r)

    def normalise(name: str, rows: float, width: float, over: Axes) -> None:
        """Sums of squares, 32-bit, over all chips that have a part; then the rows are scaled."""
        ledger.elementwise(name, rows * width * a + rows * 4)
        ledger.wire(name, "all_reduce", over, rows * 4)
        ledger.elementwise(name, 2 * rows * width * a + rows * 4 + width * w)

    def activate() -> None:
        """SwiGLU or GELU, on what the reduce-scatter left."""
        ledger.elementwise("activation", (m + 1) * B * L * F / (f * e) * a)

    def into(name: str, width: float) -> None:
        """B_g L E_e times E x width, split f ways: -> B_g L width_(f e)."""
        ledger.wire(f"{name} weights", "all_gather", axes.g, E / e * width / f * w)
        matmul(name, B * L, E / e, width / f)
        ledger.wire(name, "reduce_scatter", axes.e, B * L * width / f * a)

    def out_of(name: str, width: float, residual: str) -> None:
        """B_g L width_(f e) times width x E: -> B_g L E_(e r), to be added to the residual stream.

        The width, which is summed over, is gathered first: over the axes after the first, which splits E.
        """
        ledger.wire(name, "all_gather", axes.e, B * L * width / f * a)
        ledger.wire(f"{name} weights", "all_gather", axes.g[1:] + axes.g[:1], width / f * E / e * w)
        matmul(name, B * L, width / f, E / e)
        scatter(residual, B * L * E / e * a)
        ledger.elementwise(f"{residual} add", 3 * B * L * E / (e * r) * a)

    def key_values_of_own_heads() -> None:
        """Multi-head: keys and values go the query's way; whole in positions where the query has only some."""
        ledger.wire("kv weights", "all_gather", axes.g, E / e * 2 * H * Q / f * w)
        matmul("kv", B * L, E / e, 2 * H * Q / f)
        collective = "reduce_scatter" if to_heads or to_batch else "all_reduce"
        ledger.wire("kv", collective, axes.e, B * L * 2 * H * Q / f * a)

    def attention_by_heads() -> None:
        """Every chip attends with its own heads (Figure 4(a)); few key-value heads are on all of them (Figure 4(b)).

        The chips of the last axis of f project a part of the tokens each and gather the rest.
        """
        sequences = B / e if to_batch else B
        heads = H / (f * e) if to_heads else H / f
        if Kv == H:
            key_values_of_own_heads()
        else:
            split: Axes = ()
            while len(split) < len(axes.f) and Kv % ledger.ways(axes.f[: len(split) + 1]) == 0:
                split = axes.f[: len(split) + 1]
            kept = 2 * Kv * Q / ledger.ways(split)
            last = () if to_batch else axes.f[len(split) :][-1:]
            if all(tokens % ledger.ways(last) for tokens in (B, L)):
                last = ()
            part = B * L / ledger.ways(last)
            matmul("kv", part, E / e, kept)
            ledger.wire("kv", "reduce_scatter" if to_batch else "all_reduce", axes.e, part * kept * a)
            ledger.wire("kv", "all_gather", last, B * L * kept * a)
        attend(sequences * 2 * key_value_heads_read(heads, H / Kv) * Q * C, B * L * H / (f * e))

    def attention_by_batch() -> None:
        """Every chip attends with all heads of its own sequences (section 3.3, Figure 4(c))."""
        moved = axes.f + axes.e if to_heads else axes.f  # axes that go from heads to sequences
        held = B / e if to_batch else B
        while held % ledger.ways(moved):
            moved = moved[1:]  # a small batch fills the innermost ones
        ways = ledger.ways(moved)
        if ways == 1:
            attention_by_heads()
            return
        queries = B * L * H / (f * e)
        if Kv == H:
            key_values_of_own_heads()
            whole = e if not to_heads and not to_batch else 1  # all positions, where the query has some
            for _ in range(2):
                ledger.wire("kv", "all_to_all", moved, queries * Q * whole * a)
        else:
            part = B * L if to_batch else B * L / ledger.ways(tuple(axis for axis in moved if axis not in axes.e))
            matmul("kv", part, E / e, 2 * Kv * Q)
            collective = "reduce_scatter" if to_heads or to_batch else "all_reduce"
            ledger.wire("kv", collective, axes.e, part * 2 * Kv * Q * a)
        ledger.wire("q", "all_to_all", moved, queries * Q * a)
        heads = (H / (f * e) if to_heads else H / f) * ways
        attend(held / ways * 2 * key_value_heads_read(heads, H / Kv) * Q * C, queries)
        ledger.wire("attention", "all_to_all", moved, queries * Q * a)

    def attend(cached: float, queries: float) -> None:
        """Scores and values of `queries` rows; the cache is read, queries in, values out, scores out and in again.

        Where elementwise operations are kernels of their own and attention is no single one, scores, softmax and values
        are three.
        """
        flops, moved, stack = 4 * queries * Q * C, cached * c + 2 * queries * Q * a, ledger.stack
        if stack.attention == "fused":
            # It skips what the causal mask hides: the last of a chip's queries sees all C positions, each one before it
            # sees one less.
            skipped = (own - 1) / 2 if model.causal and work.static_cache is None else 0
            ledger.op("attention", 4 * queries * Q * (C - skipped), moved)
        elif stack.elementwise == "fused":
            ledger.op("attention", flops, moved + 2 * queries * C * _LOGIT)
        else:
            ledger.op("attention scores", flops / 2, moved / 2 + queries * C * a, tiled=own > 1)
            ledger.op("attention softmax", 0.0, 2 * queries * C * a)
            ledger.op("attention values", flops / 2, moved / 2 + queries * C * a, tiled=own > 1)

    attention = {"batch": attention_by_batch, "heads": attention_by_heads}[scenario.layout.attention]
    read_residual("residual", "norm")
    if scenario.block == "parallel":
        into("q_wi", m * F + H * Q)
        attention()
        activate()
        out_of("o_wo", F + H * Q, "residual")
    else:
        into("q", H * Q)
        attention()
        out_of("o", H * Q, "attention residual")
        read_residual("ffn residual", "ffn norm")
        into("wi", m * F)
        activate()
        out_of("wo", F, "ffn residual")
    for name in ledger.terms:
        ledger.terms[name] *= scenario.layers

    if scenario.layout.logits == "none":
        return ledger.prediction(scenario)
    # Rows of the table are looked up where they are stored and summed; the last position goes to all its parts.
    ledger.elementwise("embedding", B * g * L * E * a)
    ledger.wire("embedding to sequences", "reduce_scatter", axes.g, B * g * L * E * a)
    ledger.wire("embedding", "reduce_scatter", axes.e + axes.r, B * L * E * a)
    ledger.wire("embedding", "all_reduce", axes.whole, B * L * E / (e * r) * a)
    ledger.wire("last position", "all_gather", axes.e + axes.r, B * E * a)
    ledger.wire("last position of all sequences", "all_gather", axes.g, B * g * E * a)
    normalise("final_norm", B * g, E, ())
    matmul("logits", B * g, E, ceil(model.vocabulary / n))
    logits = B * g * ceil(model.vocabulary / n)
    for kernel in _TOP_K if work.sampling == "top_k" else ():
        ledger.op(f"token {kernel}", 0.0, 2 * logits * _LOGIT)
    ledger.elementwise("token", logits * a)
    ledger.wire("token", "all_gather", every, B * g * n * 8)  # each chip's largest logit and its token, 32-bit
    return ledger.prediction(scenario)
