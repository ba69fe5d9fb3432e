"""Buffers of gathered weights: the lead of gathers over the matmuls that use them, and its cost in memory.

On a stream of its own a gather depends on no activation, so nothing but memory keeps it from running ahead of the whole
pass. A gather here waits until the matmul `prefetch` + 1 before its own has ended and left its buffer, as FSDP limits
its all-gathers (Zhao et al. 2023, PyTorch FSDP, section 3.4). In program order, on one stream, no gather runs ahead.
"""

from __future__ import annotations

from math import ceil

from sim.lowering.streams import Tasks, shift_tasks


class GatherBuffers:
    """Buffers that one chip's gathered weights take, in the order of the matmuls that use them."""

    def __init__(self, prefetch: int) -> None:
        self.prefetch = prefetch
        """Number of later matmuls for which weights may be gathered."""
        self._sizes: list[float] = []
        self._done: list[Tasks] = []
        self._shards_bytes = 0.0

    @property
    def gathers(self) -> int:
        """Number of gathers so far."""
        return len(self._sizes)

    @property
    def peak_bytes(self) -> float:
        """Bytes of the buffers of as many consecutive gathers as may be in use at once."""
        held = self.prefetch + 1
        windows = [sum(self._sizes[first : first + held]) for first in range(len(self._sizes))]
        return max([self._shards_bytes, *windows])

    @property
    def pending(self) -> Tasks:
        """Tasks that later gathers wait for."""
        return tuple(ids for tasks in self._done[-self.prefetch - 1 :] for ids in tasks)

    def layers_ahead(self, gathers: int) -> int:
        """Returns the layers of so many gathers that a gather may run ahead, rounded up; at least 1."""
        return max(1, ceil((self.prefetch + 1) / gathers)) if gathers else 1

    def claim(self, size: float) -> Tasks:
        """Claims a buffer for the next gather; returns the tasks that must end before it."""
        self._sizes.append(size)
        last = len(self._done) - 1 - self.prefetch
        return self._done[last] if last >= 0 else ()

    def release(self, done: Tasks) -> None:
        """Releases the buffer of the last gather with the end of `done`."""
        self._done.append(done)

    def shift(self, start: int, by: int) -> None:
        """The block of tasks from `start` on was repeated: its matmuls were done `by` tasks later."""
        self._done = [shift_tasks(tasks, start, by) for tasks in self._done]

    def claim_shards(self, size: float, shards: int) -> None:
        """Claims the buffers of a loop: for the shard in use and the one that arrives meanwhile.

        The first of the loop's shards is the chip's own.
        """
        self._shards_bytes = max(self._shards_bytes, min(2, shards - 1) * size)
