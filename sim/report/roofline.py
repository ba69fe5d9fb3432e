"""Which of the two times of an operation's cost is the longer: that of its FLOPs or that of its bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.program import Kind, Program


def is_memory_bound(program: Program) -> npt.NDArray[np.bool_]:
    """Returns which launches [tasks] take longer for their bytes than for their FLOPs, at the rates of their costs."""
    bound: npt.NDArray[np.bool_] = (program.kind == Kind.COMPUTE) & (program.memory_ps > program.compute_ps)
    return bound
