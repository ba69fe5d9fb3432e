"""Collectives in pieces, where messages of several chips share a link.

A link carries whole messages, in the order in which they come. Where messages of several chips to several others cross
one link, a nanosecond decides which of two is first, and the other, with all that waits for it, is late by the whole of
the first. So the array is cut there: all messages of the first piece come before those of the second, and what one is
late by is a piece. Libraries send that way: NCCL's kernels send a chunk to each peer in turn (2.30,
src/device/sendrecv.h).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import numpy as np
from msgspec.structs import replace

from sim.collectives.schedule import PER_SEND, Int32s, Schedule

PIECES = 8
_MOST_SENDS = 100_000
"""Largest number of sends of all pieces; with more messages, each is already a small part of the array."""
P = ParamSpec("P")


def in_pieces(algorithm: Callable[P, Schedule]) -> Callable[P, Schedule]:
    """An algorithm that runs piece after piece where its messages share links."""

    @functools.wraps(algorithm)
    def run(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        return cut(algorithm(*args, **kwargs))

    return run


def cut(plan: Schedule, before: int = 1) -> Schedule:
    """The same in PIECES equal pieces of the array, none of which waits for another, where messages share links.

    Args:
        before: pieces in which it is already.
    """
    sends, waits = len(plan), len(plan.deps)
    pieces = min(-(-PIECES // before), _MOST_SENDS // max(1, sends))
    if pieces <= 1 or not _shares_links(plan):
        return plan
    number = np.arange(pieces, dtype=np.int32)
    columns = {name: np.concatenate([getattr(plan, name)] * pieces) for name in (*PER_SEND, "dep_counts", "follows")}
    columns["part"] += np.repeat(number * plan.parts, sends)
    columns["share"] /= pieces
    columns["follows"] += np.where(columns["follows"] >= 0, np.repeat(number * sends, sends), 0).astype(np.int32)
    deps = np.tile(plan.deps, pieces) + np.repeat(number * sends, waits)
    return replace(plan, parts=plan.parts * pieces, deps=deps, **columns)


def _shares_links(plan: Schedule) -> bool:
    """Returns True if a link carries messages from several chips and to several chips."""

    def ends(column: Int32s) -> np.ndarray:
        """[links] different chips at one end of the messages on each."""
        pairs = np.unique(np.stack([plan.link, column]), axis=1)
        return np.bincount(pairs[0])

    return bool(((ends(plan.src) > 1) & (ends(plan.dst) > 1)).any())
