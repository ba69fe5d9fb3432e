"""A trace as Chrome trace JSON, written as PyTorch's profiler (Kineto) does, for ui.perfetto.dev and
HolisticTraceAnalysis.

Chips are processes. A chip's compute is a stream, its collectives are further streams (one per collective in progress
at once, since slices of one lane must not overlap) under names that tools take for communication kernels, and its links
are lanes without a stream number, so that tools which count kernels leave them out. An arrow leads from each send to
the collective on the receiving chip, when both chips are written.

HolisticTraceAnalysis reads one rank per file: write a single chip for it, and set HTA_DISABLE_NS_ROUNDING=1 to keep it
from rounding to whole microseconds. Times are in microseconds with whole nanoseconds, rounded as points in time, so
that slices that touch still touch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.export.flows import arrival_ns, nanoseconds
from sim.export.kernels import Ranks, kernel_name
from sim.program import Floats, Ints, Kind, Program
from sim.program.trace import Trace
from sim.report.flows import Flows, Receivers
from sim.report.lanes import Lane, build_lanes, layer_times, multiprocessors_held
from sim.report.metrics import critical_chip
from sim.report.spans import sums
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_positions
from sim.units import PS_PER_S, format_seconds

if TYPE_CHECKING:
    from sim.export.host_calls import HostCalls
    from sim.report.pool import Series

COMPUTE_STREAM, COPY_STREAM, FIRST_COLLECTIVE_STREAM, FIRST_LINK_LANE = 7, 8, 20, 100
"""Thread numbers in a chip's process."""

_NAMES: dict[str, Callable[[str], str]] = {
    "compute": str,
    "collectives": kernel_name,
    "copies": "Memcpy {}".format,
    "link": str,
}
"""Name of an op on each kind of lane, as HolisticTraceAnalysis tells kernels, communication and copies."""

CHIPS, MOST_TASKS = 4, 30_000
"""Written of a run unless asked otherwise: so many chips, and tasks (about 7 MB)."""

_WRITTEN_AT_ONCE = 4096
"""Events whose text is put together at a time, to need no memory for that of all."""

BUSY = "busy with collectives"
"""Counter of the multiprocessors that collectives keep busy."""

_Lanes = dict[int, list[Lane]]
_Threads = dict[int, list[int]]
"""Per chip."""


class _Slice(Struct, frozen=True, gc=False, tag_field="ph", tag="X"):
    cat: str
    name: str
    pid: int
    tid: int
    ts: float
    dur: float
    args: Any


class _Counted(Struct, frozen=True, gc=False, tag_field="ph", tag="C"):
    name: str
    pid: int
    ts: float
    args: dict[str, float]


class _ArrowBegin(Struct, frozen=True, gc=False, tag_field="ph", tag="s"):
    pid: int
    tid: int
    id: int
    ts: float
    cat: str = "send"
    name: str = "send"


class _ArrowEnd(_ArrowBegin, frozen=True, gc=False, tag="f"):
    bp: str = "e"


_Event = _Slice | _Counted | _ArrowBegin | dict[str, Any]
_Timed = tuple[Ints, Iterable[_Event]]
"""Times in ns, and the event at each."""


@cache
def _args(names: tuple[str, ...]) -> Callable[..., Struct]:
    """Returns the type of a slice's arguments, written with spaces for the underscores of `names`."""
    return msgspec.defstruct("Args", names, gc=False, rename=lambda name: name.replace("_", " "))


def write(
    trace: Trace,
    topology: Topology,
    path: Path | str,
    chips: Sequence[int],
    memory: Callable[[int], Series] | None = None,
    *,
    most_tasks: int | None = None,
    host_calls: bool = False,
) -> str:
    """Writes `trace` to `path`; the same trace gives the same bytes.

    Args:
        chips: those to write.
        most_tasks: the last of `chips` are left out where all have more tasks, and of the first, if it has more by
            itself, the time between the beginning and the end.
        memory: of a chip, over time, for a counter.
        host_calls: add what the hosts call and the steps of the profiler (`sim.export.host_calls`); times then begin
            with the first call.

    Returns:
        what was left out of the chips that are written, empty for nothing; the file says it too.
    """
    critical, gap = critical_chip(trace, topology.chips), None
    if most_tasks is not None:
        gap = _gap(trace, chips[0], most_tasks)
        tasks = np.cumsum(np.bincount(trace.program.chip, minlength=topology.chips)[list(chips)])
        chips = chips[: max(1, int((tasks <= most_tasks).sum()))]
    chips = sorted(chips)
    lanes = build_lanes(trace, topology, chips)
    if gap:
        lanes = {chip: [gap.around(lane) for lane in chip_lanes] for chip, chip_lanes in lanes.items()}
    threads = {chip: _threads(chip_lanes) for chip, chip_lanes in lanes.items()}
    hosts = _hosts(trace, lanes, threads) if host_calls else {}
    us = _Microseconds(max((host.lead_ns for host in hosts.values()), default=0))
    timed = [_host_events(host, trace.program, us) for host in hosts.values()]
    timed += _events(trace, topology, lanes, threads, hosts, us)
    if memory is not None:
        timed += [_counter("memory", "GiB", chip, *_memory(memory(chip), trace.makespan_ps), us) for chip in chips]
    if gap:
        note = {"ph": "i", "s": "g", "name": gap.note, "pid": gap.chip, "tid": 0, "ts": gap.start / 1e6}
        timed.append((nanoseconds(np.array([gap.start])), [note]))
    unordered = [event for _, each in timed for event in each]
    order = np.argsort(np.concatenate([times for times, _ in timed]), kind="stable").tolist()
    named = [event for host in hosts.values() for event in host.metadata()]
    events = [*_metadata(topology, lanes, threads), *named, *map(unordered.__getitem__, order)]
    header = {
        "schemaVersion": 1,
        "deviceProperties": [_device(topology, chip) for chip in chips],
        "distributedInfo": {
            "backend": "nccl",
            "rank": critical if critical in chips else chips[0],
            "world_size": topology.chips,
        },
        "displayTimeUnit": "ns",
    } | ({"otherData": {"note": gap.note}} if gap else {})
    fields = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encode_lines = msgspec.json.Encoder().encode_lines
    with path.open("wb") as file:
        file.write(("{\n" + ",\n".join([*fields, '"traceEvents": ['])).encode())
        for i in range(0, len(events), _WRITTEN_AT_ONCE):
            lines = encode_lines(events[i : i + _WRITTEN_AT_ONCE]).removesuffix(b"\n")
            file.write((b",\n" if i else b"\n") + lines.replace(b"\n", b",\n"))
        file.write(b"\n]\n}\n")
    return gap.note if gap else ""


def _hosts(trace: Trace, lanes: _Lanes, threads: _Threads) -> dict[int, HostCalls]:
    from sim.export.host_calls import HostCalls

    return {chip: HostCalls.build(trace, chip, lanes[chip], threads[chip]) for chip in lanes}


class _Gap(Struct, frozen=True):
    """A time of a chip of which nothing is written: what starts in it is left out."""

    chip: int
    start: int
    """ps."""
    end: int
    note: str

    def around(self, lane: Lane) -> Lane:
        """Returns the lane without the omitted time."""
        outside = (lane.spans.start < self.start) | (lane.spans.start >= self.end)
        return replace(lane, spans=lane.spans.where(outside))


def _gap(trace: Trace, chip: int, most_tasks: int) -> _Gap | None:
    """Selects the time that is left out; None if all of it fits. Layers shorter than a half stay complete."""
    starts = np.sort(trace.times["start"][trace.program.chip == chip])
    if len(starts) <= most_tasks:
        return None
    start, end = int(starts[most_tasks // 2]), int(starts[-most_tasks // 2 - 1]) + 1
    edges = layer_times(trace, chip).edges[:-1]
    start = int(edges[edges <= start].max(initial=0)) or start
    end = int(edges[edges >= end][0]) if (edges >= end).any() else end
    kept = int(((starts < start) | (starts >= end)).sum())
    first, last, total = (format_seconds(ps / PS_PER_S) for ps in (start, trace.makespan_ps - end, trace.makespan_ps))
    note = f"the first {first} and the last {last} of {total}: {kept:,} of {len(starts):,} tasks of chip {chip}"
    return _Gap(chip, start, end, note)


def _threads(lanes: Sequence[Lane]) -> list[int]:
    """Returns the thread number of each lane of a chip."""
    free = {
        "compute": COMPUTE_STREAM,
        "collectives": FIRST_COLLECTIVE_STREAM,
        "copies": COPY_STREAM,
        "link": FIRST_LINK_LANE,
    }
    numbers = []
    for lane in lanes:
        numbers.append(free[lane.kind])
        free[lane.kind] += 1
    return numbers


def _metadata(topology: Topology, lanes: _Lanes, threads: _Threads) -> Iterable[_Event]:
    """Returns names and order of processes and threads."""

    def named(what: str, chip: int, thread: int, args: dict[str, Any]) -> _Event:
        return {"ph": "M", "name": what, "pid": chip, "tid": thread, "ts": 0.0, "args": args}

    positions = mesh_positions(topology.unfold(), [axis.name for axis in topology.mesh]).tolist()
    for chip, chip_lanes in lanes.items():
        position = ",".join(map(str, positions[chip]))
        yield named("process_name", chip, 0, {"name": f"chip {chip} ({position})"})
        yield named("process_sort_index", chip, 0, {"sort_index": chip})
        for lane, thread in zip(chip_lanes, threads[chip], strict=True):
            label = {
                "compute": "stream 7: compute",
                "collectives": f"stream {thread}: {lane.label}",
                "copies": f"stream {thread}: copies",
            }.get(lane.kind)
            yield named("thread_name", chip, thread, {"name": label or f"link {lane.label}"})
            yield named("thread_sort_index", chip, thread, {"sort_index": thread})


def _device(topology: Topology, chip: int) -> dict[str, Any]:
    return {"id": chip, "name": topology.chip.name, "totalGlobalMem": round(topology.chip.hbm_capacity)}


def _events(
    trace: Trace,
    topology: Topology,
    lanes: _Lanes,
    threads: _Threads,
    hosts: Mapping[int, HostCalls],
    us: _Microseconds,
) -> Iterable[_Timed]:
    """Yields the slices of every lane, then the arrows."""
    for chip, chip_lanes in lanes.items():
        ranks = Ranks.of(trace.program, topology, chip)
        correlation = hosts[chip].correlations(len(trace.program)) if chip in hosts else None
        for lane, thread in zip(chip_lanes, threads[chip], strict=True):
            yield _slices(trace, lane, (chip, thread), ranks, us, None if lane.kind == "link" else correlation)
        time, rate = outgoing_rate(chip_lanes, topology)
        yield _counter("outgoing links", "GB/s", chip, time, rate / 1e9, us)
        if held := multiprocessors_held(trace, topology, chip):
            yield _counter(BUSY, "multiprocessors", chip, nanoseconds(held.time_ps), held.count, us)
    receivers = Receivers.build(trace, topology.chips, lanes, threads)
    for chip, chip_lanes in lanes.items():
        for lane, thread in zip(chip_lanes, threads[chip], strict=True):
            if lane.kind == "link":
                yield from _arrows(trace, receivers.flows_of(trace, lane.spans), (chip, thread), us)


def _counter(name: str, unit: str, chip: int, time_ns: Ints, value: Floats, us: _Microseconds) -> _Timed:
    """Returns the events of a counter of a chip's process, its values to six digits."""
    values, which = np.unique(value, return_inverse=True)  # few, at many times
    shown = [{unit: float(f"{each:.6g}")} for each in values.tolist()]
    return time_ns, map(_Counted, repeat(name), repeat(chip), us.at(time_ns), map(shown.__getitem__, which.tolist()))


def _memory(series: Series, end_ps: int) -> tuple[Ints, Floats]:
    """Returns (ns, GiB), with the last value repeated at the end of the trace."""
    time_s, used_bytes = series
    time_ns = nanoseconds(np.append(np.rint(time_s * PS_PER_S).astype(np.int64), end_ps))
    return time_ns, np.append(used_bytes, used_bytes[-1]) / 2**30


def _slices(
    trace: Trace, lane: Lane, row: tuple[int, int], ranks: Ranks, us: _Microseconds, correlation: Ints | None
) -> _Timed:
    """Returns the spans of one lane.

    Args:
        row: chip and thread.
        correlation: [tasks] id of the launch of each task, 0 for none; None where no launches are written.
    """
    (chip, thread), program, task = row, trace.program, lane.spans.task
    moved, op = "copies" if lane.is_copied else lane.kind, program.op[task]
    category = {"link": "link", "copies": "gpu_memcpy"}.get(moved, "kernel")
    columns: dict[str, Iterable[Any]] = (
        {} if lane.kind == "link" else {"device": repeat(chip), "stream": repeat(thread)}
    )
    columns["layer"] = program.layer[task].tolist()
    if lane.kind == "collectives":
        instance, (into, out) = program.collective[task], ranks.elements(program, task)
        columns |= {"instance": instance.tolist(), "Bytes_sent": _sent(trace, chip)[instance].tolist()}
        columns |= {"In_msg_nelems": into.tolist(), "Out_msg_nelems": out.tolist()}
        columns |= ranks.columns(op)
    else:
        columns["bytes"] = _whole(program.bytes[task])
        columns |= (
            {"flops": _whole(program.flops[task])} if lane.kind == "compute" else {"to": program.peer[task].tolist()}
        )
    if correlation is not None:
        columns["correlation"] = columns["External_id"] = correlation[task].tolist()
    args = map(_args(tuple(columns)), *columns.values())
    names = [_NAMES[moved](name) for name in program.op_names]
    start, end = nanoseconds(lane.spans.start), nanoseconds(lane.spans.end)
    place = (repeat(category), map(names.__getitem__, op.tolist()), repeat(chip), repeat(thread))
    return start, map(_Slice, *place, us.at(start), us.of(end - start), args)


def _whole(values: Floats) -> list[int]:
    numbers: list[int] = values.round().astype(np.int64).tolist()
    return numbers


def outgoing_rate(lanes: Sequence[Lane], topology: Topology) -> tuple[Ints, Floats]:
    """Returns the times (ns) at which the rate of a chip's sends changes, and the rate from then on (bytes/s)."""
    links = [lane for lane in lanes if lane.kind == "link"]
    times = [nanoseconds(time) for lane in links for time in (lane.spans.start, lane.spans.end)]
    steps = [
        np.full(len(lane.spans), sign * topology.links[lane.link].bandwidth) for lane in links for sign in (1.0, -1.0)
    ]
    if not times:
        return np.empty(0, dtype=np.int64), np.empty(0)
    moments, at = np.unique(np.concatenate(times), return_inverse=True)
    rate: Floats = np.cumsum(np.bincount(at, weights=np.concatenate(steps), minlength=len(moments)))
    rate = np.where(np.abs(rate) < 1.0, 0.0, rate)
    changes = np.abs(np.diff(rate, prepend=-1.0)) >= 1.0
    return moments[changes], rate[changes]


def _sent(trace: Trace, chip: int) -> Ints:
    """Bytes that a chip puts on its links in each collective, by instance."""
    program = trace.program
    is_first_send = (
        (program.kind == Kind.SEND) & (program.chip == chip) & (program.collective >= 0) & (program.follows < 0)
    )
    instances = int(program.collective.max(initial=-1)) + 1
    return sums(program.collective[is_first_send], program.bytes[is_first_send], instances).round().astype(np.int64)


def _arrows(trace: Trace, flows: Flows, sender: tuple[int, int], us: _Microseconds) -> Iterable[_Timed]:
    """Yields arrows from each send of a link's lane, of a chip and thread, to the receiver's collective."""
    sent_ns, arrived_ns = nanoseconds(trace.times["start"][flows.task]), arrival_ns(flows)
    (chip, thread), number = sender, flows.task.tolist()
    yield sent_ns, map(_ArrowBegin, repeat(chip), repeat(thread), number, us.at(sent_ns))
    yield arrived_ns, map(_ArrowEnd, flows.receiver.tolist(), flows.track.tolist(), number, us.at(arrived_ns))


def _host_events(host: HostCalls, program: Program, us: _Microseconds) -> _Timed:
    """Returns what a host calls."""
    events = [*host.events(program.op_names, program.op)]  # none of a chip that only receives
    start_ns = np.array([start for start, _, _ in events], dtype=np.int64)
    timed = []
    for (_, duration, event), ts in zip(events, us.at(start_ns), strict=True):
        timed.append(event | {"ts": ts} | ({} if duration is None else {"dur": duration / 1e3}))
    return start_ns, timed


class _Microseconds(Struct, frozen=True):
    """Nanoseconds -> microseconds with three decimals."""

    lead_ns: int
    """Time before the time 0 of the trace."""

    def of(self, time_ns: Ints) -> list[float]:
        """Returns durations."""
        microseconds: list[float] = (time_ns / 1e3).tolist()
        return microseconds

    def at(self, time_ns: Ints) -> list[float]:
        """Returns points in time of the trace."""
        return self.of(time_ns + self.lead_ns)
