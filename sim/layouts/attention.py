"""Attention of Pope et al. section 3.3: the cache sharded over heads (whole for multi-query) or over the batch.

Both take the query as it comes out of the reduce-scatter over e, BLH_fe Q (see `scatter_dim`), and the normalised input
B_gLE_e, and give the attention output in the query's sharding. Following the authors' code, keys and values of few
heads are projected on a slice of the tokens, so that the f axes do not repeat each other's work.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from sim.layouts.dataflow import Dataflow, V
from sim.layouts.sharding import Sharded
from sim.specs.uses import Axes, named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


def scatter_dim(y: Sharded, w_q: Sharded, e: Axes) -> str:
    """Where the query's sum over e is scattered: heads, or sequences, or positions, the first that e divides.

    More chips than heads leave too few heads per chip for the e axes; then each of them takes some of the sequences.
    """
    heads, ways = w_q.dim("H"), w_q.ways(e)
    if heads.size % (w_q.ways(heads.axes) * ways) == 0:
        return "H"
    return next((d for d in ("B", "L") if y.dim(d).size % (y.ways(y.dim(d).axes) * ways) == 0), "H")


def by_heads(layer: Layer[V], q: V, y: V) -> V:
    """Every chip attends with its own heads, for all sequences (Figure 4(a); (b) for multi-query: one head, whole)."""
    flow, e, over = layer.flow, layer.at.d_model, layer.at.heads
    into = _scattered(q.tensor, e)
    if layer.model.kv_heads == layer.model.heads:
        return layer.attend(q, *_own_heads(layer, y, into))
    k, v = key_value_weights(layer)
    if into == "B":
        k, v = flow.matmul_reduce_scatter(y, [(k, "B"), (v, "B")], e, "kv")
        return layer.attend(q, k, v)
    split = dividing(over, layer.model.kv_heads, flow)
    last = over[len(split) :][-1:]
    dim = _sliceable(flow, y.tensor, last)
    k, v = flow.matmul(flow.local_slice(y, dim, last) if dim else y, [k, v], "kv")
    k, v = flow.all_reduce([k, v], e, "kv")
    if dim:
        k, v = flow.all_gather([(k, dim), (v, dim)], last, "kv")
    return layer.attend(q, k, v)


def by_batch(layer: Layer[V], q: V, y: V) -> V:
    """Every chip attends with all heads of its own sequences, all-to-alls around it (Figure 4(c), Figure 5(b)).

    A batch too small for all axes is split over the innermost axes that it can fill, the heads over the others.
    """
    flow, e = layer.flow, layer.at.d_model
    into = _scattered(q.tensor, e)
    batch, heads = q.tensor.dim("B"), q.tensor.dim("H")
    moved = heads.axes
    while batch.size % (q.tensor.ways(batch.axes) * q.tensor.ways(moved)):
        moved = moved[1:]
    if q.tensor.ways(moved) == 1:  # axes of one chip split nothing
        moved = ()
    if q.tensor.ways(moved) != q.tensor.ways(heads.axes):
        held = f"over {named(moved)} only" if moved else "over no mesh axis"
        flow.note(f"attention over batch: {batch.size} sequences split {held}, heads over the others")
    if not moved:
        return by_heads(layer, q, y)
    if layer.model.kv_heads == layer.model.heads:
        k, v = _own_heads(layer, y, into)
        k, v = (flow.all_to_all(value, moved, split="B", concat="K", name="kv") for value in (k, v))
    else:
        k, v = key_value_weights(layer, whole=True)
        if into == "B":
            k, v = flow.matmul_reduce_scatter(y, [(k, "B"), (v, "B")], e, "kv")
            k, v = (flow.local_slice(value, "B", moved) for value in (k, v))
        else:
            sliced = tuple(axis for axis in moved if axis not in e)
            k, v = flow.matmul(flow.local_slice(y, "B", sliced), [k, v], "kv")
            if into == "H":
                k, v = flow.reduce_scatter([(k, "B"), (v, "B")], e, "kv")
            else:
                k, v = flow.all_reduce([k, v], e, "kv")
    q = flow.all_to_all(q, moved, split="B", concat="H", name="q")
    return flow.all_to_all(layer.attend(q, k, v), moved, split="H", concat="B", name="attention out")


ATTENTION: dict[str, Callable[[Any, Any, Any], Any]] = {"heads": by_heads, "batch": by_batch}
"""By what attention is split over: (layer, query, normalised input) -> attention output."""


def _own_heads(layer: Layer[V], y: V, into: str) -> tuple[V, V]:
    """Multi-head: keys and values go the query's way, head by head."""
    flow, e = layer.flow, layer.at.d_model
    weights = key_value_weights(layer)
    if into == "L":  # a query needs the keys of all positions
        k, v = flow.matmul(y, weights, "kv")
        k, v = flow.all_reduce([k, v], e, "kv")
    else:
        dim = "K" if into == "H" else into
        k, v = flow.matmul_reduce_scatter(y, [(w, dim) for w in weights], e, "kv")
    return k, v


def key_value_weights(layer: Layer[V], *, whole: bool = False) -> list[V]:
    """Key and value projections, of multi-head attention split like the query's.

    Few heads are split over d_model and the outermost axes of the heads that divide them, copied over the others, and
    never gathered (the released code).

    Args:
        whole: few heads are not split.
    """
    if layer.model.kv_heads == layer.model.heads:  # padded like the query heads, so all chips divide them
        return [layer.weight(name, "E{e} K{h} Q") for name in ("w_k", "w_v")]
    split = () if whole else dividing(layer.at.heads, layer.model.kv_heads, layer.flow)
    notation = f"E_{named(layer.at.d_model)} K_{named(split)} Q"
    return [layer.flow.weight(name, notation, notation) for name in ("w_k", "w_v")]


def _scattered(q: Sharded, e: Axes) -> str:
    """The dimension over which the query was scattered."""
    return next((dim.name for dim in q.dims if e and dim.axes[-len(e) :] == e), "H")


def dividing(axes: Axes, heads: int, flow: Dataflow[V]) -> Axes:
    """The outermost axes that divide the heads."""
    lengths = dict(flow.mesh)
    count = 0
    while count < len(axes) and heads % prod(lengths[axis] for axis in axes[: count + 1]) == 0:
        count += 1
    return axes[:count]


def _sliceable(flow: Dataflow[V], y: Sharded, axes: Axes) -> str | None:
    """The token dimension that `axes` divide: sequences, else positions, else none (a single token)."""
    ways = prod(length for axis, length in flow.mesh if axis in axes)
    return next(
        (name for name in ("B", "L") if ways > 1 and y.dim(name).size % (y.ways(y.dim(name).axes) * ways) == 0), None
    )
