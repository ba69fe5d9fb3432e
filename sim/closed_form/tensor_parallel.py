"""Tensor parallelism as it is usually modelled, and the same with every operation at what it costs.

A half layer computes at max(FLOPs / rate, weights and cache / memory bandwidth), then its sum is made. With h the time
of a half and c that of its sum:

    standard, desync  h + c, c where the sum is kept
    parallel          both halves in one, one c
    ladder            max(h of the next half, c): nothing of a sum is exposed where the next half takes longer
    no_communication  h

`usual` is that model at the rates that kernels of the scenario's stack reach. `per_operation` sums operations instead:
each its own roofline and overhead, with norms, rotary embedding, activations, adds, logits and the draw of a token.
Neither knows what a join of streams costs or that collectives slow compute, and neither overlaps anything but Ladder's
sums: what micro-batches or chunked matmuls hide is left to the simulation. Where nothing is left out (`KNOWN`) and the
formula of every collective is exact, the simulation equals `per_operation`.

| symbol | meaning | | symbol | meaning |
|---|---|---|---|---|
| B, L | batch, positions in this pass | | n | chips |
| C | cached positions that attention reads | | t | of them, those that divide the key-value heads |
| E, F, Q | d_model, d_ff, d_head | | m | matrices into the FFN, 2 for SwiGLU |
| H, K | heads computed, key-value heads | | a, w, c | bytes of an activation, a weight, a cached value |

Times are in seconds, per chip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, gcd

from sim.closed_form.heads import key_value_heads_read
from sim.closed_form.prediction import Prediction
from sim.closed_form.scope import ANY, ROOFLINE, TIMELESS, Known, left_out
from sim.specs import DTYPE_BYTES, Scenario, chips_of

Wire = Callable[[str, float], tuple[float, str]]
"""(collective, bytes) -> (time of a collective of all chips, s, and why it is not exact; empty where it is)."""

LAYOUT = "tensor_parallel"

KNOWN: Known = {
    **TIMELESS,
    **ROOFLINE,
    "topology.kind": ("switch", "graph"),
    "topology.chips": ANY,
    "topology.link": ANY,  # with what follows of the machine, read by the formulas of collectives
    "topology.link_types": ANY,
    "topology.links": ANY,
    "topology.nodes": ANY,
    "topology.nccl": ANY,
    "topology.reduces": ANY,
    "stack.l2_speed": ANY,
    "stack.matmul_overhead": ANY,
    "stack.attention_format": ("activations", "f32"),
    "stack.vector_efficiency": ANY,
    "topology.chip.vector_peak": ANY,
    "stack.matmul_split": ANY,  # of tiles, which are not known
    "topology.chip.multiprocessors": ANY,  # read where the stack says how tiles load, which is not known
    "stack.launch": ANY,  # where no graph is captured, and graph_capture is not known
    "stack.step_overhead": ANY,
    "stack.nvls": ANY,  # read by the formulas of collectives
    "stack.dequantizing_hbm_efficiency": ANY,
    "stack.pipeline": ("sequential", "non_blocking", "blocking"),  # where there are stages, which no form of a pass has
    "layout.graph_capture": (None, True),
    **dict.fromkeys(
        ("stack.compute_interference", "stack.memory_interference", "stack.channel_rate"), ANY
    ),  # of NCCL's collectives, whose formula is not exact
    "layout.ffn": (LAYOUT,),
    "layout.attention": ("heads",),
    "layout.residual": (
        *(None, "standard", "parallel", "ladder", "hybrid", "desync2", "desync4"),
        "no_communication",
    ),
    "layout.hybrid": ANY,
    "layout.mesh.tensor": ANY,
    "layout.sequence_parallel": (True, False),
    "layout.communication": (None, "compute_stream", "own_stream"),
    "layout.overlap": (None, "none"),
    "stack.overlap": ("none", "collective_matmul"),  # of tori, as the next three
    "stack.loop_form": (None, "one_way", "bidirectional_throughput", "bidirectional_latency"),
    "stack.collective_axes": ("at_once", "one_by_one"),
    "stack.collective_matmul_efficiency": ANY,
    "layout.chunks": ANY,  # of an overlap that is not known
    "layout.head": ("sharded", "replicated"),
    "layout.logits": ("last", "every"),
    "layout.kv_heads": ("shared", "expanded"),
}
"""What `per_operation` knows."""
_WITHOUT_JOINS: Known = {"stack.stream_wait": ANY}
"""What it knows as well where there are no collectives, or they have no stream of their own."""

_SCORES, _PAIR = 4, 8
"""Bytes of a 32-bit logit, and of one with its token."""
_TOP_K = (2, 2, 2, 2)
"""How often softmax, top-k, masked softmax and draw go through all logits."""


@dataclass(frozen=True, slots=True)
class Op:
    """One operation on one chip."""

    name: str
    flops: float
    moved: float
    """Bytes of activations through memory."""
    read: float = 0.0
    """Bytes of weights or cache, read once."""
    copies: float = 0.0
    """Bytes of copied keys and values, read from L2."""
    tiled: bool = False
    """A matmul of several rows."""
    vector: bool = False
    """Products of 32-bit floats on the vector units."""
    converts: bool = False
    """A matmul whose weights are smaller numbers than its activations."""
    apart: bool = True
    """Whether the usual model leaves it out: a norm, an activation, an add."""


@dataclass(frozen=True, slots=True)
class Half:
    """Operations up to a sum, and the sum."""

    ops: tuple[Op, ...]
    sum: str = ""
    """Name of the sum; empty where there is none."""
    hidden: bool = False
    """Whether the next half runs while the sum is made."""


class _Sizes:
    """The symbols of the table above, and the operations made of them."""

    def __init__(self, scenario: Scenario) -> None:
        model, work, layout = scenario.model, scenario.workload, scenario.layout
        self.layout, self.stack, self.top_k = layout, scenario.stack, work.sampling == "top_k"
        self.n = n = layout.mesh.tensor or chips_of(scenario.topology)
        self.a, self.w, self.c = (DTYPE_BYTES[each] for each in (work.activations, work.weights, work.kv_cache))
        self.B, self.L, self.C = work.batch, work.tokens_per_step, work.mean_cache_length
        self.E, self.Q, self.m = model.d_model, model.d_head, 2 if model.ffn == "swiglu" else 1
        heads = ceil(model.computed_heads / n) * n
        of_all = model.kv_heads == model.heads  # padded like the query heads, and split like them
        cached, split = (heads, n) if of_all else (model.kv_heads, gcd(model.kv_heads, n))
        self.H, self.K, self.F = heads / n, cached / split, model.d_ff / n  # of one chip
        self.used = key_value_heads_read(self.H, heads / cached)
        # Pairs of a query and a position that it attends to: a fused kernel skips those behind the causal mask.
        skips = self.stack.attention == "fused" and model.causal and work.static_cache is None
        self.seen = self.L * self.C - (self.L * (self.L - 1) / 2 if skips else 0)
        self.V = ceil(model.vocabulary / n) * (1 if layout.head == "sharded" else n)
        self.tokens = self.B * self.L
        self.own = self.tokens / n if layout.sequence_parallel else self.tokens  # tokens of the residual stream

    @property
    def stream(self) -> float:
        """Bytes of the residual stream of all tokens."""
        return self.tokens * self.E * self.a

    def _matmul(self, name: str, rows: float, inputs: float, outputs: float, plus: bool = False) -> Op:
        moved = rows * (inputs + outputs * (2 if plus else 1)) * self.a
        flops, read, tiled, converts = 2 * rows * inputs * outputs, inputs * outputs * self.w, rows > 1, self.w < self.a
        return Op(name, flops, moved, read, tiled=tiled, converts=converts, apart=False)

    def _elementwise(self, name: str, values: float, gain: float = 0.0) -> list[Op]:
        """None where the compiler fuses it into a neighbour."""
        return [] if self.stack.elementwise == "fused" else [Op(name, 0.0, values * self.a + gain * self.w)]

    def norm(self, name: str, plus: int, tokens: float | None = None) -> list[Op]:
        """x and what is added to it read, x + plus and the normalised written."""
        tensors = 1 + plus + (2 if plus else 1)
        return self._elementwise(name, tensors * (self.own if tokens is None else tokens) * self.E, self.E)

    def add(self, name: str) -> list[Op]:
        return self._elementwise(name, 3 * self.own * self.E)

    def attended(self) -> list[Op]:
        """From queries, keys and values to attention's output."""
        heads = self.H + 2 * self.K
        ops = self._elementwise("rotary and cache", 2 * self.tokens * heads * self.Q)
        scores = self.B * self.H * self.seen
        flops, moved = 4 * scores * self.Q, 2 * self.tokens * self.H * self.Q * self.a
        cache = 2 * self.B * self.C * self.Q * self.c
        copies = cache * self.H if self.layout.kv_heads == "expanded" else 0.0
        read, vector = cache * self.used, self.stack.attention_format == "f32"
        if self.stack.attention == "fused":
            return [*ops, Op("attention", flops, moved, read, copies, vector=vector, apart=False)]
        if self.stack.elementwise == "fused":
            moved += 2 * scores * _SCORES
            return [*ops, Op("attention", flops, moved, read, copies, vector=vector, apart=False)]
        size = _SCORES if vector else self.a
        product = (flops / 2, moved / 2 + scores * size, read / 2, copies / 2, self.L > 1 and not vector, vector)
        softmax = Op("softmax", 0.0, 2 * scores * size)
        return [*ops, Op("scores", *product, apart=False), softmax, Op("values", *product, apart=False)]

    def attention(self, plus: bool = False) -> list[Op]:
        into = self._matmul("qkv", self.tokens, self.E, (self.H + 2 * self.K) * self.Q)
        return [into, *self.attended(), self._matmul("o", self.tokens, self.H * self.Q, self.E, plus)]

    def activated(self) -> list[Op]:
        return self._elementwise("activation", (self.m + 1) * self.tokens * self.F)

    def mlp(self, plus: bool = False) -> list[Op]:
        into = self._matmul("wi", self.tokens, self.E, self.m * self.F)
        return [into, *self.activated(), self._matmul("wo", self.tokens, self.F, self.E, plus)]

    def both(self) -> list[Op]:
        """Attention and FFN of one norm."""
        into = self._matmul("qkv and wi", self.tokens, self.E, (self.H + 2 * self.K) * self.Q + self.m * self.F)
        out = self._matmul("wo", self.tokens, self.F, self.E, plus=True)
        return [into, *self.attended(), self._matmul("o", self.tokens, self.H * self.Q, self.E), *self.activated(), out]

    def embedding(self) -> list[Op]:
        return self._elementwise("embedding", self.tokens * self.E)

    def head(self, waiting: int) -> list[Op]:
        """Final norm, logits, the next token."""
        last = self.layout.logits == "last"
        tokens = self.B if last else self.tokens
        # Split over tokens, the stream is normalised before the last positions are gathered.
        normed = tokens if not self.layout.sequence_parallel else self.own
        logits = self.B * self.V
        steps = [Op("token", 0.0, times * logits * _SCORES) for times in _TOP_K] if self.top_k else []
        multiply = self._matmul("logits", tokens, self.E, self.V)
        return [*self.norm("final norm", waiting, normed), multiply, *steps, *self._elementwise("token", logits)]


def halves(scenario: Scenario) -> list[Half]:
    """The pass as halves of layers; the first begins with the embedding, the last is the head."""
    sizes = _Sizes(scenario)
    ops, waiting, found = sizes.embedding(), 0, []
    if sizes.layout.head == "sharded":
        found, ops = [Half(tuple(ops), "embedding")], []
    kinds = _kinds(scenario)
    for i, kind in enumerate(kinds):
        hides = i + 1 < len(kinds) and kinds[i + 1] == "ladder"  # of the FFN's sum, the next layer's attention
        if kind == "parallel":
            found.append(Half((*ops, *sizes.norm("norm", waiting), *sizes.both()), "both"))
            ops, waiting = [], 1
        elif kind == "ladder":
            ladder_before = i > 0 and kinds[i - 1] == "ladder"
            first = sizes.add("residual add") if ladder_before else []
            second = sizes.add("residual add") if waiting else []
            found.append(Half((*ops, *first, *sizes.norm("norm", 0), *sizes.attention()), "attention", hidden=True))
            found.append(Half((*second, *sizes.norm("ffn norm", 0), *sizes.mlp()), "mlp", hidden=hides))
            ops, waiting = [], 2
        elif kind == "standard":
            found.append(Half((*ops, *sizes.norm("norm", waiting), *sizes.attention()), "attention"))
            found.append(Half((*sizes.norm("ffn norm", 1), *sizes.mlp()), "mlp", hidden=hides))
            ops, waiting = [], 1
        else:
            kept = kind == "mlp_summed"
            found.append(Half((*ops, *sizes.norm("norm", waiting), *sizes.attention())))
            found.append(Half((*sizes.norm("ffn norm", 1), *sizes.mlp(plus=kept)), "mlp" if kept else ""))
            ops, waiting = [], 0 if kept else 1
    return [*found, Half((*ops, *sizes.head(waiting)))]


def _kinds(scenario: Scenario) -> list[str]:
    """Of each layer, by the residual scheme."""
    all_layers, scheme = scenario.model.layers, scenario.residual
    if scheme == "hybrid" and scenario.layout.hybrid:
        last = scenario.layout.hybrid.ladder_layers
        kinds = ["standard"] * (all_layers - last) + ["ladder"] * last
    elif scheme in ("desync2", "desync4"):
        every = 1 if scheme == "desync2" else 2
        kept = [(i + 1) % every == 0 or i + 1 == all_layers for i in range(all_layers)]
        kinds = ["mlp_summed" if keep else "unsummed" for keep in kept]
    else:
        kinds = ["unsummed" if scheme == "no_communication" else scheme] * all_layers
    return kinds[: scenario.layers]


def usual(scenario: Scenario, wire: Wire) -> Prediction:
    """Halves at max(FLOPs, weights and cache), sums after them or, under Ladder, beside the next half."""

    def time_of(half: Half) -> float:
        ops = [op for op in half.ops if not op.apart]
        flops = sum(op.flops / _rate(scenario, op) for op in ops)
        return max(flops, sum(op.read / _memory(scenario, op) for op in ops))

    compute, exposed, _ = _pass(scenario, halves(scenario), time_of, wire)
    inexact = ("leaves out overheads and what each operation of a half waits for",)
    return Prediction(compute + sum(exposed.values()), {"compute": compute, **exposed}, inexact)


def per_operation(scenario: Scenario, wire: Wire) -> Prediction:
    """Every operation at its own roofline and overhead; of Ladder's sums what the next half does not hide."""

    def time_of(half: Half) -> float:
        return sum(_time(scenario, op) for op in half.ops)

    parts = halves(scenario)
    compute, exposed, inexact = _pass(scenario, parts, time_of, wire)
    terms: dict[str, float] = {}
    for op in (op for half in parts for op in half.ops):
        terms[op.name] = terms.get(op.name, 0.0) + _time(scenario, op)
    if host := scenario.stack.step_overhead.value:
        terms["host"] = host
    known = KNOWN if scenario.communication_streams and exposed else {**KNOWN, **_WITHOUT_JOINS}
    step = compute + sum(exposed.values()) + host
    return Prediction(step, {**terms, **exposed}, (*left_out(scenario, known), *inexact))


def _rate(scenario: Scenario, op: Op) -> float:
    vector = scenario.topology.chip.vector_peak
    if op.vector and vector:
        return vector.value * scenario.stack.vector_efficiency.value
    return scenario.topology.chip.peak[scenario.workload.activations].value * scenario.stack.matmul_efficiency.value


def _memory(scenario: Scenario, op: Op) -> float:
    stack = scenario.stack
    reached = stack.matmul_hbm_efficiency if op.tiled and stack.matmul_hbm_efficiency else stack.hbm_efficiency
    if op.converts and stack.dequantizing_hbm_efficiency:
        reached = stack.dequantizing_hbm_efficiency
    return scenario.topology.chip.hbm_bandwidth.value * reached.value


def _roofline(scenario: Scenario, op: Op) -> float:
    stack = scenario.stack
    copies = op.copies / (stack.l2_speed.value * scenario.topology.chip.hbm_bandwidth.value) if stack.l2_speed else 0.0
    compute, memory = op.flops / _rate(scenario, op), max((op.read + op.moved) / _memory(scenario, op), copies)
    return max(compute, memory) + (1 - stack.roofline_overlap.value) * min(compute, memory)


def _time(scenario: Scenario, op: Op) -> float:
    stack = scenario.stack
    overhead = stack.matmul_overhead if op.tiled and stack.matmul_overhead else stack.op_overhead
    return _roofline(scenario, op) + overhead.value


def _pass(
    scenario: Scenario, parts: Sequence[Half], time_of: Callable[[Half], float], wire: Wire
) -> tuple[float, dict[str, float], tuple[str, ...]]:
    """(time of all halves, by name what of their collectives nothing hides, why their formulas are not exact).

    Under Ladder the sum of a half and the next half start together, and the one after that waits for both.
    """
    times = [time_of(half) for half in parts]
    exposed: dict[str, float] = {}
    inexact: dict[str, None] = {}

    def expose(collective: str, name: str, size: float, under: float = 0.0) -> None:
        key, (time, reason) = f"{collective} {name}", wire(collective, size)
        exposed[key] = exposed.get(key, 0.0) + max(0.0, time - under)
        inexact.update({reason: None} if reason else {})

    sizes = _Sizes(scenario)
    if sizes.n == 1:
        return sum(times), exposed, ()
    if scenario.layout.sequence_parallel and scenario.communication_streams and any(half.hidden for half in parts):
        inexact["assumes that nothing hides the collectives of sequence_parallel under ladder"] = None
    for i, half in enumerate(parts):
        if half.sum and scenario.layout.sequence_parallel and half.sum != "embedding":
            expose("all_gather", half.sum, sizes.stream)  # before it, and its sum scattered after it
            expose("reduce_scatter", half.sum, sizes.stream)
        elif half.sum:
            hides = half.hidden and scenario.communication_streams
            expose("all_reduce", half.sum, sizes.stream, under=times[i + 1] if hides else 0.0)
    if scenario.layout.sequence_parallel:
        expose("all_gather", "final norm", sizes.stream)
    if scenario.layout.head == "sharded":
        expose("all_gather", "token", sizes.B * _PAIR * sizes.n)
    return sum(times), exposed, tuple(inexact)
