"""Cost of one operation on one chip: its FLOPs, its bytes and a fixed overhead; every number is from the chip's file.

Durations, and all that reports and figures say about what limits an operation, follow from `cost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

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


@dataclass(frozen=True, slots=True)
class Cost:
    """Time of one launch on one chip, and what it is made of, s."""

    compute_s: float
    """FLOPs at the rate that a matmul of this shape reaches."""
    memory_s: float
    """Bytes at the HBM or L2 bandwidth that this kind of operation reaches, whichever takes longer."""
    beside: float
    """Share of the shorter of the two that does not pass under the longer."""
    overhead_s: float
    """Fixed time of every launch."""

    @property
    def roofline_s(self) -> float:
        """Time without the overhead, s."""
        return roofline_s(self.compute_s, self.memory_s, self.beside)

    @property
    def duration_ps(self) -> int:
        """Time of the launch, ps."""
        return units.to_ps(self.roofline_s) + units.to_ps(self.overhead_s)


def roofline_s(compute_s: float, memory_s: float, beside: float) -> float:
    """The longer of two times, and the share of the shorter that does not pass under it, s."""
    return max(compute_s, memory_s) + beside * min(compute_s, memory_s)


def matmul_rate(chip: Chip, dtype: str) -> float:
    """Reachable FLOP/s of a matmul on operands of `dtype`. Raises InputError if the chip's file gives none."""
    if dtype not in chip.peak_flops:
        known = ", ".join(sorted(chip.peak_flops))
        raise InputError(f"chip '{chip.name}' has no matmul rate for this type", got=dtype, hint=f"it has {known}")
    return chip.peak_flops[dtype] * chip.matmul_efficiency


def hbm_rate(chip: Chip, rows: int) -> float:
    """Reachable bytes/s of HBM: of a matmul of several rows, which reads its weights in tiles, or of anything else."""
    return chip.hbm_bandwidth * (chip.matmul_hbm_efficiency if rows > 1 else chip.hbm_efficiency)


def cost(chip: Chip, work: Work, dtype: str) -> Cost:
    """Returns what one launch of `work` takes."""
    return Cost(
        compute_s=work.flops / matmul_rate(chip, dtype) * padding(chip.matmul_tiles, work.rows, work.columns),
        memory_s=max(
            work.bytes / hbm_rate(chip, work.rows),
            work.l2_bytes / chip.l2_bandwidth if work.l2_bytes else 0.0,
        ),
        beside=1.0 - chip.roofline_overlap,
        overhead_s=chip.op_overhead_s,
    )


def launch_columns(chip: Chip, work: Work, dtype: str) -> dict[str, Any]:
    """Returns what a program's columns say of a launch of `work`."""
    own = cost(chip, work, dtype)
    return {
        "busy_ps": own.duration_ps,
        "bytes": work.bytes,
        "flops": work.flops,
        "compute_ps": units.to_ps(own.compute_s),
        "memory_ps": units.to_ps(own.memory_s),
    }


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
