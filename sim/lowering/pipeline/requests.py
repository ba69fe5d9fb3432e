"""Requests over time: when they come, how workers learn of them, when their results are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim.lowering.pipeline.assembly import Assembly, Tasks
from sim.specs import PipelineSpec


class Requests:
    """Emits what is before the first and after the last stage of each request.

    A single controller calls the workers, one after the other in the order of their chips; a worker that waits looks
    for its next batch at every poll since it was free, the caller's handler for the result at every poll since its
    call. Calls are served in any order, but every worker takes batches in the order of their keys (EnergonAI's
    consistency queue), so that the order of calls never changes that of the batches.
    """

    def __init__(self, to: Assembly, spec: PipelineSpec) -> None:
        self._to, self._spec = to, spec
        self._under_way = spec.under_way(len(to.stages))
        self._times = _times(spec)
        self._last_call: Tasks = ()
        self.arrived: list[int] = []
        self.answered: list[int] = []

    def come(self, request: int, free: Sequence[Tasks]) -> list[Tasks]:
        """A request comes; per stage, the tasks after which its workers know of it.

        Args:
            free: per stage, the tasks after which its workers wait for a batch.
        """
        to, spec, home = self._to, self._spec, self._to.stages[0].chips[:1]
        earlier = request - self._under_way
        room = (np.array(self.answered[earlier : earlier + 1]),) if earlier >= 0 else ()
        if self._times is None:
            released = to.event("request", home, room)
            self.arrived.append(int(released[0]))
        else:
            released = to.event("request", home, (), flight_s=self._times[request])
            self.arrived.append(int(released[0]))
            released = to.event("release", home, (released, *room)) if room else released
        controller, seen = spec.controller, []
        for stage, waiting in zip(to.stages, free, strict=True):
            here: Tasks = (np.full(len(stage.chips), released[0]),)
            if controller and controller.kind == "single":
                calls = [
                    to.event("call", stage.chips[i : i + 1], (released,), busy_s=controller.rpc.value)
                    for i in range(len(stage.chips))
                ]
                here = (np.concatenate(calls),)
            elif controller:
                here = (to.event("call", stage.chips, here, flight_s=controller.rpc.value),)
            self._last_call = here
            if controller and waiting and controller.poll.value:
                here = (to.event("batch seen", stage.chips, (*waiting, *here), poll_s=controller.poll.value),)
            seen.append(here)
        return seen

    def go(self, request: int, ended: Tasks) -> None:
        """All ranks of the last stage are done with a request."""
        to, last = self._to, self._to.stages[-1]
        done = to.all_of("done", int(last.chips[0]), np.concatenate(ended))
        if controller := self._spec.controller:
            after = (self._last_call[0][-1:], np.array([done]))
            poll_s, back_s = controller.result_poll.value, controller.rpc.value
            done = int(to.event("result", last.chips[:1], after, poll_s=poll_s, flight_s=back_s)[0])
        self.answered.append(done)


def _times(spec: PipelineSpec) -> list[float] | None:
    """When requests come, s; None where each comes as soon as there is room for it."""
    arrivals = spec.arrivals
    if arrivals is None or arrivals.in_flight is not None:
        return None
    if arrivals.times is not None:
        return list(arrivals.times)
    gaps = np.random.default_rng(arrivals.seed).exponential(arrivals.every or 0.0, spec.requests)
    return [float(time) for time in np.cumsum(gaps)]
