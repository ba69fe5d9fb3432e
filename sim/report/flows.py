"""Messages as arrows: from a send on a link to the collective that it arrives in, on the chips that are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from sim.program import Ids, Ints
from sim.program.trace import Trace
from sim.report.lanes import Lane
from sim.report.spans import Spans


class Flows(Struct, frozen=True, eq=False):
    """Messages of one link that arrive in a collective that is shown; every column is [messages]."""

    position: Ints
    """Position of the send among the spans of the link's lane."""
    task: Ids
    """Send of the message."""
    receiver: Ids
    """Receiving chip."""
    track: Ints
    """Row of the collective in which the message arrives."""
    arrival_ps: Ints
    """Time at which the message has passed its last link."""
    begin_ps: Ints
    """Begin of the collective on the receiving chip."""
    end_ps: Ints


class Receivers(Struct, frozen=True, eq=False):
    """Collectives of the shown chips, in the order of `key`; every column but the last is [collectives]."""

    chips: int
    """Number of chips of the machine."""
    key: Ints
    """Instance of the collective x chips + chip."""
    track: Ints
    begin_ps: Ints
    end_ps: Ints
    arrival_ps: Ints
    """[tasks] time at which the message of a send has passed its last link."""

    @classmethod
    def build(
        cls, trace: Trace, chips: int, lanes: Mapping[int, Sequence[Lane]], tracks: Mapping[int, Sequence[int]]
    ) -> Receivers:
        """Returns the collectives on lanes.

        Args:
            chips: number of chips of the machine.
            lanes: lanes of each chip that is shown.
            tracks: number of the row of each lane.
        """
        columns: list[tuple[Ints, ...]] = [(np.empty(0, dtype=np.int64),) * 4]
        for chip, rows in lanes.items():
            for lane, track in zip(rows, tracks[chip], strict=True):
                if lane.kind == "collectives":
                    key = trace.program.collective[lane.spans.task].astype(np.int64) * chips + chip
                    columns.append((key, np.full(len(key), track), lane.spans.start, lane.spans.end))
        key, row, begin_ps, end_ps = (np.concatenate(column) for column in zip(*columns, strict=True))
        order = np.argsort(key)
        return cls(chips, key[order], row[order], begin_ps[order], end_ps[order], _arrivals(trace))

    def flows_of(self, trace: Trace, spans: Spans) -> Flows:
        """Returns the messages of the spans of a link that arrive in a collective that is shown."""
        program, task = trace.program, spans.task.astype(np.int32)
        key = program.collective[task].astype(np.int64) * self.chips + program.peer[task]
        place = np.minimum(np.searchsorted(self.key, key), max(len(self.key) - 1, 0))
        known = np.flatnonzero(self.key[place] == key) if len(self.key) else np.empty(0, dtype=np.int64)
        task, place = task[known], place[known]
        return Flows(
            position=known,
            task=task,
            receiver=program.peer[task],
            track=self.track[place],
            arrival_ps=self.arrival_ps[task],
            begin_ps=self.begin_ps[place],
            end_ps=self.end_ps[place],
        )


def _arrivals(trace: Trace) -> Ints:
    """Returns the end of the last hop of every task's message, [tasks] ps; of other tasks their own end."""
    hops = np.flatnonzero(trace.program.follows >= 0)
    next_hop = np.full(len(trace.program), -1)
    next_hop[trace.program.follows[hops]] = hops
    last = np.arange(len(trace.program))
    while len(goes_on := np.flatnonzero(next_hop[last] >= 0)):
        last[goes_on] = next_hop[last[goes_on]]
    arrival_ps: Ints = trace.times["end"][last]
    return arrival_ps
