"""Roofline of one operation on one chip; every number comes from the chip's file."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sim import units
from sim.errors import InputError
from sim.specs import TilesSpec
from sim.topology.chip import Chip


@dataclass(frozen=True, slots=True)
class Work:
    """What one operation does on one chip."""

    flops: float
    bytes: float
    """Read from and written to HBM: weights, cache, inputs and outputs, each once."""
    l2_bytes: float = 0.0
    """Read from the L2 cache, where copies of something in HBM are read as often as there are copies."""
    rows: int = 0
    """Of a matmul's input: a single row is streamed, more of them are tiled; 0 for what is no matmul."""
    columns: int = 0
    """Of its output."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.l2_bytes + other.l2_bytes,
            max(self.rows, other.rows),
            self.columns + other.columns,
        )


def matmul_rate(chip: Chip, dtype: str) -> float:
    """Reachable FLOP/s of a matmul on operands of `dtype`. Raises InputError if the chip's file gives none."""
    if dtype not in chip.peak_flops:
        known = ", ".join(sorted(chip.peak_flops))
        raise InputError(f"chip '{chip.name}' has no matmul rate for this type", got=dtype, hint=f"it has {known}")
    return chip.peak_flops[dtype] * chip.matmul_efficiency


def roofline_s(chip: Chip, work: Work, dtype: str) -> float:
    """The longer of FLOPs / reachable rate and bytes / reachable HBM or L2 bandwidth, and what of the shorter does not
    pass under it; without the overhead per operation, s."""
    efficiency = chip.matmul_hbm_efficiency if work.rows > 1 else chip.hbm_efficiency
    compute = work.flops / matmul_rate(chip, dtype) * padding(chip.matmul_tiles, work.rows, work.columns)
    memory = max(
        work.bytes / (chip.hbm_bandwidth * efficiency),
        work.l2_bytes / chip.l2_bandwidth if work.l2_bytes else 0.0,
    )
    return max(compute, memory) + (1.0 - chip.roofline_overlap) * min(compute, memory)


def padding(tiles: TilesSpec | None, rows: int, columns: int) -> float:
    """By how much tiles at the edges and a last wave that is not full lengthen a matmul, at least 1.

    Of the ways to split its sums, the one that fills the waves best.
    """
    if tiles is None or not rows or not columns:
        return 1.0
    down, across = ceil(rows / tiles.rows), ceil(columns / tiles.columns)
    edges = down * tiles.rows / rows * (across * tiles.columns / columns)
    waves = (across * down * split / tiles.at_once for split in range(1, tiles.split + 1))
    return edges * min(ceil(wave) / wave for wave in waves)


def duration_ps(chip: Chip, work: Work, dtype: str, share: float = 1.0) -> int:
    """Time of one launch that does a share of `work`: that share of the roofline plus the overhead, ps."""
    return units.to_ps(roofline_s(chip, work, dtype) * share) + units.to_ps(chip.op_overhead_s)
