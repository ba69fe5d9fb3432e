"""A trace as native Perfetto TrackEvents, whole nanoseconds, for ui.perfetto.dev and its trace processor.

One process per chip, one track per lane; slices carry layer, bytes and FLOPs; counters tell the rate of a chip's
outgoing links and the multiprocessors that collectives keep busy. Where both chips are written, a flow leads from each
send to its arrival, a mark inside the collective on the receiving chip. Field numbers are those of
protos/perfetto/trace in github.com/google/perfetto.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np

from sim.export.chrome_trace import BUSY, outgoing_rate
from sim.export.flows import arrival_ns, nanoseconds
from sim.export.kernels import kernel_name
from sim.export.wire import data, double, fixed64, integer
from sim.program import Floats, Ints
from sim.program.trace import Trace
from sim.report.flows import Flows, Receivers
from sim.report.lanes import Lane, build_lanes, multiprocessors_held
from sim.topology.graph import Topology

_PACKET, _TIMESTAMP, _SEQUENCE, _EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = 1, 8, 10, 11, 12, 13, 60
_FIRST_OF_SEQUENCE, _NEEDS_SEQUENCE = 1, 2
_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4
_FLOWS, _ENDING_FLOWS = 47, 48
_ANNOTATIONS = ("layer", "bytes", "flops", "to", "instance")


def write(trace: Trace, topology: Topology, path: Path | str, chips: Sequence[int]) -> None:
    """Writes some chips of `trace` to `path`; the same trace gives the same bytes."""
    names = [*trace.program.op_names, *(kernel_name(op) for op in trace.program.op_names), "arrival"]
    arrival = len(names)
    interned = b"".join(data(2, integer(1, 1 + i) + data(2, name)) for i, name in enumerate(names))
    interned += b"".join(data(3, integer(1, 1 + i) + data(2, name)) for i, name in enumerate(_ANNOTATIONS))
    packets = [_packet(0, data(_INTERNED, interned) + integer(_FLAGS, _FIRST_OF_SEQUENCE))]
    ids, lanes = count(1), build_lanes(trace, topology, chips)
    numbers = {chip: [next(ids) for _ in range(len(rows) + 2)] for chip, rows in lanes.items()}
    receivers = Receivers.build(
        trace, topology.chips, lanes, {chip: chip_lanes[2:] for chip, chip_lanes in numbers.items()}
    )
    for chip, rows in lanes.items():
        process, counter, *tracks = numbers[chip]
        packets.append(_track(process, f"chip {chip}", data(3, integer(1, chip + 1) + data(6, f"chip {chip}"))))
        for lane, track in zip(rows, tracks, strict=True):
            label = f"{lane.kind} {lane.label}" if lane.kind == "link" else lane.label
            packets.append(_track(track, label, _in(process)))
            flows = receivers.flows_of(trace, lane.spans) if lane.kind == "link" else None
            packets += _slices(trace, lane, track, set() if flows is None else set(flows.task.tolist()))
            packets += [] if flows is None else _arrivals(flows, arrival)
        time_ns, rate = outgoing_rate(rows, topology)
        packets += _counter(counter, process, ("outgoing links", "GB/s"), time_ns, rate / 1e9)
        if held := multiprocessors_held(trace, topology, chip):
            packets += _counter(next(ids), process, (BUSY, "multiprocessors"), nanoseconds(held.time_ps), held.count)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(packets))


def _counter(uuid: int, process: int, name: tuple[str, str], time_ns: Ints, value: Floats) -> Iterator[bytes]:
    """Yields the track of a counter, of a name and unit, and its values."""
    yield _track(uuid, ", ".join(name), _in(process) + data(8, data(6, name[1])))
    for time, each in zip(time_ns.tolist(), value.tolist(), strict=True):
        event = integer(9, _COUNTER) + integer(11, uuid) + double(44, each)
        yield _packet(time, data(_EVENT, event) + integer(_FLAGS, _NEEDS_SEQUENCE))


def _packet(time_ns: int, rest: bytes) -> bytes:
    return data(_PACKET, integer(_TIMESTAMP, time_ns) + integer(_SEQUENCE, 1) + rest)


def _track(uuid: int, name: str, rest: bytes) -> bytes:
    return _packet(0, data(_DESCRIPTOR, integer(1, uuid) + data(2, name) + rest))


def _in(parent: int) -> bytes:
    return integer(5, parent)


def _arrivals(flows: Flows, name: int) -> Iterator[bytes]:
    """Yields the mark at which the flow of each message ends."""
    for task, track, time in zip(flows.task.tolist(), flows.track.tolist(), arrival_ns(flows).tolist(), strict=True):
        event = integer(9, _INSTANT) + integer(11, track) + integer(10, name) + fixed64(_ENDING_FLOWS, task + 1)
        yield _packet(time, data(_EVENT, event) + integer(_FLAGS, _NEEDS_SEQUENCE))


def _slices(trace: Trace, lane: Lane, track: int, flowing: set[int]) -> Iterator[bytes]:
    """Yields begin and end of every span of a lane, in its order.

    Args:
        flowing: sends that begin a flow, whose id is the task + 1.
    """
    program, task = trace.program, lane.spans.task
    first = len(program.op_names) if lane.kind == "collectives" and not lane.is_copied else 0
    on_track = integer(11, track)
    starts, ends = ((time + 500) // 1000 for time in (lane.spans.start, lane.spans.end))
    columns: dict[str, np.ndarray] = {"layer": program.layer[task]}
    if lane.kind == "collectives":
        columns["instance"] = program.collective[task]
    else:
        columns["bytes"] = program.bytes[task].round().astype(np.int64)
    if lane.kind == "compute":
        columns["flops"] = program.flops[task].round().astype(np.int64)
    elif lane.kind == "link":
        columns["to"] = program.peer[task]
    keys = [integer(1, 1 + _ANNOTATIONS.index(name)) for name in columns]
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    needs = integer(_FLAGS, _NEEDS_SEQUENCE)
    columns_of_spans = (task.tolist(), program.op[task].tolist(), starts.tolist(), ends.tolist(), rows)
    for number, op, start, end, row in zip(*columns_of_spans, strict=True):
        notes = b"".join(data(4, key + integer(4, value)) for key, value in zip(keys, row, strict=True))
        flow = fixed64(_FLOWS, number + 1) if number in flowing else b""
        begin = integer(9, _BEGIN) + on_track + integer(10, 1 + first + op) + notes + flow
        yield _packet(start, data(_EVENT, begin) + needs)
        yield _packet(end, data(_EVENT, integer(9, _END) + on_track) + needs)
