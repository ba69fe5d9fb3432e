"""What happened: when each task was ready, started, released its resources and ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim.program import Ints, Program

TIMES = np.dtype([("ready", np.int64), ("start", np.int64), ("free", np.int64), ("end", np.int64)])
"""One row per task, ps: all dependencies ended; resources taken; resources released; message arrived."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Times of every task of a program."""

    program: Program
    times: npt.NDArray[np.void]
    """[N] of TIMES."""

    @classmethod
    def of(cls, program: Program, ready: Ints, start: Ints) -> Trace:
        """A trace from ready and start times; the rest follows from the durations."""
        times = np.empty(len(program), dtype=TIMES)
        times["ready"], times["start"] = ready, start
        times["free"] = times["start"] + program.busy_ps
        times["end"] = times["free"] + program.flight_ps
        return cls(program, times)

    def until(self, free: Ints) -> Trace:
        """The same, where tasks [N] released their resources at other times."""
        times = self.times.copy()
        times["free"], times["end"] = free, free + self.program.flight_ps
        return Trace(self.program, times)

    @property
    def makespan_ps(self) -> int:
        """End of the last task."""
        return int(self.times["end"].max(initial=0))
