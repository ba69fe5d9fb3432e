"""Looped collective matmuls in NumPy: chips multiply the chunks they hold, piece by piece, over the schedules that are
simulated (Pope et al. section 3.5)."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from sim.collectives.loop import all_gather_loop, reduce_scatter_loop
from sim.layouts import sharding
from sim.layouts.collective_matmul import chunks_of_pieces, piece_of_arrival, shift_after
from sim.layouts.numpy_shards import Array, ChipGrid, Shards, contract, dim_index, take_block
from sim.layouts.sharding import Sharded
from sim.specs import LoopForm
from sim.specs.uses import Axes

Chunk = tuple[int, int]
"""(position on the ring, half of the shard)"""


def weight_loop(grid: ChipGrid, x: Shards, weight: Shards, used: Sharded, axes: Axes) -> Shards:
    """Multiplies with the weight shard that each chip holds, then passes the shards on; the first ring is innermost."""
    lengths = [grid.lengths[axis] for axis in axes]
    tensor = sharding.matmul(x.tensor, used)
    totals = [np.zeros(tensor.local_shape) for _ in grid.chips]
    held = list(enumerate(weight.shards))  # [chips] (chip that the shard comes from, shard)
    for piece in range(prod(lengths)):
        for chip, (origin, shard) in enumerate(held):
            rows, place = x.shards[chip], [slice(None)] * len(tensor.dims)
            for stored_dim, used_dim in zip(weight.tensor.dims, used.dims, strict=True):
                gathered = stored_dim.axes[len(used_dim.axes) :]
                block, blocks = grid.block(gathered, origin), used.group_size(gathered)
                if x.tensor.has(stored_dim.name):
                    rows = take_block(rows, blocks, dim_index(x.tensor, stored_dim.name), block)
                else:
                    axis = dim_index(tensor, stored_dim.name)
                    width = tensor.local_shape[axis] // blocks
                    place[axis] = slice(block * width, (block + 1) * width)
            totals[chip][tuple(place)] += contract(rows, x.tensor, shard, used)
        if (shift := shift_after(piece, lengths)) is not None:
            plan, moved = all_gather_loop(grid.topology, axes[shift], "one_way"), list(held)
            for send in np.flatnonzero(plan.step == 0):
                moved[plan.dst[send]] = held[plan.src[send]]
            held = moved
    return Shards(tensor, tuple(totals))


def gathering_loop(grid: ChipGrid, form: LoopForm, value: Shards, dim: str, weight: Shards, axes: Axes) -> Shards:
    """Multiplies the chunks of an all-gather with their rows of the weight as they arrive."""
    length = value.tensor.group_size(axes)
    plan = all_gather_loop(grid.topology, axes[0], form)
    needed_by = piece_of_arrival(plan, form, length)
    cut = dim_index(value.tensor, dim)
    position = [grid.positions[chip][axes[0]] for chip in grid.chips]
    held: list[dict[Chunk, Array]] = [
        {(position[chip], half): part for half, part in enumerate(np.array_split(value.shards[chip], 2, cut))}
        for chip in grid.chips
    ]
    arrived: list[dict[int, list[Chunk]]] = [{0: [(position[chip], 0), (position[chip], 1)]} for chip in grid.chips]
    for send in np.flatnonzero(plan.arrives(grid.topology)):
        for chunk in _chunks_of(int(plan.origin[send, 0]), int(plan.half[send])):
            held[plan.dst[send]][chunk] = held[plan.src[send]][chunk]
            arrived[plan.dst[send]].setdefault(int(needed_by[send]), []).append(chunk)
    shards = []
    for chip in grid.chips:
        products: dict[Chunk, Array] = {}
        for piece in range(len(chunks_of_pieces(length, form))):
            for chunk in arrived[chip].pop(piece):
                rows = _take_chunk(weight.shards[chip], weight.tensor, dim, length, chunk)
                products[chunk] = contract(held[chip][chunk], value.tensor, rows, weight.tensor)
        in_order = [products[chunk] for chunk in sorted(products)]
        shards.append(np.sum(in_order, axis=0) if weight.tensor.has(dim) else np.concatenate(in_order, cut))
    return Shards(sharding.matmul(sharding.all_gather(value.tensor, dim, axes), weight.tensor), tuple(shards))


def scattering_loop(grid: ChipGrid, form: LoopForm, x: Shards, weight: Shards, into: str, axes: Axes) -> Shards:
    """Adds each chip's contribution to a partial sum before the chip sends it on."""
    length = x.tensor.group_size(axes)
    plan = reduce_scatter_loop(grid.topology, axes[0], form)
    product = sharding.matmul(x.tensor, weight.tensor)
    result = sharding.reduce_scatter(product, axes, into)

    def contribution(chip: int, target: int, half: int) -> Array:
        rows = _take_chunk(x.shards[chip], x.tensor, into, length, (target, half))
        columns = _take_chunk(weight.shards[chip], weight.tensor, into, length, (target, half))
        return contract(rows, x.tensor, columns, weight.tensor)

    received: list[dict[Chunk, Any]] = [{} for _ in grid.chips]
    for send in np.flatnonzero(plan.arrives(grid.topology)):
        src, dst = int(plan.src[send]), int(plan.dst[send])
        for chunk in _chunks_of(int(plan.target[send, 0]), int(plan.half[send])):
            total = received[src].pop(chunk, 0.0) + contribution(src, *chunk)
            received[dst][chunk] = received[dst].get(chunk, 0.0) + total
    shards = []
    for chip in grid.chips:
        target = grid.positions[chip][axes[0]]
        halves = [received[chip].pop((target, half), 0.0) + contribution(chip, target, half) for half in (0, 1)]
        shards.append(np.concatenate(halves, dim_index(product, into)))
    return Shards(result, tuple(shards))


def _take_chunk(array: Array, tensor: Sharded, dim: str, length: int, chunk: Chunk) -> Array:
    """Returns the chunk of a shard cut for a ring of `length` chips; the shard itself if it lacks the dimension."""
    if not tensor.has(dim):
        return array
    axis = dim_index(tensor, dim)
    return np.array_split(take_block(array, length, axis, chunk[0]), 2, axis)[chunk[1]]


def _chunks_of(position: int, half: int) -> list[Chunk]:
    """Chunks that one send carries: one half of a shard, or both where `half` is negative."""
    return [(position, 0), (position, 1)] if half < 0 else [(position, half)]
