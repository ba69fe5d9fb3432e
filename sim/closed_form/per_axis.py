"""The layouts of Pope et al. 2022 (arXiv 2211.05102), each operation at what it costs on the links and memory it uses.

Where `sim.closed_form.pope` divides everything by the bandwidth of all links, here a collective has only the links of
its axes, with hop latency, launch overhead and (K-1)/K; the volumes are those of SwiGLU, queries, keys and the
attention all-to-alls; every operation has its own roofline; and all of them follow each other, a looped matmul as one
(`sim.closed_form.ledger`). Where nothing is left out (`KNOWN`) and every collective has a formula, the simulation
equals it.

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

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod

from sim.closed_form.heads import key_value_heads_read
from sim.closed_form.ledger import Axes, Ledger, Moved
from sim.closed_form.prediction import PAPER_LAYOUTS, Prediction, torus_of
from sim.closed_form.scope import ANY, ROOFLINE, TIMELESS, Known
from sim.errors import InputError, suggest
from sim.specs import DTYPE_BYTES, Scenario

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
    "topology.chip.on_chip_memory": ANY,
    "stack.overlap": ("none", "collective_matmul"),
    "stack.loop_form": (None, "one_way", "bidirectional_throughput", "bidirectional_latency"),
    "stack.collective_matmul_efficiency": ANY,
    "stack.collective_axes": ("at_once", "one_by_one"),
    "layout.overlap": (None, "none", "collective_matmul"),
    "layout.communication": (None, "compute_stream"),
    "layout.chunks": ANY,  # of an overlap that is not known
    "layout.ffn": PAPER_LAYOUTS,
    "layout.attention": ("heads", "batch"),
    "layout.logits": ("last", "none"),
}
"""What the form knows; on chips and links alike, one operation or loop after the other."""

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


def computed_d_model(scenario: Scenario) -> int:
    """d_model, padded until the e r chips that split the residual stream divide it.

    Weights that are gathered are stored split over the first axis, whose chips divide it as well.

    Raises:
        InputError: no torus, or a layout that the paper does not have.
    """
    lengths = {name: axis.size for name, axis in torus_of(scenario).axes.items()}
    axes = groups(scenario.layout.preset, tuple(lengths))
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
    axes = groups(scenario.layout.preset, tuple(ledger.torus.axes))
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

    one_axis = not axes.e and not axes.g and len(axes.r) == 1  # the stream is gathered and scattered by the matmuls

    def matmul(name: str, rows: float, inputs: float, *outputs: float, scattered: Axes = ()) -> None:
        """[rows, inputs] x [inputs, each of outputs] on each chip, whose sums are scattered over axes."""
        moved = Moved(inputs * sum(outputs) * w, [rows * width * a for width in (inputs, *outputs)])
        flops, collective = 2 * rows * inputs * sum(outputs), ledger.ways(scattered) > 1
        ledger.op(name, flops, moved, tiled=rows > 1, collective=collective)

    def piece(rows: float, inputs: Sequence[float], outputs: Sequence[float], sums: bool, *, collective: bool) -> float:
        """[rows, each of inputs] x [inputs, each of outputs], added to what is there: one launch of a loop, s."""
        crossed = [*inputs, *outputs, *(outputs if sums else ())]
        moved = Moved(sum(inputs) * sum(outputs) * w, [rows * width * a for width in crossed])
        return ledger.time(2 * rows * sum(inputs) * sum(outputs), moved, tiled=rows > 1, collective=collective)

    def read_residual(name: str, norm: str) -> None:
        """B_gL E_(e r) -> B_gL E_e, and its norm."""
        if one_axis:
            normalise(norm, B * L, E / r, axes.r)
            return
        ledger.wire(name, "all_gather", axes.r, B * L * E / e * a)
        normalise(norm, B * L, E / e, axes.e)

    def normalise(name: str, rows: float, width: float, over: Axes) -> None:
        """Sums of squares, 32-bit, over all chips that have a part; then the rows are scaled."""
        ledger.elementwise(name, rows * width * a, rows * 4)
        ledger.wire(name, "all_reduce", over, rows * 4)
        ledger.elementwise(name, rows * width * a, rows * width * a, rows * 4, width * w)

    def activate() -> None:
        """SwiGLU or GELU, on what the reduce-scatter left."""
        ledger.elementwise("activation", *[B * L * F / (f * e) * a] * (m + 1))

    def into(name: str, *widths: float, by_rows: Sequence[float] = ()) -> None:
        """B_gL E_e times E x each width, split f ways: -> B_gL width_(f e); by_rows: widths of sums that are scattered
        in sequences or positions."""
        own = [width / f for width in widths]
        rows = [width / f for width in by_rows]
        size = B * L * sum([*own, *rows]) * a
        if one_axis and ledger.loops(axes.r):
            pieces = [piece(B * L, [E / r], own, bool(i), collective=True) for i in range(r)]
            ledger.gathering(name, pieces, axes.r, B * L * E * a)
        elif ledger.loops(axes.e):
            parts = [[x / e for x in own]] if own else []
            pieces = [
                sum(piece(B * L, [E / e], part, bool(i), collective=True) for part in parts)
                + (piece(B * L / e, [E / e], rows, bool(i), collective=True) if rows else 0.0)
                for i in range(e)
            ]
            ledger.scattering(name, pieces, axes.e, size)
        else:
            if one_axis:
                ledger.wire(name, "all_gather", axes.r, B * L * E * a)
            gathered_matmul(name, axes.g[:1], [E / e], [*own, *rows], axes.r if one_axis else axes.e)
            ledger.wire(name, "reduce_scatter", axes.e, size)

    def gathered_matmul(
        name: str, summed: Axes, inputs: Sequence[float], outputs: Sequence[float], activations: Axes = ()
    ) -> None:
        """[B_gL, each of inputs] x [inputs, each of outputs], the weights gathered over g; in a loop first over those
        axes that split what is summed over, `summed`; `activations`: axes that these are gathered or scattered over."""
        over = summed + tuple(axis for axis in axes.g if axis not in summed)
        if not ledger.loops(over):
            ledger.wire(f"{name} weights", "all_gather", over, sum(inputs) * sum(outputs) * w)
            crossed = [B * L * width * a for width in (*inputs, *outputs)]
            flops = 2 * B * L * sum(inputs) * sum(outputs)
            moved = Moved(sum(inputs) * sum(outputs) * w, crossed)
            ledger.op(name, flops, moved, tiled=B * L > 1, collective=ledger.ways(activations) > 1)
            return
        inner = ledger.ways(summed)
        parts = [width / inner for width in inputs], [width / (g / inner) for width in outputs]
        pieces = [piece(B * L, *parts, bool(i % inner), collective=False) for i in range(g)]
        ledger.weight_loop(name, pieces, over, sum(inputs) * sum(outputs) * w / g)

    def out_of(name: str, widths: Sequence[float], residual: str, rows: Sequence[float] = ()) -> None:
        """B_gL width_(f e) times each width x E: -> B_gL E_(e r), to be added to the residual stream.

        The width, which is summed over, is gathered first: over the axes after the first, which splits E. `rows`:
        widths whose sequences or positions were scattered over e.
        """
        own = [width / f for width in widths]
        scattered = [width / f for width in rows]
        every = [*own, *scattered]
        summed = B * L * E / e * a
        if one_axis and ledger.loops(axes.r):
            pieces = [piece(B * L, own, [E / r], bool(i), collective=True) for i in range(r)]
            ledger.scattering(name, pieces, axes.r, summed)
        elif ledger.loops(axes.e):
            pieces = [
                (piece(B * L, [x / e for x in own], [E / e], bool(i), collective=True) if own else 0.0)
                + (piece(B * L / e, scattered, [E / e], bool(own), collective=True) if rows else 0.0)
                for i in range(e)
            ]
            ledger.gathering(name, pieces, axes.e, B * L * sum(every) * a)
            ledger.wire(residual, "reduce_scatter", axes.r, summed)
        else:
            ledger.wire(name, "all_gather", axes.e, B * L * sum(every) * a)
            gathered_matmul(name, axes.g[1:], every, [E / e], axes.r if one_axis else axes.e)
            ledger.wire(name if one_axis else residual, "reduce_scatter", axes.r, summed)
        ledger.wire(residual, "all_reduce", axes.whole, summed / r)
        ledger.elementwise(f"{residual} add", *[B * L * E / (e * r) * a] * 3)

    def key_values_of_own_heads() -> None:
        """Multi-head: keys and values go the query's way; whole in positions where the query has only some."""
        if to_heads and not one_axis:
            into("kv", H * Q, H * Q)
        elif to_batch:
            into("kv", by_rows=(H * Q, H * Q))
        else:
            gathered_matmul("kv", axes.g[:1], [E / e], [H * Q / f] * 2)
            ledger.wire("kv", "all_reduce", axes.e, B * L * 2 * H * Q / f * a)

    def few_key_values(rows: float, width: float, scattered: bool = False) -> None:
        """Keys and values of fewer heads than the query's, of some rows, as they are needed: summed over e."""
        if to_batch and ledger.loops(axes.e):
            pieces = [piece(rows / e, [E / e], [width / 2] * 2, bool(i), collective=True) for i in range(e)]
            ledger.scattering("kv", pieces, axes.e, rows * width * a)
            return
        matmul("kv", rows, E / e, width / 2, width / 2, scattered=axes.e if to_batch else ())
        ledger.wire("kv", "reduce_scatter" if to_batch or scattered else "all_reduce", axes.e, rows * width * a)

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
            few_key_values(part, kept)
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
            few_key_values(part, 2 * Kv * Q, to_heads)
        ledger.wire("q", "all_to_all", moved, queries * Q * a)
        heads = (H / (f * e) if to_heads else H / f) * ways
        attend(held / ways * 2 * key_value_heads_read(heads, H / Kv) * Q * C, queries)
        ledger.wire("attention", "all_to_all", moved, queries * Q * a)

    def attend(cached: float, queries: float) -> None:
        """Scores and values of `queries` rows; the cache is read, queries in, values out, scores out and in again.

        Where elementwise operations are kernels of their own and attention is no single one, scores, softmax and values
        are three.
        """
        flops, stack = 4 * queries * Q * C, ledger.stack
        cached, sides, score = cached * c, [queries * Q * a] * 2, queries * C
        if stack.attention == "fused":
            # It skips what the causal mask hides: the last of a chip's queries sees all C positions, each one before it
            # sees one less.
            skipped = (own - 1) / 2 if model.causal and work.static_cache is None else 0
            ledger.op("attention", 4 * queries * Q * (C - skipped), Moved(cached, sides))
        elif stack.elementwise == "fused":
            ledger.op("attention", flops, Moved(cached, [*sides, *[score * _LOGIT] * 2]))
        else:
            half = Moved(cached / 2 + sum(map(ledger.spilled, sides)) / 2, [score * a])
            ledger.op("attention scores", flops / 2, half, tiled=own > 1)
            ledger.op("attention softmax", 0.0, Moved(0.0, [score * a] * 2))
            ledger.op("attention values", flops / 2, half, tiled=own > 1)

    by_heads, by_rows = ((H * Q,), ()) if to_heads else ((), (H * Q,))
    attention = {"batch": attention_by_batch, "heads": attention_by_heads}[scenario.layout.attention]
    read_residual("residual", "norm")
    if scenario.block == "parallel":
        into("q_wi", *[F] * m, *by_heads, by_rows=by_rows)
        attention()
        activate()
        out_of("o_wo", (F, *by_heads), "residual", rows=by_rows)
    else:
        into("q", *by_heads, by_rows=by_rows)
        attention()
        out_of("o", by_heads, "attention residual", rows=by_rows)
        read_residual("ffn residual", "ffn norm")
        into("wi", *[F] * m)
        activate()
        out_of("wo", (F,), "ffn residual")
    for name in ledger.terms:
        ledger.terms[name] *= scenario.layers

    if scenario.layout.logits == "none":
        return ledger.prediction(scenario, KNOWN)
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
        ledger.op(f"token {kernel}", 0.0, Moved(2 * logits * _LOGIT, ()))
    ledger.elementwise("token", logits * a)
    ledger.wire("token", "all_gather", every, B * g * n * 8)  # each chip's largest logit and its token, 32-bit
    return ledger.prediction(scenario, KNOWN)
