"""One transformer layer as dataflow on sharded tensors, whatever its mesh axes do (`sim.specs.uses`).

A sublayer, attention or FFN, multiplies the normalised residual stream with weights split over heads or d_ff, and ends
in a matmul that contracts the split dimension: a partial sum on every chip. The stream is gathered before it where it
is split, and the sum is scattered like the stream. The residual scheme (`sim.layouts.residual`) decides how the sum is
used. If d_model is split as well, products are summed over its axes inside the sublayer (Pope et al. section 3.2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic

from msgspec import Struct

from sim.errors import LayoutError
from sim.layouts.attention import ATTENTION, attend_to_context, key_value_weights, scatter_dim
from sim.layouts.dataflow import Cache, Dataflow, Reduction, V
from sim.layouts.experts import send_to_experts, summed_axes
from sim.layouts.latent import project_latents
from sim.specs import Model
from sim.specs.uses import Axes, Uses, named


class Factor(Struct, Generic[V], frozen=True):
    """Factors of one product of a sublayer's last matmul: a value, its dimension that is gathered over the axes of
    d_model, and the weight that contracts it."""

    name: str
    value: V
    dim: str
    weight: V


class Layer(Struct, Generic[V], frozen=True):
    """Sublayers of one transformer layer, and the norms before them."""

    flow: Dataflow[V]
    model: Model
    uses: Uses
    attention_over: str = "heads"
    """A name of `ATTENTION`."""
    token_dim: str = "L"
    """Dimension over which `at.tokens` split the residual stream, `L` or `B`."""
    part: str = ""
    """Suffix of names and caches for one part of a split batch; empty if the batch is not split."""
    split_dim: str = "B"
    """Dimension of a split batch that is split: sequences have caches of their own, positions share them."""
    size: int = 0
    """Sequences or positions of this part, if the batch is split."""
    reach: float = 1.0
    """Share of a split batch up to the end of this part."""
    begin: float = 0.0
    """Share of a split batch before this part."""
    packed: bool = False
    """True if the stream holds real tokens only; attention is padded."""
    context: str = "ring"
    """Attention over positions that chips share (`LayoutSpec.context`)."""
    has_experts: bool = False
    """True if its FFN is a mixture of experts."""
    window: int | None = None
    """Positions that a query sees at most; None for all."""
    absorbs: bool = False
    """True if latent attention absorbs the expansion of keys and values in queries and outputs."""
    shared_experts: str = "under_dispatch"
    """Place of the shared experts' matmuls (`ExpertsLayout.shared`)."""
    in_stages: bool = False
    """True if parts of a batch take turns in five stages (`Software.exchange_turns`) around an exchange of tokens."""

    @property
    def stream(self) -> dict[str, Axes]:
        """Axes that split each dimension of the residual stream."""
        uses = self.uses
        over = {"B": uses.batch + uses.gather, "L": uses.positions, "E": uses.d_model + uses.stream}
        over[self.token_dim] += uses.tokens
        return over

    @property
    def is_fused(self) -> bool:
        """True if one matmul reads the normalised stream and each product is added by its own kernel."""
        return self.uses.plain and self.attention_over == "heads"

    @property
    def cache(self) -> Cache:
        """The cache that this part of the batch appends to, and attends to."""
        shared = self.split_dim == "L"
        return Cache("" if shared else self.part, self.reach if shared else 1.0, self.uses.cached_positions)

    # --- norms -------------------------------------------------------------------------------------------------------

    def norm(self, x: V, plus: Sequence[V], name: str) -> tuple[V, V]:
        """Returns x + plus and its norm, in one kernel if d_model is not split.

        Otherwise it follows the released code of Pope et al.: a stream split over several axes is gathered, then
        normalised; a stream split over one is normalised, then gathered by the matmul.
        """
        uses, flow = self.uses, self.flow
        if not (uses.d_model or uses.stream):
            return flow.norm(x, plus, flow.weight(name, "E", "E"), name + self.part)
        for out in plus:
            x = flow.add(x, out, "residual")
        if uses.gathers_in_matmul:
            return x, self._scale_to_unit(x, uses.stream, name)
        (y,) = flow.all_gather([(x, "E")], uses.stream, "residual" + self.part)
        return x, self._scale_to_unit(y, uses.d_model, name)

    def _scale_to_unit(self, x: V, axes: Axes, name: str) -> V:
        """Returns the norm of a stream whose d_model is split over `axes`: the squares are summed over them."""
        op = name + self.part
        (mean_square,) = self.flow.all_reduce([self.flow.mean_square(x, "E", op)], axes, op)
        gain = f"E_{named(axes)}"
        return self.flow.scale(x, mean_square, self.flow.weight(name, gain, gain), op)

    # --- sublayers ---------------------------------------------------------------------------------------------------

    def attention(self, y: V) -> V:
        """Returns the attention of normalised y, summed over the chips."""
        return self.start_attention(y)()

    def start_attention(self, y: V) -> Callable[[], V]:
        """Projects normalised y, and returns what attends to the cache: the attention, summed over the chips."""
        attend = self._start_attention_factor(y)
        return lambda: self._reduce_products([attend()], self.uses.heads, "attention")

    def mlp(self, y: V) -> V:
        """Returns the FFN of normalised y, summed over the chips."""
        return self.add_shared_experts(*self.start_mlp(y)())

    def start_mlp(self, y: V) -> Callable[[], tuple[V, V | None]]:
        """Sends normalised y to its experts if it has any, and returns what computes the FFN, summed over the chips,
        and the output of shared experts if that is still to be added to it."""
        if not self.has_experts:
            return lambda: (self._reduce_products([self._mlp_factor(y)], self.uses.d_ff, "mlp"), None)
        compute = send_to_experts(self, y)
        return lambda: self.sum_experts(*compute())

    def sum_experts(self, out: V, shared: V | None) -> tuple[V, V | None]:
        """Returns the outputs of routed and shared experts, in one if they are summed over chips."""
        axes = summed_axes(self)
        return (self.reduce(self.add_shared_experts(out, shared), axes, "mlp"), None) if axes else (out, shared)

    def add_shared_experts(self, out: V, shared: V | None) -> V:
        """Returns the sum of routed and shared experts."""
        return out if shared is None else self.flow.add(out, shared, "shared experts" + self.part)

    @property
    def exchanges_tokens(self) -> bool:
        """True if its FFN sends tokens to the chips that have their experts."""
        uses = self.uses
        return self.has_experts and any(axis in uses.batch + uses.tokens for axis in uses.experts)

    def attention_and_mlp(self, y: V) -> V:
        """Returns attention plus FFN of one normalised y, with one matmul for both inputs (Pope et al. 3.4)."""
        uses, flow = self.uses, self.flow
        if uses.heads != uses.d_ff or self.has_experts or self.model.latent:
            return flow.add(self.attention(y), self.mlp(y), "both" + self.part)
        wide = [(weight, "F") for weight in self._mlp_inputs()]
        if self.is_fused:
            _, (q, k, v, *hidden) = self.project(y, uses.d_ff, [*self._query_key_value(), *wide], "qkv_wi")
            activated = self._down_projection(hidden)
            return self._reduce_products(
                [self._out_projection(self.attend(q, k, v), "H"), activated], uses.d_ff, "both"
            )
        into = self._scatter_dim(y)
        y, (q, *hidden) = self.project(y, uses.d_ff, [(self._w_q(), into), *wide], "q_wi")
        out = ATTENTION[self.attention_over](self, q, y)
        return self._reduce_products(
            [self._down_projection(hidden), self._out_projection(out, into)], uses.d_ff, "both"
        )

    def partial_attention(self, y: V, stream: V | None = None) -> V:
        """Returns each chip's partial attention of normalised y; if `stream` is given, the reduced sum of both."""
        self._refuse_split_streams()
        return self._keep_or_reduce(self._attention_factor(y), self.uses.heads, "attention", stream)

    def partial_mlp(self, y: V, stream: V | None = None) -> V:
        """Returns each chip's partial FFN of normalised y; if `stream` is given, the reduced sum of both."""
        self._refuse_split_streams()
        if not self.has_experts:
            return self._keep_or_reduce(self._mlp_factor(y), self.uses.d_ff, "mlp", stream)
        out, axes = self.add_shared_experts(*send_to_experts(self, y)()), summed_axes(self)
        if stream is None:
            return self.flow.keep_partial(out)
        return self.reduce(self.flow.add(out, self.flow.as_mean_partial(stream, axes), "residual"), axes, "mlp")

    def _refuse_split_streams(self) -> None:
        if not (self.uses.whole and self.is_fused and self.uses.heads == self.uses.d_ff):
            raise LayoutError(
                "residual streams that differ between chips must not be split",
                where="layout.residual",
                hint="attention over heads of tensor_parallel, or a scheme that makes all its sums, such as ladder",
            )

    def _keep_or_reduce(self, factor: Factor[V], sum_axes: Axes, name: str, stream: V | None) -> V:
        if stream is None:
            return self.flow.keep_partial(self._multiply([factor]))
        return self.reduce(self._multiply([factor], self.flow.as_mean_partial(stream, sum_axes)), sum_axes, name)

    def _attention_factor(self, y: V) -> Factor[V]:
        return self._start_attention_factor(y)()

    def _start_attention_factor(self, y: V) -> Callable[[], Factor[V]]:
        heads = self.uses.heads
        if self.model.latent:
            attend = project_latents(self, y)
            return lambda: Factor("o", attend(), "H", self.weight("w_o", "H{h} U E{e}"))
        if self.is_fused:
            _, (q, k, v) = self.project(y, heads, self._query_key_value(), "qkv")
            return lambda: self._out_projection(self.attend(q, k, v), "H")
        into = self._scatter_dim(y)
        gathered, (queries,) = self.project(y, heads, [(self._w_q(), into)], "q")
        return lambda: self._out_projection(ATTENTION[self.attention_over](self, queries, gathered), into)

    def _mlp_factor(self, y: V) -> Factor[V]:
        return self._down_projection(
            self.project(y, self.uses.d_ff, [(weight, "F") for weight in self._mlp_inputs()], "wi")[1]
        )

    def attend(self, q: V, k: V, v: V) -> V:
        """Attends to the cache, after the new keys and values are appended to it."""
        flow = self.flow
        if self.packed:  # one kernel transposes and pads, another the reverse (EnergonAI, transpose_pad)
            q, k, v = flow.pad([q, k, v], "pad" + self.part)
        else:
            q, k, v = flow.to_cache(q, k, v, "rotary and cache" + self.part)
        name = "attention" if self.window is None else f"attention to {self.window:,}"
        (q,) = flow.all_gather([(q, "H")], self.uses.cached_positions, "q" + self.part)
        out = attend_to_context(self, q, k, v, name + self.part)
        return flow.unpad([out], "unpad" + self.part)[0] if self.packed else out

    def project(self, y: V, sum_axes: Axes, weights: Sequence[tuple[V, str]], name: str) -> tuple[V, Sequence[V]]:
        """Returns y with all tokens, and its products with the (weight, dimension to scatter into) pairs.

        Products are summed over the axes of d_model. A stream split over tokens, or over one axis of d_model, is
        gathered by the matmul.
        """
        flow, uses, name = self.flow, self.uses, name + self.part
        tokens = tuple(axis for axis in uses.tokens if axis in sum_axes)
        if uses.gathers_in_matmul or uses.d_model:
            (y,) = flow.all_gather([(y, self.token_dim)], tokens, name)
        if uses.d_model:
            return y, flow.matmul_reduce_scatter(y, weights, uses.d_model, name)
        dim, axes = ("E", uses.stream) if uses.gathers_in_matmul else (self.token_dim, tokens)
        y, *products = flow.all_gather_matmuls(y, dim, [weight for weight, _ in weights], axes, name)
        return y, products

    def _reduce_products(self, factors: Sequence[Factor[V]], sum_axes: Axes, name: str) -> V:
        """Returns the factors' products summed over a sublayer's axes, sharded like the stream."""
        if self.is_fused and len(factors) > 1:
            return self.reduce(self._multiply(factors), sum_axes, name)
        terms = [(factor.value, factor.dim, factor.weight) for factor in factors]
        return self.flow.matmul_sum(terms, self.uses.d_model, self._reduction(sum_axes, name), self._op_name(factors))

    def reduce(self, out: V, sum_axes: Axes, name: str) -> V:
        """Reduces a partial sum to the residual stream's sharding."""
        to = self._reduction(sum_axes, name)
        for dim, axes in to.scatters:
            (out,) = self.flow.reduce_scatter([(out, dim)], axes, to.name)
        return self.flow.all_reduce([out], to.replicated, to.name)[0]

    def _reduction(self, sum_axes: Axes, name: str) -> Reduction:
        """Returns the collectives that reduce a partial sum to the residual stream's sharding."""
        uses = self.uses
        over = [("E", uses.stream), (self.token_dim, uses.tokens)]
        scattered = [(dim, tuple(axis for axis in axes if axis in sum_axes)) for dim, axes in over]
        whole = tuple(axis for axis in sum_axes if axis not in uses.stream + uses.tokens)
        name = ("residual" if uses.stream else name) + self.part
        return Reduction(tuple(each for each in scattered if each[1]), whole, name)

    def _multiply(self, factors: Sequence[Factor[V]], plus: V | None = None) -> V:
        """Returns the sum of the factors' products, a partial sum over a sublayer's axes, plus another partial sum."""
        if not self.is_fused:
            op = self._op_name(factors)
            terms = [(factor.value, factor.dim, factor.weight) for factor in factors]
            out = self.flow.all_gather_matmul(terms, self.uses.d_model, op)
            return out if plus is None else self.flow.add(out, plus, op)
        for factor in factors:
            plus = self.flow.matmul_add(factor.value, factor.weight, plus, factor.name + self.part)
        assert plus is not None
        return plus

    def _op_name(self, factors: Sequence[Factor[V]]) -> str:
        return "_".join(sorted(factor.name for factor in factors)) + self.part

    # --- weights -----------------------------------------------------------------------------------------------------

    def weight(self, name: str, notation: str) -> V:
        """Returns a weight by name, sharded as `Uses.weight` says."""
        return self.flow.weight(name, *self.uses.weight(notation))

    def _w_q(self) -> V:
        return self.weight("w_q", "E{e} H{h} Q")

    def _query_key_value(self) -> list[tuple[V, str]]:
        """Returns the weights with their output dimensions; each chip has a copy of the key-value heads it reads."""
        k, v = key_value_weights(self)
        return [(self._w_q(), "H"), (k, "K"), (v, "K")]

    def _mlp_inputs(self) -> list[V]:
        """Returns the weights of the FFN's first matmul."""
        return [self.weight(name, "E{e} F{f}") for name in self.ffn_inputs]

    @property
    def ffn_inputs(self) -> tuple[str, ...]:
        """Names of the weights of an FFN's first matmul."""
        return ("w_gate", "w_up") if self.model.ffn == "swiglu" else ("w_up",)

    def _out_projection(self, out: V, into: str) -> Factor[V]:
        return Factor("o", out, into, self.weight("w_o", "H{h} Q E{e}"))

    def _down_projection(self, wide: Sequence[V]) -> Factor[V]:
        hidden = self.flow.activate(wide, "activation" + self.part)
        return Factor("wo", hidden, "F", self.weight("w_down", "F{f} E{e}"))

    def _scatter_dim(self, y: V) -> str:
        return scatter_dim(y.tensor, self._w_q().tensor, self.uses.d_model)
