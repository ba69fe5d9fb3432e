"""Trace of a program: when each task was ready, started, released its resource and ended."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.program.columns import Ints, Program
from sim.units import CLOCK_S, PS_PER_S

TIMES = np.dtype([("ready", np.int64), ("start", np.int64), ("free", np.int64), ("end", np.int64)])
"""One row per task, ps: dependencies ended (or head arrived); resource taken; released; message arrived."""


class Trace(Struct, frozen=True, eq=False, weakref=True):
    """Times of every task of a program."""

    program: Program
    times: npt.NDArray[np.void]
    """[N] rows of TIMES."""

    def __repr__(self) -> str:
        return f"Trace({len(self.program):,} tasks, {self.makespan_ps / PS_PER_S:.6g} s)"

    @classmethod
    def from_start_times(cls, program: Program, ready: Ints, start: Ints) -> Trace:
        """Builds a trace from ready and start times [N], ps; the rest follows from the durations.

        Raises:
            OverflowError: a task ends later than the clock counts.
        """
        times = np.empty(len(program), dtype=TIMES)
        times["ready"], times["start"] = ready, start
        return cls(program, times).with_release_times(start + program.busy_ps)

    def with_release_times(self, free: Ints) -> Trace:
        """Returns the trace with other times [N] at which tasks released their resources, ps.

        Raises:
            OverflowError: a task ends later than the clock counts.
        """
        times = self.times.copy()
        times["free"], times["end"] = free, self.program.end_times(free)
        # Each is the sum of two non-negative numbers of 63 bits, which is negative where it does not fit.
        if ((times["free"] < 0) | (times["end"] < 0)).any():
            raise OverflowError(f"a task ends later than {CLOCK_S:g} s")
        return Trace(self.program, times)

    @property
    def makespan_ps(self) -> int:
        """End of the last task, ps."""
        return int(self.times["end"].max(initial=0))
