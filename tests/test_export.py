"""Traces for other tools, read back by those tools or by an independent reading of their schemas."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import two_chips

from sim import load, outputs
from sim import topology as machines
from sim.engine import simulate
from sim.errors import InputError
from sim.export import chakra, perfetto
from sim.export.chakra import Node, NodeType
from sim.program import Kind
from sim.replay import load as load_traces
from sim.replay import program_of
from sim.run import run

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
    done = run(load.scenario("palm540b_decode_ws2d", ["engine.layers=1"]))
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


def decoded(path: Path) -> list[Any]:
    """Nodes of a Chakra trace by protobuf's own runtime, from a schema written down here from et_def.proto 0.0.4."""
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2", reason="needs protobuf")
    from google.protobuf import descriptor_pool, message_factory
    from google.protobuf.internal.decoder import _DecodeVarint32

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")
    messages = {
        "AttributeProto": [
            ("name", 1, field.TYPE_STRING), ("int32_val", 7, field.TYPE_INT32), ("int64_val", 9, field.TYPE_INT64),
            ("uint64_val", 13, field.TYPE_UINT64), ("bool_val", 27, field.TYPE_BOOL),
            ("string_val", 29, field.TYPE_STRING),
        ],
        "GlobalMetadata": [("version", 1, field.TYPE_STRING)],
        "Node": [
            ("id", 1, field.TYPE_UINT64), ("name", 2, field.TYPE_STRING), ("type", 3, field.TYPE_INT32),
            ("ctrl_deps", 4, field.TYPE_UINT64), ("data_deps", 5, field.TYPE_UINT64),
            ("duration_micros", 7, field.TYPE_UINT64), ("attr", 10, field.TYPE_MESSAGE),
        ],
    }  # fmt: skip
    for name, members in messages.items():
        message = file.message_type.add(name=name)
        for member, number, kind in members:
            repeated = member in ("ctrl_deps", "data_deps", "attr")
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            made = message.field.add(name=member, number=number, type=kind, label=label)
            if member == "attr":
                made.type_name = ".ChakraProtoMsg.AttributeProto"
            elif member.endswith("_val"):
                made.proto3_optional = True
                made.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{member}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kinds = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ChakraProtoMsg.{name}")) for name in messages
    }
    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        size, at = _DecodeVarint32(raw, at)
        found.append(kinds["Node" if found else "GlobalMetadata"].FromString(raw[at : at + size]))
        at += size
    assert found[0].version == chakra.VERSION
    return found[1:]


def test_a_chakra_trace_says_the_program_to_protobuf(tmp_path: Path):
    trace, topology = two_chips(layers=2)
    program = trace.program
    count, kinds = len(program), {}
    for rank, path in enumerate(chakra.write(program, topology.chips, tmp_path, "t")):
        for node in decoded(path):
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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("palm540b_decode_ws2d", ["engine.layers=1"]),
        ("llama3_70b_tp8_standard", ["engine.layers=2", "engine.fold=off"]),
        ("llama3_70b_tp8_p2p_disabled_decode", ["engine.layers=2"]),
        ("llama3_70b_tp8_ladder", ["engine.layers=2"]),  # with interference
        ("pmep_gpt3_host", ["engine.layers=4"]),  # with copy engines
    ],
)
def test_a_replayed_trace_takes_as_long_as_the_run(tmp_path: Path, name: str, settings: list[str]):
    done = run(load.scenario(name, settings))
    trace, topology = done.passes[0].whole()
    chakra.write(trace.program, topology.chips, tmp_path, "t")
    assert simulate(load_traces(tmp_path / "t", topology)).makespan_ps == trace.makespan_ps


def machine(name: str = "dgx_h100") -> Any:
    return machines.build(load.topology_spec(name, []))


def test_a_foreign_trace_of_computation_and_a_collective(tmp_path: Path):
    # 10 us of computation, then an all-reduce of 64 MiB, on every rank; the same as both one after the other.
    from sim.bench import time_s
    from sim.collectives import algorithm_of

    dgx = machine()
    size = 2.0**26
    nodes = [
        Node(1, "matmul", NodeType.COMP, (), 10),
        Node(2, "sum", NodeType.COMM_COLL, (1,), 0, {"comm_type": 0, "comm_size": int(size), "pg_name": "0"}),
    ]
    found = simulate(program_of([nodes] * dgx.chips, dgx)).makespan_ps
    alone = time_s(dgx, "all_reduce", ("g",), size, algorithm_of(dgx, "all_reduce", None, size))
    assert found == 10_000_000 + round(alone * 1e12)


def test_a_foreign_message_takes_its_route():
    # 450 GB/s a port: size / rate, then the latency; and what waits for it comes after.
    dgx = machine()
    ends = {"comm_src": 0, "comm_dst": 1, "comm_tag": 7, "comm_size": 10**6}
    ranks = [[] for _ in range(dgx.chips)]
    ranks[0] = [Node(1, "give", NodeType.COMM_SEND, (), 0, ends)]
    ranks[1] = [Node(1, "take", NodeType.COMM_RECV, (), 0, ends), Node(2, "use", NodeType.COMP, (1,), 3)]
    egress = dgx.links[0]
    assert simulate(program_of(ranks, dgx)).makespan_ps == egress.busy_ps(10**6) + egress.latency_ps + 3_000_000


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([Node(1, "take", NodeType.COMM_RECV, ())], "no rank sends what this node receives"),
        ([Node(1, "a", NodeType.COMP, (2,))], "waits for a node that is not there"),
        ([Node(1, "a", NodeType.COMP, (2,)), Node(2, "b", NodeType.COMP, (1,))], "in a circle"),
        ([Node(1, "a", NodeType.COMP, (1,))], "in a circle"),
        ([Node(1, "a", NodeType.COMM_COLL, (), 0, {"comm_type": 0})], "a node on each|one node on each"),
        ([Node(1, "a", NodeType.COMM_SEND, (), 0, {"comm_dst": 99})], "chips 0 to 7"),
    ],
)
def test_traces_that_do_not_fit_are_refused(nodes: list[Node], message: str):
    dgx = machine()
    with pytest.raises(InputError, match=message):
        program_of([nodes, *([] for _ in range(dgx.chips - 1))], dgx)


def test_ranks_that_disagree_about_a_collective_are_refused():
    dgx = machine()
    ranks = [[Node(1, "sum", NodeType.COMM_COLL, (), 0, {"comm_type": 0, "comm_size": 2**20})] for _ in range(8)]
    ranks[5] = [Node(1, "sum", NodeType.COMM_COLL, (), 0, {"comm_type": 0, "comm_size": 2**21})]
    with pytest.raises(InputError, match=r"rank 5, node 1 .* same comm_size, 1048576 on rank 0, got 2097152"):
        program_of(ranks, dgx)


def test_what_is_no_chakra_trace_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"t\.0\.et: no such file; name traces .* by their PREFIX"):
        chakra.read(tmp_path / "t.0.et")
    (tmp_path / "t.0.et").write_bytes(b"\xff" * 30)
    with pytest.raises(InputError, match="is no Chakra trace"):
        chakra.read(tmp_path / "t.0.et")
