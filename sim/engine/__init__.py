"""Engine: a program in, a trace out, one rule for both engines (`reference` states it).

`reference` keeps the clock with SimPy; `compiled` and `kernel` are the same rule in numba, equal to the byte. The
engine knows tasks and resources only. Imports: program, specs.
"""

from sim.engine.dispatch import simulate
from sim.engine.reference import MIN_RATE_PPM

__all__ = ["MIN_RATE_PPM", "simulate"]
