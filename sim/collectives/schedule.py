"""A collective as sends between chips: which data goes over which link after which other sends.

A schedule is for one unit of data: every send carries a share of the collective's size, so one schedule serves all
sizes, and covers all groups of the mesh at once (an all-gather over x of a 4x4x4 torus has 16 groups). It knows nothing
of tasks or time; `lower` turns it into tasks, tests replay it chunk by chunk.

Data is named by *chunks* (part, half, origin, target): the array is cut into `parts` (each takes its own way through
the axes), each part into two halves, and each by the mesh position of the chip it comes from (`origin`) and the chip it
is for (`target`). -1 means all: a send of an all-gather has `target` all -1, a send of a reduce-scatter `origin` all -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """n sends in an order in which dependencies point backwards. A is the number of axes of the collective."""

    collective: str
    axes: tuple[str, ...]
    parts: int
    src: Int32s
    """[n] sending chip."""
    dst: Int32s
    """[n] receiving chip."""
    link: Int32s
    """[n] index into `Topology.links`."""
    share: npt.NDArray[np.float64]
    """[n] bytes over the collective's size (size: the full gathered array for all-gather and reduce-scatter, the array
    for all-reduce and broadcast, the local buffer for all-to-all, the message for permute)."""
    step: Int32s
    """[n] hop number along its axis, from 0."""
    direction: Int32s
    """[n] +1 or -1 along its axis."""
    own: npt.NDArray[np.bool_]
    """[n] whether the payload holds data of the sender itself (its shard, or its contribution to a sum)."""
    dep_counts: Int32s
    """[n] number of sends each send waits for."""
    deps: Int32s
    """Flat, in send order: positions of those sends."""
    part: Int32s
    """[n]"""
    half: Int32s
    """[n] 0 or 1, -1 for both."""
    origin: Int32s
    """[n, A] mesh position of the chips whose data this is, along `axes`; -1 for all positions."""
    target: Int32s
    """[n, A] mesh position of the chips the data is for; -1 for all positions."""

    def __len__(self) -> int:
        return len(self.src)

    def dependencies(self, send: int) -> Int32s:
        """Sends that must have arrived before `send` starts."""
        end = int(self.dep_counts[: send + 1].sum())
        return self.deps[end - int(self.dep_counts[send]) : end]
