"""Real shards in NumPy: which chip holds which block of a tensor, and operations on single shards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.layouts.sharding import Sharded
from sim.specs.uses import Axes
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_positions

Array = npt.NDArray[np.float64]


class Shards(Struct, frozen=True):
    """A tensor with each chip's real shard, [chips] arrays of `tensor.local_shape`."""

    tensor: Sharded
    shards: tuple[Array, ...]
    used: Sharded | None = None
    """Sharding of a stored weight at its use, if it is gathered for that."""


class ChipGrid:
    """Positions of a machine's chips along its mesh axes."""

    def __init__(self, topology: Topology) -> None:
        self.topology = topology
        self.mesh = tuple((axis.name, axis.size) for axis in topology.mesh)
        self.lengths = dict(self.mesh)
        self.chips = range(topology.chips)
        names = tuple(self.lengths)
        self.positions = [dict(zip(names, row, strict=True)) for row in mesh_positions(topology, names).tolist()]
        """[chips] position along each axis."""
        self._groups: dict[Axes, list[list[int]]] = {}

    def block(self, axes: Axes, chip: int) -> int:
        """Returns the number of the block that a chip holds of a dimension split over `axes`."""
        block = 0
        for axis in axes:
            block = block * self.lengths[axis] + self.positions[chip][axis]
        return block

    def group(self, axes: Axes, chip: int) -> list[int]:
        """Returns the chips that differ from `chip` only along `axes`, in block order."""
        if axes not in self._groups:
            members: dict[tuple[int, ...], list[int]] = {}
            keys = [tuple(i for axis, i in self.positions[c].items() if axis not in axes) for c in self.chips]
            for c in sorted(self.chips, key=lambda c: self.block(axes, c)):
                members.setdefault(keys[c], []).append(c)
            self._groups[axes] = [members[key] for key in keys]
        return self._groups[axes][chip]

    def region(self, tensor: Sharded, chip: int) -> tuple[slice, ...]:
        """Returns the part of the full array that is a chip's shard."""
        starts = [
            self.block(dim.axes, chip) * length for dim, length in zip(tensor.dims, tensor.local_shape, strict=True)
        ]
        return tuple(slice(start, start + length) for start, length in zip(starts, tensor.local_shape, strict=True))


def contract(x: Array, x_tensor: Sharded, weight: Array, weight_tensor: Sharded, over: str = "") -> Array:
    """Multiplies two shards, summing over the dimensions that both have, but `over`."""
    a = "".join(dim.name for dim in x_tensor.dims)
    b = "".join(dim.name for dim in weight_tensor.dims)
    summed = set(a) & set(b) - {over}
    out = "".join(dict.fromkeys(letter for letter in a + b if letter not in summed))
    product: Array = np.einsum(f"{a},{b}->{out}", x, weight)
    return product


def add_shards(values: list[Shards]) -> Shards:
    """Adds up values of one sharding, chip by chip."""
    sums = tuple(np.sum(parts, axis=0) for parts in zip(*(value.shards for value in values), strict=True))
    return Shards(values[0].tensor, sums)


def take_block(array: Array, blocks: int, axis: int, block: int) -> Array:
    """Returns one of `blocks` equal blocks along an axis."""
    length = array.shape[axis] // blocks
    return array[(slice(None),) * axis + (slice(block * length, (block + 1) * length),)]


def dim_index(tensor: Sharded, name: str) -> int:
    """Returns the index of a dimension by its letter."""
    return [dim.name for dim in tensor.dims].index(name)
