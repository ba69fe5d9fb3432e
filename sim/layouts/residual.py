"""Residual schemes: the wiring of attention and FFN to the residual stream (Zhang et al. 2025, arXiv 2501.06589).

With A and M the attention and the FFN, each with its own norm, AR the all-reduce, r the residual stream:

    standard          r += AR(A(r));  r += AR(M(r))
    parallel          r += AR(A(r) + M(r)), one norm (GPT-J, PaLM)
    ladder            r += a;  a' = AR(A(r));  r += m;  m' = AR(M(r)): a sublayer reads the stream one sublayer earlier
    hybrid            the first layers standard, the last ones ladder
    desync2, desync4  standard with one all-reduce per 2 or 4 sublayers; in between, each chip adds its partial sum
    no_communication  standard without any all-reduce: the time of its compute, its values mean nothing

no_communication is a lower bound for every scheme with the same operations; parallel can be faster because it has one
norm instead of two.

In ladder the all-reduce of a sublayer does not depend on the next sublayer, and overlaps it on a stream of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic

from msgspec import Struct
from msgspec.structs import replace

from sim.layouts.dataflow import V
from sim.layouts.experts import Sent, apply_experts, choose_experts, dispatch_tokens, exchange_of, shared_under_combine
from sim.layouts.layer import Layer


class Stream(Struct, Generic[V], frozen=True):
    """Residual stream between two layers, and the outputs that are still to be added to it."""

    x: V
    attention: V | None = None
    """Output of the last layer's attention."""
    mlp: V | None = None
    """Output of the last layer's FFN."""
    shared: V | None = None
    """Output of its shared experts, to be added to `mlp` when that has arrived."""
    sent: Sent[V] | None = None
    """Tokens that are on their way to the last layer's experts, whose output is `mlp` later."""

    def settle(self, layer: Layer[V]) -> Stream[V]:
        """Returns the stream with the outputs of routed and shared experts, added to one."""
        if self.sent is not None:
            return _run_to_end(_apply_experts(layer, self)).settle(layer)
        if self.shared is None or self.mlp is None:
            return self
        return Stream(self.x, self.attention, layer.add_shared_experts(self.mlp, self.shared))

    @property
    def pending(self) -> tuple[V, ...]:
        return tuple(out for out in (self.attention, self.mlp) if out is not None)

    @property
    def values(self) -> tuple[V, ...]:
        """The stream, then its pending outputs, that of shared experts, and tokens that are sent."""
        shared = () if self.shared is None else (self.shared,)
        return (self.x, *self.pending, *shared, *(self.sent.values if self.sent else ()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of values of attention, FFN and shared experts whose output is pending, and of tokens that are
        sent."""
        pending = (int(out is not None) for out in (self.attention, self.mlp, self.shared))
        return (*pending, len(self.sent.values) if self.sent else 0)


def standard(layers: Sequence[Layer[Any]], streams: Sequence[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """Parts of a batch take turns, so that one computes while another communicates."""
    staged = len(layers) > 1 and layers[0].in_stages and layers[0].exchanges_tokens
    turns = [
        _five_stages(layer, stream, late=part > 0) if staged else _standard_turns(layer, stream)
        for part, (layer, stream) in enumerate(zip(layers, streams, strict=True))
    ]
    results: dict[int, Stream[Any]] = {}
    while len(results) < len(turns):
        for part, turn in enumerate(turns):
            try:
                next(turn)
            except StopIteration as end:
                results[part] = end.value
    return tuple(results[part] for part in range(len(turns)))


def _standard_turns(layer: Layer[V], stream: Stream[V]) -> Generator[None, None, Stream[V]]:
    """Issues a layer, and yields where another part of the batch takes its turn: after attention, unless it has no sum
    and tokens are sent to experts next, and after tokens are sent."""
    stream = stream.settle(layer)
    x, y = layer.norm(stream.x, stream.pending, "norm")
    out = layer.attention(y)
    if layer.uses.heads or not layer.exchanges_tokens:
        yield
    x, y = layer.norm(x, (out,), "ffn_norm")
    finish = layer.start_mlp(y)
    if layer.exchanges_tokens:
        yield
    mlp, shared = finish()
    return Stream(x, mlp=mlp, shared=shared)


def _five_stages(layer: Layer[V], stream: Stream[V], *, late: bool) -> Generator[None, None, Stream[V]]:
    """Issues a layer in the stages of DeepSeek's decoding: projections, attention, dispatch, experts, receipt of their
    outputs. The `late` part is two stages behind: it first computes the last layer's experts, and ends with tokens on
    their way to this layer's."""
    if late and stream.sent:
        stream = yield from _apply_experts(layer, stream)
        yield
    elif late:
        yield
        yield
    stream = stream.settle(layer)
    x, y = layer.norm(stream.x, stream.pending, "norm")
    attend = layer.start_attention(y)
    yield
    x, y = layer.norm(x, (attend(),), "ffn_norm")
    y, shares = choose_experts(layer, y)
    yield
    sent, shared = dispatch_tokens(layer, y, shares)
    stream = Stream(x, shared=shared, sent=sent)
    if late:
        return stream
    yield
    return (yield from _apply_experts(layer, stream))


def _apply_experts(layer: Layer[V], stream: Stream[V]) -> Generator[None, None, Stream[V]]:
    """Issues the experts of tokens that are on their way, and yields before their outputs are received."""
    sent = stream.sent
    assert sent is not None
    over, name = exchange_of(layer), "experts" + layer.part
    received = layer.flow.receive_rows(sent.rows, "dispatch", over, name)
    out = apply_experts(layer, replace(sent, rows=received))
    yield
    shared = shared_under_combine(layer, sent) or stream.shared
    out = layer.flow.receive_rows(out, "combine", over, name)
    mlp, shared = layer.sum_experts(out, shared)
    return Stream(stream.x, mlp=mlp, shared=shared)


def _run_to_end(turns: Generator[None, None, Stream[V]]) -> Stream[V]:
    """Returns the result of turns that are taken one after the other."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            result: Stream[V] = end.value
            return result


def parallel(layer: Layer[V], stream: Stream[V]) -> Stream[V]:
    x, y = layer.norm(stream.x, stream.pending, "norm")
    return Stream(x, mlp=layer.attention_and_mlp(y))


def ladder(layer: Layer[V], stream: Stream[V]) -> Stream[V]:
    """The first ladder layer after a standard one has only a pending `mlp`, which its attention does not read."""
    add = layer.flow.add
    x = stream.x if stream.attention is None else add(stream.x, stream.attention, "residual attention")
    out_a = layer.attention(layer.norm(x, (), "norm")[1])
    x = x if stream.mlp is None else add(x, stream.mlp, "residual mlp")
    out_m = layer.mlp(layer.norm(x, (), "ffn_norm")[1])
    return Stream(x, out_a, out_m)


def desync(layer: Layer[V], stream: Stream[V], attention: bool, mlp: bool) -> Stream[V]:
    """A reduced sum includes each chip's residual / chips, so that all chips hold one residual again."""
    x, y = layer.norm(stream.x, stream.pending, "norm")
    x, pending = _run_sublayer(x, y, layer.partial_attention, attention)
    x, y = layer.norm(x, pending, "ffn_norm")
    x, pending = _run_sublayer(x, y, layer.partial_mlp, mlp)
    return Stream(x, mlp=pending[0] if pending else None)


def _run_sublayer(x: V, y: V, half: Callable[..., V], keep: bool) -> tuple[V, tuple[V, ...]]:
    """Returns the stream and its pending outputs after a sublayer of normalised stream y."""
    return (half(y, x), ()) if keep else (x, (half(y),))


LAYERS: dict[str, Callable[[Layer[Any], Stream[Any]], Stream[Any]]] = {
    "standard": lambda layer, stream: standard([layer], [stream])[0],
    "parallel": parallel,
    "ladder": ladder,
    "unsummed": lambda layer, stream: desync(layer, stream, attention=False, mlp=False),
    "mlp_summed": lambda layer, stream: desync(layer, stream, attention=False, mlp=True),
}
"""Kinds of layer."""

UNSUMMED = ("unsummed",)
"""Kinds of layer after which chips hold different residual streams."""


def _sum_every(period: int) -> Callable[[int, int], tuple[str, ...]]:
    """Returns the layers of a scheme that reduces the FFN's sum in every `period`-th layer and in the last."""
    return lambda layers, _: tuple(
        "mlp_summed" if (i + 1) % period == 0 or i + 1 == layers else "unsummed" for i in range(layers)
    )


Kinds = Callable[[int, int], tuple[str, ...]]
"""(layers, ladder layers of a hybrid) -> a name of LAYERS for each layer."""

SCHEMES: dict[str, Kinds] = {
    "standard": lambda layers, _: ("standard",) * layers,
    "parallel": lambda layers, _: ("parallel",) * layers,
    "ladder": lambda layers, _: ("ladder",) * layers,
    "hybrid": lambda layers, last: ("standard",) * (layers - last) + ("ladder",) * last,
    "desync2": _sum_every(1),
    "desync4": _sum_every(2),
    "no_communication": lambda layers, _: ("unsummed",) * layers,
}
