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
from dataclasses import dataclass
from typing import Any, Generic

from sim.layouts.dataflow import V
from sim.layouts.layer import Layer


@dataclass(frozen=True, slots=True)
class Stream(Generic[V]):
    """Residual stream between two layers, and the outputs that are still to be added to it."""

    x: V
    attention: V | None = None
    """Output of the last layer's attention."""
    mlp: V | None = None
    """Output of the last layer's FFN."""
    shared: V | None = None
    """Output of its shared experts, to be added to `mlp` when that has arrived."""

    def settle(self, layer: Layer[V]) -> Stream[V]:
        """Returns the stream with the output of shared experts added to that of the FFN."""
        if self.shared is None or self.mlp is None:
            return self
        return Stream(self.x, self.attention, layer.add_shared_experts(self.mlp, self.shared))

    @property
    def pending(self) -> tuple[V, ...]:
        return tuple(out for out in (self.attention, self.mlp) if out is not None)

    @property
    def values(self) -> tuple[V, ...]:
        """The stream, then its pending outputs and that of shared experts."""
        return (self.x, *self.pending, *([] if self.shared is None else [self.shared]))

    @property
    def shape(self) -> tuple[bool, bool, bool]:
        """True for each of attention, FFN and shared experts whose output is pending."""
        return self.attention is not None, self.mlp is not None, self.shared is not None


def standard(layers: Sequence[Layer[Any]], streams: Sequence[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """Parts of a batch take turns, so that one computes while another communicates."""
    turns = [_standard_turns(layer, stream) for layer, stream in zip(layers, streams, strict=True)]
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
