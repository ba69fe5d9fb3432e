"""Which engine runs a program: SimPy, or the compiled kernel where that is asked for or saves time."""

from __future__ import annotations

import numpy as np

from sim.engine import compiled, reference
from sim.engine.reference import MIN_RATE_PPM
from sim.errors import InputError
from sim.program import Program
from sim.program.trace import Trace
from sim.specs import Kernel

COMPILED_FROM = 1_000_000
"""Tasks from which on the compiled engine saves more than loading it takes, about a second."""


def simulate(program: Program, kernel: Kernel = "simpy") -> Trace:
    """Run `program` and return when everything happened.

    Args:
        kernel: which engine; all give the same times. `compiled` needs numba; `auto` takes it, where it loads,
            for programs of more than COMPILED_FROM tasks.

    Raises:
        DeadlockError: tasks are left that can never become ready; the message names the first few.
        InputError: `compiled` without numba.
        ValueError: a message goes on from a resource whose rate changes.
    """
    before = program.follows[program.follows >= 0]
    if np.isin(program.resource[before], program.slows[program.slow_ppm != 0]).any():
        raise ValueError("a message cannot go on from a resource whose rate changes")
    return _compiled(program) if _chosen(program, kernel) == "compiled" else reference.run(program)


def _chosen(program: Program, kernel: Kernel) -> Kernel:
    if kernel == "simpy" or (kernel == "auto" and (len(program) < COMPILED_FROM or compiled.missing())):
        return "simpy"
    if missing := compiled.missing():
        hint = "pip install 'collective-sim[fast]', or kernel: auto"
        raise InputError(missing, where="engine.kernel", got=kernel, hint=hint)
    return "compiled" if compiled.fits(program, MIN_RATE_PPM) else "simpy"


def _compiled(program: Program) -> Trace:
    trace, last = compiled.run(program, MIN_RATE_PPM)
    if (trace.times["end"] < 0).any():
        left = np.concatenate(([0], np.cumsum(trace.times["end"][program.deps] < 0)))
        waiting = left[program.dep_offset[1:]] - left[program.dep_offset[:-1]]
        raise reference.deadlock(program, waiting.tolist(), trace.times["start"].tolist(), last)
    return trace
