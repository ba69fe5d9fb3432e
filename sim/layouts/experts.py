"""Mixture of experts as dataflow: route, dispatch, grouped matmuls, combine; shared experts on their own branch.

Axes of `Uses.experts` split the experts. Along those that also split tokens, chips exchange rows of tokens (dispatch
and combine). Along the others every chip has the same tokens, takes those of its own experts, and its output is one
summand of the sublayer's. The axes of `d_ff` that do not split experts split every expert, as they split a dense FFN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from sim.errors import LayoutError
from sim.layouts.dataflow import Exchange, V
from sim.specs.uses import Axes, named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


@dataclass(frozen=True, slots=True)
class Dispatched(Generic[V]):
    """Tokens on their way to their experts."""

    y: V
    """The tokens, normalised, as they were before."""
    shares: V
    rows: V
    shared: tuple[V, ...]
    """Output of the shared experts, if it is under way."""


def experts_sum(layer: Layer[V], y: V) -> tuple[V, Axes]:
    """Returns the mixture of experts of normalised y, a partial sum, and the axes over which it is one."""
    return sum_experts(layer, dispatch_tokens(layer, y))


def dispatch_tokens(layer: Layer[V], y: V) -> Dispatched[V]:
    """Sends the tokens of normalised y to their experts.

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
    shares = flow.route(y, flow.weight("w_router", "E X", "E X"), "router" + part)
    before = _shared_experts(layer, y, "apart")
    rows = flow.dispatch(y, shares, exchange_of(layer), "experts" + part)
    return Dispatched(y, shares, rows, (*before, *_shared_experts(layer, y, "under_dispatch")))


def sum_experts(layer: Layer[V], dispatched: Dispatched[V]) -> tuple[V, Axes]:
    """Returns the experts' output for dispatched tokens, where they came from, and the axes of the partial sum."""
    flow, part, experts, inner = layer.flow, layer.part, layer.uses.experts, f"D_{named(_inner(layer))}"
    inputs = [flow.weight(f"{name}_experts", *_expert(experts, "E", inner)) for name in layer.ffn_inputs]
    products = flow.grouped_matmul(dispatched.rows, inputs, "X", "experts wi" + part)
    hidden = flow.activate(products, "experts activation" + part)
    down = flow.weight("w_down_experts", *_expert(experts, inner, "E"))
    (rows,) = flow.grouped_matmul(hidden, [down], "X", "experts wo" + part)
    out = flow.combine(rows, dispatched.shares, dispatched.y, exchange_of(layer), "experts" + part)
    for each in (*dispatched.shared, *_shared_experts(layer, dispatched.y, "under_combine")):
        out = flow.add(out, each, "shared experts" + part)
    return out, _summed(layer)


def exchange_of(layer: Layer[V]) -> Exchange:
    """Returns the chips that exchange tokens for their experts."""
    uses = layer.uses
    return Exchange(uses.experts, tuple(axis for axis in uses.experts if axis in uses.batch + uses.tokens))


def _inner(layer: Layer[V]) -> Axes:
    """Returns the axes that split every expert."""
    return tuple(axis for axis in layer.uses.d_ff if axis not in layer.uses.experts)


def _summed(layer: Layer[V]) -> Axes:
    """Returns the axes over which the experts' outputs, routed and shared, are partial sums."""
    return tuple(axis for axis in layer.uses.d_ff if axis not in exchange_of(layer).tokens)


def _expert(experts: Axes, *dims: str) -> tuple[str, str]:
    """Returns the sharding in use and as stored of a weight of all experts."""
    notation = " ".join((f"X_{named(experts)}", *dims))
    return notation, notation


def _shared_experts(layer: Layer[V], y: V, place: str) -> tuple[V, ...]:
    """Returns the FFN that every token uses, a partial sum; none if there is none, or in another place."""
    if layer.model.experts is None or not layer.model.experts.shared or layer.shared_experts != place:
        return ()
    flow, part, width = layer.flow, layer.part, f"S_{named(_summed(layer))}"
    inputs = [flow.weight(f"{name}_shared", f"E {width}", f"E {width}") for name in layer.ffn_inputs]
    hidden = flow.activate(flow.matmul(y, inputs, "shared wi" + part), "shared activation" + part)
    return flow.matmul(hidden, [flow.weight("w_down_shared", f"{width} E", f"{width} E")], "shared wo" + part)
