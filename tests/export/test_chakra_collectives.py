"""Chakra traces of whole collectives: what protobuf reads in them, how large they are, and what their replay takes."""

import re
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from support import chakra_schema as et
from support.handmade import two_chips
from support.selection import release_if
from typer.testing import CliRunner

from sim.cli import build_app
from sim.engine import simulate
from sim.export import chakra, chakra_reader
from sim.export.chakra import Node, NodeType
from sim.export.chakra_collectives import CONTROL_BYTES, collective_nodes
from sim.export.chakra_replay import build_program, read_groups
from sim.export.chakra_replay import load as load_traces
from sim.program import Kind
from sim.results import folder as outputs
from sim.simulate.result import Run
from sim.simulate.run import run
from sim.specs import load
from sim.topology.graph import Topology

RUNS = {
    "palm540b_decode_ws2d": ["model.layers=2"],
    "pope_table2_high_throughput_prefill": ["model.layers=2"],  # weights are gathered in loops
    "llama3_70b_tp8_ladder": ["model.layers=4"],  # overlapped, with interference
    "llama31_405b_tp16_ladder": ["model.layers=4"],  # NVLS inside boxes, trees between them
    "llama3_70b_tp8_p2p_disabled_decode": ["model.layers=2"],  # the host launches every kernel
    "energonai_pipeline": [],
    "energonai_pipeline_queue": [],  # stages poll for room in queues
    "bloom_176b_sequential": [],
    "pmep_gpt3_host": [],  # copies from a memory pool
}


def export(name: str, settings: list[str], folder: Path) -> tuple[Run, Topology, list[list[Node]]]:
    """The run, its machine as its file has it, without the scenario's mesh, and the nodes that were written."""
    done = run(load.scenario(name, settings))
    outputs.export(done, folder, "chakra")
    _, topology = done.passes[0].whole()
    prefix = folder / "chakra" / done.scenario.name
    ranks = [chakra_reader.read(Path(f"{prefix}.{rank}.et")) for rank in range(topology.chips)]
    return done, replace(topology, mesh=()), ranks


@pytest.mark.parametrize("name", release_if(RUNS, "energonai_pipeline"))
def test_the_replay_takes_as_long_as_the_run(tmp_path: Path, name: str) -> None:
    """The algorithms of the machine are those of the run; loops and polling by stages may differ a little."""
    done, topology, ranks = export(name, RUNS[name], tmp_path)
    traced = build_program(ranks, topology)
    assert simulate(traced.program).makespan_ps == pytest.approx(done.passes[0].makespan_ps, rel=1e-3)
    assert traced.notes == ()


@pytest.mark.parametrize(
    "name",
    release_if(
        ["palm540b_decode_ws2d", "llama3_70b_tp8_ladder", "energonai_pipeline_queue"], "energonai_pipeline_queue"
    ),
)
def test_whole_microseconds_are_enough(tmp_path: Path, name: str) -> None:
    """Other tools read durations in whole microseconds: what rounding leaves is carried on, so that sums are right."""
    done, topology, ranks = export(name, RUNS[name], tmp_path)
    exact = ("busy_ps", "num_ops", "tensor_size")  # of nodes that take less than a microsecond, FLOPs would be counted
    plain = [
        [replace(node, attributes={k: v for k, v in node.attributes.items() if k not in exact}) for node in nodes]
        for nodes in ranks
    ]
    replayed = simulate(build_program(plain, topology).program)
    assert replayed.makespan_ps == pytest.approx(done.passes[0].makespan_ps, rel=0.01)


def test_a_whole_step_of_118_layers_is_below_30_megabytes(tmp_path: Path) -> None:
    """Every layer adds as many bytes, but for longer numbers of nodes."""

    def size(layers: int) -> int:
        folder = tmp_path / str(layers)
        export("palm540b_decode_ws2d", [f"model.layers={layers}"], folder)
        return sum(path.stat().st_size for path in folder.rglob("*.et"))

    two, four = size(2), size(4)
    assert two + (four - two) * 116 / 2 < 30e6


def test_protobuf_reads_type_size_and_group(tmp_path: Path) -> None:
    """Of a 4x4x4 torus, groups of four chips along an axis; an all-gather has the size that one rank puts in."""
    done, topology, _ = export("palm540b_decode_ws2d", RUNS["palm540b_decode_ws2d"], tmp_path)
    groups = read_groups(tmp_path / "chakra" / "comm_groups.json", topology.chips)
    program = done.passes[0].whole()[0].program
    begun = program.kind == Kind.BEGIN
    for rank in (0, 21, 63):
        version, nodes = et.read(tmp_path / "chakra" / f"palm540b_decode_ws2d.{rank}.et")
        assert version == chakra.VERSION
        collectives = [node for node in nodes if node.type == et.NODE_TYPES.index("COMM_COLL_NODE")]
        tasks = np.flatnonzero(begun & (program.chip == rank))
        assert len(collectives) == len(tasks)
        for node, task in zip(collectives, tasks, strict=True):
            attributes = {each.name: each for each in node.attr}
            op = program.op_names[program.op[task]]
            assert node.name == op
            kind = et.COLLECTIVE_TYPES[attributes["comm_type"].int64_val]
            assert kind.lower() == op.partition("(")[0]
            members = groups[attributes["pg_name"].string_val]
            assert rank in members
            axis = dict(program.axes)[op]
            assert len(members) == 4 ** len(axis)
            put_in = program.bytes[task] / (len(members) if kind == "ALL_GATHER" else 1)
            assert attributes["comm_size"].int64_val == round(put_in)
            assert attributes["is_cpu_op"].WhichOneof("value") == "bool_val"
            assert not attributes["is_cpu_op"].bool_val
    assert all(name.isdecimal() and int(name) > 0 for name in groups)


def test_all_ranks_need_no_group() -> None:
    trace, topology = two_chips(layers=1)
    made = collective_nodes(trace, topology)
    assert made.groups == {}
    assert not any("pg_name" in node.attributes for nodes in made.ranks for node in nodes)


def test_launches_and_events_are_the_host_s(tmp_path: Path) -> None:
    _, _, ranks = export("energonai_pipeline_queue", [], tmp_path)
    for node in (node for nodes in ranks for node in nodes):
        computes = node.type == NodeType.COMP and "num_ops" in node.attributes
        assert node.attributes["is_cpu_op"] == (node.type == NodeType.COMP and not computes)


def test_a_pass_that_waits_for_another_rank_gets_a_message(tmp_path: Path) -> None:
    """Stage 0 waits for room in the queue of stage 1: chips of the same rank tell it with a byte."""
    _, _, ranks = export("energonai_pipeline_queue", [], tmp_path)
    room = {node.id for node in ranks[0] if node.name == "room in the queue"}
    received = [node for node in ranks[0] if node.type == NodeType.COMM_RECV]
    told = [node for node in received if node.attributes["comm_size"] == CONTROL_BYTES]
    waits = {dep for node in ranks[0] if node.id in room for dep in node.deps}
    assert room
    assert sum(node.id in waits for node in told) == len(room)


def test_the_pieces_of_a_loop_are_two_nodes(tmp_path: Path) -> None:
    """Those that need no gathered shard before the last, and the piece of the last, which waits for the collective."""
    _, _, ranks = export("pope_table2_high_throughput_prefill", ["model.layers=1"], tmp_path)
    by_id = {node.id: node for node in ranks[0]}
    pieces = [node for node in ranks[0] if re.fullmatch(r"q_wi", node.name)]
    assert len(pieces) == 2
    first, last = pieces
    assert {by_id[dep].type for dep in last.deps} == {NodeType.COMP, NodeType.COMM_COLL}
    assert first.id in last.deps


@pytest.mark.slow
def test_messages_are_an_option(tmp_path: Path) -> None:
    done = run(load.scenario("palm540b_decode_ws2d", ["model.layers=1"]))
    trace, topology = done.passes[0].whole()
    (first, *_) = outputs.export(done, tmp_path, "chakra", messages=True)
    assert not any(node.type == NodeType.COMM_COLL for node in chakra_reader.read(first))
    again = load_traces(first.parent / first.name.removesuffix(".0.et"), topology)
    assert simulate(again.program).makespan_ps == trace.makespan_ps


def test_only_chakra_traces_have_messages(tmp_path: Path) -> None:
    shown = CliRunner().invoke(build_app(()), ["export", str(tmp_path), "kineto", "--messages"])
    assert str(shown.exception) == "--messages: requires the format chakra, got 'kineto'"
