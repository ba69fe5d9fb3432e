"""What operations read, write and compute on one chip, from the shapes of their shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

from sim import sharding
from sim.costs import Work
from sim.errors import LayoutError
from sim.sharding import Sharded


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """What attention does on one chip, by the length of the cache."""

    read: int
    """Bytes of keys and values, per position."""
    copied: int
    """Bytes of copied heads that are read from the L2 cache, per position."""
    scores: int
    """Per position."""
    d_head: int
    moved: int
    """Bytes of queries and outputs."""
    score_bytes: int
    """Of a score in memory."""
    form: Literal["fused", "one kernel", "three kernels"]
    """Fused, scores stay on the chip; in one kernel they are written, and read again for the values; in three the
    softmax is one of its own."""

    def kernels(self, length: float) -> tuple[tuple[str, Work], ...]:
        """(what its name adds, work) of each kernel for a cache of `length` positions."""
        read, copied, scores = self.read * length, float(self.copied * length), self.scores * length
        flops, in_memory = 2 * 2 * scores * self.d_head, scores * self.score_bytes
        if self.form == "fused":
            return (("", Work(flops, read + self.moved, copied)),)
        if self.form == "one kernel":
            return (("", Work(flops, read + self.moved + 2 * in_memory, copied)),)
        half = Work(flops / 2, (read + self.moved) / 2 + in_memory, copied / 2)
        return (" scores", half), (" softmax", Work(0.0, 2 * in_memory)), (" values", half)


def matmul_work(pairs: Sequence[tuple[Sharded, Sharded]], outputs: Sequence[Sharded]) -> Work:
    """A fused matmul: each input, weight and output crosses HBM once."""
    flops = sum(sharding.matmul_flops(x, weight) for x, weight in pairs)
    inputs = {id(x): x for x, _ in pairs}.values()
    moved = [*inputs, *(weight for _, weight in pairs), *outputs]
    rows = max(prod(dim for dim, own in zip(x.local_shape, x.dims, strict=True) if own.name in "BL") for x, _ in pairs)
    contracted = {dim.name for x, _ in pairs for dim in x.dims}
    columns = sum(
        prod(size for size, dim in zip(weight.local_shape, weight.dims, strict=True) if dim.name not in contracted)
        for _, weight in pairs
    )
    return Work(float(flops), float(sum(tensor.local_bytes for tensor in moved)), rows=rows, columns=columns)


def sum_of_products(name: str, pairs: Sequence[tuple[Sharded, Sharded]]) -> Sharded:
    """The sum of products, which must be sharded alike. Raises LayoutError."""
    products = [sharding.matmul(x, weight) for x, weight in pairs]
    if any(product != products[0] for product in products):
        raise LayoutError(f"{name}: products to be added must be sharded alike: {', '.join(map(str, products))}")
    return products[0]


def padded(size: int, ways: int) -> int:
    """The next size that `ways` divides."""
    return ceil(size / ways) * ways
