"""Attention of Pope et al. section 3.3: the cache sharded over heads (whole for multi-query) or over the batch.

Both take the query as it comes out of the reduce-scatter over e, BLH_fe Q (see `scatter_dim`), and the normalised input
B_gLE_e, and give the attention output in the query's sharding. Following the authors' code, keys and values of few
heads are projected on a slice of the tokens, so that the f axes do not repeat each other's work.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd, prod
from typing import TYPE_CHECKING, Any

from sim.layouts.dataflow import Dataflow, V
from sim.layouts.sharding import Sharded
from sim.specs.uses import Axes, dividing_axes, named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


def scatter_dim(y: Sharded, w_q: Sharded, e: Axes) -> str:
    """Returns the dimension that the query's sum over e is scattered into: heads, sequences or positions.

    It is the first that e divides. More chips than heads leave too few heads per chip for the e axes; then each of
    these chips takes some of the sequences.
    """
    heads, group_size = w_q.dim("H"), w_q.group_size(e)
    if heads.size % (w_q.group_size(heads.axes) * group_size) == 0:
        return "H"
    return next((d for d in ("B", "L") if y.dim(d).size % (y.group_size(y.dim(d).axes) * group_size) == 0), "H")


def attend_by_heads(layer: Layer[V], q: V, y: V) -> V:
    """Attends on every chip with its own heads, for all sequences (Figure 4(a); Figure 4(b) for multi-query)."""
    flow, e, head_axes = layer.flow, layer.uses.d_model, layer.uses.heads
    into = _scattered_dim(q.tensor, e)
    if layer.model.kv_heads == layer.model.heads:
        return layer.attend(q, *_multi_head_key_values(layer, y, into))
    k, v = key_value_weights(layer)
    if into == "B":
        k, v = flow.matmul_reduce_scatter(y, [(k, "B"), (v, "B")], e, "kv")
        return layer.attend(q, k, v)
    split = dividing_axes(head_axes, layer.model.kv_heads, dict(flow.mesh))
    last = head_axes[len(split) :][-1:]
    dim = _token_dim_split_by(flow, y.tensor, last)
    k, v = flow.matmul(flow.local_slice(y, dim, last) if dim else y, [k, v], "kv")
    k, v = flow.all_reduce([k, v], e, "kv")
    if dim:
        k, v = flow.all_gather([(k, dim), (v, dim)], last, "kv")
    return layer.attend(q, k, v)


def attend_by_batch(layer: Layer[V], q: V, y: V) -> V:
    """Attends on every chip with all heads of its own sequences, between all-to-alls (Figure 4(c), Figure 5(b)).

    A batch too small for all axes is split over the innermost axes that it can fill, the heads over the others.
    """
    flow, e = layer.flow, layer.uses.d_model
    into = _scattered_dim(q.tensor, e)
    batch, heads = q.tensor.dim("B"), q.tensor.dim("H")
    moved = heads.axes
    while batch.size % (q.tensor.group_size(batch.axes) * q.tensor.group_size(moved)):
        moved = moved[1:]
    if q.tensor.group_size(moved) == 1:  # axes of one chip split nothing
        moved = ()
    if q.tensor.group_size(moved) != q.tensor.group_size(heads.axes):
        held = f"over {named(moved)} only" if moved else "over no mesh axis"
        flow.note(f"attention over batch: {batch.size} sequences split {held}, heads over the others")
    if not moved:
        return attend_by_heads(layer, q, y)
    if layer.model.kv_heads == layer.model.heads:
        k, v = _multi_head_key_values(layer, y, into)
        k, v = (flow.all_to_all(value, moved, split="B", concat="K", name="kv") for value in (k, v))
    else:
        k, v = key_value_weights(layer, unsplit=True)
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


ATTENTION: dict[str, Callable[[Any, Any, Any], Any]] = {"heads": attend_by_heads, "batch": attend_by_batch}
"""Functions (layer, query, normalised input) -> attention output by the dimension that attention is split over."""


def _multi_head_key_values(layer: Layer[V], y: V, into: str) -> tuple[V, V]:
    """Projects the keys and values of multi-head attention, sharded like the query."""
    flow, e = layer.flow, layer.uses.d_model
    weights = key_value_weights(layer)
    if into == "L":  # a query needs the keys of all positions
        k, v = flow.matmul(y, weights, "kv")
        k, v = flow.all_reduce([k, v], e, "kv")
    else:
        dim = "K" if into == "H" else into
        k, v = flow.matmul_reduce_scatter(y, [(w, dim) for w in weights], e, "kv")
    return k, v


def attend_to_context(layer: Layer[V], q: V, k: V, v: V, name: str) -> V:
    """Attends to all positions, also where the chips along `Uses.positions` have some each."""
    flow, axes = layer.flow, layer.uses.positions
    if q.tensor.group_size(axes) == 1:
        return flow.attention(q, k, v, name, layer.cache, layer.window)
    if layer.context == "ring":
        return flow.ring_attention(q, k, v, axes, name)
    q = flow.all_to_all(q, axes, split="H", concat="L", name="q" + layer.part)
    k, v = (flow.all_to_all(value, axes, split="K", concat="L", name="kv" + layer.part) for value in (k, v))
    out = flow.attention(q, k, v, name, layer.cache, layer.window)
    return flow.all_to_all(out, axes, split="L", concat="H", name="attention out" + layer.part)


def key_value_weights(layer: Layer[V], *, unsplit: bool = False) -> list[V]:
    """Returns the key and value projections; those of multi-head attention are split like the query's.

    Few heads are split over d_model and the outermost axes of the heads that divide them, copied over the others, and
    never gathered (the released code).

    Args:
        whole: few heads are not split.
    """
    if layer.model.kv_heads == layer.model.heads:  # padded like the query heads, so all chips divide them
        return [layer.weight(name, "E{e} K{h} Q") for name in ("w_k", "w_v")]
    heads = layer.uses.heads[: len(layer.uses.heads) - len(layer.uses.cached_positions)]
    split = () if unsplit else dividing_axes(heads, layer.model.kv_heads, dict(layer.flow.mesh))
    if not unsplit:
        _note_copies(layer, heads, split)
    notation = f"E_{named(layer.uses.d_model)} K_{named(split)} Q"
    return [layer.flow.weight(name, notation, notation) for name in ("w_k", "w_v")]


def _note_copies(layer: Layer[V], heads: Axes, split: Axes) -> None:
    """Notes that an axis which divides few heads only in part splits none of them."""
    lengths, every = dict(layer.flow.mesh), layer.model.kv_heads
    whole, held = heads[len(split) :], every // prod(lengths[axis] for axis in split)
    if gcd(held, prod(lengths[axis] for axis in whole)) > 1:
        length = lengths[whole[0]]
        shared = gcd(held, length)
        axes = f"; axes of {shared} and {length // shared} chips would" if shared > 1 else ""
        layer.flow.note(
            f"a chip holds {held} of {every} key-value heads, whole along {' and '.join(whole)}: {length} chips along "
            f"{whole[0]} do not divide them{axes}"
        )


def _scattered_dim(q: Sharded, e: Axes) -> str:
    """Returns the dimension that the query's sum was scattered into."""
    return next((dim.name for dim in q.dims if e and dim.axes[-len(e) :] == e), "H")


def _token_dim_split_by(flow: Dataflow[V], y: Sharded, axes: Axes) -> str | None:
    """Returns the token dimension that `axes` can split: sequences, else positions, else None (a single token)."""
    group_size = prod(length for axis, length in flow.mesh if axis in axes)
    return next(
        (
            name
            for name in ("B", "L")
            if group_size > 1 and y.dim(name).size % (y.group_size(y.dim(name).axes) * group_size) == 0
        ),
        None,
    )
