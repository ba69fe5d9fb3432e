"""Mixture of experts as dataflow: route, dispatch, grouped matmuls, combine; shared experts on their own branch.

Axes of `Uses.experts` split the experts. Along those that also split tokens, chips exchange rows of tokens (dispatch
and combine). Along the others every chip has the same tokens, takes those of its own experts, and its output is one
summand of the sublayer's. The axes of `d_ff` that do not split experts split every expert, as they split a dense FFN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.errors import LayoutError
from sim.layouts.dataflow import Exchange, V
from sim.specs.uses import Axes, named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


def send_to_experts(layer: Layer[V], y: V) -> Callable[[], tuple[V, V | None, Axes]]:
    """Sends normalised y to its experts, and returns what computes them: the sum of routed experts, that of shared ones
    if there are any, and the axes over which both are partial sums.

    Raises:
        LayoutError: weights that are gathered, or d_model split.
    """
    uses, flow, part = layer.uses, layer.flow, layer.part
    if uses.d_model or uses.gather:
        rule = "a mixture of experts requires whole d_model and weights that are not gathered"
        raise LayoutError(rule, where="layout", hint="a preset without d_model and gather in its uses")
    inner = tuple(axis for axis in uses.d_ff if axis not in uses.experts)
    exchanged = tuple(axis for axis in uses.experts if axis in uses.batch + uses.tokens)
    exchange = Exchange(uses.experts, exchanged, (layer.begin, layer.reach))
    (y,) = flow.all_gather([(y, "E")], uses.stream, "residual" + part)
    gathered = tuple(axis for axis in uses.tokens if axis in inner)
    (y,) = flow.all_gather([(y, layer.token_dim)], gathered, "tokens" + part)
    shares = flow.route(y, flow.weight("w_router", "E X", "E X"), "router" + part)

    summed = tuple(axis for axis in uses.d_ff if axis not in exchange.tokens)
    place = layer.shared_experts if layer.model.experts and layer.model.experts.shared else None
    before = _shared_experts(layer, y, summed) if place == "apart" else None
    rows = flow.dispatch(y, shares, exchange, "experts" + part)
    before = _shared_experts(layer, y, summed) if place == "under_dispatch" else before

    def compute() -> tuple[V, V | None, Axes]:
        out = flow.combine(_experts(layer, rows, inner), shares, y, exchange, "experts" + part)
        return out, _shared_experts(layer, y, summed) if place == "under_combine" else before, summed

    return compute


def _experts(layer: Layer[V], rows: V, inner: Axes) -> V:
    """Returns the FFNs of the rows of each expert, which `inner` splits."""
    experts, flow, part = layer.uses.experts, layer.flow, layer.part
    inputs = [flow.weight(f"{name}_experts", *_expert(experts, "E", f"D_{named(inner)}")) for name in layer.ffn_inputs]
    hidden = flow.activate(flow.grouped_matmul(rows, inputs, "Y", "experts wi" + part), "experts activation" + part)
    down = flow.weight("w_down_experts", *_expert(experts, f"D_{named(inner)}", "E"))
    return flow.grouped_matmul(hidden, [down], "Y", "experts wo" + part)[0]


def _expert(experts: Axes, *dims: str) -> tuple[str, str]:
    """Returns the sharding in use and as stored of a weight of all experts."""
    notation = " ".join((f"Y_{named(experts)}", *dims))
    return notation, notation


def _shared_experts(layer: Layer[V], y: V, summed: Axes) -> V:
    """Returns the FFN that every token uses, a partial sum over `summed`."""
    flow, part, width = layer.flow, layer.part, f"S_{named(summed)}"
    inputs = [flow.weight(f"{name}_shared", f"E {width}", f"E {width}") for name in layer.ffn_inputs]
    hidden = flow.activate(flow.matmul(y, inputs, "shared wi" + part), "shared activation" + part)
    return flow.matmul(hidden, [flow.weight("w_down_shared", f"{width} E", f"{width} E")], "shared wo" + part)[0]
