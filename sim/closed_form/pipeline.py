"""Pipelines where sends are free, by algebra: fill, drain, steady state, micro-batches, queues of limited capacity.

Symbols: p stages; t_s, time of a batch (or of a micro-batch) on stage s; K requests; m micro-batches of a request.
Times in seconds, or whatever unit they are given in.

    non-blocking   K requests follow each other: the first takes sum(t), each further one max(t) more
    blocking       a request takes sum(t) + (m - 1) max(t) with the t of a micro-batch; then the next one begins
    sequential     K sum(t)

With equal stages t = T/m these are (K + p - 1) T and K (m + p - 1) T/m. (Flow shop of identical jobs; Huang et al.
2019, GPipe, section 2.3, gives the bubble (p - 1)/(m + p - 1).)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from msgspec import Struct
from msgspec.structs import replace


class PipelineTimes(Struct, frozen=True):
    """Times of a run of requests that all wait at the start, by algebra."""

    total: float
    """Time from the first request's begin to the last one's end."""
    interval: float
    """Time between two results in the steady state."""
    fill: float
    """Time until the last stage begins."""
    drain: float
    """Returns the time from the end of stage 0's last batch to the end of all: the path of the last batch, or the
    slowest stage."""
    utilisation: float
    """Busy time of the slowest stage over the total."""


def predict_non_blocking(stage: Sequence[float], requests: int) -> PipelineTimes:
    """Times of requests that follow each other without a flush between them."""
    slowest = max(stage)
    total = sum(stage) + (requests - 1) * slowest
    return PipelineTimes(total, slowest, sum(stage[:-1]), _drain(stage, requests), requests * slowest / total)


def predict_blocking(stage: Sequence[float], requests: int, microbatches: int) -> PipelineTimes:
    """Times of requests cut into micro-batches; the pipeline drains before the next request.

    Args:
        stage: times of a micro-batch.
    """
    one = sum(stage) + (microbatches - 1) * max(stage)
    busy = microbatches * max(stage)
    return PipelineTimes(requests * one, one, sum(stage[:-1]), _drain(stage, microbatches), busy / one)


def predict_sequential(stage: Sequence[float], requests: int) -> PipelineTimes:
    """Times of one request at a time, on one stage at a time."""
    return predict_blocking(stage, requests, 1)


def limit_call_rate(pipeline: PipelineTimes, call: float, requests: int, last_stage: float) -> PipelineTimes:
    """Returns the times of a pipeline behind a controller that calls one worker after another, and needs `call` for all
    calls of a request.

    No request follows another sooner, and the last stage begins its last batch no sooner than it has been called.
    """
    interval, total = max(pipeline.interval, call), max(pipeline.total, requests * call + last_stage)
    return replace(pipeline, total=total, interval=interval, utilisation=pipeline.utilisation * pipeline.total / total)


def _drain(stage: Sequence[float], batches: int) -> float:
    """Time from the end of stage 0's last batch to the end of all: the path of the last batch, or the slowest stage."""
    return sum(stage[1:]) + (batches - 1) * (max(stage) - stage[0])


def predict_bounded_queue(stage: Sequence[float], requests: int, capacity: int, retry: float) -> PipelineTimes:
    """Times of requests through queues of limited capacity, by the recurrence of `bounded_queue`; the interval is the
    mean over the second half."""
    rows = start_times_of_bounded_queue(stage, requests, capacity, retry)
    taken = [row[-1] for row in rows]
    total, half = taken[-1] + stage[-1], requests // 2
    interval = (taken[-1] - taken[half]) / (requests - 1 - half) if requests - 1 > half else total / requests
    drain = total - (rows[-1][0] + stage[0])
    return PipelineTimes(total, interval, taken[0], drain, requests * max(stage) / total)


def start_times_of_bounded_queue(
    stage: Sequence[float], requests: int, capacity: int, retry: float
) -> list[list[float]]:
    """[requests][p] when each stage takes each batch.

    A stage takes batch k as soon as it is in its queue and the stage is free. It is free again when it has put its
    batch into the next queue, which has room for k once k - capacity has been taken out; it tries when it is done, and
    then every `retry` (0: it notices at once).
    """
    taken: list[list[float]] = []
    free = [0.0] * len(stage)
    for k in range(requests):
        predict_bounded_queue, row = 0.0, []
        for s, time in enumerate(stage):
            row.append(max(predict_bounded_queue, free[s]))
            done = row[-1] + time
            if s + 1 < len(stage) and k >= capacity:
                late = taken[k - capacity][s + 1] - done
                if late > 0:
                    done += ceil(late / retry) * retry if retry else late
            free[s] = predict_bounded_queue = done
        taken.append(row)
    return taken
