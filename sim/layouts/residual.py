"""How the halves of layers are wired to the residual stream (Zhang et al. 2025, arXiv 2501.06589).

With A and M the attention and the FFN, each with its own norm, AR the all-reduce, r the residual stream:

    standard          r += AR(A(r));  r += AR(M(r))
    parallel          r += AR(A(r) + M(r)), one norm (GPT-J, PaLM)
    ladder            r += a;  a' = AR(A(r));  r += m;  m' = AR(M(r)): a half reads the stream one half earlier
    hybrid            the first layers standard, the last ones ladder
    desync2, desync4  standard, of 2 or 4 halves only the last one's sum is made; between, each chip adds its own part
    no_communication  standard without any sum: what its compute alone takes, its values mean nothing

No scheme with the operations of standard is faster than no_communication; parallel, with one norm for two, can be.

In ladder the all-reduce of a half depends on nothing that the next half does, and runs on its own stream under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

from sim.layouts.dataflow import V
from sim.layouts.layer import Layer


@dataclass(frozen=True, slots=True)
class Stream(Generic[V]):
    """The residual stream between two layers, and what is still to be added to it."""

    x: V
    attention: V | None = None
    """Output of the last layer's attention."""
    mlp: V | None = None
    """Output of the last layer's FFN."""

    @property
    def waiting(self) -> tuple[V, ...]:
        return tuple(out for out in (self.attention, self.mlp) if out is not None)

    @property
    def values(self) -> tuple[V, ...]:
        """The stream and what is to be added, in a row."""
        return (self.x, *self.waiting)

    @property
    def shape(self) -> tuple[bool, bool]:
        """Whether outputs of attention and FFN are to be added."""
        return self.attention is not None, self.mlp is not None


def standard(layers: Sequence[Layer[Any]], streams: Sequence[Stream[Any]]) -> tuple[Stream[Any], ...]:
    """Several parts of a batch take turns half by half, so that one computes while another's sum is made."""
    between = []
    for layer, stream in zip(layers, streams, strict=True):
        x, y = layer.norm(stream.x, stream.waiting, "norm")
        between.append((x, layer.attention(y)))
    after = []
    for layer, (x, out) in zip(layers, between, strict=True):
        x, y = layer.norm(x, (out,), "ffn_norm")
        after.append(Stream(x, mlp=layer.mlp(y)))
    return tuple(after)


def parallel(layer: Layer[V], stream: Stream[V]) -> Stream[V]:
    x, y = layer.norm(stream.x, stream.waiting, "norm")
    return Stream(x, mlp=layer.both(y))


def ladder(layer: Layer[V], stream: Stream[V]) -> Stream[V]:
    """The first ladder layer after a standard one gets only an `mlp` to add: its attention reads the stream without."""
    add = layer.flow.add
    x = stream.x if stream.attention is None else add(stream.x, stream.attention, "residual attention")
    out_a = layer.attention(layer.norm(x, (), "norm")[1])
    x = x if stream.mlp is None else add(x, stream.mlp, "residual mlp")
    out_m = layer.mlp(layer.norm(x, (), "ffn_norm")[1])
    return Stream(x, out_a, out_m)


def desync(layer: Layer[V], stream: Stream[V], attention: bool, mlp: bool) -> Stream[V]:
    """A kept sum takes each chip's residual / chips along, which makes one residual of them all again."""
    x, y = layer.norm(stream.x, stream.waiting, "norm")
    x, waiting = _summed_or_own(x, y, layer.own_attention, attention)
    x, y = layer.norm(x, waiting, "ffn_norm")
    x, waiting = _summed_or_own(x, y, layer.own_mlp, mlp)
    return Stream(x, mlp=waiting[0] if waiting else None)


def _summed_or_own(x: V, y: V, half: Callable[..., V], keep: bool) -> tuple[V, tuple[V, ...]]:
    """(the stream, what to add to it) after a half of normalised stream y."""
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
"""Those after which chips have residual streams of their own."""


def _every(period: int) -> Callable[[int, int], tuple[str, ...]]:
    """The FFN's sum of every `period`-th layer is made, and that of the last layer."""
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
    "desync2": _every(1),
    "desync4": _every(2),
    "no_communication": lambda layers, _: ("unsummed",) * layers,
}
