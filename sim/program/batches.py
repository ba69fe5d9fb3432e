"""Batches of a pipeline: the tasks of a program between which each batch runs on each stage."""

from __future__ import annotations

from msgspec import Struct

from sim.program.columns import Floats, Ids, Ints
from sim.units import PS_PER_S


class StagePass(Struct, frozen=True):
    """Pass of one batch or micro-batch through one stage."""

    request: int
    part: int
    """Micro-batch of the request, 0 if it has only one."""
    stage: int
    begin: Ids
    """[chips of the stage] tasks at which the input has arrived and the stage is free."""
    end: Ids
    """[chips of the stage] tasks that end the pass."""


class Batches(Struct, frozen=True):
    """All batches in the program of a pipeline."""

    parts: int
    """Micro-batches per request."""
    layers: tuple[int, ...]
    """Number of layers of each stage."""
    chips: tuple[tuple[int, ...], ...]
    """Chips of each stage."""
    passes: tuple[StagePass, ...]
    arrived: tuple[int, ...]
    """Task of each request at whose end the request arrives."""
    answered: tuple[int, ...]
    """Task of each request at whose end its result is available."""
    warm_up: int = 0
    """Number of first requests that only fill the pipeline, so that the others find it in steady state."""

    def latencies_s(self, ends_ps: Ints) -> Floats:
        """Returns [requests] the time from a request's arrival to its answer, s, without the warm-up requests."""
        arrived, answered = (ends_ps[list(tasks)] / PS_PER_S for tasks in (self.arrived, self.answered))
        return (answered - arrived)[self.warm_up :]
