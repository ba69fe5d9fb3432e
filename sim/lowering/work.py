"""Bytes and FLOPs of operations on one chip, from the shapes of their shards."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from sim.errors import LayoutError
from sim.layouts import sharding
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.costs import Attended, Work
from sim.specs import Scenario
from sim.specs.chip import matmul_format
from sim.specs.workload import Workload
from sim.topology.chip import Chip

TOP_K = (("softmax", 1, 1), ("top k", 2, 0), ("masked softmax", 1, 1), ("draw", 1, 1))
"""Kernels of drawing from the k largest of 32-bit logits: name, and how often they read and write all of them."""


class AttentionWork(Struct, frozen=True):
    """Work of attention on one chip, by the length of the cache."""

    cached: float
    """Bytes of the cache, per position."""
    read: float
    """Bytes of keys and values that are read, per position."""
    copied: float
    """Bytes of copied heads that are read from the L2 cache, per position."""
    queries: int
    """Query vectors, one for each sequence, new position and head: a score each per position that they see."""
    positions: int
    """New positions of a sequence."""
    d_key: int
    d_value: int
    moved: float
    """Bytes of queries and outputs."""
    score_bytes: float
    """Bytes of a score in memory."""
    skips_masked: bool
    """True if scores of positions after a query, or before its window, are not computed, else thrown away."""
    window: int | None
    """Positions that a query sees at most; None for all."""
    groups: int
    """Sets of query vectors that share keys and values: one per sequence and key-value head, or per sequence if latent
    vectors are the keys."""
    products: int
    """Matmuls for the scores, and again for the values: one per sequence and query head."""
    vector: bool
    """True if the products are of 32-bit floats on the vector units."""
    on_chip: float | None
    """Bytes of memory on the chip, as `through_memory` takes it."""
    form: Literal["fused", "one kernel", "three kernels"]
    """Fused, scores stay on the chip; in one kernel they are written, and read again for the values; in three the
    softmax is one of its own."""
    expansion: Expansion | None = None
    """Matmul that makes keys and values of latent vectors, of all positions; None if they are cached."""
    shared_by: int = 1
    """Chips that share the positions of the cache."""
    after: float = 0.0
    """New positions of a sequence that come after those of this operation, and are not in the cache yet."""

    def kernels(self, length: float) -> tuple[tuple[str, Work], ...]:
        """Returns (suffix of its name, work) of each kernel for a cache of `length` positions after the pass."""
        length -= self.after
        before = self.expansion.kernels(length) if self.expansion else ()
        reached = length if self.window is None else min(length, self.window + self.positions - 1)
        seen, reached = self._seen(length, reached) / self.shared_by, reached / self.shared_by
        read, copied, scores = self.read * reached, self.copied * reached, self.queries * seen
        by_keys, by_values = 2 * scores * self.d_key, 2 * scores * self.d_value
        in_memory = through_memory(scores * self.score_bytes, self.on_chip)
        if self.form != "three kernels":
            written = 0.0 if self.form == "fused" else 2 * in_memory
            moved = read + self.moved + written
            attended = Attended(self.queries / self.groups, self.groups, scores / self.queries)
            return (*before, ("", Work(by_keys + by_values, moved, copied, vector=self.vector, attends=attended)))
        product_work = ((read + self.moved) / 2 + in_memory, copied / 2)
        multiplied = self._products((by_keys, *product_work), reached)
        summed = self._products((by_values, *product_work), self.d_value)
        return (*before, (" scores", multiplied), (" softmax", Work(0.0, 2 * in_memory)), (" values", summed))

    def piece(self, kernel: Work, count: int, parts: int) -> Work:
        """Returns the work of attention to `count` of `parts` equal parts of the positions, if `kernel` is that of all.

        Every piece reads the queries, and the output so far, to which it adds.
        """
        share = count / parts
        moved = (kernel.bytes - self.moved) * share + self.moved
        attended = kernel.attends and replace(kernel.attends, positions=kernel.attends.positions * share)
        flops, l2_bytes = kernel.flops * share, kernel.l2_bytes * share
        return replace(kernel, flops=flops, bytes=moved, l2_bytes=l2_bytes, attends=attended)

    def _seen(self, length: float, reached: float) -> float:
        """Returns the positions for which a query has a score, on average.

        If positions are split over chips, the last ones are on one chip, for which the others wait; this assumes that
        all take as long.
        """
        if not self.skips_masked:
            return reached
        fewest = length - self.positions + 1
        if self.window is None or length <= self.window:
            return length - (self.positions - 1) / 2
        if fewest >= self.window:
            return self.window
        growing = self.window - fewest  # queries that do not fill the window
        return self.window - growing * (growing + 1) / 2 / self.positions

    def _products(self, work: tuple[float, float, float], columns: float) -> Work:
        """Returns the work of matmuls, which have a shape on the matrix units."""
        if self.vector:
            return Work(*work, vector=True)
        return Work(*work, self.queries / self.products, columns, self.products)


class AttendedPart(Struct, frozen=True):
    """Rows of a pass that attend in a kernel of their own."""

    suffix: str
    """Suffix of the operation's name."""
    rows: int
    """Rows of the pass, a sequence each or a token of a chunk."""
    of_rows: int
    """Rows of the whole pass."""
    positions: int | None = None
    """Tokens of a chunk, which are rows of the pass; None where the pass has their dimension."""
    length: int | None = None
    """Positions of the cache; None if they grow with the steps."""

    def of(self, tensor: Sharded) -> Sharded:
        """Returns the part's tensor, given that of all rows. Every chip has as many of either part."""
        if self.rows == self.of_rows:
            return tensor
        batch, length = tensor.dim("B"), tensor.dim("L")
        own = replace(batch, size=self.rows // (self.positions or 1))
        dims = {"B": own, "L": length if self.positions is None else replace(length, size=self.positions)}
        return replace(tensor, dims=tuple(dims.get(dim.name, dim) for dim in tensor.dims))


def attended_parts(workload: Workload) -> tuple[AttendedPart, ...]:
    """Returns the parts of a pass that attend apart: decoding sequences, and chunks of prompts beside them."""
    chunk, rows = workload.chunk, workload.rows
    if chunk is None:
        return (AttendedPart("", rows, rows),)
    decoding = AttendedPart("", workload.batch, rows)
    return decoding, AttendedPart(" of chunks", chunk.rows, rows, chunk.tokens, chunk.context + chunk.tokens)


class Expansion(Struct, frozen=True):
    """Matmul of the cached latent vectors of one chip's sequences with the weights of its heads' keys and values, and
    the copy that puts a head's keys beside those with the position, which all heads share.

    The copy is a kernel of its own in engines whose attention takes a head's whole keys (SGLang 0.4.7 and 0.5.3, PyPI,
    srt/models/deepseek_v2.py, forward_normal_prepare).
    """

    latent: Sharded
    weights: tuple[Sharded, Sharded]
    outputs: tuple[Sharded, ...]
    """For the new positions."""
    matmuls: MatmulKernels
    copied: tuple[float, ...] | None
    """Bytes per position of each array that the copy reads or writes; None where a compiler fuses it."""

    def kernels(self, length: float) -> tuple[tuple[str, Work], ...]:
        """Returns the kernels that expand `length` positions."""
        new = self.latent.local_shape[1]
        work = matmul_work([(self.latent, self.weights)], self.outputs, (), self.matmuls)
        weights = float(sum(weight.local_bytes for weight in self.weights))
        times = length / new
        scaled = replace(
            work, flops=work.flops * times, bytes=weights + (work.bytes - weights) * times, rows=work.rows * times
        )
        if self.copied is None:
            return ((" expansion", scaled),)
        moved = sum(through_memory(size * length, self.matmuls.on_chip) for size in self.copied)
        return (" expansion", scaled), (" keys", Work(0.0, moved))


def attention_work(scenario: Scenario, chip: Chip, q: Sharded, k: Sharded, window: int | None = None) -> AttentionWork:
    """Returns the work of attention of queries q BLHQ to keys like k BLKQ, to the last `window` positions if given."""
    workload, d_head = scenario.workload, q.local_shape[3]
    batch, positions, heads, _ = q.local_shape
    read_per_head = 2 * k.local_shape[0] * d_head * ITEM_BYTES[workload.kv_cache]
    heads_used = sharding.key_value_heads_used(q, k)
    return AttentionWork(
        cached=read_per_head * k.local_shape[2],
        read=read_per_head * heads_used,
        copied=read_per_head * heads if scenario.layout.kv_heads == "expanded" else 0,
        queries=batch * positions * heads,
        positions=positions,
        d_key=d_head,
        d_value=d_head,
        moved=2 * through_memory(q.local_bytes, chip.on_chip_bytes),
        window=window,
        groups=batch * heads_used,
        products=batch * heads,
        **_in_kernels(scenario, chip),
    )


def latent_attention_work(
    scenario: Scenario,
    chip: Chip,
    queries: tuple[Sharded, Sharded],
    cached: tuple[Sharded, Sharded],
    expansion: tuple[Sharded, ...],
    matmuls: MatmulKernels,
) -> AttentionWork:
    """Returns the work of attention of queries BLHN and BLHR to latent vectors BLC and shared keys BLR.

    Args:
        expansion: weights CHN and CHU; without, queries are BLHC, and the vectors are read as keys and as values at
        once.
    """
    (q, rope), (latent, shared) = queries, cached
    batch, positions, heads, width = q.local_shape
    d_key = width + rope.local_shape[3]
    vectors = latent.local_shape[0] * (latent.local_shape[2] + shared.local_shape[2])
    per_position = vectors * ITEM_BYTES[scenario.workload.kv_cache]
    if expansion:
        d_value = expansion[1].local_shape[2]
        read = batch * heads * (d_key + d_value) * ITEM_BYTES[q.dtype]
        outputs = tuple(sharding.matmul(latent, weight) for weight in expansion)
        item, shares = ITEM_BYTES[q.dtype], shared.local_shape[2]
        keys = batch * heads * width * item, batch * shares * item, batch * heads * d_key * item
        copied = None if chip.fuses_elementwise else tuple(map(float, keys))
        expands = Expansion(latent, (expansion[0], expansion[1]), outputs, matmuls, copied)
    else:
        d_value, read, expands = latent.local_shape[2], per_position, None
    vector_bytes = batch * positions * heads * (d_key + d_value) * ITEM_BYTES[q.dtype]
    return AttentionWork(
        cached=per_position,
        read=read,
        copied=0.0,
        queries=batch * positions * heads,
        positions=positions,
        d_key=d_key,
        d_value=d_value,
        moved=through_memory(vector_bytes, chip.on_chip_bytes),
        window=None,
        groups=batch * (heads if expansion else 1),
        products=batch * heads,
        expansion=expands,
        **_in_kernels(scenario, chip),
    )


def _in_kernels(scenario: Scenario, chip: Chip) -> dict[str, Any]:
    """Returns what the kernels of any attention on a chip are like."""
    in_f32 = chip.fuses_elementwise or chip.attends_in_f32
    return {
        "skips_masked": _skips_masked(scenario, chip),
        "score_bytes": ITEM_BYTES["f32" if in_f32 else scenario.workload.activations],
        "vector": chip.attends_in_f32,
        "on_chip": chip.on_chip_bytes,
        "form": "fused" if chip.fuses_attention else "one kernel" if chip.fuses_elementwise else "three kernels",
    }


def _skips_masked(scenario: Scenario, chip: Chip) -> bool:
    """Returns True if attention computes only the scores that the causal mask leaves, as FlashAttention does.

    A query then sees the cache up to its own position: L of them see (L - 1) / 2 positions less than the last, on
    average. Unfused kernels compute the whole rectangle, as a mask over a static cache makes any kernel do; an
    encoder's layers have no causal mask.
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


class MatmulKernels(Struct, frozen=True):
    """How the matmuls of a pass take their operands."""

    on_chip: float | None = None
    """Bytes of memory on the chip, as `through_memory` takes it."""
    operands: str | None = None
    """Number format to which their inputs are quantised; None for that of activations."""

    def input_bytes(self, x: Sharded) -> float:
        """Returns the bytes of an input that go through HBM."""
        size = x.local_bytes if self.operands is None else x.local_elements * ITEM_BYTES[self.operands]
        return through_memory(size, self.on_chip)

    def quantization(self, elements: Sequence[float], dtype: str, into: str | None = None) -> Work | None:
        """Returns the work of quantising numbers of a format; None if they are not.

        Args:
            into: the format, if another than that of operands.
        """
        into = into or self.operands
        if into is None or into == dtype:
            return None
        moved = sum(through_memory(each * (ITEM_BYTES[dtype] + ITEM_BYTES[into]), self.on_chip) for each in elements)
        return Work(0.0, moved)

    def rate_format(self, x: Sharded, weight: Sharded) -> str:
        """Returns the number format at whose rate a matmul runs."""
        return matmul_format(self.operands or x.dtype, weight.dtype)


def matmul_work(
    factors: Factors, outputs: Sequence[Sharded], added: Sequence[Sharded] = (), kernels: MatmulKernels | None = None
) -> Work:
    """Returns the work of a fused matmul: each input, weight and output crosses HBM once, activations as far as
    `through_memory` says.

    Args:
        added: sums that are read as well, and added to the products before these are written.
    """
    kernels = kernels or MatmulKernels()
    flops = sum(sharding.matmul_flops(x, weight) for x, weights in factors for weight in weights)
    (x, weights), operands = factors[0], kernels.operands
    return Work(
        float(flops),
        float(sum(weight.local_bytes for _, weights in factors for weight in weights))
        + sum(kernels.input_bytes(x) for x, _ in factors)
        + sum(through_memory(tensor.local_bytes, kernels.on_chip) for tensor in (*added, *outputs)),
        rows=max(_elements(x, rows=True) for x, _ in factors),
        columns=sum(_elements(output, rows=False) for output in outputs),
        converts=any(
            ITEM_BYTES[weight.dtype] < ITEM_BYTES[operands or x.dtype] for x, weights in factors for weight in weights
        ),
        dtype=kernels.rate_format(x, weights[0]),
    )


class GroupedMatmul(Struct, frozen=True):
    """Matmuls of several experts in one launch: rows of each with weights of its own, [inner, columns]."""

    inner: int
    columns: int
    operands: str
    """Number format of the rows."""
    weights: str
    outputs: str
    on_chip: float | None = None
    """Bytes of memory on the chip, as `through_memory` takes it."""

    def work(self, rows: Sequence[float], hit: float) -> Work:
        """Returns the work of [experts] rows of each. The weights of the `hit` experts that have any are read."""
        total, item = sum(rows), ITEM_BYTES[self.operands]
        moved = through_memory(total * self.inner * item, self.on_chip)
        moved += through_memory(total * self.columns * ITEM_BYTES[self.outputs], self.on_chip)
        # Of expected rows, those of the experts that have any: each then has as many more.
        each = tuple(sorted(row for row in rows if row > 0))
        if len(set(each)) == 1 and hit < len(each):
            each = (total / max(hit, 1.0),) * ceil(hit)
        most = max(each, default=0.0)
        return Work(
            flops=2.0 * total * self.inner * self.columns,
            bytes=hit * self.inner * self.columns * ITEM_BYTES[self.weights] + moved,
            rows=most if most > 1 else 2.0,  # tiled, also of one row
            columns=self.columns,
            converts=ITEM_BYTES[self.weights] < item,
            dtype=matmul_format(self.operands, self.weights),
            each_rows=each,
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
