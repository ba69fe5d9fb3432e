"""Work of each piece of a matmul that is cut up to overlap a collective: that of a matmul of the piece's own shape.

What a piece reads, it reads by itself: cut by columns, every piece reads the input again; cut by rows, the weights; cut
along the contracted dimension, every piece but the first reads the sum so far and adds to it. This assumes that as much
of the sum as memory on the chip does not hold goes through HBM between pieces, as the carry of the released code's loop
does (google-research, scaling_transformer_inference_efficiency, `collectives.py`), and that the addition is fused into
the matmul.

A piece is one launch, or two where some inputs are cut along a dimension that is contracted and others along one that
is not: those are no single matmul.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import prod

from msgspec import Struct

from sim.layouts import sharding
from sim.layouts.collective_matmul import sums_of_pieces
from sim.layouts.sharding import Sharded
from sim.lowering.costs import Work
from sim.lowering.work import Factors, MatmulKernels, matmul_work

Launches = tuple[Work, ...]
"""Launches of one piece, one after the other."""


def gathered_pieces(
    factors: Sequence[tuple[Sharded, str, Sharded]],
    product: Sharded,
    chunks: Sequence[int],
    kernels: MatmulKernels,
) -> list[Launches]:
    """Returns the pieces of an all-gather loop.

    Args:
        factors: gathered inputs, the dimensions they are gathered along, and the weights they are multiplied with.
        product: sum of their products.
        chunks: gathered in each piece.
        kernels: of all pieces.
    """
    contracted = [factor for factor in factors if factor[2].has(factor[1])]
    others = [factor for factor in factors if not factor[2].has(factor[1])]
    pieces: list[Launches] = []
    for count in chunks:

        def part(tensor: Sharded, dim: str, count: int = count) -> Sharded:
            return sharding.take_chunks(tensor, dim, count, sum(chunks))

        launches = []
        if contracted:
            parts = [(part(x, dim), [part(weight, dim)]) for x, dim, weight in contracted]
            launches.append(matmul_work(parts, [product], [product] if pieces else [], kernels))
        for x, dim, weight in others:
            chunk = part(product, dim)
            launches.append(matmul_work([(part(x, dim), [weight])], [chunk], [chunk] if launches else [], kernels))
        pieces.append(tuple(launches))
    return pieces


def scattered_pieces(
    x: Sharded, weights: Sequence[tuple[Sharded, str]], chunks: Sequence[int], form: str, kernels: MatmulKernels
) -> list[Launches]:
    """Returns the pieces of a reduce-scatter loop, whose sums arrive, are added to and leave.

    Args:
        weights: with the dimension that each product is scattered into.
        chunks: scattered in each piece.
        form: of the loop.
        kernels: of all pieces.
    """
    by_columns = [weight for weight in weights if weight[0].has(weight[1])]
    by_rows = [weight for weight in weights if not weight[0].has(weight[1])]
    groups = [by_columns, *(list(group) for _, group in groupby(by_rows, key=lambda weight: weight[1]))]
    pieces: list[Launches] = []
    for count, arrived in zip(chunks, sums_of_pieces(chunks, form), strict=True):

        def part(tensor: Sharded, dim: str, count: int = count) -> Sharded:
            return sharding.take_chunks(tensor, dim, count, sum(chunks))

        launches = []
        for group in filter(None, groups):
            dim = group[0][1]
            rows = x if group is by_columns else part(x, dim)
            factors: Factors = [(rows, [part(weight, into) for weight, into in group])]
            products = [(sharding.matmul(x, weight), into) for weight, into in group]
            sums = [part(product, into, arrived) for product, into in products] if arrived else []
            launches.append(matmul_work(factors, [part(product, into) for product, into in products], sums, kernels))
        pieces.append(tuple(launches))
    return pieces


def gathered_input_pieces(
    x: Sharded, dim: str, weights: Sequence[Sharded], chunks: Sequence[int], kernels: MatmulKernels
) -> list[Launches]:
    """Returns the pieces of an all-gather loop of one input of several weights. Products grow piece by piece: by sums
    if the gathered dimension is contracted, by rows if not.

    Args:
        dim: gathered.
        chunks: gathered in each piece.
        kernels: of all pieces.
    """
    products = [sharding.matmul(x, weight) for weight in weights]
    contracted = weights[0].has(dim)
    pieces: list[Launches] = []
    for count in chunks:
        input_chunk, *weight_chunks = (_take_chunks(tensor, dim, count, chunks) for tensor in (x, *weights))
        outputs = products if contracted else [_take_chunks(product, dim, count, chunks) for product in products]
        pieces.append(
            (matmul_work([(input_chunk, weight_chunks)], outputs, outputs if pieces and contracted else [], kernels),)
        )
    return pieces


def _take_chunks(tensor: Sharded, dim: str, count: int, chunks: Sequence[int]) -> Sharded:
    """Returns `count` of all chunks of a tensor, or a tensor without the dimension as it is."""
    return sharding.take_chunks(tensor, dim, count, sum(chunks))


def scattered_sum_pieces(
    factors: Sequence[tuple[Sharded, Sharded]], into: str, chunks: Sequence[int], form: str, kernels: MatmulKernels
) -> list[Launches]:
    """Returns the pieces of a reduce-scatter loop of a sum of products, each of some of its columns or rows.

    Args:
        into: the dimension that the sum is scattered into.
        form: of the loop.
        chunks: scattered in each piece.
        kernels: of all pieces.
    """
    product = sharding.matmul(*factors[0])
    pieces: list[Launches] = []
    for count, arrived in zip(chunks, sums_of_pieces(chunks, form), strict=True):
        parts = [
            (_take_chunks(x, into, count, chunks), [_take_chunks(weight, into, count, chunks)]) for x, weight in factors
        ]
        chunk, sums = (sharding.take_chunks(product, into, number, sum(chunks)) for number in (count, arrived))
        pieces.append((matmul_work(parts, [chunk], [sums] if arrived else [], kernels),))
    return pieces


class Gathered(Struct, frozen=True):
    """A fused matmul with weights that are gathered."""

    factors: Factors
    """Inputs and weights, sharded as they are used."""
    outputs: Sequence[Sharded]
    group_sizes: dict[str, int]
    """Chips over which each dimension of the weights is gathered."""
    kernels: MatmulKernels
    """Those of all pieces."""

    @property
    def inner(self) -> int:
        """Pieces that add to the same part of the output, one after the other."""
        x, weights = self.factors[0]
        return prod(self.group_sizes.get(dim.name, 1) for dim in weights[0].dims if x.has(dim.name))

    def pieces(self) -> list[Launches]:
        """Returns the work of each shard of the weights: the part of the input that it contracts, its part of the
        output."""
        factors = [(self._part(x), [self._part(weight) for weight in weights]) for x, weights in self.factors]
        outputs = [self._part(output) for output in self.outputs]
        first, later = (matmul_work(factors, outputs, sums, self.kernels) for sums in ((), outputs))
        _, weights = self.factors[0]
        count = prod(self.group_sizes.get(dim.name, 1) for dim in weights[0].dims)
        return [(later if piece % self.inner else first,) for piece in range(count)]

    def _part(self, tensor: Sharded) -> Sharded:
        for dim, group_size in self.group_sizes.items():
            tensor = sharding.take_chunks(tensor, dim, 1, group_size)
        return tensor


def column_pieces(
    factors: Sequence[tuple[Sharded, Sharded]], product: Sharded, count: int, shards: int, kernels: MatmulKernels
) -> list[tuple[Work, Sharded]]:
    """Returns (work, part of the product) of `count` pieces of the weights' last dimension, as equal as can be.

    Args:
        shards: into which the columns are scattered; every piece has as many of each.
    """
    dim, columns = product.dims[-1].name, product.local_shape[-1] // shards
    widths = [columns // count + (piece < columns % count) for piece in range(min(count, columns))]
    pieces = []
    for width in widths:
        columns_product = sharding.take_chunks(product, dim, width, columns)
        parts = [(x, [sharding.take_chunks(weight, dim, width, columns)]) for x, weight in factors]
        pieces.append((matmul_work(parts, [columns_product], (), kernels), columns_product))
    return pieces


def gathered_group_sizes(used: Sharded, stored: Sharded) -> dict[str, int]:
    """Returns the number of chips over which each dimension of a weight is gathered."""
    dims = zip(used.dims, stored.dims, strict=True)
    return {
        now.name: stored.group_size(dim.axes) // used.group_size(now.axes) for now, dim in dims if dim.axes != now.axes
    }
