"""Spans of time on lanes: the activity of chips and links, and the algebra of unions and gaps on them.

A span is half open, [start, end), whole picoseconds. Everything works on columns; programs have millions of tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.program import Floats, Ints, Kind
from sim.program.trace import Trace
from sim.topology.graph import Topology
from sim.units import on_clock

if TYPE_CHECKING:
    from sim.program.batches import Batches

Tasks = npt.NDArray[np.integer]


class Spans(Struct, frozen=True, eq=False):
    """n spans; `lane` is a chip, or a position in `Topology.links`."""

    task: Tasks
    """[n] the task that stands for the span: its op, layer and chip label it. A collective's is its BEGIN."""
    lane: npt.NDArray[np.integer]
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.task)

    @property
    def total_ps(self) -> int:
        """Sum of the lengths of the spans."""
        return int((self.end - self.start).sum())

    def where(self, chosen: npt.NDArray[np.generic]) -> Spans:
        """Returns the spans selected by a mask or by positions."""
        return Spans(self.task[chosen], self.lane[chosen], self.start[chosen], self.end[chosen])

    def within(self, start: int, end: int) -> Spans:
        """Returns the spans that reach into start .. end, cut to it."""
        inside = self.where((self.end > start) & (self.start < end))
        return Spans(inside.task, inside.lane, np.maximum(inside.start, start), np.minimum(inside.end, end))

    def of_lane(self, lane: int) -> Spans:
        """Returns the spans of one lane, by start and then task."""
        on_lane = self.where(np.flatnonzero(self.lane == lane))
        return on_lane.where(np.lexsort((on_lane.task, on_lane.start)))


def compute_spans(trace: Trace) -> Spans:
    """Returns compute tasks on their chips."""
    program = trace.program
    task = np.flatnonzero(program.kind == Kind.COMPUTE)
    return Spans(task, program.chip[task], trace.times["start"][task], trace.times["free"][task])


def copy_spans(trace: Trace) -> Spans:
    """Returns copies on the copy engines of their chips."""
    program = trace.program
    task = np.flatnonzero(program.kind == Kind.COPY)
    return Spans(task, program.chip[task], trace.times["start"][task], trace.times["free"][task])


def join_spans(trace: Trace) -> Spans:
    """Returns waits of one stream of a chip for another, after a collective has ended."""
    program = trace.program
    task = np.flatnonzero(program.kind == Kind.JOIN)
    return Spans(task, program.chip[task], trace.times["start"][task], trace.times["end"][task])


def stage_spans(trace: Trace, batches: Batches) -> Spans:
    """Returns batches on the chips of their stages."""
    parts = batches.passes
    task, last = (np.concatenate([getattr(part, name) for part in parts]) for name in ("begin", "end"))
    return Spans(task, trace.program.chip[task], trace.times["end"][task], trace.times["end"][last])


def collective_spans(trace: Trace) -> Spans:
    """Returns collectives on their chips, from the chip's entry to the arrival of the last message; launch overhead
    included.

    A send between stages begins when both its ends have entered: who waits for the other transfers nothing.

    Raises:
        ValueError: a collective does not have one BEGIN and, after it, one END on each of its chips.
    """
    program = trace.program
    begin, end = (np.flatnonzero(program.kind == kind) for kind in (Kind.BEGIN, Kind.END))
    begin, end = (task[np.lexsort((program.chip[task], program.collective[task]))] for task in (begin, end))
    paired = len(begin) == len(end) and all(
        np.array_equal(label[begin], label[end]) for label in (program.collective, program.chip)
    )
    if not paired:
        raise ValueError("a collective must have one BEGIN and one END on each of its chips")
    spans = Spans(begin, program.chip[begin], _entered(trace, begin), trace.times["end"][end])
    early = np.flatnonzero(spans.end < spans.start)
    if len(early):
        raise ValueError(f"a collective cannot end before it begins: {program.describe(int(begin[early[0]]))}")
    return spans


def _entered(trace: Trace, begin: Tasks) -> Ints:
    """Returns the time at which each collective begins on its chip; its BEGINs are in order of (collective, chip).

    An EVENT of a send is the moment at which both its ends have begun it; of an exchange it is the begin of its kernel.
    """
    program, entered = trace.program, trace.times["start"][begin].copy()
    met = np.flatnonzero((program.kind == Kind.EVENT) & (program.collective >= 0))
    if len(met):
        chips = int(program.chip.max()) + 1
        key, met_key = (
            program.collective[tasks].astype(np.int64) * chips + program.chip[tasks] for tasks in (begin, met)
        )
        begin_index = np.searchsorted(key, met_key)
        both = trace.times["ready"][met] - program.flight_ps[begin[begin_index]]
        entered[begin_index] = np.maximum(entered[begin_index], both)
    return np.asarray(entered)


def link_spans(trace: Trace, topology: Topology) -> Spans:
    """Sends on the links they hold."""
    program = trace.program
    link = program.resource - topology.chips
    task = np.flatnonzero((link >= 0) & (link < len(topology.links)))
    return Spans(task, link[task], trace.times["start"][task], trace.times["free"][task])


def lengths(spans: Spans, lanes: int) -> Ints:
    """Total length of the spans of each lane, ps [lanes]; overlaps count as often as they occur."""
    return sums_ps(spans.lane, spans.end - spans.start, lanes)


def sums_ps(group: npt.NDArray[np.integer], time_ps: Ints, groups: int) -> Ints:
    """Returns the exact sum of whole picoseconds per group [groups].

    Raises:
        OverflowError: a sum is longer than the clock counts.
    """
    on_clock(int(sums(group, time_ps, groups).max(initial=0)))
    result = np.zeros(groups, dtype=np.int64)
    np.add.at(result, group, time_ps)
    return result


def sums(group: npt.NDArray[np.integer], value: Ints | Floats, groups: int) -> Floats:
    """Returns the sum of `value` per group [groups], in floating point."""
    return np.bincount(group, weights=value, minlength=groups).astype(np.float64)


def totals(group: npt.NDArray[np.integer], value: Floats | Ints, counts: Ints, groups: int) -> Floats:
    """Sum of `value` times `often` per group [groups], to the last bit the same in any order of the rows.

    Equal values of a group are counted, not added one after the other.
    """
    order = np.lexsort((value, group))
    group, value, counts = group[order], value[order], counts[order]
    first = np.flatnonzero(
        np.concatenate(([len(group) > 0], (np.diff(group) != 0) | (np.diff(value) != 0)))[: len(group)]
    )
    return sums(group[first], value[first] * np.add.reduceat(counts, first), groups)


def union(*parts: Spans) -> Spans:
    """The times covered by any span, per lane: sorted, disjoint, not touching. `task` is the first of each."""
    task, lane, start, end = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("task", "lane", "start", "end")
    )
    if not len(task):
        return Spans(task, lane, start, end)
    order = np.lexsort((start, lane))
    task, lane, start, end = task[order], lane[order], start[order], end[order]
    # Ends by rank, each lane's above those of the lanes before it, so that one running maximum serves all lanes. Times
    # themselves, moved on from lane to lane, would not fit the clock.
    by_end = np.argsort(end, kind="stable")
    rank = np.empty(len(end), dtype=np.int64)
    rank[by_end] = np.arange(len(end))
    base = lane.astype(np.int64) * len(end)
    reach = end[by_end[np.maximum.accumulate(rank + base) - base]]
    first = np.concatenate(([True], (lane[1:] != lane[:-1]) | (start[1:] > reach[:-1])))
    last = np.concatenate((first[1:], [True]))
    return Spans(task[first], lane[first], start[first], reach[last])


def minus(spans: Spans, covered: Spans) -> Spans:
    """The pieces of the spans that lie outside `covered`, a union; all on one lane."""
    far = np.iinfo(np.int64).max
    gap_start = np.concatenate(([-far], covered.end))
    gap_end = np.concatenate((covered.start, [far]))
    first = np.searchsorted(gap_end, spans.start, side="right")
    count = np.maximum(np.searchsorted(gap_start, spans.end, side="left") - first, 0)
    source = np.repeat(np.arange(len(spans)), count)
    gap = first[source] + np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count)
    pieces = spans.where(source)
    start, end = np.maximum(gap_start[gap], pieces.start), np.minimum(gap_end[gap], pieces.end)
    return Spans(pieces.task, pieces.lane, start, end).where(end > start)


def outside(spans: Spans, end: int) -> Spans:
    """On every lane that has spans, the times from 0 to `end` that none of them covers."""
    lanes, first = np.unique(spans.lane, return_index=True)
    whole = Spans(spans.task[first], lanes, np.zeros(len(lanes), dtype=np.int64), np.full(len(lanes), end))
    pieces = [minus(whole.of_lane(lane), union(spans.of_lane(lane))) for lane in lanes.tolist()]
    return Spans(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in Spans.__struct_fields__))


def coverage(spans: Spans, bins: Ints) -> Floats:
    """Share of each bin covered by the spans, which are in order and do not overlap. Bins are their n + 1 edges."""
    ends = np.stack([spans.start, spans.end], axis=1).ravel()
    length = spans.end - spans.start
    covered = np.cumsum(np.stack([np.zeros_like(length), length], axis=1).ravel())
    share: Floats = np.diff(np.interp(bins, ends, covered)) / np.diff(bins)
    return share


def pack(spans: Spans) -> Ints:
    """A row for each span, lowest first, so that no two spans of a row overlap. Spans must be sorted by start."""
    row = np.zeros(len(spans), dtype=np.int64)
    ends: list[int] = []  # per row, end of its last span; a chip has a handful of collectives in progress at once
    for i, (start, end) in enumerate(zip(spans.start.tolist(), spans.end.tolist(), strict=True)):
        free = next((k for k, taken_until in enumerate(ends) if taken_until <= start), len(ends))
        if free == len(ends):
            ends.append(end)
        ends[free] = end
        row[i] = free
    return row
