"""What operations read, write and compute on one chip, from the shapes of their shards."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from sim import sharding
from sim.costs import Work
from sim.errors import LayoutError
from sim.sharding import Sharded


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
