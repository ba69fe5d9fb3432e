"""Tensor parallelism (Megatron-LM, Shoeybi et al. 2019, section 3): a half of a layer is split by columns, then rows.

The residual stream BLE is whole on every chip. A half layer multiplies the normalised stream with weights split over
heads or d_ff, and ends in a matmul that contracts what was split: BLE (partial t), a partial sum on every chip. What
becomes of the sum is the residual scheme's (`sim.layouts.residual`). With sequence parallelism (Korthikanti et al.
2022, section 4.2) the stream is split over positions, or over sequences where there is one position: the all-reduce
becomes an all-gather before and a reduce-scatter after the half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from sim.layouts.attention import dividing
from sim.layouts.dataflow import Dataflow, V
from sim.partition import Axes
from sim.specs import Model


@dataclass(frozen=True, slots=True)
class TensorParallel(Generic[V]):
    """The halves of one layer, and what is around them."""

    flow: Dataflow[V]
    model: Model
    axes: Axes
    """All mesh axes: the first divides the key-value heads, a second has copies of them."""
    tokens: str = ""
    """Dimension over which the residual stream is split, `L` or `B`; empty where it is whole."""
    part: str = ""
    """Which part of the batch this is, where it is split: told apart in names and caches."""
    packed: bool = False
    """Whether the stream holds real tokens only; attention is padded."""
    chunks: int = 1
    """Pieces of a half's last matmul, each summed while the next is computed."""

    @property
    def split(self) -> str:
        return "_" + "".join(self.axes)

    def norm(self, x: V, plus: tuple[V, ...], name: str) -> tuple[V, V]:
        """(x + plus, the same normalised), in one kernel."""
        return self.flow.norm(x, plus, self.flow.weight(name, "E", "E"), name + self.part)

    def attention(self, y: V, plus: V | None = None) -> V:
        """A partial sum of the attention of normalised y, plus another partial sum."""
        return self._row(*self._attended(*self._query_key_value(y)), "o", plus)

    def mlp(self, y: V, plus: V | None = None) -> V:
        """A partial sum of the FFN of normalised y, plus another partial sum."""
        return self._row(*self._activated(*self._wide(y)), "wo", plus)

    def both(self, y: V) -> V:
        """A partial sum of attention plus FFN of one normalised y, their inputs multiplied together."""
        q, k, v, *wide = self.flow.matmul(
            self.enter(y, "both"), [*self.query_key_value(), *self.wide()], "qkv_wi" + self.part
        )
        return self._row(*self._activated(*wide), "wo", plus=self._row(*self._attended(q, k, v), "o"))

    def attention_sum(self, y: V) -> V:
        """The attention of normalised y, summed over the chips."""
        if self.chunks == 1:
            return self.total(self.attention(y), "attention")
        return self._chunked(*self._attended(*self._query_key_value(y)), "o", "attention")

    def mlp_sum(self, y: V) -> V:
        """The FFN of normalised y, summed over the chips."""
        if self.chunks == 1:
            return self.total(self.mlp(y), "mlp")
        return self._chunked(*self._activated(*self._wide(y)), "wo", "mlp")

    def _query_key_value(self, y: V) -> tuple[V, ...]:
        return self.flow.matmul(self.enter(y, "attention"), self.query_key_value(), "qkv" + self.part)

    def _wide(self, y: V) -> tuple[V, ...]:
        return self.flow.matmul(self.enter(y, "mlp"), self.wide(), "wi" + self.part)

    def _attended(self, q: V, k: V, v: V) -> tuple[V, V]:
        """(attention output, the row-parallel weight it is multiplied with)."""
        if self.packed:  # one kernel transposes and pads, another the reverse (EnergonAI, transpose_pad)
            q, k, v = self.flow.pad([q, k, v], "pad" + self.part)
        else:
            q, k, v = self.flow.to_cache(q, k, v, "rotary and cache" + self.part)
        out = self.flow.attention(q, k, v, "attention" + self.part)
        if self.packed:
            (out,) = self.flow.unpad([out], "unpad" + self.part)
        return out, self.flow.weight("w_o", *2 * (f"H{self.split} Q E",))

    def _activated(self, *wide: V) -> tuple[V, V]:
        hidden = self.flow.activate(wide, "activation" + self.part)
        return hidden, self.flow.weight("w_down", *2 * (f"F{self.split} E",))

    def _row(self, x: V, weight: V, name: str, plus: V | None = None) -> V:
        return self.flow.matmul_add(x, weight, plus, name + self.part)

    def _chunked(self, x: V, weight: V, name: str, half: str) -> V:
        return self.flow.matmul_all_reduce(x, weight, self.axes, self.chunks, name + self.part, half + self.part)

    def query_key_value(self) -> list[V]:
        """Column-parallel; each chip has the key-value heads that its query heads use, so few heads are copied."""
        multi_head = self.model.kv_heads == self.model.heads  # padded like the query heads, so all chips divide them
        own = "_" + "".join(self.axes if multi_head else dividing(self.axes, self.model.kv_heads, self.flow))
        query = self.flow.weight("w_q", *2 * (f"E H{self.split} Q",))
        return [query, *(self.flow.weight(name, *2 * (f"E K{own} Q",)) for name in ("w_k", "w_v"))]

    def wide(self) -> list[V]:
        """The column-parallel inputs of the FFN."""
        names = ("w_gate", "w_up") if self.model.ffn == "swiglu" else ("w_up",)
        return [self.flow.weight(name, *2 * (f"E F{self.split}",)) for name in names]

    def enter(self, y: V, name: str) -> V:
        """All tokens of the normalised stream."""
        if not self.tokens:
            return y
        return self.flow.all_gather([(y, self.tokens)], self.axes, name + self.part)[0]

    def total(self, out: V, name: str) -> V:
        """The sum of a partial sum, sharded like the stream."""
        if not self.tokens:
            return self.flow.all_reduce([out], self.axes, name + self.part)[0]
        return self.flow.reduce_scatter([(out, self.tokens)], self.axes, name + self.part)[0]
