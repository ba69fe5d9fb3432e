"""Mixture of experts as dataflow: route, dispatch, grouped matmuls, combine; shared experts on their own branch.

Axes of `Uses.experts` split the experts. Along those that also split tokens, chips exchange rows of tokens (dispatch
and combine). Along the others every chip has the same tokens, takes those of its own experts, and its output is one
summand of the sublayer's. The axes of `d_ff` that do not split experts split every expert, as they split a dense FFN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic

from msgspec import Struct

from sim.errors import LayoutError
from sim.layouts.dataflow import Exchange, V
from sim.specs.uses import Axes, named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


class Sent(Struct, Generic[V], frozen=True):
    """Tokens on their way to their experts, and what their outputs need."""

    y: V
    """The tokens where they were."""
    shares: V
    """Shares of each token's experts in its output."""
    rows: V
    """Rows of the experts of each chip."""
    weights: tuple[V, ...]
    """Weights of these experts, then those of shared experts that are computed beside combine."""

    @property
    def values(self) -> tuple[V, ...]:
        return (self.y, self.shares, self.rows, *self.weights)

    @classmethod
    def of(cls, values: tuple[V, ...]) -> Sent[V]:
        """Returns what has these `values`."""
        y, shares, rows, *weights = values
        return cls(y, shares, rows, tuple(weights))


def send_to_experts(layer: Layer[V], y: V) -> Callable[[], tuple[V, V | None]]:
    """Sends normalised y to its experts, and returns what computes them: the sum of routed experts and that of shared
    ones if there are any, both partial over `summed_axes`.

    Raises:
        LayoutError: weights that are gathered, or d_model split.
    """
    sent, before = dispatch_tokens(layer, *choose_experts(layer, y))

    def compute() -> tuple[V, V | None]:
        out = apply_experts(layer, sent)
        return out, shared_under_combine(layer, sent) or before

    return compute


def choose_experts(layer: Layer[V], y: V) -> tuple[V, V]:
    """Returns normalised y as it is sent to its experts, and the shares of these in its output.

    Raises:
        LayoutError: weights that are gathered, or d_model split.
    """
    uses, flow, part = layer.uses, layer.flow, layer.part
    if uses.d_model or uses.gather:
        rule = "a mixture of experts requires whole d_model and weights that are not gathered"
        raise LayoutError(rule, where="layout", hint="a preset without d_model and gather in its uses")
    (y,) = flow.all_gather([(y, "E")], uses.stream, "residual" + part)
    gathered = tuple(axis for axis in uses.tokens if axis in _inner(layer))
    (y,) = flow.all_gather([(y, layer.token_dim)], gathered, "tokens" + part)
    return y, flow.route(y, flow.weight("w_router", "E X", "E X"), "router" + part)


def dispatch_tokens(layer: Layer[V], y: V, shares: V) -> tuple[Sent[V], V | None]:
    """Sends tokens to their experts; returns them, and the output of shared experts if that is computed here."""
    flow, place = layer.flow, _place_of_shared(layer)
    before = _shared_experts(layer, y, _shared_weights(layer)) if place == "apart" else None
    rows = flow.dispatch(y, shares, exchange_of(layer), "experts" + layer.part)
    before = _shared_experts(layer, y, _shared_weights(layer)) if place == "under_dispatch" else before
    later = _shared_weights(layer) if place == "under_combine" else ()
    return Sent(y, shares, rows, (*_weights(layer), *later)), before


def apply_experts(layer: Layer[V], sent: Sent[V]) -> V:
    """Returns the sum of routed experts, which is on its way back: the FFNs of the rows of each expert."""
    flow, part = layer.flow, layer.part
    *inputs, down = sent.weights[: len(layer.ffn_inputs) + 1]
    hidden = flow.activate(
        flow.grouped_matmul(sent.rows, inputs, "Y", "experts wi" + part), "experts activation" + part
    )
    (out,) = flow.grouped_matmul(hidden, [down], "Y", "experts wo" + part)
    return flow.combine(out, sent.shares, sent.y, exchange_of(layer), "experts" + part)


def shared_under_combine(layer: Layer[V], sent: Sent[V]) -> V | None:
    """Returns the output of shared experts if that is computed beside combine."""
    weights = sent.weights[len(layer.ffn_inputs) + 1 :]
    return _shared_experts(layer, sent.y, weights) if weights else None


def summed_axes(layer: Layer[V]) -> Axes:
    """Returns the axes over which the outputs of routed and shared experts are partial sums."""
    return tuple(axis for axis in layer.uses.d_ff if axis not in exchange_of(layer).tokens)


def exchange_of(layer: Layer[V]) -> Exchange:
    """Returns the chips that exchange tokens for their experts."""
    uses = layer.uses
    exchanged = tuple(axis for axis in uses.experts if axis in uses.batch + uses.tokens)
    return Exchange(uses.experts, exchanged, (layer.begin, layer.reach))


def _inner(layer: Layer[V]) -> Axes:
    """Returns the axes that split every expert."""
    return tuple(axis for axis in layer.uses.d_ff if axis not in layer.uses.experts)


def _place_of_shared(layer: Layer[V]) -> str | None:
    """Returns the place of the shared experts' matmuls; None if the model has no shared experts."""
    return layer.shared_experts if layer.model.experts and layer.model.experts.shared else None


def _weights(layer: Layer[V]) -> tuple[V, ...]:
    """Returns the weights of the routed experts, the last that of their second matmul."""
    experts, inner = layer.uses.experts, f"D_{named(_inner(layer))}"
    inputs = [layer.flow.weight(f"{name}_experts", *_expert(experts, "E", inner)) for name in layer.ffn_inputs]
    return (*inputs, layer.flow.weight("w_down_experts", *_expert(experts, inner, "E")))


def _expert(experts: Axes, *dims: str) -> tuple[str, str]:
    """Returns the sharding in use and as stored of a weight of all experts."""
    notation = " ".join((f"Y_{named(experts)}", *dims))
    return notation, notation


def _shared_weights(layer: Layer[V]) -> tuple[V, ...]:
    """Returns the weights of the shared experts, the last that of their second matmul."""
    width = f"S_{named(summed_axes(layer))}"
    inputs = [layer.flow.weight(f"{name}_shared", f"E {width}", f"E {width}") for name in layer.ffn_inputs]
    return (*inputs, layer.flow.weight("w_down_shared", f"{width} E", f"{width} E"))


def _shared_experts(layer: Layer[V], y: V, weights: tuple[V, ...]) -> V:
    """Returns the FFN that every token uses, a partial sum over `summed_axes`."""
    flow, part = layer.flow, layer.part
    *inputs, down = weights
    hidden = flow.activate(flow.matmul(y, inputs, "shared wi" + part), "shared activation" + part)
    return flow.matmul(hidden, [down], "shared wo" + part)[0]
