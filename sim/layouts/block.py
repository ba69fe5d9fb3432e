"""One transformer layer as dataflow on sharded tensors, for any partition of the mesh axes (Pope et al. section 3)."""

from __future__ import annotations

from collections.abc import Sequence

from sim.layouts.attention import ATTENTION, scatter_dim
from sim.layouts.dataflow import Dataflow, V
from sim.partition import Axes, Partition
from sim.specs import Model


def transformer_layer(flow: Dataflow[V], x: V, at: Partition, model: Model, block: str, attention: str) -> V:
    """The residual stream B_gLE_er before and after one layer.

    With a parallel block the query projection and the FFN inputs are one matmul, the attention and FFN outputs another,
    and one gathering of the residual stream and one sum over f are saved (section 3.4). r: `Partition.split`.
    """
    attend = ATTENTION[attention]
    ffn_names = ("w_gate", "w_up") if model.ffn == "swiglu" else ("w_up",)
    ffn_in = [(flow.weight(name, *at.weight("E{e} F{f}")), "F") for name in ffn_names]
    ffn_out = flow.weight("w_down", *at.weight("F{f} E{e}"))
    w_o = flow.weight("w_o", *at.weight("H{f} Q E{e}"))
    w_q = flow.weight("w_q", *at.weight("E{e} H{f} Q"))

    into = scatter_dim(x.tensor, w_q.tensor, at.e)
    if block == "parallel":
        y, (q, *wide) = _into(flow, x, at, [(w_q, into), *ffn_in], ("norm", "q_wi"))
        out = attend(flow, q, y, at, model)
        hidden = flow.activate(wide, "activation")
        return _onto_residual(flow, x, at, [(hidden, "F", ffn_out), (out, into, w_o)], "o_wo")

    y, (q,) = _into(flow, x, at, [(w_q, into)], ("norm", "q"))
    out = attend(flow, q, y, at, model)
    x = _onto_residual(flow, x, at, [(out, into, w_o)], "o")
    _, ffn = _into(flow, x, at, ffn_in, ("ffn_norm", "wi"))
    return _onto_residual(flow, x, at, [(flow.activate(ffn, "activation"), "F", ffn_out)], "wo")


def _into(
    flow: Dataflow[V], x: V, at: Partition, weights: Sequence[tuple[V, str]], names: tuple[str, str]
) -> tuple[V, Sequence[V]]:
    """B_gLE_er -> (B_gLE_e normalised, its products with weights, each scattered over e into a dimension).

    As the released code has it: over several axes the stream is gathered, then normalised; over one, normalised, then
    gathered by the matmul.
    """
    norm, name = names
    if at.gathers_in_matmul:
        y = _normalised(flow, x, at.split, norm)
        y, *products = flow.all_gather_matmuls(y, "E", [weight for weight, _ in weights], at.split, name)
        return y, products
    (y,) = flow.all_gather([(x, "E")], at.split, "residual")
    y = _normalised(flow, y, at.e, norm)
    return y, flow.matmul_reduce_scatter(y, weights, at.e, name)


def _normalised(flow: Dataflow[V], x: V, axes: Axes, name: str) -> V:
    """The squares are summed over the axes that split E."""
    (mean_square,) = flow.all_reduce([flow.mean_square(x, "E", name)], axes, name)
    gain = f"E_{''.join(axes)}"
    return flow.scale(x, mean_square, flow.weight(name, gain, gain), name)


def _onto_residual(flow: Dataflow[V], x: V, at: Partition, factors: Sequence[tuple[V, str, V]], name: str) -> V:
    """x + the products of B_gLF_fe and B_gLH_feQ with weights, as B_gLE_er: each value is gathered over e along its
    dimension, the sum scattered over r, then summed over those of f that hold it whole."""
    if at.gathers_in_matmul:
        pairs = [(value, weight) for value, _, weight in factors]
        summed = flow.matmul_sum_reduce_scatter(pairs, "E", at.split, name)
    else:
        (summed,) = flow.reduce_scatter([(flow.all_gather_matmul(factors, at.e, name), "E")], at.split, "residual")
    (summed,) = flow.all_reduce([summed], at.whole, "residual")
    return flow.add(x, summed, "residual")
