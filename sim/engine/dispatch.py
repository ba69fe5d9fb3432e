"""Choice of engine for a program: SimPy, or the compiled kernel if the scenario asks for it or it saves time."""

from __future__ import annotations

import numpy as np

from sim.engine import compiled, reference
from sim.engine.reference import MIN_RATE_PPM
from sim.errors import InputError
from sim.program import Program
from sim.program.trace import Trace
from sim.specs import Kernel

COMPILED_FROM = 1_000_000
"""Number of tasks from which the compiled engine saves more than loading it takes, about a second."""


def simulate(program: Program, kernel: Kernel = "simpy") -> Trace:
    """Runs `program` and returns its trace.

    Args:
        kernel: the engine; all give the same times. `compiled` requires numba; `auto` takes it for programs of
            COMPILED_FROM tasks or more, if numba loads.

    Raises:
        DeadlockError: tasks are left that can never become ready; the message names the first few.
        InputError: `compiled` without numba.
        ValueError: a task follows one on a resource whose rate changes.
    """
    followed = program.follows[program.follows >= 0]
    if np.isin(program.resource[followed], program.slows[program.slow_ppm != 0]).any():
        raise ValueError("a task cannot follow one on a resource whose rate changes")
    return _compiled(program) if _choose(program, kernel) == "compiled" else reference.run(program)


def _choose(program: Program, kernel: Kernel) -> Kernel:
    if kernel == "simpy" or (kernel == "auto" and (len(program) < COMPILED_FROM or compiled.why_unavailable())):
        return "simpy"
    if reason := compiled.why_unavailable():
        hint = "pip install 'collective-sim[fast]', or kernel: auto"
        raise InputError(reason, where="engine.kernel", got=kernel, hint=hint)
    return "compiled" if compiled.fits_in_64_bits(program, MIN_RATE_PPM) else "simpy"


def _compiled(program: Program) -> Trace:
    trace, last = compiled.run(program, MIN_RATE_PPM)
    if (trace.times["end"] < 0).any():
        unended = np.concatenate(([0], np.cumsum(trace.times["end"][program.deps] < 0)))
        waiting = unended[program.dep_offset[1:]] - unended[program.dep_offset[:-1]]
        raise reference.deadlock(program, waiting.tolist(), trace.times["start"].tolist(), last)
    return trace
