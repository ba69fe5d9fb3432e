"""Sharded tensors: the mesh axes that split each dimension, and the sharding of each operation's result.

The notation is Pope et al. section 3.1: `BLE_xyz` is a tensor of dimensions B, L, E whose last is split over the mesh
axes x, y and z (x outermost); an axis not named is replicated; `BLF_yz (partial x)` is still to be summed over x. Byte
and FLOP counts of a layout follow from these shapes alone, and a step that the sharding does not allow is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil, prod

from msgspec import Struct
from msgspec.structs import replace

from sim.errors import LayoutError
from sim.specs import DTYPE_BYTES
from sim.specs.uses import Axes, named


class Dim(Struct, frozen=True):
    """One dimension: its letter, its full size, and the mesh axes that split it, outermost first."""

    name: str
    size: int
    axes: Axes = ()


class Sharded(Struct, frozen=True):
    """A logical tensor over a mesh."""

    dims: tuple[Dim, ...]
    mesh: tuple[tuple[str, int], ...]
    """Mesh axes and their lengths."""
    dtype: str = "bf16"
    partial: Axes = ()
    """Axes over which each chip holds a partial sum."""
    differs: Axes = ()
    """Axes along which chips hold different values instead of replicas of one (Desync)."""

    def __post_init__(self) -> None:
        used = [axis for dim in self.dims for axis in dim.axes] + [*self.partial, *self.differs]
        for axis in used:
            if axis not in dict(self.mesh):
                raise LayoutError(f"{self}: mesh has no axis '{axis}'")
            if used.count(axis) > 1:
                raise LayoutError(f"{self}: an axis splits or sums a tensor once, got '{axis}' twice")
        for dim in self.dims:
            shards = self.group_size(dim.axes)
            if dim.size % shards:
                rule = (
                    f"{_DIMENSION_NAMES.get(dim.name, dim.name)} must be a multiple of the {shards} chips that share it"
                )
                near = " or ".join(str(n * shards) for n in (dim.size // shards, dim.size // shards + 1) if n)
                hint = f"such as {near}, or fewer chips along {', '.join(dim.axes)} ({self})"
                raise LayoutError(rule, got=dim.size, hint=hint)

    def __str__(self) -> str:
        text = "".join(dim.name + (f"_{named(dim.axes)} " if dim.axes else "") for dim in self.dims).strip()
        partial = f" (partial {named(self.partial)})" if self.partial else ""
        return text + partial + (f" (differs {named(self.differs)})" if self.differs else "")

    def dim(self, name: str) -> Dim:
        """Returns the dimension of that letter. Raises LayoutError."""
        for dim in self.dims:
            if dim.name == name:
                return dim
        raise LayoutError(f"{self} has no dimension '{name}'")

    def index(self, name: str) -> int:
        """Returns the place of the dimension of that letter."""
        return [dim.name for dim in self.dims].index(name)

    def has(self, name: str) -> bool:
        """True if it has a dimension of that letter."""
        return any(dim.name == name for dim in self.dims)

    def group_size(self, axes: Sequence[str]) -> int:
        """Returns the number of chips in a group along `axes`."""
        lengths = dict(self.mesh)
        return prod(lengths[axis] for axis in axes)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of one chip's shard."""
        return tuple(dim.size // self.group_size(dim.axes) for dim in self.dims)

    @property
    def local_elements(self) -> int:
        """Elements in one chip's shard."""
        return prod(self.local_shape)

    @property
    def local_bytes(self) -> int:
        """Bytes of one chip's shard."""
        return ceil(self.local_elements * ITEM_BYTES[self.dtype])

    def _with(self, name: str, axes: Axes) -> tuple[Dim, ...]:
        return tuple(replace(dim, axes=axes) if dim.name == name else dim for dim in self.dims)


ITEM_BYTES: dict[str, float] = {**DTYPE_BYTES, "f32": 4, "int32": 4}

_DIMENSION_NAMES = {
    "B": "batch",
    "L": "tokens per sequence",
    "E": "d_model",
    "M": "d_model",
    "F": "d_ff",
    "H": "heads",
    "K": "kv_heads",
    "Q": "d_head",
    "X": "experts",
    "Y": "experts and their copies",
    "D": "d_ff of an expert",
    "S": "d_ff of the shared experts",
}


_AXIS = re.compile(r"\[(\w+)\]|(\w)")
"""One mesh axis in a notation: a letter, or a longer name in brackets."""


def from_notation(text: str, sizes: Mapping[str, int], mesh: Sequence[tuple[str, int]], dtype: str = "bf16") -> Sharded:
    """Builds a tensor from its notation: `from_notation("B_[data] L E_xy", {"B": 64, "L": 1, "E": 18432}, mesh)`."""
    dims = []
    for word in text.split():
        name, _, axes = word.partition("_")
        dims.append(Dim(name, sizes[name], tuple(one or longer for longer, one in _AXIS.findall(axes))))
    return Sharded(tuple(dims), tuple(mesh), dtype)


# --- operations ------------------------------------------------------------------------------------------------------


def _require_partial(tensor: Sharded, axes: Axes, operation: str) -> None:
    if not set(axes) <= set(tensor.partial):
        raise LayoutError(f"{operation}({named(axes)}) of {tensor}: requires a partial sum over these axes")


def _require_last(tensor: Sharded, dim: str, axes: Axes, operation: str) -> None:
    """Raises LayoutError where the shards that chips along `axes` hold are not neighbours along a dimension."""
    have = tensor.dim(dim).axes
    if have[-len(axes) :] != axes:
        split = f"'{dim}' is split over {named(have)}" if have else f"'{dim}' is not split"
        rule = f"the last axes that split '{dim}' must be {named(axes)}, so that shards are neighbours"
        raise LayoutError(f"{operation}({named(axes)}) of {tensor}: {rule}; {split}")


def all_gather(tensor: Sharded, dim: str, axes: Axes) -> Sharded:
    """BLE_xyz -> BLE_x for axes yz: they must be the last axes that split `dim`."""
    have = tensor.dim(dim).axes
    if not axes:
        return tensor
    _require_last(tensor, dim, axes, "all_gather")
    if tensor.partial:
        raise LayoutError(f"all_gather({named(axes)}) of {tensor}: the partial sum must be reduced first")
    if tensor.differs:
        raise LayoutError(f"all_gather({named(axes)}) of {tensor}: chips have different values")
    return replace(tensor, dims=tensor._with(dim, have[: -len(axes)]))


def reduce_scatter(tensor: Sharded, axes: Axes, into: str) -> Sharded:
    """BLF_yz (partial x) -> BLF_yzx: the sum over `axes`, split over them along `into`."""
    _require_partial(tensor, axes, "reduce_scatter")
    dims = tensor._with(into, tensor.dim(into).axes + axes)
    return replace(tensor, dims=dims, partial=_remove_axes(tensor.partial, axes))


def all_reduce(tensor: Sharded, axes: Axes) -> Sharded:
    """BLE_yz (partial x) -> BLE_yz."""
    _require_partial(tensor, axes, "all_reduce")
    return replace(tensor, partial=_remove_axes(tensor.partial, axes))


def all_to_all(tensor: Sharded, axes: Axes, split: str, concat: str) -> Sharded:
    """BLH_xQ -> B_xLHQ for split B, concat H: the axes move, innermost, from one dimension to another."""
    have = tensor.dim(concat).axes
    if not axes:
        return tensor
    _require_last(tensor, concat, axes, "all_to_all")
    if tensor.partial:
        raise LayoutError(f"all_to_all({named(axes)}) of {tensor}: the partial sum must be reduced first")
    dims = tuple(
        replace(dim, axes=have[: -len(axes)])
        if dim.name == concat
        else replace(dim, axes=dim.axes + axes)
        if dim.name == split
        else dim
        for dim in tensor.dims
    )
    return replace(tensor, dims=dims)


def add(x: Sharded, y: Sharded) -> Sharded:
    """x + y of one sharding; chips that differ in one of them differ in the sum."""
    if replace(x, differs=(), partial=()) != replace(y, differs=(), partial=()) or set(x.partial) != set(y.partial):
        raise LayoutError(f"add of {x} and {y}: both must be sharded alike")
    return replace(x, differs=tuple(dict.fromkeys(x.differs + y.differs)))


def keep_partial(tensor: Sharded) -> Sharded:
    """BLE (partial t) -> BLE (differs t): each chip uses its partial sum instead of the reduced sum."""
    _require_partial(tensor, tensor.partial[:1], "keep_partial")
    return replace(tensor, partial=(), differs=tensor.differs + tensor.partial)


def as_mean_partial(tensor: Sharded, axes: Axes) -> Sharded:
    """BLE or BLE (differs t) -> BLE (partial t): each chip's value divided by the number of chips."""
    return replace(tensor, partial=tensor.partial + axes, differs=_remove_axes(tensor.differs, axes))


def split(tensor: Sharded, dim: str, sizes: Sequence[int]) -> tuple[Sharded, ...]:
    """Parts of a dimension of the given sizes, each cut from every shard of it."""
    dimension = tensor.dim(dim)
    shards, parts = tensor.group_size(dimension.axes), len(sizes)
    if sum(sizes) != dimension.size or any(size % shards for size in sizes):
        held = f" of each of its {shards} shards" if shards > 1 else ""
        rule = f"{_DIMENSION_NAMES.get(dim, dim)} must be a multiple of the {parts} parts{held}"
        raise LayoutError(rule, got=dimension.size, hint=f"such as {shards * parts} ({tensor})")
    return tuple(
        replace(tensor, dims=tuple(replace(d, size=size) if d.name == dim else d for d in tensor.dims))
        for size in sizes
    )


def rename(tensor: Sharded, dim: str, name: str) -> Sharded:
    """BLM -> BLE: a dimension under another letter."""
    return replace(tensor, dims=tuple(replace(d, name=name) if d.name == dim else d for d in tensor.dims))


def take_chunks(tensor: Sharded, dim: str, count: int, parts: int) -> Sharded:
    """`count` of the `parts` equal chunks of every shard along `dim`; a tensor without that dimension is unchanged."""
    dims = tuple(replace(d, size=d.size // parts * count) if d.name == dim else d for d in tensor.dims)
    return replace(tensor, dims=dims)


def join(parts: Sequence[Sharded], dim: str) -> Sharded:
    """The tensor that `split` cut into these parts."""
    size = sum(part.dim(dim).size for part in parts)
    return replace(parts[0], dims=tuple(replace(d, size=size) if d.name == dim else d for d in parts[0].dims))


def repack(tensor: Sharded, batch: int, length: int) -> Sharded:
    """The tensor with other sequences and positions: packed to 1 x T rows, or padded back. Neither may be split."""
    if tensor.dim("B").axes or tensor.dim("L").axes:
        raise LayoutError(f"{tensor}: sequences and positions that are split cannot be packed")
    sizes = {"B": batch, "L": length}
    return replace(tensor, dims=tuple(replace(d, size=sizes.get(d.name, d.size)) for d in tensor.dims))


def latent_attention(q: Sharded, latent: Sharded, *expansion: Sharded) -> Sharded:
    """Attention to latent vectors BLC: of queries BLHN with the expansion CHN and CHU to BLHU, or of BLHC to BLHC.

    Batch must be split alike, and positions of the latent vectors not at all: a query sees all earlier ones.
    """
    if q.partial or latent.partial:
        raise LayoutError(f"attention of {q} to {latent}: the partial sum must be reduced first")
    if q.dim("B") != latent.dim("B") or q.dim("L").size != latent.dim("L").size:
        raise LayoutError(f"attention of {q} to {latent}: batch must be split alike")
    if latent.dim("L").axes or latent.dim("C").axes:
        raise LayoutError(f"attention of {q} to {latent}: every position needs all earlier latent vectors, unsplit")
    if q.differs or latent.differs:
        raise LayoutError(f"attention of {q} to {latent}: chips with the same heads have different queries")
    if not expansion:
        return q
    w_k, w_v = expansion
    if w_k.dim("H") != q.dim("H") or w_v.dim("H") != q.dim("H"):
        raise LayoutError(f"attention of {q} to {latent}: '{w_k}' must be split like the query heads")
    return replace(q, dims=(*q.dims[:-1], w_v.dim("U")))


def norm(x: Sharded, plus: Sequence[Sharded], dim: str) -> Sharded:
    """x + plus, to be normalised over `dim`, which must not be split."""
    for other in plus:
        x = add(x, other)
    if x.partial or x.dim(dim).axes:
        raise LayoutError(f"norm of {x}: '{dim}' must be neither split nor a partial sum")
    return x


def local_slice(tensor: Sharded, dim: str, axes: Axes) -> Sharded:
    """BLE -> BLE_x: each chip keeps its slice of a dimension that was replicated over `axes`; nothing moves."""
    if set(axes) & set(tensor.differs):
        over = named(axes)
        raise LayoutError(f"local_slice({over}) of {tensor}: chips along {over} must hold the same values")
    return replace(tensor, dims=tensor._with(dim, tensor.dim(dim).axes + axes))


def matmul(x: Sharded, weight: Sharded, over: str = "") -> Sharded:
    """Contracts every dimension of `x` that `weight` has: BLE_x . E_xF_yz -> BLF_yz (partial x).

    Contracted dimensions must be split alike; the axes that split them become a partial sum.

    Args:
        over: a dimension of both for each index of which there is a matmul: BLH_xN . CH_xN -> BLH_xC over H.
    """
    if x.partial or weight.partial:
        raise LayoutError(f"matmul of {x} and {weight}: the partial sum must be reduced first")
    shared = [dim for dim in x.dims if any(dim.name == other.name for other in weight.dims)]
    contracted = [dim for dim in shared if dim.name != over]
    if not contracted:
        raise LayoutError(f"matmul of {x} and {weight}: they share no dimension")
    for dim in shared:
        if dim != weight.dim(dim.name):
            raise LayoutError(f"matmul of {x} and {weight}: '{dim.name}' must have one size and one split in both")
    names = {dim.name for dim in contracted}
    dims = tuple(d for d in x.dims if d.name not in names)
    dims += tuple(d for d in weight.dims if d.name not in names and d.name != over)
    partial = tuple(axis for dim in contracted for axis in dim.axes)
    split = {axis for dim in dims for axis in dim.axes}
    # Where the result is split there are no copies that could differ: each chip's part comes from its own input.
    return Sharded(dims, x.mesh, x.dtype, partial, _remove_axes(x.differs, (*split, *partial)))


def matmul_flops(x: Sharded, weight: Sharded) -> int:
    """Returns the FLOPs per chip of `matmul(x, weight)`, over a dimension or not: 2 x rows x weight elements."""
    rows = prod(
        size
        for dim, size in zip(x.dims, x.local_shape, strict=True)
        if all(dim.name != other.name for other in weight.dims)
    )
    return 2 * rows * weight.local_elements


def dispatch(y: Sharded, experts: Dim, axes: Axes, rows: str = "T") -> Sharded:
    """B_xLE -> Y_xTE: rows of the tokens of a group, for the experts of each chip.

    Args:
        experts: the dimension of experts, with the axes that split it.
        axes: those of them along which chips have different tokens, which they exchange.
        rows: letter of the rows, by which those of parts of a batch differ.
    """
    if y.partial or (y.differs and axes) or y.dim("E").axes:
        raise LayoutError(f"dispatch of {y}: every chip must have whole tokens, summed")
    tokens = (y.dim("B"), y.dim("L"))
    for axis in axes:
        if axis not in experts.axes or not any(axis in dim.axes for dim in tokens):
            raise LayoutError(f"dispatch({named(axes)}) of {y}: the axis must split tokens and experts")
    kept = tuple(axis for dim in tokens for axis in dim.axes if axis not in axes)
    sent = Dim(rows, tokens[0].size * tokens[1].size, kept)
    return Sharded((experts, sent, y.dim("E")), y.mesh, y.dtype, differs=y.differs)


def combine(rows: Sharded, like: Sharded, axes: Axes) -> Sharded:
    """Y_xTE -> B_xLE: the tokens back where they came from, partial over axes of experts that were not exchanged."""
    local = tuple(axis for axis in rows.dim("Y").axes if axis not in axes)
    partial = (*local, *rows.partial)
    return replace(like, partial=partial, dtype=rows.dtype, differs=_remove_axes(like.differs, partial))


def attention(q: Sharded, k: Sharded, v: Sharded) -> Sharded:
    """Attention on each chip's sequences, positions and heads: q BLHQ, k and v BLKQ (the new positions).

    Batch must be split alike. Positions of `k` and `v` must not be split: a query sees all earlier ones. Key-value
    heads may be split over the outer axes of the query heads, or not at all: each group of H/K query heads shares one.
    """
    if q.partial or k.partial or v.partial:
        raise LayoutError(f"attention of {q}, {k}, {v}: the partial sum must be reduced first")
    if k != v or q.dim("B") != k.dim("B") or q.dim("L").size != k.dim("L").size:
        raise LayoutError(f"attention of {q}, {k}, {v}: batch must be split alike")
    if q.differs:
        raise LayoutError(f"attention of {q}, {k}, {v}: chips with the same heads have different queries")
    if k.dim("L").axes:
        raise LayoutError(f"attention of {q}, {k}, {v}: every position needs the keys of all earlier ones")
    if q.dim("H").size % k.dim("K").size:
        raise LayoutError(
            f"kv_heads must divide the heads, of which {q.dim('H').size} are computed so that the chips divide them",
            got=k.dim("K").size,
            hint=f"(attention of {q}, {k}, {v})",
        )
    if k.dim("K").axes != q.dim("H").axes[: len(k.dim("K").axes)]:
        raise LayoutError(f"attention of {q}, {k}, {v}: key-value heads must be split like the query heads")
    return q


def key_value_heads_used(q: Sharded, k: Sharded) -> int:
    """Returns the most key-value heads that any chip's query heads read; H/K consecutive query heads share one.

    If the chips do not divide the groups, heads of some chips belong to one group more than those of others.
    """
    heads_per_group = q.dim("H").size // k.dim("K").size
    heads = q.dim("H").size // q.group_size(q.dim("H").axes)
    firsts = range(0, q.dim("H").size, heads)
    return max((first + heads - 1) // heads_per_group - first // heads_per_group for first in firsts) + 1


def _remove_axes(axes: Axes, removed: Axes) -> Axes:
    return tuple(axis for axis in axes if axis not in removed)
