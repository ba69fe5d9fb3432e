"""The NumPy executor: every chip holds its real shard, every collective really moves data.

It interprets the same layouts as `sim.lower`, so that a test can prove that a layout computes what one device computes.
Looped collective matmuls run piece by piece over the very schedules that are simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim import sharding
from sim.collectives.loop import all_gather_loop, reduce_scatter_loop
from sim.lower import loop_shares, piece_of_arrival
from sim.sharding import Axes, Sharded
from sim.topology.graph import Topology

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shards:
    """A tensor with each chip's real shard, [chips] arrays of `tensor.local_shape`."""

    tensor: Sharded
    shards: tuple[Array, ...]


class Execution:
    """The dataflow interpreter that computes (see `sim.layouts.dataflow` for what each operation means).

    One instance holds the KV cache of every layer; set `weights` and `layer` before each layer.

    Args:
        sizes: full size of each dimension letter.
        loop_form: form of the looped collective matmul, None to run collective and matmul one after the other.
    """

    def __init__(self, topology: Topology, sizes: Mapping[str, int], loop_form: str | None = None) -> None:
        self.topology, self.sizes, self.loop_form = topology, sizes, loop_form
        self.mesh = tuple((axis.name, axis.size) for axis in topology.axes)
        self.weights: Mapping[str, Array] = {}
        self.layer = 0
        self._cache: dict[int, tuple[tuple[Array, ...], tuple[Array, ...]]] = {}
        self._at = [
            dict(zip(dict(self.mesh), topology.coordinates(chip), strict=True)) for chip in range(topology.chips)
        ]

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

    def weight(self, name: str, notation: str) -> Shards:
        return self.place(self.weights[name], notation)

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
        others = [axis for axis in dict(self.mesh) if axis not in axes]
        members = [c for c in range(self.topology.chips) if all(self._at[c][a] == self._at[chip][a] for a in others)]
        return sorted(members, key=lambda c: self._block(axes, c))

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
            axis = _position(value.tensor, into)
            sums = self._sums(value, axes)
            ways = value.tensor.ways(axes)
            shards = tuple(np.split(sums[chip], ways, axis)[self._block(axes, chip)] for chip in self._chips)
            results.append(Shards(sharding.reduce_scatter(value.tensor, axes, into), shards))
        return tuple(results)

    def all_reduce(self, values: Sequence[Shards], axes: Axes, name: str) -> tuple[Shards, ...]:
        return tuple(Shards(sharding.all_reduce(value.tensor, axes), self._sums(value, axes)) for value in values)

    def all_to_all(self, value: Shards, axes: Axes, split: str, concat: str, name: str) -> Shards:
        tensor, ways = value.tensor, value.tensor.ways(axes)
        cut, join = _position(tensor, split), _position(tensor, concat)
        shards = tuple(
            np.concatenate(
                [np.split(value.shards[c], ways, cut)[self._block(axes, chip)] for c in self._group(chip, axes)], join
            )
            for chip in self._chips
        )
        return Shards(sharding.all_to_all(tensor, axes, split, concat), shards)

    def local_slice(self, value: Shards, dim: str, axes: Axes) -> Shards:
        axis, ways = _position(value.tensor, dim), value.tensor.ways(axes)
        shards = tuple(np.split(value.shards[c], ways, axis)[self._block(axes, c)] for c in self._chips)
        return Shards(sharding.local_slice(value.tensor, dim, axes), shards)

    def _sums(self, value: Shards, axes: Axes) -> tuple[Array, ...]:
        return tuple(np.sum([value.shards[c] for c in self._group(chip, axes)], axis=0) for chip in self._chips)

    @property
    def _chips(self) -> range:
        return range(self.topology.chips)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Shards, weights: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        results = []
        for weight in weights:
            tensor = sharding.matmul(x.tensor, weight.tensor)
            shards = tuple(
                _contract(a, x.tensor, w, weight.tensor) for a, w in zip(x.shards, weight.shards, strict=True)
            )
            results.append(Shards(tensor, shards))
        return tuple(results)

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
        if x.tensor != y.tensor:
            raise AssertionError(f"add of {x.tensor} and {y.tensor}")
        return Shards(x.tensor, tuple(a + b for a, b in zip(x.shards, y.shards, strict=True)))

    def attention(self, q: Shards, k: Shards, v: Shards, name: str) -> Shards:
        keys, values = k.shards, v.shards
        if self.layer in self._cache:
            old_keys, old_values = self._cache[self.layer]
            keys = tuple(np.concatenate(pair, 1) for pair in zip(old_keys, keys, strict=True))
            values = tuple(np.concatenate(pair, 1) for pair in zip(old_values, values, strict=True))
        self._cache[self.layer] = (keys, values)
        heads = q.tensor.dim("H")
        local_heads = q.tensor.local_shape[_position(q.tensor, "H")]
        shared_by = heads.size // k.tensor.dim("K").size
        shards = []
        for chip in self._chips:
            first = self._block(heads.axes, chip) * local_heads
            owner = (first + np.arange(local_heads)) // shared_by  # key-value head of each query head
            if k.tensor.dim("K").axes:
                owner -= owner[0]
            shards.append(attend(q.shards[chip], keys[chip][:, :, owner], values[chip][:, :, owner]))
        return Shards(sharding.attention(q.tensor, k.tensor, v.tensor), tuple(shards))

    # --- looped collective matmul ------------------------------------------------------------------------------------

    def all_gather_matmul(self, factors: Sequence[tuple[Shards, str, Shards]], axes: Axes, name: str) -> Shards:
        if not self._loops(axes):
            gathered = self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
            products = [self.matmul(x, [weight], name)[0] for x, (_, _, weight) in zip(gathered, factors, strict=True)]
            return _added(products)
        return _added([self._gathering_loop(value, dim, weight, axes) for value, dim, weight in factors])

    def matmul_reduce_scatter(
        self, x: Shards, weights: Sequence[tuple[Shards, str]], axes: Axes, name: str
    ) -> tuple[Shards, ...]:
        if not self._loops(axes):
            products = self.matmul(x, [weight for weight, _ in weights], name)
            pairs = [(product, into) for product, (_, into) in zip(products, weights, strict=True)]
            return self.reduce_scatter(pairs, axes, name)
        return tuple(self._scattering_loop(x, weight, into, axes) for weight, into in weights)

    def _loops(self, axes: Axes) -> bool:
        return self.loop_form is not None and len(axes) == 1 and dict(self.mesh)[axes[0]] > 1

    def _gathering_loop(self, value: Shards, dim: str, weight: Shards, axes: Axes) -> Shards:
        """Each chip multiplies the chunks it has by its rows of the weight, piece by piece, as they arrive."""
        form, length = str(self.loop_form), value.tensor.ways(axes)
        plan = all_gather_loop(self.topology, axes[0], form)
        needed_by = piece_of_arrival(plan, form, length)
        cut, rows = _position(value.tensor, dim), _position(weight.tensor, dim)
        own = [self._at[chip][axes[0]] for chip in self._chips]
        held: list[dict[tuple[int, int], Array]] = [
            {(own[chip], half): part for half, part in enumerate(np.array_split(value.shards[chip], 2, cut))}
            for chip in self._chips
        ]
        arrived: list[dict[int, list[tuple[int, int]]]] = [
            {0: [(own[chip], 0), (own[chip], 1)]} for chip in self._chips
        ]
        for send in range(len(plan)):
            for chunk in _halves(int(plan.origin[send, 0]), int(plan.half[send])):
                held[plan.dst[send]][chunk] = held[plan.src[send]][chunk]
                arrived[plan.dst[send]].setdefault(int(needed_by[send]), []).append(chunk)
        shards = []
        for chip in self._chips:
            total: Any = 0.0
            for piece in range(len(loop_shares(length, form))):
                for origin, half in arrived[chip].pop(piece):
                    chunk_rows = np.array_split(np.split(weight.shards[chip], length, rows)[origin], 2, rows)[half]
                    total = total + _contract(held[chip][origin, half], value.tensor, chunk_rows, weight.tensor)
            shards.append(total)
        return Shards(sharding.matmul(sharding.all_gather(value.tensor, dim, axes), weight.tensor), tuple(shards))

    def _scattering_loop(self, x: Shards, weight: Shards, into: str, axes: Axes) -> Shards:
        """Accumulators travel; each chip adds its contribution to one before it sends it on."""
        form, length = str(self.loop_form), x.tensor.ways(axes)
        plan = reduce_scatter_loop(self.topology, axes[0], form)
        columns = _position(weight.tensor, into)
        product = sharding.matmul(x.tensor, weight.tensor)

        def contribution(chip: int, target: int, half: int) -> Array:
            part = np.array_split(np.split(weight.shards[chip], length, columns)[target], 2, columns)[half]
            return _contract(x.shards[chip], x.tensor, part, weight.tensor)

        received: list[dict[tuple[int, int], Any]] = [{} for _ in self._chips]
        for send in range(len(plan)):
            src, dst = int(plan.src[send]), int(plan.dst[send])
            for chunk in _halves(int(plan.target[send, 0]), int(plan.half[send])):
                total = received[src].pop(chunk, 0.0) + contribution(src, *chunk)
                received[dst][chunk] = received[dst].get(chunk, 0.0) + total
        shards = []
        for chip in self._chips:
            own = self._at[chip][axes[0]]
            halves = [received[chip].pop((own, half), 0.0) + contribution(chip, own, half) for half in (0, 1)]
            shards.append(np.concatenate(halves, _position(product, into)))
        return Shards(sharding.reduce_scatter(product, axes, into), tuple(shards))


def activation(first: Array, *second: Array) -> Array:
    """SwiGLU of (gate, up), or GELU (tanh form) of one input."""
    if second:
        swish: Array = first / (1 + np.exp(-first))
        return swish * second[0]
    gelu: Array = 0.5 * first * (1 + np.tanh(np.sqrt(2 / np.pi) * (first + 0.044715 * first**3)))
    return gelu


def attend(q: Array, k: Array, v: Array) -> Array:
    """Causal softmax attention: q [B, L, H, Q] are the last L of the C positions of k and v [B, C, H, Q]."""
    scores = np.einsum("blhq,bchq->bhlc", q, k) / np.sqrt(q.shape[-1])
    new, cached = q.shape[1], k.shape[1]
    future = np.arange(cached)[None, :] > np.arange(cached - new, cached)[:, None]
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


def _halves(position: int, half: int) -> list[tuple[int, int]]:
    return [(position, 0), (position, 1)] if half < 0 else [(position, half)]


def _position(tensor: Sharded, name: str) -> int:
    return [dim.name for dim in tensor.dims].index(name)
