"""One transformer layer as dataflow on sharded tensors, whatever its mesh axes do (`sim.specs.uses`).

A half, attention or FFN, multiplies the normalised residual stream with weights split over heads or d_ff, and ends in a
matmul that contracts what was split: a partial sum on every chip. Before it the stream is gathered where it is split;
the sum is scattered like the stream. What becomes of the sum is the residual scheme's (`sim.layouts.residual`). With
d_model split as well, products are summed over its axes inside the half (Pope et al. section 3.2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from sim.errors import LayoutError
from sim.layouts.attention import ATTENTION, key_value_weights, scatter_dim
from sim.layouts.dataflow import Dataflow, Sum, V
from sim.specs import Model
from sim.specs.uses import Axes, Uses, named


@dataclass(frozen=True, slots=True)
class Factor(Generic[V]):
    """One product of the last matmul of a half: a value, its dimension that is gathered over the axes of d_model, and
    the weight that contracts it."""

    name: str
    value: V
    dim: str
    weight: V


@dataclass(frozen=True, slots=True)
class Layer(Generic[V]):
    """The halves of one layer, and what is around them."""

    flow: Dataflow[V]
    model: Model
    at: Uses
    attention_over: str = "heads"
    """A name of `ATTENTION`."""
    token_dim: str = "L"
    """Dimension over which `at.tokens` split the residual stream, `L` or `B`."""
    part: str = ""
    """Which part of the batch this is, where it is split: told apart in names and caches."""
    packed: bool = False
    """Whether the stream holds real tokens only; attention is padded."""

    @property
    def stream(self) -> dict[str, Axes]:
        """Axes that split each dimension of the residual stream."""
        at = self.at
        over = {"B": at.batch + at.gather, "L": (), "E": at.d_model + at.stream}
        over[self.token_dim] += at.tokens
        return over

    @property
    def fused(self) -> bool:
        """Whether all that reads the normalised stream is one matmul, and products are added one kernel after the
        other."""
        return self.at.plain and self.attention_over == "heads"

    # --- around the halves -------------------------------------------------------------------------------------------

    def norm(self, x: V, plus: Sequence[V], name: str) -> tuple[V, V]:
        """(x + plus, the same normalised): in one kernel where d_model is whole.

        Else as the released code of Pope et al. has it: split over several axes the stream is gathered, then
        normalised; over one, normalised, then gathered by the matmul.
        """
        at, flow = self.at, self.flow
        if not (at.d_model or at.stream):
            return flow.norm(x, plus, flow.weight(name, "E", "E"), name + self.part)
        for out in plus:
            x = flow.add(x, out, "residual")
        if at.gathers_in_matmul:
            return x, self._normalised(x, at.stream, name)
        (y,) = flow.all_gather([(x, "E")], at.stream, "residual" + self.part)
        return x, self._normalised(y, at.d_model, name)

    def _normalised(self, x: V, axes: Axes, name: str) -> V:
        """The squares are summed over the axes that split E."""
        op = name + self.part
        (mean_square,) = self.flow.all_reduce([self.flow.mean_square(x, "E", op)], axes, op)
        gain = f"E_{named(axes)}"
        return self.flow.scale(x, mean_square, self.flow.weight(name, gain, gain), op)

    # --- halves ------------------------------------------------------------------------------------------------------

    def attention(self, y: V) -> V:
        """The attention of normalised y, summed over the chips."""
        return self._summed([self._attended(y)], self.at.heads, "attention")

    def mlp(self, y: V) -> V:
        """The FFN of normalised y, summed over the chips."""
        return self._summed([self._activated(y)], self.at.d_ff, "mlp")

    def both(self, y: V) -> V:
        """The sum of attention plus FFN of one normalised y, their inputs multiplied together (Pope et al. 3.4)."""
        at, flow = self.at, self.flow
        if at.heads != at.d_ff:
            return flow.add(self.attention(y), self.mlp(y), "both" + self.part)
        wide = [(weight, "F") for weight in self._wide()]
        if self.fused:
            _, (q, k, v, *hidden) = self._into(y, at.d_ff, [*self._query_key_value(), *wide], "qkv_wi")
            activated = self._down(hidden)
            return self._summed([self._out(self.attend(q, k, v), "H"), activated], at.d_ff, "both")
        into = self._scatter_dim(y)
        y, (q, *hidden) = self._into(y, at.d_ff, [(self._w_q(), into), *wide], "q_wi")
        out = ATTENTION[self.attention_over](self, q, y)
        return self._summed([self._down(hidden), self._out(out, into)], at.d_ff, "both")

    def own_attention(self, y: V, kept: V | None = None) -> V:
        """The attention of normalised y as every chip's own part, or, with the stream, the sum of both."""
        return self._own(self._attended(y), self.at.heads, "attention", kept)

    def own_mlp(self, y: V, kept: V | None = None) -> V:
        """The same of the FFN."""
        return self._own(self._activated(y), self.at.d_ff, "mlp", kept)

    def _own(self, factor: Factor[V], half: Axes, name: str, kept: V | None) -> V:
        if not (self.at.whole and self.fused and self.at.heads == self.at.d_ff):
            raise LayoutError(
                "residual streams that differ from chip to chip must be whole on every chip",
                where="layout.residual",
                hint="attention over heads of tensor_parallel, or a scheme that makes all its sums, such as ladder",
            )
        if kept is None:
            return self.flow.own_part(self._product([factor]))
        return self._total(self._product([factor], self.flow.share(kept, half)), half, name)

    def _attended(self, y: V) -> Factor[V]:
        heads = self.at.heads
        if self.fused:
            _, (q, k, v) = self._into(y, heads, self._query_key_value(), "qkv")
            return self._out(self.attend(q, k, v), "H")
        into = self._scatter_dim(y)
        y, (q,) = self._into(y, heads, [(self._w_q(), into)], "q")
        return self._out(ATTENTION[self.attention_over](self, q, y), into)

    def _activated(self, y: V) -> Factor[V]:
        return self._down(self._into(y, self.at.d_ff, [(weight, "F") for weight in self._wide()], "wi")[1])

    def attend(self, q: V, k: V, v: V) -> V:
        """Attention of queries to the cache and the keys and values that join it."""
        flow = self.flow
        if self.packed:  # one kernel transposes and pads, another the reverse (EnergonAI, transpose_pad)
            q, k, v = flow.pad([q, k, v], "pad" + self.part)
        else:
            q, k, v = flow.to_cache(q, k, v, "rotary and cache" + self.part)
        out = flow.attention(q, k, v, "attention" + self.part)
        return flow.unpad([out], "unpad" + self.part)[0] if self.packed else out

    def _into(self, y: V, half: Axes, weights: Sequence[tuple[V, str]], name: str) -> tuple[V, Sequence[V]]:
        """All tokens of y, and its products with weights, each summed over the axes of d_model into a dimension.

        A stream split over tokens, or over one axis that splits d_model, is gathered by the matmul.
        """
        flow, at, name = self.flow, self.at, name + self.part
        tokens = tuple(axis for axis in at.tokens if axis in half)
        if at.gathers_in_matmul or at.d_model:
            (y,) = flow.all_gather([(y, self.token_dim)], tokens, name)
        if at.d_model:
            return y, flow.matmul_reduce_scatter(y, weights, at.d_model, name)
        dim, axes = ("E", at.stream) if at.gathers_in_matmul else (self.token_dim, tokens)
        y, *products = flow.all_gather_matmuls(y, dim, [weight for weight, _ in weights], axes, name)
        return y, products

    def _summed(self, factors: Sequence[Factor[V]], half: Axes, name: str) -> V:
        """The sum over a half's axes of the factors' products, sharded like the stream."""
        if self.fused and len(factors) > 1:
            return self._total(self._product(factors), half, name)
        terms = [(factor.value, factor.dim, factor.weight) for factor in factors]
        return self.flow.matmul_sum(terms, self.at.d_model, self._sum(half, name), self._name(factors))

    def _total(self, out: V, half: Axes, name: str) -> V:
        """The sum of a partial sum over a half's axes, sharded like the stream."""
        to = self._sum(half, name)
        for dim, axes in to.scattered:
            (out,) = self.flow.reduce_scatter([(out, dim)], axes, to.name)
        return self.flow.all_reduce([out], to.whole, to.name)[0]

    def _sum(self, half: Axes, name: str) -> Sum:
        """A sum over a half's axes, sharded like the stream."""
        at = self.at
        over = [("E", at.stream), (self.token_dim, at.tokens)]
        scattered = [(dim, tuple(axis for axis in axes if axis in half)) for dim, axes in over]
        whole = tuple(axis for axis in half if axis not in at.stream + at.tokens)
        name = ("residual" if at.stream else name) + self.part
        return Sum(tuple(each for each in scattered if each[1]), whole, name)

    def _product(self, factors: Sequence[Factor[V]], plus: V | None = None) -> V:
        """The sum of the factors' products, a partial sum over a half's axes, plus another partial sum."""
        if not self.fused:
            op = self._name(factors)
            terms = [(factor.value, factor.dim, factor.weight) for factor in factors]
            out = self.flow.all_gather_matmul(terms, self.at.d_model, op)
            return out if plus is None else self.flow.add(out, plus, op)
        for factor in factors:
            plus = self.flow.matmul_add(factor.value, factor.weight, plus, factor.name + self.part)
        assert plus is not None
        return plus

    def _name(self, factors: Sequence[Factor[V]]) -> str:
        return "_".join(sorted(factor.name for factor in factors)) + self.part

    # --- weights -----------------------------------------------------------------------------------------------------

    def weight(self, name: str, notation: str) -> V:
        """A weight by name, sharded as `Uses.weight` says."""
        return self.flow.weight(name, *self.at.weight(notation))

    def _w_q(self) -> V:
        return self.weight("w_q", "E{e} H{h} Q")

    def _query_key_value(self) -> list[tuple[V, str]]:
        """With each chip's own copy of the key-value heads that its query heads use."""
        k, v = key_value_weights(self)
        return [(self._w_q(), "H"), (k, "K"), (v, "K")]

    def _wide(self) -> list[V]:
        """The inputs of the FFN."""
        names = ("w_gate", "w_up") if self.model.ffn == "swiglu" else ("w_up",)
        return [self.weight(name, "E{e} F{f}") for name in names]

    def _out(self, out: V, into: str) -> Factor[V]:
        return Factor("o", out, into, self.weight("w_o", "H{h} Q E{e}"))

    def _down(self, wide: Sequence[V]) -> Factor[V]:
        hidden = self.flow.activate(wide, "activation" + self.part)
        return Factor("wo", hidden, "F", self.weight("w_down", "F{f} E{e}"))

    def _scatter_dim(self, y: V) -> str:
        return scatter_dim(y.tensor, self._w_q().tensor, self.at.d_model)
