"""Buffers of gathered weights: how far gathers run ahead of the matmuls that use them, and what that takes in memory.

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
        """Matmuls ahead of the one that computes for which weights may be gathered."""
        self._sizes: list[float] = []
        self._done: list[Tasks] = []
        self._shards_bytes = 0.0

    @property
    def gathers(self) -> int:
        """Number of gathers so far."""
        return len(self._sizes)

    @property
    def peak_bytes(self) -> float:
        """Bytes of the buffers that a chip needs: of as many gathers in a row as may be in use at once."""
        held = self.prefetch + 1
        windows = [sum(self._sizes[first : first + held]) for first in range(len(self._sizes))]
        return max([self._shards_bytes, *windows])

    @property
    def pending(self) -> Tasks:
        """What gathers that are still to come wait for."""
        return tuple(ids for tasks in self._done[-self.prefetch - 1 :] for ids in tasks)

    def layers_ahead(self, gathers: int) -> int:
        """Layers of so many gathers that a gather may run ahead, rounded up; at least 1."""
        return max(1, ceil((self.prefetch + 1) / gathers)) if gathers else 1

    def claim(self, size: float) -> Tasks:
        """A buffer for the next gather; returns what has to end before."""
        self._sizes.append(size)
        last = len(self._done) - 1 - self.prefetch
        return self._done[last] if last >= 0 else ()

    def release(self, done: Tasks) -> None:
        """The matmul of the last gather leaves its buffer with the end of `done`."""
        self._done.append(done)

    def shift(self, start: int, by: int) -> None:
        """The block of tasks from `start` on was repeated: its matmuls were done `by` tasks later."""
        self._done = [shift_tasks(tasks, start, by) for tasks in self._done]

    def claim_shards(self, size: float, shards: int) -> None:
        """Buffers of a loop: the shard that is multiplied with and the one that arrives meanwhile.

        The first of the loop's shards is the chip's own.
        """
        self._shards_bytes = max(self._shards_bytes, min(2, shards - 1) * size)
