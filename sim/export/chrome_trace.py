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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
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
"""Written unless asked otherwise: so many chips, fewer where that many tasks (about 7 MB) would be passed, and of a
chip that has more by itself those in the beginning and at the end."""

_WRITTEN_AT_ONCE = 4096
"""Events whose text is put together at a time: that of all would take twice as long, most of it to get memory."""

BUSY = "busy with collectives"
"""Counter of the multiprocessors that collectives keep busy."""

_Lanes = dict[int, list[Lane]]
_Threads = dict[int, list[int]]
"""Per chip."""


def write(
    trace: Trace,
    topology: Topology,
    path: Path | str,
    chips: Sequence[int] | None = None,
    memory: Callable[[int], Series] | None = None,
    *,
    host_calls: bool = False,
) -> str:
    """Writes `trace` to `path`; the same trace gives the same bytes.

    Args:
        chips: those to write, whatever they do; default: the critical chip and the first few others, as far as
            MOST_TASKS go.
        memory: of a chip, over time, for a counter.
        host_calls: add what the hosts call and the steps of the profiler (`sim.export.host_calls`); times then begin
            with the first call.

    Returns:
        what was left out of the chips that are written, empty for nothing; the file says it too.
    """
    critical = critical_chip(trace, topology.chips)
    gap = None if chips is not None else _gap(trace, critical)
    chips = sorted(chips) if chips is not None else _default_chips(trace, topology, critical)
    lanes = build_lanes(trace, topology, chips)
    if gap:
        lanes = {chip: [gap.around(lane) for lane in chip_lanes] for chip, chip_lanes in lanes.items()}
    threads = {chip: _threads(chip_lanes) for chip, chip_lanes in lanes.items()}
    starts: list[Ints] = []
    lines: list[str] = []
    hosts = _hosts(trace, lanes, threads) if host_calls else {}
    us = _Microseconds(max((host.lead_ns for host in hosts.values()), default=0))
    for host in hosts.values():
        start, texts = _host_events(host, trace.program, us)
        starts.append(start)
        lines += texts
    for start, texts in _events(trace, topology, lanes, threads, hosts, us):
        starts.append(start)
        lines += texts
    if memory is not None:
        for chip in chips:
            start, texts = _counter("memory", "GiB", chip, *_memory(memory(chip), trace.makespan_ps), us)
            starts.append(start)
            lines += texts
    if gap:
        starts.append(nanoseconds(np.array([gap.start])))
        note = {"ph": "i", "s": "g", "name": gap.note, "pid": critical, "tid": 0, "ts": gap.start / 1e6}
        lines.append(json.dumps(note))
    order = np.argsort(np.concatenate(starts), kind="stable").tolist()
    named = [line for host in hosts.values() for line in host.metadata()]
    events = [*_metadata(topology, lanes, threads), *named, *map(lines.__getitem__, order)]
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
    events[0] = "{\n" + ",\n".join([*fields, '"traceEvents": [\n' + events[0]])
    events[-1] += "\n]\n}\n"
    with path.open("wb") as file:
        for i in range(0, len(events), _WRITTEN_AT_ONCE):
            file.write(((",\n" if i else "") + ",\n".join(events[i : i + _WRITTEN_AT_ONCE])).encode())
    return gap.note if gap else ""


def _hosts(trace: Trace, lanes: _Lanes, threads: _Threads) -> dict[int, HostCalls]:
    from sim.export.host_calls import HostCalls

    return {chip: HostCalls.build(trace, chip, lanes[chip], threads[chip]) for chip in lanes}


def _default_chips(trace: Trace, topology: Topology, critical: int) -> list[int]:
    """Returns the critical chip and the first others, up to CHIPS of them and MOST_TASKS tasks."""
    tasks = np.bincount(trace.program.chip, minlength=topology.chips)
    others = [chip for chip in range(min(CHIPS, topology.chips)) if chip != critical]
    chips = [critical, *others][:CHIPS]
    while len(chips) > 1 and tasks[chips].sum() > MOST_TASKS:
        chips.pop()
    return sorted(chips)


class _Gap(Struct, frozen=True):
    """A time of which nothing is written: what starts in it is left out."""

    start: int
    """ps."""
    end: int
    note: str

    def around(self, lane: Lane) -> Lane:
        """Returns the lane without the omitted time."""
        outside = (lane.spans.start < self.start) | (lane.spans.start >= self.end)
        return replace(lane, spans=lane.spans.where(outside))


def _gap(trace: Trace, chip: int) -> _Gap | None:
    """Selects the time that is left out; None if all of it fits. Layers shorter than a half stay complete."""
    starts = np.sort(trace.times["start"][trace.program.chip == chip])
    if len(starts) <= MOST_TASKS:
        return None
    start, end = int(starts[MOST_TASKS // 2]), int(starts[-MOST_TASKS // 2 - 1]) + 1
    edges = layer_times(trace, chip).edges[:-1]
    start = int(edges[edges <= start].max(initial=0)) or start
    end = int(edges[edges >= end][0]) if (edges >= end).any() else end
    kept = int(((starts < start) | (starts >= end)).sum())
    first, last, total = (format_seconds(ps / PS_PER_S) for ps in (start, trace.makespan_ps - end, trace.makespan_ps))
    note = f"the first {first} and the last {last} of {total}: {kept:,} of {len(starts):,} tasks of chip {chip}"
    return _Gap(start, end, note)


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


def _metadata(topology: Topology, lanes: _Lanes, threads: _Threads) -> Iterable[str]:
    """Returns names and order of processes and threads."""

    def named(what: str, chip: int, thread: int, args: dict[str, Any]) -> str:
        return json.dumps({"ph": "M", "name": what, "pid": chip, "tid": thread, "ts": 0.0, "args": args})

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
) -> Iterable[tuple[Ints, list[str]]]:
    """Yields (times in ns, texts) of the slices of every lane, then of the arrows."""
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


def _counter(
    name: str, unit: str, chip: int, time_ns: Ints, value: Floats, us: _Microseconds
) -> tuple[Ints, list[str]]:
    """Returns the events of a counter of a chip's process."""
    head, middle = f'{{"ph":"C","name":"{name}","pid":{chip},"ts":', f',"args":{{"{unit}":'
    values, which = np.unique(value, return_inverse=True)  # few, at many times
    rests = [f"{middle}{each:.6g}}}}}" for each in values.tolist()]
    return time_ns, [f"{head}{ts}{rests[i]}" for ts, i in zip(us.at(time_ns), which.tolist(), strict=True)]


def _memory(series: Series, end_ps: int) -> tuple[Ints, Floats]:
    """Returns (ns, GiB), with the last value repeated at the end of the trace."""
    time_s, used_bytes = series
    time_ns = nanoseconds(np.append(np.rint(time_s * PS_PER_S).astype(np.int64), end_ps))
    return time_ns, np.append(used_bytes, used_bytes[-1]) / 2**30


def _slices(
    trace: Trace, lane: Lane, row: tuple[int, int], ranks: Ranks, us: _Microseconds, correlation: Ints | None
) -> tuple[Ints, list[str]]:
    """Returns the spans of one lane.

    Args:
        row: chip and thread.
        correlation: [tasks] id of the launch of each task, 0 for none; None where no launches are written.
    """
    (chip, thread), program, task = row, trace.program, lane.spans.task
    moved = "copies" if lane.is_copied else lane.kind
    names = [_NAMES[moved](name) for name in program.op_names]
    category = {"link": "link", "copies": "gpu_memcpy"}.get(moved, "kernel")
    stream = "" if lane.kind == "link" else f'"device":{chip},"stream":{thread},'
    heads = [
        f'{{"ph":"X","cat":"{category}","name":{json.dumps(name)},"pid":{chip},"tid":{thread},"ts":' for name in names
    ]
    columns: dict[str, npt.NDArray[np.generic]] = {"layer": program.layer[task]}
    if lane.kind == "compute":
        columns |= {"bytes": program.bytes[task].round(), "flops": program.flops[task].round()}
    elif lane.kind == "collectives":
        columns |= {"instance": program.collective[task], "Bytes sent": _sent(trace, chip)[program.collective[task]]}
        into, out = ranks.elements(program, task)
        columns |= {"In msg nelems": into, "Out msg nelems": out, "Group size": ranks.size[program.op[task]]}
    else:
        columns |= {"bytes": program.bytes[task].round(), "to": program.peer[task]}
    if correlation is not None:
        columns |= {"correlation": correlation[task], "External id": correlation[task]}
    tail = f',"args":{{{stream}' + ",".join(f'"{name}":%d' for name in columns) + "%s}}"
    more = [""] * len(names)
    if lane.kind == "collectives":
        more = [ranks.text[op] for op in range(len(names))]
    columns["more"] = np.array(more, dtype=object)[program.op[task]]
    tails = map(tail.__mod__, zip(*(column.tolist() for column in columns.values()), strict=True))
    start, end = nanoseconds(lane.spans.start), nanoseconds(lane.spans.end)
    rows = zip(program.op[task].tolist(), us.at(start), us.of(end - start), tails, strict=True)
    return start, [f'{heads[op]}{ts},"dur":{duration}{rest}' for op, ts, duration, rest in rows]


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
    return moments, np.where(np.abs(rate) < 1.0, 0.0, rate)


def _sent(trace: Trace, chip: int) -> Ints:
    """Bytes that a chip puts on its links in each collective, by instance."""
    program = trace.program
    is_first_send = (
        (program.kind == Kind.SEND) & (program.chip == chip) & (program.collective >= 0) & (program.follows < 0)
    )
    instances = int(program.collective.max(initial=-1)) + 1
    return sums(program.collective[is_first_send], program.bytes[is_first_send], instances).round().astype(np.int64)


def _arrows(trace: Trace, flows: Flows, sender: tuple[int, int], us: _Microseconds) -> Iterable[tuple[Ints, list[str]]]:
    """Yields arrows from each send of a link's lane, of a chip and thread, to the receiver's collective."""
    sent_ns, arrived_ns = nanoseconds(trace.times["start"][flows.task]), arrival_ns(flows)
    chip, thread = sender
    begin = f'{{"ph":"s","cat":"send","name":"send","pid":{chip},"tid":{thread},"id":'
    sent = zip(flows.task.tolist(), us.at(sent_ns), strict=True)
    yield sent_ns, [f'{begin}{i},"ts":{ts}}}' for i, ts in sent]
    finish = '{"ph":"f","bp":"e","cat":"send","name":"send","pid":'
    columns = (flows.receiver.tolist(), flows.track.tolist(), flows.task.tolist(), us.at(arrived_ns))
    rows = zip(*columns, strict=True)
    yield arrived_ns, [f'{finish}{receiver},"tid":{track},"id":{i},"ts":{ts}}}' for receiver, track, i, ts in rows]


def _host_events(host: HostCalls, program: Program, us: _Microseconds) -> tuple[Ints, list[str]]:
    """Returns (times in ns, texts) of what a host calls."""
    events = [*host.events(program.op_names, program.op)]  # none of a chip that only receives
    start_ns = np.array([start for start, _, _ in events], dtype=np.int64)
    texts = []
    for (_, duration, event), ts in zip(events, us.at(start_ns), strict=True):
        times = f'"ts":{ts}' if duration is None else f'"ts":{ts},"dur":{us[duration]}'
        texts.append(f"{json.dumps(event, separators=(',', ':'))[:-1]},{times}}}")
    return start_ns, texts


class _Microseconds(dict[int, str]):
    """Nanoseconds -> microseconds with three decimals; chips that do alike share their times and lists of them."""

    def __init__(self, lead_ns: int) -> None:
        """`lead_ns` is what comes before the time 0 of the trace."""
        super().__init__()
        self._lead_ns = lead_ns
        self._lists: dict[bytes, list[str]] = {}

    def __missing__(self, ns: int) -> str:
        text = self[ns] = f"{ns // 1000}.{ns % 1000:03d}"
        return text

    def of(self, time_ns: Ints) -> list[str]:
        """Returns durations."""
        key = time_ns.tobytes()
        if key not in self._lists:
            self._lists[key] = list(map(self.__getitem__, time_ns.tolist()))
        return self._lists[key]

    def at(self, time_ns: Ints) -> list[str]:
        """Returns points in time of the trace."""
        return self.of(time_ns + self._lead_ns)
