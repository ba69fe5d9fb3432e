"""Attention of Pope et al. section 3.3: the cache sharded over heads (replicated for multi-query) or over batch.

Both take the query of every head as BLH_fe Q (f the outer mesh axes, e the innermost after the reduce-scatter over e)
and the normalised input BLE_e, and give the attention output in the query's sharding. Following the authors' code, keys
and values are projected on a slice of the tokens, so that the f axes do not repeat each other's work.
"""

from __future__ import annotations

from math import prod

from sim.layouts.dataflow import Dataflow, V
from sim.sharding import Axes


def by_heads(flow: Dataflow[V], q: V, y: V, e: Axes, f: Axes) -> V:
    """Every chip attends with its own heads; the keys and values of the single head are replicated (Figure 4(b))."""
    last = f[-1:]
    dim = _sliceable(flow, y, last)
    part = flow.local_slice(y, dim, last) if dim else y
    k, v = _project(flow, part, e)
    k, v = flow.all_reduce([k, v], e, "kv")
    if dim:
        k, v = flow.all_gather([(k, dim), (v, dim)], last, "kv")
    return flow.attention(q, k, v, "attention")


def by_batch(flow: Dataflow[V], q: V, y: V, e: Axes, f: Axes) -> V:
    """Every chip attends with all heads of its own sequences; all-to-alls around it (Figure 4(c), Figure 5(b))."""
    k, v = _project(flow, flow.local_slice(y, "B", f), e)
    k, v = flow.reduce_scatter([(k, "B"), (v, "B")], e, "kv")
    q = flow.all_to_all(q, f + e, split="B", concat="H", name="q")
    out = flow.attention(q, k, v, "attention")
    return flow.all_to_all(out, f + e, split="H", concat="B", name="attention out")


ATTENTION = {"heads": by_heads, "batch": by_batch}


def _project(flow: Dataflow[V], y: V, e: Axes) -> tuple[V, V]:
    weights = [flow.weight(name, f"E_{''.join(e)} K Q") for name in ("w_k", "w_v")]
    k, v = flow.matmul(y, weights, "kv")
    return k, v


def _sliceable(flow: Dataflow[V], y: V, axes: Axes) -> str | None:
    """The token dimension that `axes` divide: sequences, else positions, else none (a single token)."""
    ways = prod(length for axis, length in flow.mesh if axis in axes)
    return next((name for name in ("B", "L") if ways > 1 and y.tensor.dim(name).size % ways == 0), None)
