"""Schedules: the order of the stages' passes.

non_blocking    EnergonAI: whole requests follow each other through the stages in the order of their keys
blocking        FasterTransformer: the micro-batches of a request, then those of the next
bounded_queue   EnergonAI's later engine: each stage pulls from a queue, its predecessor waits where that is full
sequential      a request at a time, one stage at a time
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from sim.lowering.pipeline.builder import Message, PipelineBuilder, Tasks
from sim.lowering.pipeline.requests import Requests
from sim.program.batches import StagePass
from sim.specs import PipelineSpec


class Plan(Struct, frozen=True):
    """Input of a schedule."""

    builder: PipelineBuilder
    requests: Requests
    spec: PipelineSpec
    count: int
    """Number of requests, including those that fill the pipeline."""
    parts: int
    """Micro-batches of a request."""
    token_bytes: float
    """Bytes that the last stage sends to the others at the end of a decode step; 0 otherwise."""
    dtype: str
    """Number format of the activations."""


def in_order(plan: Plan) -> None:
    """Every stage takes batches in the order of their keys; a stage posts its receive once it is free.

    Where sends block the stage (as in FasterTransformer, whose sends are on the compute stream, and in EnergonAI, which
    synchronises the device), it begins nothing before its activations have arrived.
    """
    builder, blocks = plan.builder, plan.spec.schedule != "non_blocking" or plan.spec.send_blocks_stage
    free: list[Tasks] = [()] * len(builder.stages)
    for request in range(plan.count):
        known = plan.requests.admit(request, free)
        for part in range(plan.parts):
            ended: Tasks = ()
            for i, stage in enumerate(builder.stages):
                ready = (*free[i], *known[i])
                if i:
                    message = Message("activations", builder.passes[i - 1].sent_bytes, plan.dtype)
                    posted = ready if blocks else None
                    sent, arrived = builder.send(builder.stages[i - 1], stage, message, ended, posted)
                    free[i - 1] = (sent,) if blocks else free[i - 1]
                    ready = (arrived,) if blocks else (*ready, arrived)
                ended = (builder.run(stage, request, part, ready).end,)
                free[i] = ended
        if plan.token_bytes:
            for i, stage in enumerate(builder.stages[:-1]):
                message = Message("tokens", plan.token_bytes, "int32")
                sent, arrived = builder.send(builder.stages[-1], stage, message, free[-1], free[i])
                free[-1], free[i] = (sent,), (arrived,)
        plan.requests.complete(request, free[-1] if plan.token_bytes else ended)


def bounded_queue(plan: Plan) -> None:
    """A batch goes into the next stage's queue once the batch `capacity` before it was taken out.

    A stage that finds the queue full looks again after every `retry`, and until it has sent does nothing else.
    """
    builder, queue = plan.builder, plan.spec.queue
    if queue is None:
        raise ValueError("bounded_queue needs a queue")
    free: list[Tasks] = [()] * len(builder.stages)
    taken: dict[tuple[int, int], StagePass] = {}
    for request in range(plan.count):
        ready = plan.requests.admit(request, free)[0]
        for i, stage in enumerate(builder.stages):
            stage_pass = builder.run(stage, request, 0, (*ready, *free[i]))
            taken[request, i] = stage_pass
            free[i] = (stage_pass.end,)
            if stage.is_last:
                break
            room = taken.get((request - queue.capacity, i + 1))
            if room:
                free[i] = (
                    builder.event("room in the queue", stage.chips, (stage_pass.end, room.begin), poll_s=queue.retry),
                )
            message = Message("activations", builder.passes[i].sent_bytes, plan.dtype)
            sent, arrived = builder.send(stage, builder.stages[i + 1], message, free[i])
            free[i], ready = (sent,), (arrived,)
        plan.requests.complete(request, free[-1])


SCHEDULES: dict[str, Callable[[Plan], None]] = {
    "non_blocking": in_order,
    "blocking": in_order,
    "sequential": in_order,
    "bounded_queue": bounded_queue,
}
