"""Roofline of one operation on one chip; every number comes from the chip's file."""

from __future__ import annotations

from dataclasses import dataclass

from sim import units
from sim.errors import InputError
from sim.topology.graph import Chip


@dataclass(frozen=True, slots=True)
class Work:
    """What one operation does on one chip."""

    flops: float
    bytes: float
    """Read from and written to HBM: weights, cache, inputs and outputs, each once."""

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)


def matmul_rate(chip: Chip, dtype: str) -> float:
    """Reachable FLOP/s of a matmul on operands of `dtype`. Raises InputError if the chip's file gives none."""
    if dtype not in chip.peak_flops:
        known = ", ".join(sorted(chip.peak_flops))
        raise InputError(f"chip '{chip.name}' has no matmul rate for this type", got=dtype, hint=f"it has {known}")
    return chip.peak_flops[dtype] * chip.matmul_efficiency


def roofline_s(chip: Chip, work: Work, dtype: str) -> float:
    """max(FLOPs / reachable rate, bytes / reachable HBM bandwidth), without the fixed overhead per operation, s."""
    return max(work.flops / matmul_rate(chip, dtype), work.bytes / (chip.hbm_bandwidth * chip.hbm_efficiency))


def duration_ps(chip: Chip, work: Work, dtype: str, share: float = 1.0) -> int:
    """Time of one launch that does a share of `work`: that share of the roofline plus the overhead, ps."""
    return units.to_ps(roofline_s(chip, work, dtype) * share) + units.to_ps(chip.op_overhead_s)
