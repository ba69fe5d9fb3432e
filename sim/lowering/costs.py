"""Cost of one operation on one chip: its FLOPs, its bytes and a fixed overhead, at what its stack reaches.

Durations, and all that reports and figures say about what limits an operation, follow from `cost`.

A matmul on a chip of multiprocessors is cut into tiles of its output, one per multiprocessor at a time, so that it
takes whole waves of tiles. A tile takes the longer of two times, about: that of its multiplications, and that of
loading the rows and columns that they need, which counts more the smaller the tile is. Of the tile shapes, and of the
ways to cut the sums of a tile (split-K, whose parts go through memory), the matmul uses the fastest. A chip without
multiprocessors, or a stack that says nothing of tiles, reaches one rate in all shapes. Fused attention has tiles of
queries in the same way, whose positions are split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim import units
from sim.errors import InputError
from sim.program import FULL_PPM, Labels, Occupancy
from sim.topology.chip import Chip

_SIDES = (64, 128, 256)
"""Rows and columns of a tile, as in cuBLAS and CUTLASS on A100 and later."""
_SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32)
"""Parts into which the sum of a tile may be cut."""
_LEAST_INNER = 64
"""Length that a part of a sum is padded to."""
_PARTIAL = 4
"""Bytes of a partial sum, which is written and read again."""


_QUERY_TILE = 64
"""Query vectors of a tile of a fused attention kernel: rows of a matrix instruction of Hopper, as in FlashMLA."""


class Attended(Struct, frozen=True):
    """Queries of a fused attention kernel and the positions that they see."""

    queries: float
    """Query vectors that share keys and values: of the query heads of a key-value head, at all new positions."""
    groups: float
    """Number of such sets: one per sequence and key-value head."""
    positions: float
    """Positions that a query sees, on average."""


class Work(Struct, frozen=True):
    """Work of one operation on one chip."""

    flops: float
    bytes: float
    """Bytes read from and written to HBM: weights, cache, inputs and outputs, each once."""
    l2_bytes: float = 0.0
    """Bytes read from the L2 cache, where copies of one value in HBM are read once per copy."""
    rows: float = 0
    """Rows of a matmul's input: a single row is streamed, several are tiled; 0 for other operations."""
    columns: float = 0
    """Columns of a matmul's output."""
    products: float = 1
    """Number of matmuls of this shape in one launch, such as one per sequence and head in attention."""
    vector: bool = False
    """True if the FLOPs are of 32-bit floats on the vector units."""
    converts: bool = False
    """True if a matmul converts its weights, which are smaller numbers than its activations."""
    attends: Attended | None = None
    """What a fused attention kernel attends to; None for other operations."""
    dtype: str = ""
    """Number format at whose rate a matmul runs; empty for that of the activations."""
    each_rows: tuple[float, ...] = ()
    """Rows of each of the matmuls of one launch, if they differ, instead of `rows` and `products`."""

    @property
    def inner(self) -> float:
        """Length of a matmul's contracted dimension."""
        rows = sum(self.each_rows) if self.each_rows else self.rows * self.products
        return self.flops / (2 * rows * self.columns)


class Cost(Struct, frozen=True):
    """Time of one launch on one chip and its parts, s."""

    compute_s: float
    """FLOPs at the rate that a matmul of this shape reaches, which may be that of loading what its tiles multiply."""
    memory_s: float
    """Bytes at the HBM or L2 bandwidth that this kind of operation reaches, whichever takes longer."""
    exposed_share: float
    """Share of the shorter of the two that the longer does not hide."""
    overhead_s: float
    """Fixed time of every launch."""

    @property
    def roofline_s(self) -> float:
        """Time without the overhead, s."""
        return roofline_s(self.compute_s, self.memory_s, self.exposed_share)

    @property
    def duration_ps(self) -> int:
        """Time of the launch, ps."""
        return units.to_ps(self.roofline_s) + units.to_ps(self.overhead_s)


def roofline_s(compute_s: float, memory_s: float, exposed_share: float) -> float:
    """Returns the longer of two times plus the exposed share of the shorter, s."""
    return max(compute_s, memory_s) + exposed_share * min(compute_s, memory_s)


def matmul_rate(chip: Chip, dtype: str) -> float:
    """Returns the reached FLOP/s of a matmul on operands of `dtype`. Raises InputError if the chip's file gives
    none."""
    if dtype not in chip.peak_flops:
        known = ", ".join(sorted(chip.peak_flops))
        raise InputError(f"chip '{chip.name}' has no matmul rate for this type", got=dtype, hint=f"it has {known}")
    return chip.peak_flops[dtype] * chip.matmul_efficiency


def vector_rate(chip: Chip) -> float:
    """Returns the reached FLOP/s of 32-bit products on the vector units. Raises InputError if the chip's file gives
    none."""
    if not chip.vector_flops:
        rule = f"chip '{chip.name}' has no vector_peak, and attention multiplies 32-bit floats"
        raise InputError(rule, hint="give topology.chip.vector_peak, or set stack.attention_format=activations")
    return chip.vector_flops


def hbm_rate(chip: Chip, rows: float, *, converts: bool = False) -> float:
    """Returns the reached bytes/s of HBM: of a matmul of several rows, which reads its weights in tiles, or of any
    other operation.

    Args:
        converts: whether it is a matmul that converts its weights.
    """
    if converts and chip.dequantizing_hbm_efficiency:
        return chip.hbm_bandwidth * chip.dequantizing_hbm_efficiency
    return chip.hbm_bandwidth * (chip.matmul_hbm_efficiency if rows > 1 else chip.hbm_efficiency)


def cost(chip: Chip, work: Work, dtype: str) -> Cost:
    """Returns the cost of one launch of `work`."""
    tiled, dtype = work.rows > 1, work.dtype or dtype
    rate = vector_rate(chip) if work.vector else matmul_rate(chip, dtype) * _share_of_matmul_rate(chip, work)
    untiled = Cost(
        compute_s=work.flops / rate,
        memory_s=max(
            work.bytes / hbm_rate(chip, work.rows, converts=work.converts),
            work.l2_bytes / chip.l2_bandwidth if work.l2_bytes else 0.0,
        ),
        exposed_share=1.0 - (chip.attention_overlap if work.attends else chip.roofline_overlap),
        overhead_s=_overhead_s(chip, work),
    )
    if work.attends and chip.attention_startup and chip.multiprocessors:
        return _split_attention(chip, work.attends, untiled)
    if not tiled or not work.columns or not chip.multiprocessors or not chip.matmul_balance:
        return untiled
    rows = work.each_rows or (work.rows,)
    sizes = _TiledMatmul(rows, work.columns, work.inner, work.products, chip.matmul_split or _SPLITS[-1])
    rates = (rate, chip.peak_flops[dtype] / chip.matmul_balance, hbm_rate(chip, work.rows))
    return _tiled_cost(sizes, _Multiprocessors(chip.multiprocessors, *rates), untiled)


def _share_of_matmul_rate(chip: Chip, work: Work) -> float:
    """Returns the rate that a kind of kernel reaches, as a share of that of a single matmul."""
    if work.attends:
        return chip.attention_efficiency / chip.matmul_efficiency
    return chip.grouped_efficiency / chip.matmul_efficiency if work.each_rows else 1.0


def _split_attention(chip: Chip, attended: Attended, whole: Cost) -> Cost:
    """Returns the cost of attention in tiles of queries, whose positions are split where tiles are fewer than
    multiprocessors.

    A tile loads its queries and writes its outputs in the time of `attention_startup` positions, and is split into no
    parts shorter than that. Assumes that the parts keep all multiprocessors equally busy, as FlashMLA's scheduler does.

    Args:
        whole: the kernel without tiles.
    """
    tiles = math.ceil(attended.queries / _QUERY_TILE) * attended.groups
    startup, positions = chip.attention_startup, attended.positions
    parts = max(1.0, min(chip.multiprocessors / tiles, positions / startup))
    busy = min(1.0, tiles * parts / chip.multiprocessors)
    padded = tiles * _QUERY_TILE / (attended.queries * attended.groups)
    return replace(
        whole,
        compute_s=whole.compute_s * padded * (1 + parts * startup / positions) / busy,
        overhead_s=whole.overhead_s + (parts - 1) * chip.attention_part_s,
    )


def _overhead_s(chip: Chip, work: Work) -> float:
    """Returns the fixed time of a launch."""
    if work.attends:
        return chip.attention_overhead_s
    if work.each_rows:
        return chip.grouped_overhead_s
    return chip.matmul_overhead_s if work.rows > 1 else chip.op_overhead_s


def launch_columns(chip: Chip, work: Work, dtype: str) -> dict[str, Any]:
    """Returns what a program's columns say of a launch of `work`."""
    launch = cost(chip, work, dtype)
    by_flops, by_bytes = chip.interference
    return {
        "busy_ps": launch.duration_ps,
        "bytes": work.bytes,
        "flops": work.flops,
        "compute_ps": units.to_ps(launch.compute_s),
        "memory_ps": units.to_ps(launch.memory_s),
        "overhead_ps": units.to_ps(launch.overhead_s),
        "yields_ppm": round((by_flops if launch.compute_s > launch.memory_s else by_bytes) * FULL_PPM),
    }


def launch(
    chip: Chip, work: Work | Sequence[Work], dtype: str, resource: npt.ArrayLike, added_ps: int = 0
) -> tuple[Occupancy, Labels]:
    """Returns how a launch of `work` holds a resource, for `added_ps` longer than by itself, and its labels.

    Args:
        work: of all chips, or [chips] of each.
    """
    if isinstance(work, Work):
        columns = launch_columns(chip, work, dtype)
    else:
        each = {one: launch_columns(chip, one, dtype) for one in dict.fromkeys(work)}
        columns = {name: np.array([each[one][name] for one in work]) for name in each[work[0]]}
    busy_ps, yields_ppm = columns.pop("busy_ps"), columns.pop("yields_ppm")
    return Occupancy(resource, busy_ps + added_ps, yields_ppm=yields_ppm), Labels(**columns)


class _TiledMatmul(Struct, frozen=True):
    """One matmul, or several of one shape."""

    rows: tuple[float, ...]
    """Rows of each shape."""
    columns: float
    inner: float
    products: float
    """Number of matmuls of each shape."""
    split: int
    """Most parts that a sum may be cut into."""


class _Multiprocessors(Struct, frozen=True):
    """Multiprocessors of a chip, with their combined rates."""

    count: int
    flops: float
    """FLOP/s."""
    loads: float
    """Values of operands loaded per second."""
    memory: float
    """Bytes/s."""


@lru_cache(maxsize=2**16)
def _tiled_cost(work: _TiledMatmul, processors: _Multiprocessors, untiled: Cost) -> Cost:
    """Returns the cost with the fastest tiles.

    The two times of a tile are joined by the fourth root of the sum of their fourth powers: where they are equal, a
    fifth longer than either.

    Args:
        untiled: the operation without tiles.
    """
    candidates = []
    for down, across in product(_SIDES, repeat=2):
        tall = sum(math.ceil(rows / down) for rows in work.rows)
        tiles = tall * math.ceil(work.columns / across) * work.products
        multiply_s, load_s = (
            2 * down * across * processors.count / processors.flops,
            (down + across) * processors.count / processors.loads,
        )
        step_s = math.sqrt(math.hypot(multiply_s**2, load_s**2))
        for split in (split for split in _SPLITS if split <= work.split):
            waves, inner = (
                math.ceil(tiles * split / processors.count),
                max(work.inner / split, min(work.inner, _LEAST_INNER)),
            )
            partial = sum(work.rows) * work.columns * work.products * split if split > 1 else 0.0
            memory_s = untiled.memory_s + 2 * _PARTIAL * partial / processors.memory
            candidates.append(replace(untiled, compute_s=waves * inner * step_s, memory_s=memory_s))
    return min(candidates, key=lambda cost: cost.roofline_s)
