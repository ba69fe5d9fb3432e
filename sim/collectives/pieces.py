"""Collectives in pieces, where messages of several chips share a link.

A link carries whole messages, in the order in which they come. Where messages of several chips to several others cross
one link, a nanosecond decides which of two is first, and the other, with all that waits for it, is late by the whole of
the first. So the array is cut there: all messages of the first piece come before those of the second, and what one is
late by is a piece. Libraries send that way: NCCL's kernels send a chunk to each peer in turn (2.30,
src/device/sendrecv.h).
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from sim.collectives.schedule import PER_SEND, Algorithm, Schedule
from sim.topology.graph import Topology

PIECES = 4


def in_pieces(algorithm: Algorithm) -> Algorithm:
    """An algorithm that runs piece after piece where its messages share links."""

    @functools.wraps(algorithm)
    def run(topology: Topology, axes: tuple[str, ...]) -> Schedule:
        plan = algorithm(topology, axes)
        return _cut(plan, PIECES) if _shares_links(plan) else plan

    return run


def _shares_links(plan: Schedule) -> bool:
    """Whether a link carries messages from several chips and to several chips."""

    def ends(column: np.ndarray) -> np.ndarray:
        pairs = np.unique(np.stack([plan.link, column]), axis=1)
        return np.bincount(pairs[0])

    return bool(((ends(plan.src) > 1) & (ends(plan.dst) > 1)).any()) if len(plan) else False


def _cut(plan: Schedule, pieces: int) -> Schedule:
    """The same on each of so many equal pieces of the array, none of which waits for another."""
    sends, waits = len(plan), len(plan.deps)
    number = np.arange(pieces, dtype=np.int32)
    columns = {name: np.concatenate([getattr(plan, name)] * pieces) for name in (*PER_SEND, "dep_counts", "follows")}
    columns["part"] += np.repeat(number * plan.parts, sends)
    columns["share"] /= pieces
    columns["follows"] += np.where(columns["follows"] >= 0, np.repeat(number * sends, sends), 0).astype(np.int32)
    deps = np.tile(plan.deps, pieces) + np.repeat(number * sends, waits)
    return replace(plan, parts=plan.parts * pieces, deps=deps, **columns)  # type: ignore[arg-type]
