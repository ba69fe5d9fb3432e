"""Requests over time: arrivals, calls to the workers, results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.lowering.pipeline.builder import PipelineBuilder, Tasks
from sim.specs import PipelineSpec


class Requests:
    """Emits the events before the first and after the last stage of each request.

    A single controller calls the workers, one after the other in the order of their chips; a worker that waits looks
    for its next batch at every poll since it was free, the caller's handler for the result at every poll since its
    call. Calls are served in any order, but every worker takes batches in the order of their keys (EnergonAI's
    consistency queue), so that the order of calls never changes that of the batches.
    """

    def __init__(self, builder: PipelineBuilder, spec: PipelineSpec) -> None:
        self._builder, self._spec = builder, spec
        self._max_in_flight = spec.max_in_flight(len(builder.stages))
        self._arrival_times = _arrival_times(spec)
        self._last_call: Tasks = ()
        self.arrived: list[int] = []
        self.answered: list[int] = []

    def admit(self, request: int, free: Sequence[Tasks]) -> list[Tasks]:
        """Appends a request's arrival; returns, per stage, the tasks after which its workers know of it.

        Args:
            free: per stage, the tasks after which its workers wait for a batch.
        """
        builder, spec, controller_chip = self._builder, self._spec, self._builder.stages[0].chips[:1]
        oldest = request - self._max_in_flight
        room = (np.array(self.answered[oldest : oldest + 1]),) if oldest >= 0 else ()
        if self._arrival_times is None:
            released = builder.event("request", controller_chip, room)
            self.arrived.append(int(released[0]))
        else:
            released = builder.event("request", controller_chip, (), flight_s=self._arrival_times[request])
            self.arrived.append(int(released[0]))
            released = builder.event("release", controller_chip, (released, *room)) if room else released
        controller, known = spec.controller, []
        for stage, waiting in zip(builder.stages, free, strict=True):
            called: Tasks = (np.full(len(stage.chips), released[0]),)
            if controller and controller.kind == "single":
                calls = [
                    builder.event("call", stage.chips[i : i + 1], (released,), busy_s=controller.rpc.value)
                    for i in range(len(stage.chips))
                ]
                called = (np.concatenate(calls),)
            elif controller:
                called = (builder.event("call", stage.chips, called, flight_s=controller.rpc.value),)
            self._last_call = called
            if controller and waiting and controller.poll.value:
                called = (builder.event("batch seen", stage.chips, (*waiting, *called), poll_s=controller.poll.value),)
            known.append(called)
        return known

    def complete(self, request: int, ended: Tasks) -> None:
        """Appends the result of a request after all ranks of the last stage are done with it."""
        builder, last = self._builder, self._builder.stages[-1]
        done = builder.join("done", int(last.chips[0]), np.concatenate(ended))
        if controller := self._spec.controller:
            after = (self._last_call[0][-1:], np.array([done]))
            poll_s, back_s = controller.result_poll.value, controller.rpc.value
            done = int(builder.event("result", last.chips[:1], after, poll_s=poll_s, flight_s=back_s)[0])
        self.answered.append(done)


def _arrival_times(spec: PipelineSpec) -> list[float] | None:
    """Returns the arrival times of requests, s; None if each arrives as soon as there is room for it."""
    arrivals = spec.arrivals
    if arrivals is None or arrivals.in_flight is not None:
        return None
    if arrivals.times is not None:
        return list(arrivals.times)
    gaps = np.random.default_rng(arrivals.seed).exponential(arrivals.every or 0.0, spec.requests)
    return [float(time) for time in np.cumsum(gaps)]
