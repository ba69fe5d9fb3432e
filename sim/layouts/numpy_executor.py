"""The NumPy executor: every chip holds its real shard, every collective really moves data.

It interprets the same layouts as `sim.lowering.lower`, so that a test can prove that a layout computes what one device
computes. Looped collective matmuls run piece by piece over the very schedules that are simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.collectives.loop import all_gather_loop, closes, form_around, reduce_scatter_loop
from sim.errors import LayoutError
from sim.layouts import sharding
from sim.layouts.collective_matmul import chunks_of_pieces, gathered_axes, piece_of_arrival, shift_after
from sim.layouts.dataflow import Sum
from sim.layouts.sharding import Sharded
from sim.specs import LoopForm
from sim.specs.uses import Axes
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_positions

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shards:
    """A tensor with each chip's real shard, [chips] arrays of `tensor.local_shape`."""

    tensor: Sharded
    shards: tuple[Array, ...]
    used: Sharded | None = None
    """How a stored weight is sharded where it is used, if it is gathered for that."""


class Execution:
    """The dataflow interpreter that computes (see `sim.layouts.dataflow` for what each operation means).

    One instance holds the KV cache of every layer; set `weights` and `layer` before each layer, `tokens` [B, L] before
    the embedding.

    Args:
        sizes: full size of each dimension letter.
        loop_form: form of the looped collective matmul, None to run collective and matmul one after the other.
        chunks: pieces of a matmul whose sums are made one by one.
    """

    def __init__(
        self, topology: Topology, sizes: Mapping[str, int], loop_form: LoopForm | None = None, chunks: int = 1
    ) -> None:
        self.topology, self.sizes, self.loop_form, self.chunks = topology, sizes, loop_form, chunks
        self.mesh = tuple((axis.name, axis.size) for axis in topology.mesh)
        self.weights: Mapping[str, Array] = {}
        self.tokens: npt.NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)
        self.layer = 0
        self.lengths: tuple[int, ...] = ()
        """Real length of each sequence, where rows are packed."""
        self._sent: Shards | None = None
        self._cache: dict[tuple[int, str], tuple[tuple[Array, ...], tuple[Array, ...]]] = {}
        self._groups: dict[Axes, list[list[int]]] = {}
        """By axes: of every chip, those of its group."""
        names = tuple(dict(self.mesh))
        self._at = [dict(zip(names, at, strict=True)) for at in mesh_positions(topology, names).tolist()]

    def place(self, full: Array, notation: str) -> Shards:
        """Distribute a whole array over the chips."""
        tensor = sharding.sharded(notation, self.sizes, self.mesh)
        return Shards(tensor, tuple(full[self._region(tensor, chip)] for chip in range(self.topology.chips)))

    def whole(self, value: Shards) -> Array:
        """The whole array, put together from the shards; replicas must agree."""
        full = np.full([dim.size for dim in value.tensor.dims], np.nan)
        for chip, shard in enumerate(value.shards):
            region = self._region(value.tensor, chip)
            if not np.isnan(full[region]).all():
                np.testing.assert_allclose(full[region], shard, rtol=1e-9, atol=1e-12)
            full[region] = shard
        return full

    def note(self, text: str) -> None:
        """The executor writes no report."""

    def weight(self, name: str, used: str, stored: str) -> Shards:
        value = self.place(self.weights[name], stored)
        if used == stored:
            return value
        return Shards(value.tensor, value.shards, sharding.sharded(used, self.sizes, self.mesh))

    def _region(self, tensor: Sharded, chip: int) -> tuple[slice, ...]:
        region = []
        for dim, length in zip(tensor.dims, tensor.local_shape, strict=True):
            block = self._block(dim.axes, chip)
            region.append(slice(block * length, (block + 1) * length))
        return tuple(region)

    def _block(self, axes: Axes, chip: int) -> int:
        block = 0
        for axis in axes:
            block = block * dict(self.mesh)[axis] + self._at[chip][axis]
        return block

    def _group(self, chip: int, axes: Axes) -> list[int]:
        """Chips that differ from `chip` only along `axes`, in block order."""
        if axes not in self._groups:
            found: dict[tuple[int, ...], list[int]] = {}
            keys = [tuple(at for axis, at in self._at[c].items() if axis not in axes) for c in self._chips]
            for c in sorted(self._chips, key=lambda c: self._block(axes, c)):
                found.setdefault(keys[c], []).append(c)
            self._groups[axes] = [found[key] for key in keys]
        return self._groups[axes][chip]

    # --- collectives -------------------------------------------------------------------------------------------------

    def all_gather(self, values: Sequence[tuple[Shards, str]], axes: Axes, name: str) -> tuple[Shards, ...]:
        results = []
        for value, dim in values:
            axis = _position(value.tensor, dim)
            shards = tuple(
                np.concatenate([value.shards[c] for c in self._group(chip, axes)], axis) for chip in self._chips
            )
            results.append(Shards(sharding.all_gather(value.tensor, dim, axes), shards))
        return tuple(results)

    def reduce_scatter(self, values: Sequence[tuple[Shards, str]], axes: Axes, name: str) -> tuple[Shards, ...]:
        results = []
        for value, into in values:
            tensor = sharding.reduce_scatter(value.tensor, axes, into)
            axis, ways = _position(value.tensor, into), value.tensor.ways(axes)
            sums = self._sums(value, axes)
            shards = tuple(_block_of(sums[chip], ways, axis, self._block(axes, chip)) for chip in self._chips)
            results.append(Shards(tensor, shards))
        return tuple(results)

    def all_reduce(self, values: Sequence[Shards], axes: Axes, name: str) -> tuple[Shards, ...]:
        return tuple(Shards(sharding.all_reduce(value.tensor, axes), self._sums(value, axes)) for value in values)

    def all_to_all(self, value: Shards, axes: Axes, split: str, concat: str, name: str) -> Shards:
        tensor, ways = sharding.all_to_all(value.tensor, axes, split, concat), value.tensor.ways(axes)
        cut, join = _position(tensor, split), _position(tensor, concat)
        shards = tuple(
            np.concatenate(
                [_block_of(value.shards[c], ways, cut, self._block(axes, chip)) for c in self._group(chip, axes)], join
            )
            for chip in self._chips
        )
        return Shards(tensor, shards)

    def local_slice(self, value: Shards, dim: str, axes: Axes) -> Shards:
        tensor = sharding.local_slice(value.tensor, dim, axes)
        axis, ways = _position(value.tensor, dim), value.tensor.ways(axes)
        shards = tuple(_block_of(value.shards[c], ways, axis, self._block(axes, c)) for c in self._chips)
        return Shards(tensor, shards)

    def _sums(self, value: Shards, axes: Axes) -> tuple[Array, ...]:
        return tuple(np.sum([value.shards[c] for c in self._group(chip, axes)], axis=0) for chip in self._chips)

    @property
    def _chips(self) -> range:
        return range(self.topology.chips)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Shards, weights: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        return tuple(self._product(x, weight) for weight in weights)

    def _product(self, x: Shards, weight: Shards) -> Shards:
        if weight.used is not None:
            gathered = gathered_axes(x.tensor, weight.used, weight.tensor)
            axes = tuple(axis for axis in gathered if dict(self.mesh)[axis] > 1)
            if self.loop_form is not None and all(closes(self.topology, axis) for axis in axes):
                return self._weight_loop(x, weight, weight.used, axes)
            for dim, used in zip(weight.tensor.dims, weight.used.dims, strict=True):
                (weight,) = self.all_gather([(weight, dim.name)], dim.axes[len(used.axes) :], "weights")
        tensor = sharding.matmul(x.tensor, weight.tensor)
        pairs = zip(x.shards, weight.shards, strict=True)
        return Shards(tensor, tuple(_contract(a, x.tensor, w, weight.tensor) for a, w in pairs))

    def matmul_add(self, x: Shards, weight: Shards, plus: Shards | None, name: str) -> Shards:
        product = self._product(x, weight)
        return product if plus is None else self.add(product, plus, name)

    def mean_square(self, x: Shards, dim: str, name: str) -> Shards:
        axis = _position(x.tensor, dim)
        dims = tuple(d for d in x.tensor.dims if d.name != dim)
        tensor = Sharded(dims, x.tensor.mesh, "f32", x.tensor.dim(dim).axes)
        return Shards(tensor, tuple((a**2).sum(axis) / self.sizes[dim] for a in x.shards))

    def scale(self, x: Shards, mean_square: Shards, gain: Shards, name: str) -> Shards:
        shards = zip(x.shards, mean_square.shards, gain.shards, strict=True)
        return Shards(x.tensor, tuple(a / np.sqrt(m[..., None]) * g for a, m, g in shards))

    def activate(self, inputs: Sequence[Shards], name: str) -> Shards:
        return Shards(inputs[0].tensor, tuple(map(activation, *(value.shards for value in inputs))))

    def add(self, x: Shards, y: Shards, name: str) -> Shards:
        tensor = sharding.add(x.tensor, y.tensor)
        return Shards(tensor, tuple(a + b for a, b in zip(x.shards, y.shards, strict=True)))

    def norm(self, x: Shards, plus: Sequence[Shards], gain: Shards, name: str) -> tuple[Shards, Shards]:
        tensor = sharding.norm(x.tensor, [value.tensor for value in plus], "E")
        total = tuple(np.sum(parts, axis=0) for parts in zip(x.shards, *(v.shards for v in plus), strict=True))
        shards = zip(total, gain.shards, strict=True)
        normed = tuple(a / np.sqrt((a**2).mean(_position(tensor, "E"), keepdims=True)) * g for a, g in shards)
        return Shards(tensor, total), Shards(tensor, normed)

    def own_part(self, partial: Shards) -> Shards:
        return Shards(sharding.own_part(partial.tensor), partial.shards)

    def share(self, x: Shards, axes: Axes) -> Shards:
        return Shards(sharding.share(x.tensor, axes), tuple(a / x.tensor.ways(axes) for a in x.shards))

    def to_cache(self, q: Shards, k: Shards, v: Shards, name: str) -> tuple[Shards, Shards, Shards]:
        return q, k, v

    def split(self, x: Shards, dim: str, parts: int) -> tuple[Shards, ...]:
        tensor, axis = sharding.split(x.tensor, dim, parts), _position(x.tensor, dim)
        cut = [np.split(a, parts, axis) for a in x.shards]
        return tuple(Shards(tensor, tuple(pieces[i] for pieces in cut)) for i in range(parts))

    def join(self, parts: Sequence[Shards], dim: str) -> Shards:
        axis = _position(parts[0].tensor, dim)
        shards = zip(*(part.shards for part in parts), strict=True)
        return Shards(sharding.join(parts[0].tensor, dim, len(parts)), tuple(np.concatenate(s, axis) for s in shards))

    def attention(self, q: Shards, k: Shards, v: Shards, name: str) -> Shards:
        keys, values = k.shards, v.shards
        if (self.layer, name) in self._cache:
            old_keys, old_values = self._cache[self.layer, name]
            keys = tuple(np.concatenate(pair, 1) for pair in zip(old_keys, keys, strict=True))
            values = tuple(np.concatenate(pair, 1) for pair in zip(old_values, values, strict=True))
        self._cache[self.layer, name] = (keys, values)
        heads, positions = q.tensor.local_shape[_position(q.tensor, "H")], q.tensor.local_shape[1]
        shared_by = q.tensor.dim("H").size // k.tensor.dim("K").size
        new = q.tensor.dim("L").size
        shards = []
        for chip in self._chips:
            first = self._block(q.tensor.dim("H").axes, chip) * heads
            first_kept = self._block(k.tensor.dim("K").axes, chip) * k.tensor.local_shape[_position(k.tensor, "K")]
            owner = (first + np.arange(heads)) // shared_by - first_kept  # key-value head of each query head
            start = keys[chip].shape[1] - new + self._block(q.tensor.dim("L").axes, chip) * positions
            shards.append(attend(q.shards[chip], keys[chip][:, :, owner], values[chip][:, :, owner], start))
        return Shards(sharding.attention(q.tensor, k.tensor, v.tensor), tuple(shards))

    def embed(self, table: Shards, name: str) -> Shards:
        axes, rows = table.tensor.dim("V").axes, table.tensor.local_shape[0]
        shards = []
        for chip in self._chips:
            local = self.tokens - self._block(axes, chip) * rows
            mine = (local >= 0) & (local < rows)
            shards.append(np.where(mine[..., None], table.shards[chip][np.where(mine, local, 0)], 0.0))
        whole = sharding.sharded("B L E", self.sizes, self.mesh)
        return Shards(Sharded(whole.dims, whole.mesh, whole.dtype, axes), tuple(shards))

    def pad(self, values: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        batch, length, ends = self.sizes["B"], self.sizes["L"], np.cumsum(self.lengths)

        def padded(packed: Array) -> Array:
            full = np.zeros((batch, length, *packed.shape[2:]))
            for sequence, (end, real) in enumerate(zip(ends, self.lengths, strict=True)):
                full[sequence, :real] = packed[0, end - real : end]
            return full

        return tuple(
            Shards(sharding.rows(value.tensor, batch, length), tuple(padded(a) for a in value.shards))
            for value in values
        )

    def unpad(self, values: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        def packed(full: Array) -> Array:
            return np.concatenate([full[sequence, :real] for sequence, real in enumerate(self.lengths)])[None]

        return tuple(
            Shards(sharding.rows(value.tensor, 1, sum(self.lengths)), tuple(packed(a) for a in value.shards))
            for value in values
        )

    def receive(self, notation: str, packed: bool, differs: Axes = ()) -> Shards:
        """What was sent last, if it is sharded so. Raises LayoutError."""
        expected = replace(sharding.sharded(notation, self.sizes, self.mesh), differs=differs)
        expected = sharding.rows(expected, 1, sum(self.lengths)) if packed else expected
        if self._sent is None or self._sent.tensor != expected:
            raise LayoutError(f"receive {expected}: the stage before sent {self._sent and self._sent.tensor}")
        return self._sent

    def send(self, x: Shards) -> None:
        self._sent = x

    def last_position(self, x: Shards) -> Shards:
        dims = tuple(sharding.Dim("L", 1) if dim.name == "L" else dim for dim in x.tensor.dims)
        return Shards(replace(x.tensor, dims=dims), tuple(a[:, -1:] for a in x.shards))

    def sample(self, logits: Shards, name: str) -> Shards:
        axes, width = logits.tensor.dim("V").axes, logits.tensor.local_shape[-1]
        best = [(a.max(-1), a.argmax(-1) + self._block(axes, chip) * width) for chip, a in enumerate(logits.shards)]
        shards = []
        for chip in self._chips:
            group = self._group(chip, axes)
            winner = np.argmax([best[c][0] for c in group], axis=0)
            shards.append(np.take_along_axis(np.array([best[c][1] for c in group]), winner[None], 0)[0].astype(float))
        return Shards(Sharded(logits.tensor.dims[:-1], logits.tensor.mesh, "int32"), tuple(shards))

    # --- looped collective matmul ------------------------------------------------------------------------------------

    def all_gather_matmul(self, factors: Sequence[tuple[Shards, str, Shards]], axes: Axes, name: str) -> Shards:
        if not self._loops(axes, [weight for _, _, weight in factors]):
            gathered = self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
            products = [self.matmul(x, [weight], name)[0] for x, (_, _, weight) in zip(gathered, factors, strict=True)]
            return _added(products)
        return _added([self._gathering_loop(value, dim, weight, axes) for value, dim, weight in factors])

    def matmul_reduce_scatter(
        self, x: Shards, weights: Sequence[tuple[Shards, str]], axes: Axes, name: str
    ) -> tuple[Shards, ...]:
        if not self._loops(axes, [weight for weight, _ in weights]):
            products = self.matmul(x, [weight for weight, _ in weights], name)
            pairs = [(product, into) for product, (_, into) in zip(products, weights, strict=True)]
            return self.reduce_scatter(pairs, axes, name)
        return tuple(self._scattering_loop(x, weight, into, axes) for weight, into in weights)

    def all_gather_matmuls(
        self, x: Shards, dim: str, weights: Sequence[Shards], axes: Axes, name: str
    ) -> tuple[Shards, ...]:
        (whole,) = self.all_gather([(x, dim)], axes, name)
        if not self._loops(axes, weights):
            return whole, *self.matmul(whole, weights, name)
        return whole, *(self._gathering_loop(x, dim, weight, axes) for weight in weights)

    def matmul_sum(self, factors: Sequence[tuple[Shards, str, Shards]], gathered: Axes, to: Sum, name: str) -> Shards:
        axes = to.scattered[0][1] if len(to.scattered) == 1 else ()
        if not gathered and self.chunks == 1 and self._loops(axes, [weight for _, _, weight in factors]):
            out = _added([self._scattering_loop(x, weight, to.scattered[0][0], axes) for x, _, weight in factors])
            return self.all_reduce([out], to.whole, to.name)[0]
        product = self.all_gather_matmul(factors, gathered, name)
        pieces = []
        for piece in self._column_pieces(product, dict(to.scattered)):
            for dim, over in to.scattered:
                (piece,) = self.reduce_scatter([(piece, dim)], over, to.name)
            pieces.append(self.all_reduce([piece], to.whole, to.name)[0])
        last = _position(product.tensor, product.tensor.dims[-1].name)
        return self.join(pieces, product.tensor.dims[last].name)

    def _column_pieces(self, product: Shards, scattered: Mapping[str, Axes]) -> list[Shards]:
        """As many columns in each piece of every shard into which they are scattered."""
        dim = product.tensor.dims[-1]
        shards = product.tensor.ways(scattered.get(dim.name, ()))
        columns = np.arange(product.tensor.local_shape[-1]).reshape(shards, -1)
        count = min(self.chunks, columns.shape[1])
        tensor = sharding.chunks(product.tensor, dim.name, 1, count)
        return [
            Shards(tensor, tuple(a[..., piece.ravel()] for a in product.shards))
            for piece in np.split(columns, count, axis=1)
        ]

    def _form(self, axis: str) -> LoopForm:
        return form_around(self.topology, axis, self.loop_form or "one_way")

    def _loops(self, axes: Axes, weights: Sequence[Shards]) -> bool:
        looped = self.loop_form is not None and len(axes) == 1 and dict(self.mesh)[axes[0]] > 1
        return looped and closes(self.topology, axes[0]) and not any(weight.used for weight in weights)

    def _weight_loop(self, x: Shards, weight: Shards, used: Sharded, axes: Axes) -> Shards:
        """Each chip multiplies with the shard in hand, then the shards move on: one ring inside the other."""
        lengths = [dict(self.mesh)[axis] for axis in axes]
        tensor = sharding.matmul(x.tensor, used)
        totals = [np.zeros(tensor.local_shape) for _ in self._chips]
        hand = [(chip, shard) for chip, shard in enumerate(weight.shards)]  # (chip it comes from, shard)
        for piece in range(prod(lengths)):
            for chip, (origin, shard) in enumerate(hand):
                rows, place = x.shards[chip], [slice(None)] * len(tensor.dims)
                for dim, now in zip(weight.tensor.dims, used.dims, strict=True):
                    removed = dim.axes[len(now.axes) :]
                    block, ways = self._block(removed, origin), used.ways(removed)
                    if any(other.name == dim.name for other in x.tensor.dims):
                        rows = _block_of(rows, ways, _position(x.tensor, dim.name), block)
                    else:
                        axis = _position(tensor, dim.name)
                        width = tensor.local_shape[axis] // ways
                        place[axis] = slice(block * width, (block + 1) * width)
                totals[chip][tuple(place)] += _contract(rows, x.tensor, shard, used)
            if (shift := shift_after(piece, lengths)) is not None:
                plan, moved = all_gather_loop(self.topology, axes[shift], "one_way"), list(hand)
                for send in np.flatnonzero(plan.step == 0):
                    moved[plan.dst[send]] = hand[plan.src[send]]
                hand = moved
        return Shards(tensor, tuple(totals))

    def _gathering_loop(self, value: Shards, dim: str, weight: Shards, axes: Axes) -> Shards:
        """Each chip multiplies the chunks it has by its rows of the weight, piece by piece, as they arrive."""
        form, length = self._form(axes[0]), value.tensor.ways(axes)
        plan = all_gather_loop(self.topology, axes[0], form)
        needed_by = piece_of_arrival(plan, form, length)
        cut = _position(value.tensor, dim)
        own = [self._at[chip][axes[0]] for chip in self._chips]
        held: list[dict[Chunk, Array]] = [
            {(own[chip], half): part for half, part in enumerate(np.array_split(value.shards[chip], 2, cut))}
            for chip in self._chips
        ]
        arrived: list[dict[int, list[Chunk]]] = [{0: [(own[chip], 0), (own[chip], 1)]} for chip in self._chips]
        for send in np.flatnonzero(plan.arrives(self.topology)):
            for chunk in _halves(int(plan.origin[send, 0]), int(plan.half[send])):
                held[plan.dst[send]][chunk] = held[plan.src[send]][chunk]
                arrived[plan.dst[send]].setdefault(int(needed_by[send]), []).append(chunk)
        shards = []
        for chip in self._chips:
            parts: dict[Chunk, Array] = {}
            for piece in range(len(chunks_of_pieces(length, form))):
                for chunk in arrived[chip].pop(piece):
                    rows = _part(weight.shards[chip], weight.tensor, dim, length, chunk)
                    parts[chunk] = _contract(held[chip][chunk], value.tensor, rows, weight.tensor)
            in_order = [parts[chunk] for chunk in sorted(parts)]
            contracted = any(other.name == dim for other in weight.tensor.dims)
            shards.append(np.sum(in_order, axis=0) if contracted else np.concatenate(in_order, cut))
        return Shards(sharding.matmul(sharding.all_gather(value.tensor, dim, axes), weight.tensor), tuple(shards))

    def _scattering_loop(self, x: Shards, weight: Shards, into: str, axes: Axes) -> Shards:
        """Accumulators travel; each chip adds its contribution to one before it sends it on."""
        form, length = self._form(axes[0]), x.tensor.ways(axes)
        plan = reduce_scatter_loop(self.topology, axes[0], form)
        product = sharding.matmul(x.tensor, weight.tensor)
        result = sharding.reduce_scatter(product, axes, into)

        def contribution(chip: int, target: int, half: int) -> Array:
            rows = _part(x.shards[chip], x.tensor, into, length, (target, half))
            columns = _part(weight.shards[chip], weight.tensor, into, length, (target, half))
            return _contract(rows, x.tensor, columns, weight.tensor)

        received: list[dict[Chunk, Any]] = [{} for _ in self._chips]
        for send in np.flatnonzero(plan.arrives(self.topology)):
            src, dst = int(plan.src[send]), int(plan.dst[send])
            for chunk in _halves(int(plan.target[send, 0]), int(plan.half[send])):
                total = received[src].pop(chunk, 0.0) + contribution(src, *chunk)
                received[dst][chunk] = received[dst].get(chunk, 0.0) + total
        shards = []
        for chip in self._chips:
            own = self._at[chip][axes[0]]
            halves = [received[chip].pop((own, half), 0.0) + contribution(chip, own, half) for half in (0, 1)]
            shards.append(np.concatenate(halves, _position(product, into)))
        return Shards(result, tuple(shards))


Chunk = tuple[int, int]
"""(position on the ring, half)"""


def activation(first: Array, *second: Array) -> Array:
    """SwiGLU of (gate, up), or GELU (tanh form) of one input."""
    if second:
        swish: Array = first / (1 + np.exp(-first))
        return swish * second[0]
    gelu: Array = 0.5 * first * (1 + np.tanh(np.sqrt(2 / np.pi) * (first + 0.044715 * first**3)))
    return gelu


def attend(q: Array, k: Array, v: Array, start: int) -> Array:
    """Causal softmax attention: q [B, L, H, Q] are positions `start` .. of the C positions of k and v [B, C, H, Q]."""
    scores = np.einsum("blhq,bchq->bhlc", q, k) / np.sqrt(q.shape[-1])
    future = np.arange(k.shape[1])[None, :] > (start + np.arange(q.shape[1]))[:, None]
    scores = np.where(future, -np.inf, scores)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out: Array = np.einsum("bhlc,bchq->blhq", weights / weights.sum(-1, keepdims=True), v)
    return out


def _contract(x: Array, x_tensor: Sharded, w: Array, w_tensor: Sharded) -> Array:
    a = "".join(dim.name for dim in x_tensor.dims)
    b = "".join(dim.name for dim in w_tensor.dims)
    shared = set(a) & set(b)
    out = "".join(letter for letter in a + b if letter not in shared)
    product: Array = np.einsum(f"{a},{b}->{out}", x, w)
    return product


def _added(values: Sequence[Shards]) -> Shards:
    return Shards(
        values[0].tensor, tuple(np.sum(parts, axis=0) for parts in zip(*(v.shards for v in values), strict=True))
    )


def _part(array: Array, tensor: Sharded, dim: str, length: int, chunk: Chunk) -> Array:
    """The chunk of a shard along a dimension, cut for a ring of `length`; all of it if it has no such dimension."""
    if all(other.name != dim for other in tensor.dims):
        return array
    axis = _position(tensor, dim)
    return np.array_split(_block_of(array, length, axis, chunk[0]), 2, axis)[chunk[1]]


def _block_of(array: Array, ways: int, axis: int, block: int) -> Array:
    """One of `ways` equal blocks along an axis."""
    length = array.shape[axis] // ways
    return array[(slice(None),) * axis + (slice(block * length, (block + 1) * length),)]


def _halves(position: int, half: int) -> list[Chunk]:
    return [(position, 0), (position, 1)] if half < 0 else [(position, half)]


def _position(tensor: Sharded, name: str) -> int:
    return [dim.name for dim in tensor.dims].index(name)
