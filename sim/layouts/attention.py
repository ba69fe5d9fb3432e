"""Attention of Pope et al. section 3.3: the cache sharded over heads (whole for multi-query) or over the batch.

Both take the query as it comes out of the reduce-scatter over e, BLH_fe Q (see `scatter_dim`), and the normalised input
B_gLE_e, and give the attention output in the query's sharding. Following the authors' code, keys and values of few
heads are projected on a slice of the tokens, so that the f axes do not repeat each other's work.
"""

from __future__ import annotations

from math import prod

from sim.layouts.dataflow import Dataflow, V
from sim.partition import Axes, Partition
from sim.sharding import Sharded
from sim.specs import Model


def scatter_dim(y: Sharded, w_q: Sharded, e: Axes) -> str:
    """Where the query's sum over e is scattered: heads, or sequences, or positions, the first that e divides.

    More chips than heads leave too few heads per chip for the e axes; then each of them takes some of the sequences.
    """
    heads, ways = w_q.dim("H"), w_q.ways(e)
    if heads.size % (w_q.ways(heads.axes) * ways) == 0:
        return "H"
    return next((d for d in ("B", "L") if y.dim(d).size % (y.ways(y.dim(d).axes) * ways) == 0), "H")


def by_heads(flow: Dataflow[V], q: V, y: V, at: Partition, model: Model) -> V:
    """Every chip attends with its own heads, for all sequences (Figure 4(a); (b) for multi-query: one head, whole)."""
    into = _scattered(q.tensor, at.e)
    if model.kv_heads == model.heads:
        k, v = _own_heads(flow, y, at, into)
        return flow.attention(q, k, v, "attention")
    split = dividing(at.f, model.kv_heads, flow)
    if into == "B":
        k, v = flow.matmul_reduce_scatter(y, [(w, "B") for w in _weights(flow, at, split)], at.e, "kv")
        return flow.attention(q, k, v, "attention")
    last = at.f[len(split) :][-1:]
    dim = _sliceable(flow, y.tensor, last)
    k, v = flow.matmul(flow.local_slice(y, dim, last) if dim else y, _weights(flow, at, split), "kv")
    k, v = flow.all_reduce([k, v], at.e, "kv")
    if dim:
        k, v = flow.all_gather([(k, dim), (v, dim)], last, "kv")
    return flow.attention(q, k, v, "attention")


def by_batch(flow: Dataflow[V], q: V, y: V, at: Partition, model: Model) -> V:
    """Every chip attends with all heads of its own sequences, all-to-alls around it (Figure 4(c), Figure 5(b)).

    A batch too small for all axes is split over the innermost axes that it can fill, the heads over the others.
    """
    into = _scattered(q.tensor, at.e)
    batch, heads = q.tensor.dim("B"), q.tensor.dim("H")
    moved = heads.axes
    while batch.size % (q.tensor.ways(batch.axes) * q.tensor.ways(moved)):
        moved = moved[1:]
    if q.tensor.ways(moved) == 1:  # axes of one chip split nothing
        moved = ()
    if q.tensor.ways(moved) != q.tensor.ways(heads.axes):
        held = f"over {''.join(moved)} only" if moved else "over no mesh axis"
        flow.note(f"attention over batch: {batch.size} sequences split {held}, heads over the others")
    if not moved:
        return by_heads(flow, q, y, at, model)
    if model.kv_heads == model.heads:
        k, v = _own_heads(flow, y, at, into)
        k, v = (flow.all_to_all(value, moved, split="B", concat="K", name="kv") for value in (k, v))
    else:
        weights = _weights(flow, at, ())
        if into == "B":
            k, v = flow.matmul_reduce_scatter(y, [(w, "B") for w in weights], at.e, "kv")
            k, v = (flow.local_slice(value, "B", moved) for value in (k, v))
        else:
            sliced = tuple(axis for axis in moved if axis not in at.e)
            k, v = flow.matmul(flow.local_slice(y, "B", sliced), weights, "kv")
            if into == "H":
                k, v = flow.reduce_scatter([(k, "B"), (v, "B")], at.e, "kv")
            else:
                k, v = flow.all_reduce([k, v], at.e, "kv")
    q = flow.all_to_all(q, moved, split="B", concat="H", name="q")
    out = flow.attention(q, k, v, "attention")
    return flow.all_to_all(out, moved, split="H", concat="B", name="attention out")


ATTENTION = {"heads": by_heads, "batch": by_batch}


def _own_heads(flow: Dataflow[V], y: V, at: Partition, into: str) -> tuple[V, V]:
    """Multi-head: keys and values go the query's way, head by head."""
    weights = [flow.weight(name, *at.weight("E{e} K{f} Q")) for name in ("w_k", "w_v")]
    if into == "L":  # a query needs the keys of all positions
        k, v = flow.matmul(y, weights, "kv")
        k, v = flow.all_reduce([k, v], at.e, "kv")
    else:
        dim = "K" if into == "H" else into
        k, v = flow.matmul_reduce_scatter(y, [(w, dim) for w in weights], at.e, "kv")
    return k, v


def _weights(flow: Dataflow[V], at: Partition, split: Axes) -> list[V]:
    """Key and value projections of few heads, split over e and the given axes; never gathered (the released code)."""
    notation = f"E_{''.join(at.e)} K_{''.join(split)} Q"
    return [flow.weight(name, notation, notation) for name in ("w_k", "w_v")]


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
