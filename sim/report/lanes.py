"""Lanes of a chip in a timeline: its compute, its collectives in as many rows as run at once, its outgoing links."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.program import FULL_PPM, Floats, Ints, Kind
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.topology.graph import Link, Topology

if TYPE_CHECKING:
    from sim.report.critical_path import Path


class Lane(Struct, frozen=True, eq=False):
    """One row of a timeline: spans that never overlap, by start."""

    kind: Literal["path", "compute", "collectives", "copies", "link"]
    label: str
    spans: sp.Spans
    exposed: sp.Spans
    """The pieces of collectives with no compute on the chip; of the critical path, messages and launches in flight;
    none on other lanes."""
    link: int = -1
    """Position in `Topology.links` of a link's lane."""
    is_copied: bool = False
    """True for collectives that copy engines carry out, without a kernel."""


class Held(Struct, frozen=True, eq=False):
    """Multiprocessors of a chip that collectives keep busy."""

    time_ps: Ints
    """Times from which there are so many, the first 0."""
    count: Floats
    total: int
    """Multiprocessors of the chip."""

    def means(self, edges: Ints) -> Floats:
        """Returns the mean number between each two of the edges (ps)."""
        summed = np.concatenate(([0.0], np.cumsum(np.diff(self.time_ps) * self.count[:-1])))
        index = np.searchsorted(self.time_ps, edges, side="right") - 1
        until = summed[index] + (edges - self.time_ps[index]) * self.count[index]
        means: Floats = np.diff(until) / np.diff(edges)
        return means

    def peak(self, start: int, end: int) -> float:
        """Returns the largest number between two times, ps."""
        first, last = np.searchsorted(self.time_ps, start, side="right") - 1, np.searchsorted(self.time_ps, end)
        return float(self.count[first : max(last, first + 1)].max())


def multiprocessors_held(trace: Trace, topology: Topology, chip: int) -> Held | None:
    """Returns the multiprocessors that collectives keep busy on a chip, None if they take less than half of one."""
    program = trace.program
    changes = np.flatnonzero((program.slow_ppm != 0) & (program.slows == chip))
    if not len(changes):
        return None
    ppm = program.slow_ppm[changes].astype(np.float64)
    when = np.where(ppm > 0, trace.times["start"][changes], trace.times["end"][changes])
    times, at = np.unique(np.append(when, 0), return_inverse=True)
    total, taken = topology.chip.multiprocessors, np.cumsum(np.bincount(at, np.append(ppm, 0.0), len(times)))
    count = taken / FULL_PPM * total
    return Held(times, count, total) if count.max() >= 1 / 2 else None


def build_lanes(trace: Trace, topology: Topology, chips: Sequence[int]) -> dict[int, list[Lane]]:
    """Returns the lanes of each chip: compute, collectives (of kernels, then of copy engines; one row at least), then
    links in the topology's order.

    A chip that is only sent something has the links on which it comes.
    """
    compute, collectives, links = sp.compute_spans(trace), sp.collective_spans(trace), sp.link_spans(trace, topology)
    copies, program = sp.copy_spans(trace), trace.program
    copied = np.array([name in program.copied for name in program.op_names], dtype=bool)
    result: dict[int, list[Lane]] = {}
    for chip in chips:
        computing, chip_collectives = compute.of_lane(chip), collectives.of_lane(chip)
        covered = sp.union(computing)
        no_spans = computing.where(np.empty(0, dtype=np.int64))
        if not len(computing) and not len(chip_collectives):
            came = [(link, links.of_lane(link.index)) for link in topology.links if link.dst == chip]
            result[chip] = [
                Lane("link", f"from {_origin(link)}", spans, no_spans, link.index) for link, spans in came if len(spans)
            ]
            if result[chip]:
                continue
        lanes = [Lane("compute", "compute", computing, no_spans)]
        is_copied = copied[program.op[chip_collectives.task]]
        for by_engine in sorted(set(is_copied.tolist())) or [False]:
            label, some = "copy engine" if by_engine else "collectives", chip_collectives.where(is_copied == by_engine)
            row = sp.pack(some)
            for k in range(int(row.max(initial=0)) + 1):
                spans = some.where(row == k)
                lanes.append(Lane("collectives", label, spans, sp.minus(spans, covered), is_copied=by_engine))
        if len(copying := copies.of_lane(chip)):
            lanes.append(Lane("copies", "copy engine", copying, no_spans))
        for link in topology.links:
            if link.src == chip:
                spans = links.of_lane(link.index)
                lanes.append(Lane("link", link_label(link), spans, no_spans, link.index))
        result[chip] = lanes
    return result


def build_path_lane(path: Path) -> Lane:
    """Returns the critical path of a trace as a lane."""
    nowhere = np.zeros(len(path), dtype=np.int64)
    spans = sp.Spans(path.task, nowhere, path.start, path.end)
    return Lane("path", "critical path", spans, spans.where(path.flies))


def _origin(link: Link) -> str:
    """Returns the node or link by which a message comes: `rail0`, `3:x+`."""
    return link.name.partition("->")[0]


def link_label(link: Link) -> str:
    """Returns a link's name as seen from its chip: `x+`, `egress`, `to gpu1#0`."""
    _, arrow, there = link.name.partition("->")
    return f"to {there}" if arrow else link.name.rpartition(":")[2]


def group_identical_chips(trace: Trace, topology: Topology) -> list[Ints]:
    """Groups chips that do the same ops at the same times on the same lanes, the group of the lowest chip first.

    Chips are compared by a 64-bit sum over their spans, so two chips that differ are told apart but for a chance of
    one in 10**19.
    """
    lane_of_link = 2 + _ports(topology)
    chip_of_link = np.array([link.src for link in topology.links], dtype=np.int64)
    compute, collectives, links = sp.compute_spans(trace), sp.collective_spans(trace), sp.link_spans(trace, topology)
    sums = np.zeros(len(topology.nodes), dtype=np.uint64)
    for spans, chip, lane in (
        (compute, compute.lane, np.zeros(len(compute), dtype=np.int64)),
        (collectives, collectives.lane, np.ones(len(collectives), dtype=np.int64)),
        (links, chip_of_link[links.lane], lane_of_link[links.lane]),
    ):
        program = trace.program
        columns = (lane, program.op[spans.task], program.layer[spans.task], spans.start, spans.end)
        np.add.at(sums, chip, _mixed(columns))
    _, first, group = np.unique(sums[: topology.chips], return_index=True, return_inverse=True)
    return [np.flatnonzero(group == k) for k in np.argsort(first)]


def choose_chips(groups: Sequence[Ints], first: Sequence[int]) -> list[tuple[int, Ints]]:
    """Returns (chip to draw, chips that do the same) per group: those of `first` in their order, then the others."""
    rest, chosen = list(groups), list[tuple[int, Ints]]()
    for chip in first:
        found = next((k for k, chips in enumerate(rest) if chip in chips), None)
        if found is not None:
            chosen.append((chip, rest.pop(found)))
    return chosen + [(int(chips[0]), chips) for chips in rest]


def describe_chip(
    topology: Topology, drawn: tuple[int, Ints], critical: int, roles: Mapping[int, str], chosen: Sequence[int] = ()
) -> list[str]:
    """Returns notes on a chip that is drawn: critical, its role, and the chosen chips that do the same.

    Args:
        drawn: the chip and those that do the same, as `choose_chips` returns them.
        critical: as the trace numbers chips.
        roles: by the chip's number in the whole machine.
        chosen: the same numbers.
    """
    chip, identical = drawn
    number = topology.chip_number(chip)
    notes = ["critical"] if critical in identical else []
    notes += [roles[number]] if number in roles else []
    others = [each for each in chosen if each != number and topology.representative_of(each) in identical]
    return notes + [f"like chip {each}: {roles[each]}" for each in others]


def find_tasks_on_path(trace: Trace, topology: Topology, path: Path, groups: Sequence[Ints]) -> npt.NDArray[np.bool_]:
    """Returns True for the tasks of the critical path and for the same tasks of identical chips, [tasks].

    Args:
        groups: chips that do the same, as `alike` finds them.
    """
    program = trace.program
    group = np.zeros(max(topology.chips, int(program.chip.max(initial=0)) + 1), dtype=np.int64)
    for k, chips in enumerate(groups):
        group[chips] = k
    link = program.resource - topology.chips
    known = (link >= 0) & (link < len(topology.links))  # beyond them stand copy engines
    port = np.where(known, np.append(_ports(topology), 0)[np.where(known, link, -1)], -1)
    columns = (program.kind, program.op, program.layer, trace.times["start"], port, group[program.chip])
    keys = _mixed([column.astype(np.int64) for column in columns])
    return np.isin(keys, keys[path.task])


def _ports(topology: Topology) -> Ints:
    """Returns the place of each link among the links of its sender, or, from a switch, among those to its receiver."""
    places, last = np.zeros(len(topology.links), dtype=np.int64), Counter[tuple[int, bool]]()
    for link in topology.links:
        port = (link.src, True) if link.src < topology.chips else (link.dst, False)
        places[link.index] = 2 * last[port] + port[1]
        last[port] += 1
    return places


def _mixed(columns: Sequence[npt.NDArray[np.integer]]) -> npt.NDArray[np.uint64]:
    """Returns a 64-bit hash per row (the finaliser of splitmix64, after each column)."""
    value = np.zeros(len(columns[0]), dtype=np.uint64)
    for column in columns:
        value = value + column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return value


class LayerTimes(Struct, frozen=True, eq=False):
    """Layers on a chip in order of time: once each, in a pipeline once for every batch."""

    edges: Ints
    """[layers + 1] begin of each layer (its first compute or collective) and end of the last, ps."""
    layer: Ints
    """[layers] number in the model."""
    batch: Ints
    """[layers] number of the batch on the chip."""

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def names(self) -> list[str]:
        """[layers] number of each in the model, `5`, or with that of its batch, `5 of batch 2`."""
        of_batch = [f" of batch {each}" for each in self.batch.tolist()] if self.batch.any() else [""] * len(self)
        return [f"{layer}{batch}" for layer, batch in zip(self.layer.tolist(), of_batch, strict=True)]


def layer_times(trace: Trace, chip: int) -> LayerTimes:
    """Returns the layers of a chip; none for a program or chip without layers."""
    program = trace.program
    chip_tasks = np.flatnonzero(program.chip == chip)
    # Batches follow each other through a stage, and before each stands the moment at which the stage takes it.
    batch = np.cumsum((program.kind[chip_tasks] == Kind.EVENT) & (program.layer[chip_tasks] < 0))
    has_work = np.isin(program.kind[chip_tasks], (Kind.COMPUTE, Kind.BEGIN)) & (program.layer[chip_tasks] >= 0)
    visits, visit = np.unique(np.stack([batch, program.layer[chip_tasks]])[:, has_work], axis=1, return_inverse=True)
    if not has_work.any():
        nothing = np.empty(0, dtype=np.int64)
        return LayerTimes(nothing, nothing, nothing)
    begins = np.full(visits.shape[1], np.iinfo(np.int64).max)
    np.minimum.at(begins, visit, trace.times["start"][chip_tasks[has_work]])
    last = (batch == visits[0, -1]) & (program.layer[chip_tasks] == visits[1, -1])
    edges = np.maximum.accumulate(np.append(begins, trace.times["end"][chip_tasks[last]].max()))
    return LayerTimes(edges, visits[1], np.unique(visits[0], return_inverse=True)[1])
