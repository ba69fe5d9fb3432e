"""Attention on real shards: caches of all layers, chips that share a cache's positions, latent vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from sim.layouts import sharding
from sim.layouts.dataflow import WHOLE, Cache
from sim.layouts.numpy_shards import Array, ChipGrid, Shards, dim_index, take_block
from sim.layouts.sharding import Sharded


class NumpyAttention:
    """Caches of keys and values, and attention to them.

    Args:
        sizes: full size of each dimension letter.
    """

    def __init__(self, grid: ChipGrid, sizes: Mapping[str, int]) -> None:
        self.grid, self.sizes = grid, sizes
        self._cache: dict[tuple[int, str], tuple[tuple[Array, ...], ...]] = {}

    def attention(
        self, layer: int, q: Shards, k: Shards, v: Shards, cache: Cache = WHOLE, window: int | None = None
    ) -> Shards:
        """Appends k and v to a layer's cache, and attends to it."""
        keys, values = self._append(layer, cache, k, v)
        heads, positions = q.tensor.local_shape[dim_index(q.tensor, "H")], q.tensor.local_shape[1]
        shared_by = q.tensor.dim("H").size // k.tensor.dim("K").size
        shards = []
        for chip in self.grid.chips:
            first = self.grid.block(q.tensor.dim("H").axes, chip) * heads
            first_kept = self.grid.block(k.tensor.dim("K").axes, chip) * k.tensor.local_shape[dim_index(k.tensor, "K")]
            owner = (first + np.arange(heads)) // shared_by - first_kept  # key-value head of each query head
            start = keys[chip].shape[1] - q.tensor.dim("L").size
            start += self.grid.block(q.tensor.dim("L").axes, chip) * positions
            inputs = q.shards[chip], keys[chip][:, :, owner], values[chip][:, :, owner]
            shards.append(self._attend_to_some(*inputs, start, cache, chip, window))
        return self._merge(sharding.attention(q.tensor, k.tensor, v.tensor), shards, cache)

    def _attend_to_some(
        self, q: Array, k: Array, v: Array, start: int, cache: Cache, chip: int, window: int | None = None
    ) -> tuple[Array, Array]:
        """Returns the output and the logarithm of the sum of a chip, from its share of the cache's positions."""
        mine = np.arange(k.shape[1]) % prod(self.grid.lengths[axis] for axis in cache.context)
        return attend_with_sum(q, k, v, start, window, mine == self.grid.block(cache.context, chip))

    def _merge(self, tensor: Sharded, parts: Sequence[tuple[Array, Array]], cache: Cache) -> Shards:
        """Returns the outputs of chips that share a cache, each in proportion to its sum, scattered over the heads."""
        shards, axis = [], dim_index(tensor, "H")
        for chip in self.grid.chips:
            group = self.grid.group(cache.context, chip)
            sums = np.array([parts[c][1] for c in group])
            weights = np.exp(sums - sums.max(0))
            out = sum(w[..., None] * parts[c][0] for w, c in zip(weights / weights.sum(0), group, strict=True))
            shards.append(take_block(out, len(group), axis, self.grid.block(cache.context, chip)))
        return Shards(sharding.local_slice(tensor, "H", cache.context), tuple(shards))

    def latent_attention(
        self,
        layer: int,
        queries: tuple[Shards, Shards],
        cached: tuple[Shards, Shards],
        expansion: tuple[Shards, ...],
        cache: Cache = WHOLE,
    ) -> Shards:
        """Appends latent vectors and shared keys to a layer's cache, and attends to it."""
        q, rope = queries
        tensor = sharding.latent_attention(q.tensor, cached[0].tensor, *(weight.tensor for weight in expansion))
        latents, shared = self._append(layer, cache, *cached)
        positions, shards = q.tensor.local_shape[1], []
        for chip in self.grid.chips:
            keys = values = latents[chip][:, :, None].repeat(q.shards[chip].shape[2], 2)
            if expansion:
                keys, values = (np.einsum("blc,chn->blhn", latents[chip], w.shards[chip]) for w in expansion)
            start = latents[chip].shape[1] - q.tensor.dim("L").size
            start += self.grid.block(q.tensor.dim("L").axes, chip) * positions
            parts = q.shards[chip], rope.shards[chip]
            common = shared[chip][:, :, None].repeat(parts[0].shape[2], 2)
            width = self.sizes["N"] + self.sizes["R"]
            scale = np.sqrt(sum(part.shape[-1] for part in parts) / width)  # `attend` divides by the width it is given
            joined = np.concatenate(parts, -1) * scale
            inputs = joined, np.concatenate([keys, common], -1), values
            shards.append(self._attend_to_some(*inputs, start, cache, chip))
        return self._merge(tensor, shards, cache)

    def _append(self, layer: int, cache: Cache, *new: Shards) -> tuple[tuple[Array, ...], ...]:
        """Appends new positions to the layer's cache; returns all of it, [tensors][chips]."""
        parts = tuple(value.shards for value in new)
        if old := self._cache.get((layer, cache.name)):
            parts = tuple(
                tuple(np.concatenate(pair, 1) for pair in zip(before, after, strict=True))
                for before, after in zip(old, parts, strict=True)
            )
        self._cache[layer, cache.name] = parts
        return parts


def attend(q: Array, k: Array, v: Array, start: int, window: int | None = None) -> Array:
    """Causal softmax attention: q [B, L, H, Q] are positions `start` .. of the C positions of k [B, C, H, Q] and v; to
    the last `window` of them if given."""
    return attend_with_sum(q, k, v, start, window, np.ones(k.shape[1], dtype=np.bool_))[0]


def attend_with_sum(
    q: Array, k: Array, v: Array, start: int, window: int | None, mine: npt.NDArray[np.bool_]
) -> tuple[Array, Array]:
    """Returns (attention to the positions `mine`, [B, L, H] logarithm of the sum of the exponents of its scores)."""
    scores = np.einsum("blhq,bchq->bhlc", q, k) / np.sqrt(q.shape[-1])
    behind = (start + np.arange(q.shape[1]))[:, None] - np.arange(k.shape[1])[None, :]
    seen = (behind >= 0) & (behind < (window or np.inf)) & mine
    most = np.where(seen, scores, -1e300).max(-1, keepdims=True)
    weights = np.exp(np.where(seen, scores - most, -np.inf))
    sums = weights.sum(-1, keepdims=True)
    out: Array = np.einsum("bhlc,bchu->blhu", weights / np.where(sums > 0, sums, 1.0), v)
    with np.errstate(divide="ignore"):
        logarithm = (most + np.log(sums))[..., 0]
    return out, logarithm.swapaxes(1, 2)
