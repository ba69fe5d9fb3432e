"""Which of the chip's two roofs an operation meets: its matmul rate or its memory bandwidth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.costs import matmul_rate
from sim.program import Floats, Kind, Program
from sim.topology.chip import Chip


def memory_bound(program: Program, chip: Chip, dtype: str) -> npt.NDArray[np.bool_]:
    """[tasks] compute that takes as long as its bytes, not its FLOPs, at the rates the chip reaches."""
    flops_s, bytes_s = roofs_s(program, chip, dtype)
    bound: npt.NDArray[np.bool_] = (program.kind == Kind.COMPUTE) & (bytes_s > flops_s)
    return bound


def roofs_s(program: Program, chip: Chip, dtype: str) -> tuple[Floats, Floats]:
    """[tasks] each: time of the FLOPs, and of the bytes, at the rates the chip reaches, s."""
    bandwidth = chip.hbm_bandwidth * chip.hbm_efficiency
    return program.flops / matmul_rate(chip, dtype), program.bytes / bandwidth
