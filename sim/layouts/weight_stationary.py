"""Weight-stationary layouts of Pope et al.: the weights stay where they are, activations move."""

from __future__ import annotations

from sim.layouts.attention import ATTENTION
from sim.layouts.dataflow import Dataflow, V
from sim.sharding import Axes
from sim.specs import Model


def weight_stationary_2d(flow: Dataflow[V], x: V, model: Model, block: str, attention: str) -> V:
    """One layer, weights split over E (first mesh axis, e) and F or heads (the others, f); section 3.2.2, Figure 2(b).

    The residual stream is BLE_ef before and after. With a parallel block the query projection and the FFN inputs are
    one matmul, the attention and FFN outputs another, and one all-gather and reduce-scatter over f are saved (section 3.4).
    """
    e, f = _axes(flow)
    q_in = [(flow.weight("w_q", f"E_{_(e)} H_{_(f)} Q"), "H")]
    attention_out = flow.weight("w_o", f"H_{_(f)} Q E_{_(e)}")
    names = ("w_gate", "w_up") if model.ffn == "swiglu" else ("w_up",)
    ffn_in = [(flow.weight(name, f"E_{_(e)} F_{_(f)}"), "F") for name in names]
    ffn_out = flow.weight("w_down", f"F_{_(f)} E_{_(e)}")

    y = _normalised(flow, x, e, f, "norm")
    if block == "parallel":
        q, *wide = flow.matmul_reduce_scatter(y, q_in + ffn_in, e, "q_wi")
        out = ATTENTION[attention](flow, q, y, e, f)
        hidden = flow.activate(wide, "activation")
        both = flow.all_gather_matmul([(hidden, "F", ffn_out), (out, "H", attention_out)], e, "o_wo")
        return _onto_residual(flow, x, both, f)

    (q,) = flow.matmul_reduce_scatter(y, q_in, e, "q")
    out = ATTENTION[attention](flow, q, y, e, f)
    x = _onto_residual(flow, x, flow.all_gather_matmul([(out, "H", attention_out)], e, "o"), f)
    y = _normalised(flow, x, e, f, "ffn_norm")
    hidden = flow.activate(flow.matmul_reduce_scatter(y, ffn_in, e, "wi"), "activation")
    return _onto_residual(flow, x, flow.all_gather_matmul([(hidden, "F", ffn_out)], e, "wo"), f)


def _normalised(flow: Dataflow[V], x: V, e: Axes, f: Axes, name: str) -> V:
    """BLE_ef -> BLE_e, normalised: gather over f, then sum the squares over e."""
    (y,) = flow.all_gather([(x, "E")], f, "residual")
    (mean_square,) = flow.all_reduce([flow.mean_square(y, "E", name)], e, name)
    return flow.scale(y, mean_square, flow.weight(name, f"E_{_(e)}"), name)


def _onto_residual(flow: Dataflow[V], x: V, out: V, f: Axes) -> V:
    """x + BLE_e (partial f), as BLE_ef."""
    (summed,) = flow.reduce_scatter([(out, "E")], f, "residual")
    return flow.add(x, summed, "residual")


def _axes(flow: Dataflow[V]) -> tuple[Axes, Axes]:
    names = tuple(name for name, _length in flow.mesh)
    return names[:1], names[1:]


def _(axes: Axes) -> str:
    return "".join(axes)
