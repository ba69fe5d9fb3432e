"""Routing of tokens to experts on real shards, and their way to the chips that have these and back."""

from __future__ import annotations

from math import prod

import numpy as np

from sim.layouts import sharding
from sim.layouts.dataflow import Exchange
from sim.layouts.numpy_shards import Array, ChipGrid, Shards, take_block


def choose(logits: Array, top_k: int) -> Array:
    """Returns the shares [..., experts] of the top_k experts, the softmax of their logits; 0 for the others."""
    chosen = np.argsort(-logits, -1, kind="stable")[..., :top_k]
    best = np.take_along_axis(logits, chosen, -1)
    weights = np.exp(best - best.max(-1, keepdims=True))
    shares = np.zeros_like(logits)
    np.put_along_axis(shares, chosen, weights / weights.sum(-1, keepdims=True), -1)
    return shares


def dispatch(
    grid: ChipGrid, y: Shards, shares: Shards, exchange: Exchange, experts: int
) -> tuple[Shards, dict[tuple[int, int], int]]:
    """Returns the rows of tokens for the experts of each chip, and how many tokens each chip sends to each.

    Args:
        experts: of all chips, copies included.
    """
    tensor = sharding.dispatch(y.tensor, sharding.Dim("Y", experts, exchange.experts), exchange.tokens)
    shards, sent = [], dict[tuple[int, int], int]()
    for chip in grid.chips:
        sources = grid.group(exchange.tokens, chip)
        rows = np.concatenate([y.shards[source].reshape(-1, y.shards[source].shape[-1]) for source in sources])
        chosen = [_mine(grid, shares.shards[source], exchange, chip) > 0 for source in sources]
        shards.append(np.where(np.concatenate(chosen).T[..., None], rows, 0.0))
        sent |= {(source, chip): int(each.any(1).sum()) for source, each in zip(sources, chosen, strict=True)}
    return Shards(tensor, tuple(shards)), sent


def combine(grid: ChipGrid, rows: Shards, shares: Shards, like: Shards, exchange: Exchange) -> Shards:
    """Returns the sums of the experts' rows by the tokens' shares, each token on the chip that `like` has it on."""
    tensor, shards = sharding.combine(rows.tensor, like.tensor, exchange.tokens), []
    for chip in grid.chips:
        group = grid.group(exchange.tokens, chip)
        count = rows.shards[chip].shape[1] // len(group)
        place = group.index(chip) * count
        out = np.zeros((count, like.shards[chip].shape[-1]))
        for holder in group:
            mine = _mine(grid, shares.shards[chip], exchange, holder)
            out += np.einsum("tx,xte->te", mine, rows.shards[holder][:, place : place + count])
        shards.append(out.reshape(like.shards[chip].shape))
    return Shards(tensor, tuple(shards))


def _mine(grid: ChipGrid, shares: Array, exchange: Exchange, chip: int) -> Array:
    """Returns the shares [tokens, experts] of a chip's experts."""
    flat = shares.reshape(-1, shares.shape[-1])
    blocks = prod(grid.lengths[axis] for axis in exchange.experts)
    return take_block(flat, blocks, 1, grid.block(exchange.experts, chip))
