"""Where in the program of a pipeline its batches are: the tasks between which each runs on each stage."""

from __future__ import annotations

from dataclasses import dataclass

from sim.program.columns import Floats, Ids, Ints
from sim.units import PS_PER_S


@dataclass(frozen=True, slots=True)
class StagePass:
    """One batch, or micro-batch, on one stage: the tasks between which it runs."""

    request: int
    part: int
    """Of the request: its micro-batch, 0 where it is not cut."""
    stage: int
    begin: Ids
    """[chips of the stage] Everything is there and the stage is free."""
    end: Ids
    """[chips of the stage]"""


@dataclass(frozen=True, slots=True)
class Batches:
    """Where in a program of a pipeline its batches are."""

    parts: int
    """Micro-batches of a request."""
    layers: tuple[int, ...]
    """Of each stage."""
    chips: tuple[tuple[int, ...], ...]
    """Of each stage."""
    passes: tuple[StagePass, ...]
    arrived: tuple[int, ...]
    """Per request, the task at whose end it has come."""
    answered: tuple[int, ...]
    """Per request, the task at whose end its result is there."""
    warm_up: int = 0
    """First requests that only fill the pipeline, so that the others find it as later ones do."""

    def latencies_s(self, ends_ps: Ints) -> Floats:
        """Returns the time of each pass from its request's arrival to its answer, s [requests]; warm-up left out."""
        arrived, answered = (ends_ps[list(tasks)] / PS_PER_S for tasks in (self.arrived, self.answered))
        return (answered - arrived)[self.warm_up :]
