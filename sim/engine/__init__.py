"""Engine: turns a program into a trace, by one rule that `reference` states.

`reference` keeps the clock with SimPy; `compiled` and `kernel` apply the same rule in numba, with equal times. The
engine knows only tasks and resources. Imports: program, specs.
"""

from sim.engine.dispatch import simulate
from sim.engine.reference import MIN_RATE_PPM

__all__ = ["MIN_RATE_PPM", "simulate"]
