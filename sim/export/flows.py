"""Messages as arrows: from a send on a link to the collective that it arrives in, on the chips that are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sim.program import Ids, Ints
from sim.program.trace import Trace
from sim.report.lanes import Lane


def nanoseconds(time_ps: Ints) -> Ints:
    """Returns the nearest whole nanoseconds."""
    return (time_ps + 500) // 1000


@dataclass(frozen=True, slots=True, eq=False)
class Flows:
    """Messages of one link; every column is [messages]."""

    task: Ids
    """Send of the message."""
    receiver: Ids
    """Receiving chip."""
    track: Ints
    """Row of the collective in which the message arrives."""
    sent_ns: Ints
    arrival_ns: Ints
    """Time of arrival, inside the collective."""


@dataclass(frozen=True, slots=True, eq=False)
class Receivers:
    """Collectives of the written chips, in the order of `key`; every column is [collectives]."""

    chips: int
    """Number of chips of the machine."""
    key: Ints
    """Instance of the collective x chips + chip."""
    track: Ints
    start_ns: Ints
    end_ns: Ints

    @classmethod
    def build(
        cls, trace: Trace, chips: int, lanes: Mapping[int, Sequence[Lane]], tracks: Mapping[int, Sequence[int]]
    ) -> Receivers:
        """Returns the collectives on lanes.

        Args:
            chips: number of chips of the machine.
            lanes: lanes of each chip that is written.
            tracks: number of the row of each lane.
        """
        columns: list[tuple[Ints, ...]] = []
        for chip, rows in lanes.items():
            for lane, track in zip(rows, tracks[chip], strict=True):
                if lane.kind == "collectives":
                    key = trace.program.collective[lane.spans.task].astype(np.int64) * chips + chip
                    times = (nanoseconds(lane.spans.start), nanoseconds(lane.spans.end))
                    columns.append((key, np.full(len(key), track), *times))
        key, *others = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.argsort(key)
        return cls(chips, key[order], *(column[order] for column in others))

    def flows_from(self, trace: Trace, lane: Lane) -> Flows:
        """Returns the messages on the lane of a link that arrive in a collective that is written."""
        program, task = trace.program, lane.spans.task.astype(np.int32)
        key = program.collective[task].astype(np.int64) * self.chips + program.peer[task]
        place = np.minimum(np.searchsorted(self.key, key), max(len(self.key) - 1, 0))
        known = np.flatnonzero(self.key[place] == key) if len(self.key) else np.empty(0, dtype=np.int64)
        task, place = task[known], place[known]
        # An arrow binds to the slice open at its time. At the very end of a collective none is: a nanosecond earlier.
        arrival = np.minimum(nanoseconds(trace.times["end"][task]), self.end_ns[place]) - 1
        return Flows(
            task=task,
            receiver=program.peer[task],
            track=self.track[place],
            sent_ns=nanoseconds(lane.spans.start[known]),
            arrival_ns=np.maximum(arrival, self.start_ns[place]),
        )
