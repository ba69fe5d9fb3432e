"""Classification of operations as memory-bound or compute-bound by the two times of their cost."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.program import Kind, Program


def is_memory_bound(program: Program) -> npt.NDArray[np.bool_]:
    """Returns True for launches whose bytes take longer than their FLOPs at the rates of their costs, [tasks]."""
    bound: npt.NDArray[np.bool_] = (program.kind == Kind.COMPUTE) & (program.memory_ps > program.compute_ps)
    return bound
