"""Streams: in-order queues of operations on every chip, as on a GPU.

An operation waits for the tasks that produce its inputs and for the last operation of its stream, and for nothing else.
`compute` holds matmuls, attention and elementwise operations. `communication` holds collectives, but for gathers where
these have a stream of their own, `gathers`. On a machine whose compiler has no asynchronous collectives all names mean
one stream, and operations run in program order.

This assumes that a collective waits for its inputs alone. A library that records an event on the compute stream when a
collective is issued, as PyTorch's does, also holds it for compute that was issued before and has nothing to do with it.
Layouts issue most collectives right after their inputs, where both are the same; a report names those they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sim.program import Ids

Stream = Literal["compute", "communication", "gathers"]

Tasks = tuple[Ids, ...]
"""Tasks to wait for: arrays [chips], each chip waits for its own entries."""


class Streams:
    """Last operations of each stream, and the tasks that the next operation on it has to wait for."""

    def __init__(self, communication: int) -> None:
        self.communication = communication
        """Number of streams for collectives: none, one, or one for gathers and one for the others."""
        self._last: dict[Stream, Tasks] = {"compute": (), "communication": (), "gathers": ()}
        self._awaited: dict[Stream, set[bytes]] = {"compute": set(), "communication": set(), "gathers": set()}
        """Tasks, by their key, that end before anything more on the stream begins."""

    def last(self, stream: Stream) -> Tasks:
        """Returns the last operation's tasks."""
        return self._last[self._physical(stream)]

    def not_awaited(self, stream: Stream, tasks: Tasks) -> Tasks:
        """Returns those of `tasks` that no earlier operation of the stream has waited for."""
        known, result = set(self._awaited[self._physical(stream)]), []
        for ids in tasks:
            if _identity(ids) not in known:
                known.add(_identity(ids))
                result.append(ids)
        return tuple(result)

    def wait_list(self, stream: Stream, tasks: Tasks) -> Tasks:
        """Returns the tasks that the stream's next operation waits for, if `tasks` produce its inputs."""
        return (*self.last(stream), *self.not_awaited(stream, tasks))

    def overtakes(self, stream: Stream, inputs: Tasks) -> bool:
        """Returns True if a collective of these inputs may begin before compute that was issued before it has ended."""
        last = self.not_awaited(stream, self.last("compute"))
        return self.communication > 0 and any(not any(np.array_equal(ids, known) for known in inputs) for ids in last)

    def hold(self, stream: Stream, tasks: Tasks) -> None:
        """Makes the stream's next operation also wait for `tasks`."""
        real = self._physical(stream)
        self._last[real] = (*self._last[real], *tasks)

    def append(self, stream: Stream, awaited: Tasks, tasks: Tasks) -> None:
        """Records an operation that waited for `awaited` and ends with `tasks` as the stream's last."""
        real = self._physical(stream)
        self._last[real] = tasks
        self._awaited[real] |= {_identity(ids) for ids in (*awaited, *tasks)}

    def shift(self, start: int, by: int) -> None:
        """The block of tasks from `start` on was repeated: what it did last was done `by` tasks later."""
        for stream, tasks in self._last.items():
            self._last[stream] = shift_tasks(tasks, start, by)
            self._awaited[stream] = {_identity(ids) for ids in self._last[stream]}

    def snapshot(self) -> Tasks:
        """Returns all tasks that later operations wait for because of their stream."""
        return tuple(ids for tasks in self._last.values() for ids in tasks)

    def _physical(self, stream: Stream) -> Stream:
        if stream == "compute" or not self.communication:
            return "compute"
        return stream if self.communication > 1 else "communication"


def shift_tasks(tasks: Sequence[Ids], start: int, by: int) -> Tasks:
    """Returns the same tasks of the last copy of a repeated block that begins at `start`; earlier tasks stay."""
    return tuple(np.where(ids >= start, ids + np.int32(by), ids) for ids in tasks)


def _identity(ids: Ids) -> bytes:
    """Returns what tells an array of tasks from all others."""
    return ids.tobytes()
