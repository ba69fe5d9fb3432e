"""Pipelines: arrival of requests and their order through the stages."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Name, Strict, open_choice, wrong
from sim.specs.quantities import Duration, Sourced
from sim.units import format_count

SCHEDULES = ("non_blocking", "blocking", "bounded_queue", "sequential")
"""Shipped schedules."""

Batches = Annotated[int, Field(gt=0, le=10_000)]
"""Requests, or parts of one: each is simulated on every stage."""


class QueueSpec(Strict):
    """Bounded input queue of every stage except the first."""

    capacity: int
    """Largest number of batches in the queue."""
    retry: Duration
    """Time between two attempts to put a batch into a full queue."""

    @model_validator(mode="after")
    def _holds_a_batch(self) -> Self:
        if self.capacity < 1:
            rule = "must be at least 1"
            raise wrong("capacity", rule=rule, got=self.capacity)
        return self


class ArrivalSpec(Strict):
    """Arrival of requests: `in_flight` at a time, at given times, or at random."""

    in_flight: Batches | None = None
    """Closed loop: number of requests in flight; a new one arrives when another completes."""
    times: Annotated[list[Duration], Field(min_length=1)] | None = None
    """Open loop: arrival time of each request."""
    every: Duration | None = None
    """Open loop: mean time between arrivals, which are a Poisson process."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the Poisson process."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in ("in_flight", "times", "every") if getattr(self, name) is not None]
        if len(given) != 1:
            rule = "must have exactly one of in_flight, times and every"
            raise wrong(rule=rule, got=given, hint="arrivals: {in_flight: 4}, or {every: 50 ms, seed: 1}")
        if self.times and sorted(self.times) != self.times:
            raise wrong("times", rule="must be in ascending order")
        return self


class ControllerSpec(Strict):
    """Controller that tells the workers, one per chip, to run a batch."""

    kind: Literal["single", "multi"] = "single"
    """single: one controller calls worker after worker; multi: each worker has its own, all call at once."""
    rpc: Sourced[Duration]
    """Time of the controller for one call."""
    poll: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Period in which a waiting worker polls for its next batch."""
    result_poll: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Period in which the caller's handler polls for the result, from its call on."""
    threads: Count = 16
    """Calls that a worker accepts at once, a limit on batches in flight."""


class PipelineSpec(Strict):
    """Order of batches through the stages."""

    schedule: Annotated[Name, *open_choice("pipeline_schedule", SCHEDULES)]
    """non_blocking: whole requests, one after the other; blocking: a request's micro-batches, then the next request;
    bounded_queue: whole requests through queues of limited capacity; sequential: one request, one stage at a time."""
    microbatches: Batches | Literal["auto"] = "auto"
    """Micro-batches per request, for `schedule: blocking`. auto: FasterTransformer's rule."""
    microbatch_tokens: Count = 1024
    """Tokens above which `microbatches: auto` halves a micro-batch (8192 in FasterTransformer 5.0)."""
    send_blocks_stage: bool = True
    """A stage waits until its activations have arrived at the next stage, for `schedule: non_blocking`."""
    requests: Batches = 8
    """Batches of the workload, one after the other."""
    arrivals: ArrivalSpec | None = None
    """Default: in_flight stages + 2 (EnergonAI's batch manager), 1 for blocking and sequential."""
    stages: Annotated[list[Count], Field(min_length=1)] | None = None
    """Layers of each stage. Default: equal; the last stages get the remainder."""
    queue: QueueSpec | None = None
    """Input queue of the stages, for `schedule: bounded_queue`."""
    controller: ControllerSpec | None = None
    """Default: workers learn of every request at its arrival."""

    @model_validator(mode="after")
    def _queue_where_needed(self) -> Self:
        if (self.schedule == "bounded_queue") != (self.queue is not None):
            hint = "queue: {capacity: 1, retry: 100 ms}"
            raise wrong(
                "queue", rule="must be given if, and only if, schedule is 'bounded_queue'", got=self.schedule, hint=hint
            )
        if self.schedule != "blocking" and self.microbatches != "auto":
            raise wrong("microbatches", rule="requires 'schedule: blocking'", got=self.schedule)
        if self.schedule in ("blocking", "sequential") and self.arrivals and (self.arrivals.in_flight or 1) > 1:
            rule = f"must be 1 for schedule '{self.schedule}'"
            raise wrong("arrivals", "in_flight", rule=rule, got=self.arrivals.in_flight)
        times = self.arrivals.times if self.arrivals else None
        if times and len(times) != self.requests:
            rule = f"must have a time for each of the {format_count(self.requests, 'request')}"
            raise wrong("arrivals", "times", rule=rule, got=len(times), hint=f"requests: {len(times)}")
        return self

    def max_in_flight(self, stages: int) -> int:
        """Returns the largest number of requests in flight, of those in the workload."""
        return min(self.requests, self.in_flight_limit(stages))

    def in_flight_limit(self, stages: int) -> int:
        """Returns the largest number of requests in flight for any number of requests."""
        if self.schedule in ("blocking", "sequential"):
            return 1
        most = self.controller.threads if self.controller else self.requests
        if self.arrivals is None:
            return min(most, stages + 2)
        return min(most, self.arrivals.in_flight or self.requests)
