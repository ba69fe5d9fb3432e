"""Mixture of experts as dataflow: route, dispatch, grouped matmuls, combine; shared experts on their own branch.

Axes of `Uses.experts` split the experts. Along those that also split tokens, chips exchange rows of tokens (dispatch
and combine). Along the others every chip has the same tokens, takes those of its own experts, and its output is one
summand of the sublayer's. The axes of `d_ff` that do not split experts split every expert, as they split a dense FFN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.errors import LayoutError
from sim.layouts.dataflow import Exchange, V
from sim.specs.uses import Axes, named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


def experts_sum(layer: Layer[V], y: V) -> tuple[V, Axes]:
    """Returns the mixture of experts of normalised y, a partial sum, and the axes over which it is one.

    Raises:
        LayoutError: weights that are gathered, or d_model split.
    """
    uses, flow, part = layer.uses, layer.flow, layer.part
    if uses.d_model or uses.gather:
        rule = "a mixture of experts requires whole d_model and weights that are not gathered"
        raise LayoutError(rule, where="layout", hint="a preset without d_model and gather in its uses")
    inner = tuple(axis for axis in uses.d_ff if axis not in uses.experts)
    exchange = Exchange(uses.experts, tuple(axis for axis in uses.experts if axis in uses.batch + uses.tokens))
    (y,) = flow.all_gather([(y, "E")], uses.stream, "residual" + part)
    gathered = tuple(axis for axis in uses.tokens if axis in inner)
    (y,) = flow.all_gather([(y, layer.token_dim)], gathered, "tokens" + part)
    shares = flow.route(y, flow.weight("w_router", "E X", "E X"), "router" + part)

    summed, shared = tuple(axis for axis in uses.d_ff if axis not in exchange.tokens), list[V]()

    def branch(place: str) -> None:
        if layer.model.experts and layer.model.experts.shared and layer.shared_experts == place:
            shared.append(_shared_experts(layer, y, summed))

    branch("apart")
    rows = flow.dispatch(y, shares, exchange, "experts" + part)
    branch("under_dispatch")
    inputs = [
        flow.weight(f"{name}_experts", *_expert(uses.experts, "E", f"D_{named(inner)}")) for name in layer.ffn_inputs
    ]
    hidden = flow.activate(flow.grouped_matmul(rows, inputs, "X", "experts wi" + part), "experts activation" + part)
    down = flow.weight("w_down_experts", *_expert(uses.experts, f"D_{named(inner)}", "E"))
    (rows,) = flow.grouped_matmul(hidden, [down], "X", "experts wo" + part)
    out = flow.combine(rows, shares, y, exchange, "experts" + part)
    branch("under_combine")
    for each in shared:
        out = flow.add(out, each, "shared experts" + part)
    return out, summed


def _expert(experts: Axes, *dims: str) -> tuple[str, str]:
    """Returns the sharding in use and as stored of a weight of all experts."""
    notation = " ".join((f"X_{named(experts)}", *dims))
    return notation, notation


def _shared_experts(layer: Layer[V], y: V, summed: Axes) -> V:
    """Returns the FFN that every token uses, a partial sum over `summed`."""
    flow, part, width = layer.flow, layer.part, f"S_{named(summed)}"
    inputs = [flow.weight(f"{name}_shared", f"E {width}", f"E {width}") for name in layer.ffn_inputs]
    hidden = flow.activate(flow.matmul(y, inputs, "shared wi" + part), "shared activation" + part)
    return flow.matmul(hidden, [flow.weight("w_down_shared", f"{width} E", f"{width} E")], "shared wo" + part)[0]
