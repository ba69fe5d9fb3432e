"""Dynamic batching by length: which waiting requests run together, padded to the longest of them.

Two policies, functions of the waiting requests alone. A batch costs what `cost(length, sequences)` says: a table of
measured or simulated times (EnergonAI's batch manager measures one as it starts, after TurboTransformers, Fang et al.
2021, arXiv 2010.05680, section 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Cost = Callable[[int, int], float]
"""(padded length, sequences) -> time of the batch, s."""

Batch = tuple[int, ...]
"""Positions of requests."""


def fifo(lengths: Sequence[int], most: int) -> tuple[Batch, ...]:
    """Requests in the order they came, `most` at a time."""
    return tuple(tuple(range(i, min(i + most, len(lengths)))) for i in range(0, len(lengths), most))


def by_cost(lengths: Sequence[int], most: int, cost: Cost) -> tuple[Batch, ...]:
    """The cut of the requests, sorted by length, into batches of at most `most` that costs least in all.

    best[i] = min over j of best[j] + cost(length of i, i - j): in sorted order the last of a batch is its longest. Of
    batches of given sizes none cost less than consecutive ones in that order, where a longer batch never costs less.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    best, cut = [0.0], [0]
    for i in range(1, len(order) + 1):
        longest = lengths[order[i - 1]]
        choices = ((best[j] + cost(longest, i - j), j) for j in range(max(0, i - most), i))
        least, j = min(choices)
        best.append(least)
        cut.append(j)
    batches: list[Batch] = []
    end = len(order)
    while end:
        batches.append(tuple(order[cut[end] : end]))
        end = cut[end]
    return tuple(reversed(batches))


def total(batches: Sequence[Batch], lengths: Sequence[int], cost: Cost) -> float:
    """Time of all batches, one after the other, s."""
    return sum(cost(max(lengths[i] for i in batch), len(batch)) for batch in batches)
