"""Traces for other tools, read back by those tools or by an independent reading of their schemas."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.handmade import two_chips

from sim.export import chakra, perfetto
from sim.export.chakra import NodeType
from sim.export.chakra_messages import message_nodes
from sim.program import Kind
from sim.results import folder as outputs
from sim.simulate.run import run
from sim.specs import load

CASES = {
    "palm540b_decode_ws2d": ["engine.layers=2"],
    "llama3_70b_tp8_ladder": ["engine.layers=3"],
    "llama3_70b_tp8_p2p_disabled_decode": ["engine.layers=2"],
}


@pytest.mark.parametrize("name", CASES)
def test_holistic_trace_analysis_finds_the_report_s_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    done = run(load.scenario(name, CASES[name]))
    chip = done.report.critical_chip
    (path,) = outputs.export(done, tmp_path, "kineto", [chip])
    simulated = done.report.simulated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies deprecate each other
        hta = pytest.importorskip("hta.trace_analysis", reason="needs HolisticTraceAnalysis")
        analysis = hta.TraceAnalysis(trace_files={chip: str(path)})
        overlap = analysis.get_comm_comp_overlap(visualize=False)["comp_comm_overlap_pctg"][0]
        breakdown = analysis.get_temporal_breakdown(visualize=False).iloc[0]
    # It prints percentages with two decimals, so one of 30 is known to 0.02 %.
    assert overlap == pytest.approx(
        100 * simulated.overlapped_communication_s / simulated.communication_s, rel=1e-3, abs=0.005
    )
    expected = {
        "compute_time(us)": simulated.compute_s,
        "non_compute_time(us)": simulated.exposed_communication_s,
        "idle_time(us)": sum(done.report.waits_s.values()) + simulated.idle_s,  # it knows no waits
    }
    for column, time_s in expected.items():
        assert breakdown[column] == pytest.approx(time_s * 1e6, rel=1e-3, abs=simulated.step_s * 1e6 * 1e-5)


def test_kineto_names_the_collective_its_group_and_its_size(tmp_path: Path):
    done = run(load.scenario("palm540b_decode_ws2d", ["engine.layers=1", "stack.collective_axes=at_once"]))
    (path,) = outputs.export(done, tmp_path, "kineto", [5])
    events = json.loads(path.read_text())["traceEvents"]
    gather = next(event for event in events if event["name"] == "ncclDevKernel_AllGather yz residual")
    # Chip 5 = (0, 1, 1) of 4x4x4: chips 0 .. 15 have its x.
    assert gather["args"]["Collective name"] == "_allgather_base"
    assert gather["args"]["Group size"] == 16
    assert json.loads(gather["args"]["Process Group Ranks"]) == list(range(16))
    sent = {event["args"]["Bytes sent"] for event in events if event["name"] == gather["name"]}
    assert min(sent) > 0
    rates = [event["args"]["GB/s"] for event in events if event["ph"] == "C" and event["name"] == "outgoing links"]
    assert max(rates) == pytest.approx(6 * done.passes[0].topology.links[0].bandwidth / 1e9, rel=1e-5)
    assert rates[-1] == 0


def test_perfetto_reads_every_slice_with_nanoseconds(tmp_path: Path):
    schema = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="needs perfetto")
    trace, topology = two_chips(layers=2)
    perfetto.write(trace, topology, tmp_path / "t", range(2))
    read = schema.Trace()
    read.ParseFromString((tmp_path / "t").read_bytes())
    names: dict[int, str] = {}
    tracks: dict[int, str] = {}
    slices: dict[str, list[tuple[str, int, int]]] = {}
    opened: dict[int, tuple[str, int]] = {}
    for packet in read.packet:
        names |= {each.iid: each.name for each in packet.interned_data.event_names}
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor.name
        elif packet.HasField("track_event"):
            event = packet.track_event
            if event.type == event.TYPE_SLICE_BEGIN:
                opened[event.track_uuid] = names[event.name_iid], packet.timestamp
            elif event.type == event.TYPE_SLICE_END:
                name, start = opened.pop(event.track_uuid)
                slices.setdefault(tracks[event.track_uuid], []).append((name, start, packet.timestamp))
    assert opened == {}
    compute = np.flatnonzero(trace.program.kind == Kind.COMPUTE)
    expected = sorted(
        (
            trace.program.op_names[trace.program.op[task]],
            *(int(trace.times[name][task]) // 1000 for name in ("start", "free")),
        )
        for task in compute
    )
    assert sorted(slices["compute"]) == expected
    assert len(slices["link x+"]) == 2 * 2 * 3
    assert {name for name, _, _ in slices["collectives"]} == {
        "ncclDevKernel_AllGather x residual",
        "ncclDevKernel_ReduceScatter x q_wi",
        "ncclDevKernel_AllReduce x out",
    }


def test_perfetto_s_flows_lead_from_sends_to_arrivals_in_the_collective(tmp_path: Path):
    """A mark lies inside the slice of the same instance on the receiving chip, when the message has arrived."""
    schema = pytest.importorskip("perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="needs perfetto")
    trace, topology = two_chips(layers=2)
    perfetto.write(trace, topology, tmp_path / "t", range(2))
    read = schema.Trace()
    read.ParseFromString((tmp_path / "t").read_bytes())
    begun: dict[int, int] = {}
    arrived: dict[int, tuple[int, int]] = {}
    slices: dict[int, list[list[int]]] = {}
    for packet in read.packet:
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        if event.type == event.TYPE_SLICE_BEGIN:
            slices.setdefault(event.track_uuid, []).append([packet.timestamp])
            begun |= dict.fromkeys(event.flow_ids, packet.timestamp)
        elif event.type == event.TYPE_SLICE_END:
            slices[event.track_uuid][-1].append(packet.timestamp)
        elif event.type == event.TYPE_INSTANT:
            arrived |= dict.fromkeys(event.terminating_flow_ids, (packet.timestamp, event.track_uuid))
    sends = np.flatnonzero(trace.program.kind == Kind.SEND)
    assert set(begun) == set(arrived) == {task + 1 for task in sends.tolist()}
    for task in sends.tolist():
        time, track = arrived[task + 1]
        assert begun[task + 1] == trace.times["start"][task] // 1000
        assert time == trace.times["end"][task] // 1000 - 1
        assert any(start <= time < end for start, end in slices[track])


def test_a_chakra_trace_says_the_program_to_protobuf(tmp_path: Path):
    chakra_schema = pytest.importorskip("support.chakra_schema")
    trace, topology = two_chips(layers=2)
    program = trace.program
    count, kinds = len(program), {}
    for rank, path in enumerate(chakra.write(message_nodes(program, topology.chips), tmp_path, "t")):
        version, nodes = chakra_schema.read(path)
        assert version == chakra.VERSION
        for node in nodes:
            task = node.id % count
            attributes = {each.name: each for each in node.attr}
            kinds[node.type] = kinds.get(node.type, 0) + 1
            assert node.name == program.op_names[program.op[task]]
            if node.type == NodeType.COMM_RECV:
                assert program.peer[task] == rank
                assert attributes["comm_tag"].int32_val == task
                continue
            assert program.chip[task] == rank
            whole = int(program.busy_ps[task] + program.flight_ps[task])
            assert node.duration_micros * 1_000_000 == whole  # all are whole microseconds here
            deps = {dep % count for dep in node.data_deps}
            assert deps == set(program.dependencies(task).tolist())
            # What comes from the other rank is waited for at the node that receives it.
            assert {dep % count for dep in node.data_deps if dep >= count} == {
                dep for dep in deps if program.chip[dep] != rank
            }
            if node.type == NodeType.COMM_SEND:
                assert attributes["comm_size"].int64_val == program.bytes[task]
                assert (attributes["comm_src"].int32_val, attributes["comm_dst"].int32_val) == (rank, 1 - rank)
            else:
                assert attributes["num_ops"].int64_val == program.flops[task]
                assert attributes["tensor_size"].uint64_val == program.bytes[task]
    sends = int((program.kind == Kind.SEND).sum())
    assert kinds == {NodeType.COMP: count - sends, NodeType.COMM_SEND: sends, NodeType.COMM_RECV: sends}
