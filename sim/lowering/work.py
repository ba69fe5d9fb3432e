"""Bytes and FLOPs of operations on one chip, from the shapes of their shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Literal

from sim.errors import LayoutError
from sim.layouts import sharding
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.costs import Work
from sim.specs import Scenario
from sim.topology.chip import Chip

TOP_K = (("softmax", 1, 1), ("top k", 2, 0), ("masked softmax", 1, 1), ("draw", 1, 1))
"""Kernels of drawing from the k largest of 32-bit logits: name, and how often they read and write all of them."""


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Work of attention on one chip, by the length of the cache."""

    read_per_head: int
    """Bytes of a key-value head's keys and values, per position."""
    read: int
    """Bytes of keys and values, per position."""
    copied: int
    """Bytes of copied heads that are read from the L2 cache, per position."""
    scores: int
    """Scores per position that a query sees."""
    d_head: int
    moved: float
    """Bytes of queries and outputs."""
    score_bytes: int
    """Bytes of a score in memory."""
    masked: float
    """Positions of the cache that a query skips because they come after it, on average over a chip's queries; 0 where
    all are computed and the masked ones thrown away."""
    products: int
    """Matmuls for the scores, and again for the values: one per sequence and query head."""
    vector: bool
    """True if the products are of 32-bit floats on the vector units."""
    on_chip: float | None
    """Bytes of memory on the chip, as `through_memory` takes it."""
    form: Literal["fused", "one kernel", "three kernels"]
    """Fused, scores stay on the chip; in one kernel they are written, and read again for the values; in three the
    softmax is one of its own."""

    def kernels(self, length: float) -> tuple[tuple[str, Work], ...]:
        """Returns (suffix of its name, work) of each kernel for a cache of `length` positions."""
        read, copied, scores = self.read * length, float(self.copied * length), self.scores * (length - self.masked)
        flops = 2 * 2 * scores * self.d_head
        in_memory = through_memory(scores * self.score_bytes, self.on_chip)
        if self.form == "fused":
            return (("", Work(flops, read + self.moved, copied, vector=self.vector)),)
        if self.form == "one kernel":
            return (("", Work(flops, read + self.moved + 2 * in_memory, copied, vector=self.vector)),)
        product_work = (flops / 2, (read + self.moved) / 2 + in_memory, copied / 2)
        multiplied, summed = (self._products(product_work, columns) for columns in (length, self.d_head))
        return (" scores", multiplied), (" softmax", Work(0.0, 2 * in_memory)), (" values", summed)

    def _products(self, work: tuple[float, float, float], columns: float) -> Work:
        """Returns the work of matmuls, which have a shape on the matrix units."""
        if self.vector:
            return Work(*work, vector=True)
        return Work(*work, self.scores / self.products, columns, self.products)


def attention_work(scenario: Scenario, chip: Chip, q: Sharded, k: Sharded) -> AttentionWork:
    """Returns the work of attention of queries q BLHQ to keys like k BLKQ."""
    workload, d_head = scenario.workload, q.local_shape[3]
    batch, positions, heads, _ = q.local_shape
    read_per_head = 2 * k.local_shape[0] * d_head * ITEM_BYTES[workload.kv_cache]
    return AttentionWork(
        read_per_head=read_per_head,
        read=read_per_head * sharding.key_value_heads_used(q, k),
        copied=read_per_head * heads if scenario.layout.kv_heads == "expanded" else 0,
        scores=batch * positions * heads,
        d_head=d_head,
        moved=2 * through_memory(q.local_bytes, chip.on_chip_bytes),
        masked=(positions - 1) / 2 if _skips_masked(scenario, chip) else 0.0,
        products=batch * heads,
        score_bytes=ITEM_BYTES["f32" if chip.fuses_elementwise or chip.attends_in_f32 else workload.activations],
        vector=chip.attends_in_f32,
        on_chip=chip.on_chip_bytes,
        form="fused" if chip.fuses_attention else "one kernel" if chip.fuses_elementwise else "three kernels",
    )


def _skips_masked(scenario: Scenario, chip: Chip) -> bool:
    """Returns True if attention computes only the scores that the causal mask leaves, as FlashAttention does.

    A query then sees the cache up to its own position: L of them see (L - 1) / 2 positions less than the last, on
    average. If positions are split over chips, the last ones are on one chip, for which the others wait; this assumes
    that all take as long. Unfused kernels compute the whole rectangle, as a mask over a static cache makes any kernel
    do; an encoder's layers have no causal mask.
    """
    return scenario.model.causal and scenario.workload.static_cache is None and chip.fuses_attention


Factors = Sequence[tuple[Sharded, Sequence[Sharded]]]
"""Factors of a fused matmul: each input with each of its weights."""


def through_memory(size: float, on_chip: float | None) -> float:
    """Returns the bytes of an activation of `size` bytes that go through HBM between its writer and its reader: all of
    them, or what `on_chip` bytes of memory on the chip do not hold.

    Assumes that the memory is there for each activation alone, and that the part that fits stays in it.
    """
    return size if on_chip is None else max(0.0, size - on_chip)


def matmul_work(
    factors: Factors, outputs: Sequence[Sharded], added: Sequence[Sharded] = (), on_chip: float | None = None
) -> Work:
    """Returns the work of a fused matmul: each input, weight and output crosses HBM once, activations as far as
    `through_memory` says.

    Args:
        added: sums that are read as well, and added to the products before these are written.
    """
    flops = sum(sharding.matmul_flops(x, weight) for x, weights in factors for weight in weights)
    activations = [*(x for x, _ in factors), *added, *outputs]
    return Work(
        float(flops),
        float(sum(weight.local_bytes for _, weights in factors for weight in weights))
        + sum(through_memory(tensor.local_bytes, on_chip) for tensor in activations),
        rows=max(_elements(x, rows=True) for x, _ in factors),
        columns=sum(_elements(output, rows=False) for output in outputs),
        converts=any(ITEM_BYTES[weight.dtype] < ITEM_BYTES[x.dtype] for x, weights in factors for weight in weights),
    )


def _elements(tensor: Sharded, rows: bool) -> int:
    """Returns the rows of a matmul's input, or the columns of its output: sequences and positions are rows."""
    dims = zip(tensor.local_shape, tensor.dims, strict=True)
    return prod(size for size, dim in dims if (dim.name in "BL") == rows)


def sum_of_products(name: str, pairs: Sequence[tuple[Sharded, Sharded]]) -> Sharded:
    """Returns the sum of products, which must have one sharding. Raises LayoutError."""
    products = [sharding.matmul(x, weight) for x, weight in pairs]
    if any(product != products[0] for product in products):
        raise LayoutError(f"{name}: products to be added must be sharded alike: {', '.join(map(str, products))}")
    return products[0]


def pad_to_multiple(size: int, divisor: int) -> int:
    """Returns the smallest multiple of `divisor` that is at least `size`."""
    return ceil(size / divisor) * divisor
