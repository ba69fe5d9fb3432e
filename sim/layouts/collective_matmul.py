"""Looped collective matmul (Pope et al. section 3.5): the pieces of a matmul, and the chunks that each piece needs.

Both interpreters use it: the lowering times the loops, the executor runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from sim.collectives.schedule import Schedule
from sim.layouts.sharding import Sharded
from sim.program import Ids
from sim.specs.uses import Axes


def chunks_of_pieces(length: int, form: str) -> list[int]:
    """Returns the number of chunks in each piece of an all-gather loop over a ring of `length` chips.

    A piece is one chunk, or two in the latency form; an odd ring leaves one chunk, the chip's own. A reduce-scatter
    loop has the same pieces in reverse order.
    """
    if form != "bidirectional_latency":
        return [1] * length
    return [1] * (length % 2) + [2] * (length // 2)


def sums_of_pieces(chunks: Sequence[int], form: str) -> list[int]:
    """Returns the number of arrived chunks of partial sums that each piece of a reduce-scatter loop adds to its
    product.

    The first piece begins the sums that the chip sends; every later one adds to those that have come. The last adds
    what comes from either side to the chip's own chunk, so that all chunks but one have arrived in all. Sums that are
    sent directly are added up after the last piece.

    Args:
        chunks: in each piece, in the order of the reduce-scatter loop.
    """
    if form == "direct":
        return [0] * len(chunks)
    added = [0, *chunks[1:]]
    return [*added[:-1], added[-1] + sum(chunks) - 1 - sum(added)]


def piece_of_arrival(plan: Schedule, form: str, length: int) -> Ids:
    """Returns the piece of an all-gather loop that needs each arrival, [sends]: the one after the hop that brought it.

    The latency form multiplies two chunks a piece. On an even ring its first piece takes the own chunk and the first
    from behind, so the arrivals of the + direction are needed one piece earlier.
    """
    early = (plan.direction > 0) & (form == "bidirectional_latency" and length % 2 == 0)
    return (plan.step + 1 - early).astype(np.int32)


def gathered_axes(x: Sharded, used: Sharded, stored: Sharded) -> Axes:
    """Returns the axes over which a stored weight is gathered to multiply `x`, those of contracted dimensions first.

    The loop over the first is the innermost, so that partial products are summed before the output's part changes.
    """
    removed = {dim.name: dim.axes[len(used.dim(dim.name).axes) :] for dim in stored.dims}
    contracted = [dim.name for dim in stored.dims if any(dim.name == other.name for other in x.dims)]
    others = [dim.name for dim in stored.dims if dim.name not in contracted]
    return tuple(axis for name in contracted + others for axis in reversed(removed[name]))


def shift_after(piece: int, lengths: list[int]) -> int | None:
    """Returns the index of the axis along which shards move after `piece` of a weight-gathered loop, None after the
    last.

    The innermost axis after most pieces; an outer one each time that all axes inside it have come round.
    """
    if piece == prod(lengths) - 1:
        return None
    axis, period = 0, lengths[0]
    while (piece + 1) % period == 0:
        axis += 1
        period *= lengths[axis]
    return axis
