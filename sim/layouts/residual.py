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

from collections.abc import Callable, Sequence
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

    @property
    def pending(self) -> tuple[V, ...]:
        return tuple(out for out in (self.attention, self.mlp) if out is not None)

    @property
    def values(self) -> tuple[V, ...]:
        """The stream, then its pending outputs."""
        return (self.x, *self.pending)

    @property
    def shape(self) -> tuple[bool, bool]:
        """True for each of attention and FFN whose output is pending."""
        return self.attention is not None, self.mlp is not None


def standard(layers: Sequence[Layer[Any]], streams: Sequence[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """Parts of a batch take turns sublayer by sublayer, so that one computes while another's sum is reduced, or while
    another's tokens are on their way to experts (DeepSeek-V3 2024, section 3.4)."""
    if len(layers) > 1 and layers[0].dispatches_early:
        return _standard_in_turn(layers, streams)
    between = []
    for layer, stream in zip(layers, streams, strict=True):
        x, y = layer.norm(stream.x, stream.pending, "norm")
        between.append((x, layer.attention(y)))
    after = []
    for layer, (x, out) in zip(layers, between, strict=True):
        x, y = layer.norm(x, (out,), "ffn_norm")
        after.append(Stream(x, mlp=layer.mlp(y)))
    return tuple(after)


def _standard_in_turn(layers: Sequence[Layer[Any]], streams: Sequence[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """A part's dispatch is under the next part's attention, its combine under the next part's experts."""
    between = []
    for layer, stream in zip(layers, streams, strict=True):
        x, y = layer.norm(stream.x, stream.pending, "norm")
        x, y = layer.norm(x, (layer.attention(y),), "ffn_norm")
        between.append((x, layer.begin_mlp(y)))
    return tuple(Stream(x, mlp=layer.end_mlp(sent)) for layer, (x, sent) in zip(layers, between, strict=True))


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
