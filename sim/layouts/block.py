"""One transformer layer as dataflow on sharded tensors, for any partition of the mesh axes (Pope et al. section 3)."""

from __future__ import annotations

from sim.layouts.attention import ATTENTION, scatter_dim
from sim.layouts.dataflow import Dataflow, V
from sim.partition import Partition
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

    y = _normalised(flow, x, at, "norm")
    into = scatter_dim(y.tensor, w_q.tensor, at.e)
    if block == "parallel":
        q, *wide = flow.matmul_reduce_scatter(y, [(w_q, into), *ffn_in], at.e, "q_wi")
        out = attend(flow, q, y, at, model)
        hidden = flow.activate(wide, "activation")
        both = flow.all_gather_matmul([(hidden, "F", ffn_out), (out, into, w_o)], at.e, "o_wo")
        return _onto_residual(flow, x, both, at)

    (q,) = flow.matmul_reduce_scatter(y, [(w_q, into)], at.e, "q")
    out = attend(flow, q, y, at, model)
    x = _onto_residual(flow, x, flow.all_gather_matmul([(out, into, w_o)], at.e, "o"), at)
    y = _normalised(flow, x, at, "ffn_norm")
    hidden = flow.activate(flow.matmul_reduce_scatter(y, ffn_in, at.e, "wi"), "activation")
    return _onto_residual(flow, x, flow.all_gather_matmul([(hidden, "F", ffn_out)], at.e, "wo"), at)


def _normalised(flow: Dataflow[V], x: V, at: Partition, name: str) -> V:
    """B_gLE_er -> B_gLE_e, normalised: gather over r, then sum the squares over e."""
    (y,) = flow.all_gather([(x, "E")], at.split, "residual")
    (mean_square,) = flow.all_reduce([flow.mean_square(y, "E", name)], at.e, name)
    gain = f"E_{''.join(at.e)}"
    return flow.scale(y, mean_square, flow.weight(name, gain, gain), name)


def _onto_residual(flow: Dataflow[V], x: V, out: V, at: Partition) -> V:
    """x + B_gLE_e (partial f), as B_gLE_er: scattered over r, then summed over those of f that hold it whole."""
    (summed,) = flow.reduce_scatter([(out, "E")], at.split, "residual")
    (summed,) = flow.all_reduce([summed], at.whole, "residual")
    return flow.add(x, summed, "residual")
