"""Schedules: which pass of a stage comes after which, and nothing else.

non_blocking    EnergonAI: whole requests follow each other through the stages in the order of their keys
blocking        FasterTransformer: the micro-batches of a request, then those of the next
bounded_queue   EnergonAI's later engine: each stage pulls from a queue, its predecessor waits where that is full
sequential      a request at a time, one stage at a time
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.lowering.pipeline.assembly import Assembly, Tasks
from sim.lowering.pipeline.requests import Requests
from sim.program.batches import StagePass
from sim.specs import PipelineSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """What a schedule has to order."""

    to: Assembly
    requests: Requests
    spec: PipelineSpec
    count: int
    """Requests, those that fill the pipeline included."""
    parts: int
    """Micro-batches of a request."""
    token_bytes: float
    """What the last stage tells the others at the end of a decode step; 0 where it is no such step."""
    dtype: str
    """Number format of the activations."""


def in_order(plan: Plan) -> None:
    """Every stage takes batches in the order of their keys; a stage posts its receive once it is free.

    Where sends block the stage (as in FasterTransformer, whose sends are on the compute stream, and in EnergonAI, which
    synchronises the device), it begins nothing before its activations have arrived.
    """
    to, blocks = plan.to, plan.spec.schedule != "non_blocking" or plan.spec.send_blocks_stage
    free: list[Tasks] = [()] * len(to.stages)
    for request in range(plan.count):
        seen = plan.requests.come(request, free)
        for part in range(plan.parts):
            ended: Tasks = ()
            for i, stage in enumerate(to.stages):
                ready = (*free[i], *seen[i])
                if i:
                    before, size = to.stages[i - 1], to.passes[i - 1].sent_bytes
                    sent, there = to.send(
                        before, stage, size, ended, ready if blocks else None, "activations", plan.dtype
                    )
                    free[i - 1] = (sent,) if blocks else free[i - 1]
                    ready = (there,) if blocks else (*ready, there)
                ended = (to.run(stage, request, part, ready).end,)
                free[i] = ended
        if plan.token_bytes:
            for i, stage in enumerate(to.stages[:-1]):
                sent, there = to.send(to.stages[-1], stage, plan.token_bytes, free[-1], free[i], "tokens", "int32")
                free[-1], free[i] = (sent,), (there,)
        plan.requests.go(request, free[-1] if plan.token_bytes else ended)


def bounded_queue(plan: Plan) -> None:
    """A batch goes into the next stage's queue once the batch `capacity` before it was taken out.

    A stage that finds the queue full looks again after every `retry`, and until it has sent does nothing else.
    """
    to, queue = plan.to, plan.spec.queue
    if queue is None:
        raise ValueError("bounded_queue needs a queue")
    free: list[Tasks] = [()] * len(to.stages)
    taken: dict[tuple[int, int], StagePass] = {}
    for request in range(plan.count):
        ready = plan.requests.come(request, free)[0]
        for i, stage in enumerate(to.stages):
            done = to.run(stage, request, 0, (*ready, *free[i]))
            taken[request, i] = done
            free[i] = (done.end,)
            if stage.last:
                break
            room = taken.get((request - queue.capacity, i + 1))
            if room:
                free[i] = (to.event("room in the queue", stage.chips, (done.end, room.begin), poll_s=queue.retry),)
            sent, there = to.send(
                stage, to.stages[i + 1], to.passes[i].sent_bytes, free[i], None, "activations", plan.dtype
            )
            free[i], ready = (sent,), (there,)
        plan.requests.go(request, free[-1])


SCHEDULES: dict[str, Callable[[Plan], None]] = {
    "non_blocking": in_order,
    "blocking": in_order,
    "sequential": in_order,
    "bounded_queue": bounded_queue,
}
