"""Chakra traces of others: read with the schema's types and defaults, matched and simulated; or a line that says why.

All traces are written by protobuf's runtime from the public schema (`chakra_schema`), but for those of a round trip.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from support import chakra_schema as et
from support.machines import graph
from support.shipped_machines import one_of_each_wiring, wired_differently
from typer.testing import CliRunner

from sim import topology as machines
from sim.cli import build_app
from sim.cli.errors import errors_in
from sim.collectives import algorithm_names, algorithm_of, schedule
from sim.collectives.chunk_replay import replay
from sim.collectives.emit import CollectiveCall, emit
from sim.engine import simulate
from sim.errors import InputError
from sim.export import chakra, chakra_reader
from sim.export.chakra import NodeType
from sim.export.chakra_messages import message_nodes
from sim.export.chakra_replay import TracedProgram, read_groups, simulate_traces
from sim.export.chakra_replay import load as load_traces
from sim.program import ProgramBuilder
from sim.results import folder as outputs
from sim.simulate.run import run
from sim.specs import load
from sim.studies.bench.collective import CollectiveSpec, simulate_time_s
from sim.topology.graph import Topology
from sim.topology.group import group_of

US = 1_000_000
"""Picoseconds."""


def machine(name: str = "dgx_h100", *settings: str) -> Topology:
    return machines.build(*load.machine(name, list(settings)))


FOUR = ("dgx_h100", "chips=4")


def traced(folder: Path, ranks: Sequence[Sequence[Any]], topology: Topology, **more: Any) -> TracedProgram:
    return load_traces(et.write(folder / "t", ranks), topology, **more)


def length_ps(folder: Path, ranks: Sequence[Sequence[Any]], topology: Topology, **more: Any) -> int:
    return simulate(traced(folder, ranks, topology, **more).program).makespan_ps


def alone_ps(topology: Topology, kind: str, size: float) -> int:
    """Time of one collective of all chips of a machine."""
    axes = tuple(axis.name for axis in topology.axes if axis.size > 1)
    return round(
        simulate_time_s(topology, CollectiveSpec(kind, axes, size, algorithm_of(topology, kind, None, size))) * 1e12
    )


# --- attributes ------------------------------------------------------------------------------------------------------


FLOATS = st.floats(allow_nan=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "double": FLOATS,
    "float": st.floats(allow_nan=False, width=32),
    "bool": st.booleans(),
    "string": st.text(),
    "bytes": st.binary(),
    **{name: st.integers(-(2**31), 2**31 - 1) for name in ("int32", "sint32", "sfixed32")},
    **{name: st.integers(-(2**63), 2**63 - 1) for name in ("int64", "sint64", "sfixed64")},
    **{name: st.integers(0, 2**32 - 1) for name in ("uint32", "fixed32")},
    **{name: st.integers(0, 2**64 - 1) for name in ("uint64", "fixed64")},
}
ANY_ATTRIBUTE = st.sampled_from(sorted(et.SCALARS)).flatmap(
    lambda kind: st.one_of(
        st.tuples(st.just(kind), VALUES[kind]), st.tuples(st.just(f"{kind}_list"), st.lists(VALUES[kind]))
    )
)


def test_every_type_of_the_schema_is_tried():
    assert set(VALUES) == set(et.SCALARS)


@given(attributes=st.lists(ANY_ATTRIBUTE, max_size=4))
def test_an_attribute_of_any_type_is_read_as_it_was_written(tmp_path_factory: Any, attributes: list[tuple[str, Any]]):
    more = {f"a{i}": (value, kind) for i, (kind, value) in enumerate(attributes)}
    prefix = et.write(tmp_path_factory.mktemp("t") / "t", [[et.node(1, "n", "COMP_NODE", **more)]])
    (node,) = chakra_reader.read(Path(f"{prefix}.0.et"))
    expected = {
        f"a{i}": tuple(value) if kind.endswith("_list") else value for i, (kind, value) in enumerate(attributes)
    }
    assert node.attributes == expected
    for name, value in expected.items():
        assert type(node.attributes[name]) is type(value)


@pytest.mark.parametrize("kind", sorted(set(et.SCALARS) - {"bool", "string", "bytes"}))
def test_a_size_is_the_same_in_every_type_of_number(tmp_path: Path, kind: str):
    topology = machine(*FOUR)
    size = 2**20
    whole = [[et.collective(1, size)] for _ in range(4)]
    expected = length_ps(tmp_path, whole, topology)
    typed = (float(size) if kind in ("double", "float") else size), kind
    assert length_ps(tmp_path, [[et.collective(1, typed)] for _ in range(4)], topology) == expected


def test_a_value_of_a_type_that_the_schema_lacks_is_refused_by_name(tmp_path: Path):
    prefix = et.write(tmp_path / "t", [[et.computation(1, 5)]])
    path = Path(f"{prefix}.0.et")
    # One more attribute, `new`, with field 33 (key 0x88 0x02) = 1, at the end of the node.
    extra = b"\x0a\x03new" + b"\x88\x02\x01"
    raw = path.read_bytes()
    first = raw[0] + 1
    node = raw[first + 1 :] + b"\x52" + bytes([len(extra)]) + extra
    path.write_bytes(raw[:first] + bytes([len(node)]) + node)
    with pytest.raises(InputError, match="attribute 'new' has a value of an unknown type, field 33"):
        chakra_reader.read(path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"num_ops": ("many", "string")}, "num_ops must be a number, got 'many'"),
        ({"num_ops": (-1, "sint64")}, "num_ops must be a finite number that is not negative, got -1"),
        ({"num_ops": (float("nan"), "double")}, "num_ops must be a finite number"),
        ({"num_ops": (float("inf"), "float")}, "num_ops must be a finite number"),
        ({"is_cpu_op": (3, "int32")}, "is_cpu_op must be true or false, got 3"),
        ({"num_ops": 1, "dtype": ([1], "int32_list")}, "dtype must be a name"),
        ({"num_ops": 1, "dtype": "fp7"}, "has no matmul rate for this type, got 'fp7'"),
    ],
)
def test_an_attribute_that_says_no_sense_is_refused_by_name(tmp_path: Path, attributes: dict[str, Any], message: str):
    ranks = [[et.computation(1, **attributes)], [], [], []]
    with pytest.raises(InputError, match=rf"rank 0, node 1 \(op1\): .*{message}"):
        traced(tmp_path, ranks, machine(*FOUR))


# --- files -----------------------------------------------------------------------------------------------------------


def test_what_is_no_chakra_trace_is_refused(tmp_path: Path):
    path = tmp_path / "t.0.et"
    with pytest.raises(InputError, match=r"t\.0\.et: no such file; name traces .* by their PREFIX"):
        chakra_reader.read(path)
    for raw in (b"\xff" * 30, b"", b"\x02\x08\x01"):  # no message, nothing, a node where the version belongs
        path.write_bytes(raw)
        with pytest.raises(InputError, match="must be a Chakra trace"):
            chakra_reader.read(path)


def test_two_nodes_of_one_id_are_refused(tmp_path: Path):
    prefix = et.write(tmp_path / "t", [[et.computation(1, 5), et.computation(1, 6)]])
    with pytest.raises(InputError, match="two nodes have the id 1"):
        chakra_reader.read(Path(f"{prefix}.0.et"))


@pytest.mark.parametrize(
    ("count", "message"), [(5, "ranks 0 to 3, got 'also rank 4'"), (3, "ranks 0 to 3, got 'none of rank 3'")]
)
def test_ranks_that_are_not_those_of_the_machine_are_refused(tmp_path: Path, count: int, message: str):
    with pytest.raises(InputError, match=message):
        traced(tmp_path, [[et.computation(1, 5)]] * count, machine(*FOUR))


def test_an_empty_trace_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="must have nodes, got none on any rank"):
        traced(tmp_path, [[]] * 4, machine(*FOUR))


@pytest.mark.parametrize(
    "node", [et.computation(1), et.node(1, "m", "METADATA_NODE"), et.node(1, "load", "MEM_LOAD_NODE")]
)
def test_a_trace_in_which_nothing_takes_time_is_refused(tmp_path: Path, node: Any):
    topology = machine(*FOUR)
    with pytest.raises(InputError, match="must have nodes that take time"):
        simulate_traces(traced(tmp_path, [[node]] * 4, topology), topology)


@pytest.mark.parametrize("number", [0, 9])
def test_a_node_without_a_type_of_the_schema_is_refused(tmp_path: Path, number: int):
    node = et.node(1, "odd", "COMP_NODE", us=4)
    node.type = number
    with pytest.raises(InputError, match=r"node 1 \(odd\)"):
        traced(tmp_path, [[node], [], [], []], machine(*FOUR))


# --- computations and their parents ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected_us"),
    [
        ({"is_cpu_op": True}, {"is_cpu_op": False}, 30),  # host and chip overlap
        ({"is_cpu_op": False}, {"is_cpu_op": False}, 50),
        ({"is_cpu_op": True}, {"is_cpu_op": True}, 50),
        ({"is_cpu_op": (1, "int32")}, {"is_cpu_op": (0, "int32")}, 30),  # as the schema's older converters write it
    ],
)
def test_operations_of_host_and_chip_overlap(tmp_path: Path, first: Any, second: Any, expected_us: int):
    ranks = [[et.computation(1, 20, **first), et.computation(2, 30, **second)], [], [], []]
    assert length_ps(tmp_path, ranks, machine(*FOUR)) == expected_us * US


def test_without_is_cpu_op_a_computation_is_the_host_s_and_a_note_says_so(tmp_path: Path):
    ranks = [[et.node(1, "op", "COMP_NODE", us=20), et.computation(2, 30)], [], [], []]
    found = traced(tmp_path, ranks, machine(*FOUR))
    assert simulate(found.program).makespan_ps == 30 * US
    assert "1 computations without is_cpu_op run on the host, as the schema's feeder takes them" in found.notes


@pytest.mark.parametrize("parents", [{"after": [1]}, {"ctrl": [1]}, {"after": [1], "ctrl": [1]}])
def test_parents_of_either_list_are_waited_for(tmp_path: Path, parents: dict[str, Any]):
    second = et.node(2, "host", "COMP_NODE", us=30, is_cpu_op=True, **parents)
    assert length_ps(tmp_path, [[et.computation(1, 20), second], [], [], []], machine(*FOUR)) == 50 * US


def test_parents_that_are_not_in_the_trace_are_counted_in_a_note(tmp_path: Path):
    nodes = [et.node(1, "a", "COMP_NODE", us=20, is_cpu_op=False, after=[7, 8]), et.computation(2, 30)]
    found = traced(tmp_path, [nodes, [], [], []], machine(*FOUR))
    assert simulate(found.program).makespan_ps == 50 * US
    assert "2 parents are not in the trace: nobody waits for them" in found.notes


def test_ids_need_not_follow_the_order_of_parents(tmp_path: Path):
    # Two messages of one tag: each rank comes to id 5 first, so the sizes match in that order.
    ends = {"comm_src": 0, "comm_dst": 1, "comm_tag": 3, "is_cpu_op": False}

    def both(kind: str, other: str) -> list[Any]:
        own = {other: ends[other], "comm_tag": 3}
        return [
            et.node(2, "late", kind, after=[5], comm_size=200, **own),
            et.node(5, "early", kind, comm_size=100, **own),
        ]

    ranks = [both("COMM_SEND_NODE", "comm_dst"), both("COMM_RECV_NODE", "comm_src"), [], []]
    assert length_ps(tmp_path, ranks, machine(*FOUR)) > 0
    ranks[1] = list(reversed(ranks[1]))
    ranks[1][0].data_deps.append(2)
    del ranks[1][1].data_deps[:]
    with pytest.raises(InputError, match="comm_size must be that of the sending node 5, 100, got 200"):
        traced(tmp_path, ranks, machine(*FOUR))


def test_the_roofline_is_that_of_the_trace_s_number_format(tmp_path: Path):
    topology = machine(*FOUR)
    peak, efficiency = topology.chip.peak_flops, topology.chip.matmul_efficiency
    assert peak["int8"] > peak["bf16"]
    for written, dtype in (("int8", "int8"), ("torch.int8", "int8"), ("c10::BFloat16", "bf16"), ("bf16", "bf16")):
        found = traced(tmp_path, [[et.computation(1, num_ops=10**13, dtype=written)], [], [], []], topology)
        expected_ps = round(1e13 / (peak[dtype] * efficiency) * 1e12)
        assert simulate(found.program).makespan_ps == expected_ps
        assert found.dtype == dtype
        assert f"1 nodes without a duration take the roofline of {topology.chip.name} in {dtype}" in found.notes


def test_the_number_format_may_stand_in_the_types_of_inputs(tmp_path: Path):
    node = et.computation(1, num_ops=10**13)
    node.inputs.types = "['Tensor(signed char)', 'Tensor(c10::BFloat16)']"
    node.inputs.types = "['Tensor(c10::Half)', 'Int']"
    found = traced(tmp_path, [[node], [], [], []], machine(*FOUR, "chip.peak.fp16=100 TFLOP/s"))
    assert found.dtype == "fp16"


def test_without_a_number_format_the_one_assumed_is_said(tmp_path: Path):
    found = traced(tmp_path, [[et.computation(1, num_ops=10**13)], [], [], []], machine(*FOUR))
    expected = "1 nodes without a duration and a number format take the roofline of h100_sxm in bf16"
    assert expected in found.notes


def test_what_changes_nothing_is_said(tmp_path: Path):
    nodes = [et.computation(1, 5, rf_id=(7, "int64")), et.computation(2), et.collective(3, 8, fw_tid=(1, "int32"))]
    nodes[2].duration_micros = 9
    found = traced(tmp_path, [nodes] * 4, machine(*FOUR))
    assert found.notes == (
        "4 nodes have no duration, num_ops or tensor_size: they take no time",
        "4 nodes of messages and collectives are simulated: their durations are not used",
        "attributes that change nothing here: fw_tid, rf_id",
    )


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sends", [("comm_dst",), ("comm_src", "comm_dst")])
@pytest.mark.parametrize("receives", [("comm_src",), ("comm_src", "comm_dst")])
def test_the_own_end_of_a_message_may_be_left_out(tmp_path: Path, sends: tuple[str, ...], receives: tuple[str, ...]):
    # From rank 0 on to 1, 2 and 3: each message takes size / rate and then the latency.
    topology = machine(*FOUR)
    size = 10**8
    ranks: list[list[Any]] = [[] for _ in range(4)]
    for src in range(3):
        ends = {"comm_src": src, "comm_dst": src + 1}
        out = {name: ends[name] for name in sends}
        into = {name: ends[name] for name in receives}
        ranks[src].append(et.node(2, "give", "COMM_SEND_NODE", after=[1][:src], comm_size=size, comm_tag=src, **out))
        ranks[src + 1].append(et.node(1, "take", "COMM_RECV_NODE", comm_size=size, comm_tag=src, **into))
    route = [topology.links[link] for link in topology.route(0, 1)]
    one = max(link.busy_ps(size) for link in route) + sum(link.latency_ps for link in route)
    assert length_ps(tmp_path, ranks, topology) == 3 * one


def test_a_message_over_several_ways_is_there_when_all_of_it_is(tmp_path: Path):
    """On a square of 50 GB/s: 100 kB by two ways to the chip opposite, and from there on to its neighbour."""
    topology = graph("01", "12", "23", "30", chips=4)
    give = {"comm_size": 10**5, "comm_tag": 1}
    ranks: list[list[Any]] = [
        [et.node(1, "give", "COMM_SEND_NODE", comm_dst=2, **give)],
        [],
        [
            et.node(1, "take", "COMM_RECV_NODE", comm_src=0, **give),
            et.node(2, "give", "COMM_SEND_NODE", after=[1], comm_dst=3, **give),
        ],
        [et.node(1, "take", "COMM_RECV_NODE", comm_src=2, **give)],
    ]
    assert length_ps(tmp_path, ranks, topology) == (1 + 2) * 10**6 + (2 + 1) * 10**6


def test_a_collective_over_several_ways_is_exported_and_read_again(tmp_path: Path):
    topology = graph("01", "12", "23", "30", chips=4)
    builder = ProgramBuilder([*(f"{chip}:compute" for chip in range(4)), *(link.name for link in topology.links)])
    emit(builder, topology, CollectiveCall(schedule(topology, "all_to_all", ("g",), "one_shot"), 1e6, "all_to_all(g)"))
    program = builder.build()
    chakra.write(message_nodes(program, 4), tmp_path, "square")
    again = load_traces(tmp_path / "square", topology).program
    assert simulate(again).makespan_ps == simulate(program).makespan_ps


def send(**more: Any) -> Any:
    return et.node(1, "give", "COMM_SEND_NODE", **{"comm_dst": 1, "comm_size": 100, **more})


def receive(**more: Any) -> Any:
    return et.node(1, "take", "COMM_RECV_NODE", **{"comm_src": 0, **more})


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([[send()], []], r"rank 0, node 1 \(give\): must send a message that rank 1 receives with tag 0"),
        ([[], [receive()]], r"rank 1, node 1 \(take\): must receive a message that rank 0 sends with tag 0"),
        ([[send()], [receive(comm_tag=4)]], "must receive a message that rank 0 sends with tag 4"),
        ([[send(comm_dst=9)], []], "comm_dst must be a rank from 0 to 3, got 9"),
        ([[send(comm_dst=(-1, "sint32"))], []], "comm_dst must be a rank from 0 to 3, got -1"),
        ([[send(comm_dst=(1.5, "double"))], []], "comm_dst must be a whole number, got 1.5"),
        ([[send(comm_src=2)], [receive()]], "comm_src must be the rank of the file, 0, got 2"),
        ([[send()], [receive(comm_size=200)]], "comm_size must be that of the sending node 1, 100, got 200"),
        ([[et.node(1, "x", "COMM_SEND_NODE", comm_size=5)], []], "comm_dst must be given"),
        ([[et.node(1, "x", "COMM_SEND_NODE", comm_dst=1)], [receive()]], "comm_size must be given"),
        ([[], [et.node(1, "x", "COMM_RECV_NODE")]], "comm_src must be given"),
    ],
)
def test_a_message_without_its_other_end_is_refused(tmp_path: Path, ranks: list[list[Any]], message: str):
    with pytest.raises(InputError, match=message):
        traced(tmp_path, [*ranks, [], []], machine(*FOUR))


def test_ranks_that_wait_for_each_other_s_messages_are_named(tmp_path: Path):
    def both(rank: int) -> list[Any]:
        take = et.node(1, "take", "COMM_RECV_NODE", comm_src=1 - rank)
        return [take, et.node(2, "give", "COMM_SEND_NODE", after=[1], comm_dst=1 - rank, comm_size=8)]

    with pytest.raises(InputError, match="in a circle") as error:
        traced(tmp_path, [both(0), both(1), [], []], machine(*FOUR))
    for rank in (0, 1):
        assert f"rank {rank}, node 1 (take) waits for rank {1 - rank}, node 2 (give)" in str(error.value)


@pytest.mark.parametrize("nodes", [[(1, [1])], [(1, [2]), (2, [1])], [(i, [i % 20 + 1]) for i in range(1, 21)]])
def test_nodes_that_wait_for_themselves_are_refused(tmp_path: Path, nodes: list[tuple[int, list[int]]]):
    made = [et.node(id, f"n{id}", "COMP_NODE", us=1, after=after) for id, after in nodes]
    with pytest.raises(InputError, match="in a circle") as error:
        traced(tmp_path, [made, [], [], []], machine(*FOUR))
    assert len(str(error.value)) < 500


# --- collectives and their groups ------------------------------------------------------------------------------------


def test_a_collective_takes_as_long_as_the_machine_s_own(tmp_path: Path):
    # 10 us of computation, then an all-reduce of 64 MiB, on every rank: one after the other.
    topology = machine()
    after = et.collective(2, 2**26)
    after.data_deps.append(1)
    ranks = [[et.computation(1, 10), after]] * topology.chips
    assert length_ps(tmp_path, ranks, topology) == 10 * US + alone_ps(topology, "all_reduce", 2**26)


@pytest.mark.parametrize("groups", [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1, 2]], [[0], [1, 2, 3]]])
def test_groups_of_a_switch_are_machines_of_their_own(tmp_path: Path, groups: list[list[int]]):
    # On a switch that never limits, groups do not disturb each other: the largest takes the longest.
    size = 2**26
    ranks: list[list[Any]] = [[] for _ in range(4)]
    for group in groups:
        for rank in group:
            ranks[rank].append(et.collective(1, size, pg_name="".join(map(str, group))))
    longest = max(
        alone_ps(machine("dgx_h100", f"chips={len(each)}"), "all_reduce", size) for each in groups if each[1:]
    )
    assert length_ps(tmp_path, ranks, machine(*FOUR)) == longest


def test_a_rank_may_be_in_groups_of_two_kinds(tmp_path: Path):
    # Pairs side by side, then pairs across, as tensor and data parallelism: twice the time of one.
    size = 2**26
    ranks = []
    for rank in range(4):
        across = et.collective(2, size, pg_name=f"data{rank % 2}")
        across.data_deps.append(1)
        ranks.append([et.collective(1, size, pg_name=f"tensor{rank // 2}"), across])
    assert length_ps(tmp_path, ranks, machine(*FOUR)) == 2 * alone_ps(
        machine("dgx_h100", "chips=2"), "all_reduce", size
    )


MACHINES = wired_differently([name for name in load.shipped("topology") if machine(name).chips <= 16])
KINDS = {"all_reduce": "ALL_REDUCE", "all_gather": "ALL_GATHER", "all_to_all": "ALL_TO_ALL", "broadcast": "BROADCAST"}
KINDS["reduce_scatter"] = "REDUCE_SCATTER"
SHAPES = {
    "first half": lambda chips: tuple(range(chips // 2)),
    "every second": lambda chips: tuple(range(0, chips, 2)),
    "ends": lambda chips: (0, chips - 1),
    "all but one": lambda chips: tuple(range(1, chips)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", one_of_each_wiring(MACHINES, less=["dgx_h100_x2"]))
def test_every_algorithm_carries_out_its_collective_on_any_group(name: str, shape: str):
    topology = machine(name)
    part = group_of(topology, SHAPES[shape](topology.chips)).machine
    axes = tuple(axis.name for axis in part.axes)
    size = 2.0**20
    tried = 0
    for kind in KINDS:
        for algorithm in algorithm_names(kind):
            try:
                plan = schedule(part, kind, axes, algorithm, size)
            except InputError:  # of another kind of machine, or of another number of chips
                continue
            if "nvls" not in algorithm_of(part, kind, algorithm, size):  # sums in the switch are told otherwise
                replay(plan, part)
            tried += 1
    assert tried >= len(KINDS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", one_of_each_wiring(MACHINES))
def test_a_collective_of_a_group_takes_at_least_what_its_members_receive(tmp_path: Path, name: str, shape: str):
    topology = machine(name)
    members, size = SHAPES[shape](topology.chips), 2.0**24
    n = len(members)
    for kind, number in KINDS.items():
        ranks: list[list[Any]] = [[] for _ in range(topology.chips)]
        for rank in members:
            ranks[rank].append(et.collective(1, int(size), number, pg_name="some"))
        taken_ps = length_ps(tmp_path, ranks, topology)
        # A byte is received at most at the rate of all links into a chip.
        rate = max(sum(link.bandwidth for link in topology.links if link.dst == chip) for chip in members)
        received = {"all_gather": (n - 1) * size, "broadcast": size * (n > 1)}.get(kind, size * (n - 1) / n)
        assert taken_ps >= received / rate * 1e12
        assert (taken_ps > 0) == (n > 1)


def test_an_algorithm_that_a_group_cannot_carry_out_is_refused_where_it_stands(tmp_path: Path):
    topology = machine(*FOUR, "collectives.all_gather=halving_doubling")
    ranks = [[et.collective(1, 8, "ALL_GATHER", pg_name="three")]] * 3 + [[]]
    with pytest.raises(InputError, match=r"rank 0, node 1 \(coll1\): .*halving_doubling needs .*, got 3"):
        traced(tmp_path, ranks, topology)


@pytest.mark.parametrize("axes", ["x", "y", "z", "xy", "yz", "xz", "xyz"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_groups_along_mesh_axes_are_the_collective_over_these_axes(tmp_path: Path, axes: str, kind: str):
    """By `involved_dim` or as groups by name: both are what the machine does over the axes, all groups at once."""
    topology = machine("tpu_v4_4x4x4")
    size = 2**22
    whole = size * (4 ** len(axes) if kind == "all_gather" else 1)
    expected = round(
        simulate_time_s(topology, CollectiveSpec(kind, tuple(axes), whole, algorithm_of(topology, kind))) * 1e12
    )
    flags = [axis.name in axes for axis in topology.axes]
    flagged = [[et.collective(1, size, KINDS[kind], involved_dim=flags[::-1])]] * topology.chips
    assert length_ps(tmp_path, flagged, topology) == expected
    others = [
        [at for at, flag in zip(topology.coordinates(rank), flags, strict=True) if not flag]
        for rank in range(topology.chips)
    ]
    named = [[et.collective(1, size, KINDS[kind], pg_name=f"g{at}")] for at in others]
    assert length_ps(tmp_path, named, topology) == expected


def test_a_box_of_a_torus_is_a_smaller_mesh():
    topology = machine("tpu_v4_4x4x4")
    plane = group_of(topology, tuple(range(16))).machine
    assert plane.kind == "torus"
    assert [(axis.size, axis.ring) for axis in plane.axes] == [(1, False), (4, True), (4, True)]
    half = group_of(topology, (0, 1, 4, 5)).machine
    assert [(axis.size, axis.ring) for axis in half.axes] == [(1, False), (2, False), (2, False)]
    assert len(half.links) == 8
    scattered = group_of(topology, (0, 5, 10)).machine
    assert scattered.kind == "graph"


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([[et.collective(1, 8)], [], [], []], "one node on every rank of its group '', got '0 of 1 on rank 1'"),
        (
            [[et.collective(1, 8, pg_name="a"), et.collective(2, 8, pg_name="a")], [et.collective(1, 8, pg_name="a")]],
            r"rank 0, node 2 \(coll2\): a collective must have one node .* 'a', got '1 of 2 on rank 1'",
        ),
        (
            [[et.collective(1, 8)]] * 3 + [[et.collective(1, 9)]],
            r"rank 3, .* comm_size must be the same .*, 8.* on rank 0",
        ),
        ([[et.collective(1, 8)]] * 3 + [[et.collective(1, 8, "BROADCAST")]], "comm_type must be the same"),
        ([[et.collective(1, 8, "BARRIER")]] * 4, r"simulated, got '9 \(barrier\)'; choose from 0 \(all_reduce\)"),
        ([[et.collective(1, 8, comm_type=77)]] * 4, "comm_type must be a collective that is simulated, got '77'"),
        ([[et.node(1, "c", "COMM_COLL_NODE", comm_size=8)]] * 4, "comm_type must be given"),
        ([[et.node(1, "c", "COMM_COLL_NODE", comm_type=0)]] * 4, "comm_size must be given"),
        ([[et.collective(1, 8, involved_dim=[True, False])]] * 4, "must have a flag for each of the 1 mesh axes"),
    ],
)
def test_members_of_a_collective_that_disagree_are_refused(tmp_path: Path, ranks: list[list[Any]], message: str):
    with pytest.raises(InputError, match=message):
        traced(tmp_path, [*ranks, *([] for _ in range(4 - len(ranks)))], machine(*FOUR))


def test_groups_in_another_order_on_each_rank_are_a_circle_that_names_them(tmp_path: Path):
    def both(first: str, second: str) -> list[Any]:
        last = et.collective(2, 8, pg_name=second)
        last.data_deps.append(1)
        return [et.collective(1, 8, pg_name=first), last]

    with pytest.raises(InputError, match=r"in a circle: .*group '[ab]'.* waits for .*group '[ab]'"):
        traced(tmp_path, [both("a", "b"), both("b", "a"), [], []], machine(*FOUR))


def test_a_group_of_one_rank_takes_no_time_and_a_note_says_so(tmp_path: Path):
    found = traced(tmp_path, [[et.computation(1, 5), et.collective(2, 8, pg_name="a")], [], [], []], machine(*FOUR))
    assert simulate(found.program).makespan_ps == 5 * US
    assert "1 collectives are of a group of one rank: they take no time" in found.notes


def test_groups_may_come_from_a_file(tmp_path: Path):
    path = tmp_path / "groups.json"
    path.write_text('{"0": [1, 0], "1": [2, 3]}')
    groups = read_groups(path, 4)
    assert groups == {"0": (0, 1), "1": (2, 3)}
    ranks = [[et.collective(1, 2**20, pg_name=str(rank // 2))] for rank in range(4)]
    expected = alone_ps(machine("dgx_h100", "chips=2"), "all_reduce", 2**20)
    assert length_ps(tmp_path, ranks, machine(*FOUR), groups=groups) == expected
    # A member that the traces lack is missed only with the file.
    ranks[1] = []
    assert length_ps(tmp_path, ranks, machine(*FOUR)) == expected
    with pytest.raises(InputError, match="one node on every rank of its group '0', got '0 of 1 on rank 1'"):
        traced(tmp_path, ranks, machine(*FOUR), groups=groups)
    ranks[1] = [et.collective(1, 2**20, pg_name="7")]
    with pytest.raises(InputError, match="pg_name must be a group of the file of groups, got '7'"):
        traced(tmp_path, ranks, machine(*FOUR), groups=groups)
    ranks[1] = [et.collective(1, 2**20, pg_name="1")]
    with pytest.raises(InputError, match="pg_name must be a group of this rank; '1' has ranks 2, 3, got '1'"):
        traced(tmp_path, ranks, machine(*FOUR), groups=groups)


@pytest.mark.parametrize(
    "text", ["", "[", "[1]", "5", '{"a": 1}', '{"a": []}', '{"a": [4]}', '{"a": [0, 0]}', "[" * 9999]
)
def test_a_file_that_says_no_groups_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "groups.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"groups\.json"):
        read_groups(path, 4)


def test_pytorch_s_list_of_process_groups_says_who_is_missing(tmp_path: Path):
    def init() -> Any:
        node = et.node(9, "## process_group:init ##", "METADATA_NODE")
        groups = [{"pg_name": "0", "ranks": []}, {"pg_name": "1", "ranks": [0, 1]}]
        node.inputs.values = str([json.dumps(groups)])
        return node

    one = et.collective(1, 2**20, pg_name="1")
    assert length_ps(tmp_path, [[init(), one], [init(), one], [], []], machine(*FOUR)) > 0
    with pytest.raises(InputError, match="one node on every rank of its group '1', got '0 of 1 on rank 1'"):
        traced(tmp_path, [[init(), one], [init()], [], []], machine(*FOUR))
    everyone = [[init(), et.collective(1, 2**20, pg_name="0")]] * 3
    with pytest.raises(InputError, match="got '0 of 1 on rank 3'"):
        traced(tmp_path, [*everyone, []], machine(*FOUR))


# --- anything at all -------------------------------------------------------------------------------------------------

KEYS = sorted(set(et.USUAL) | {"resource", "busy_ps", "other"})
SMALL = st.integers(-1, 4)
ATTRIBUTE = st.one_of(
    st.tuples(SMALL, st.sampled_from(["int32", "int64", "sint32", "sint64", "sfixed64"])),
    st.tuples(st.sampled_from(["", "0", "1", "bf16", "0:compute", "x"]), st.just("string")),
    st.tuples(st.booleans(), st.just("bool")),
    st.tuples(st.lists(st.booleans(), max_size=3), st.just("bool_list")),
    ANY_ATTRIBUTE.map(lambda pair: (pair[1], pair[0])),
)
NODE = st.builds(
    lambda id, name, kind, after, us, attributes: et.node(id, name, kind, after=after, us=us, **attributes),
    st.integers(0, 5),
    st.text() | st.just("n" * 5000),
    st.sampled_from(et.NODE_TYPES),
    st.lists(st.integers(0, 6), max_size=2),
    st.sampled_from([0, 1, 20, 2**63]),
    st.dictionaries(st.sampled_from(KEYS), ATTRIBUTE, max_size=6),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rank=st.lists(NODE, max_size=4),
    alike=st.booleans(),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=2),
)
def test_any_trace_takes_time_or_is_refused_in_one_line(tmp_path: Path, rank: list[Any], alike: bool, flips: Any):
    topology = machine(*FOUR)
    prefix = et.write(tmp_path / "t", [rank if alike or not at else [] for at in range(4)])
    first = Path(f"{prefix}.0.et")
    raw = bytearray(first.read_bytes())
    for place, value in flips:
        raw[int(place * (len(raw) - 1))] = value
    first.write_bytes(raw)
    refusal = ""
    try:
        with errors_in(str(prefix)):
            step_ps = simulate_traces(load_traces(prefix, topology), topology).bottlenecks.shares.step_ps
    except InputError as error:
        step_ps, refusal = 0, str(error)
    event("refused" if refusal else "simulated")
    assert bool(refusal) == (step_ps <= 0)
    assert refusal.startswith(str(prefix)) or not refusal
    assert refusal.isprintable()
    assert len(refusal) < 1000


# --- the command and our own traces ----------------------------------------------------------------------------------


def test_the_command_prints_the_notes(tmp_path: Path):
    nodes = [et.node(1, "a", "COMP_NODE", us=20, is_cpu_op=False, after=[7])]
    prefix = et.write(tmp_path / "t", [nodes, [], [], []])
    command = ["replay", str(prefix), "--topology", "dgx_h100", "--set", "chips=4"]
    shown = CliRunner().invoke(build_app(()), command)
    note = "1 parents are not in the trace: nobody waits for them"
    assert f"note: {note}\n" in shown.output
    as_json = json.loads(CliRunner().invoke(build_app(()), [*command, "--json"]).output)
    assert as_json["step_s"] == 20e-6
    assert as_json["notes"] == [note]


@pytest.mark.parametrize(
    "name", ["[/x]", "[pytorch|profiler|execution_trace|process]", "\x1b[31mred\x1b[0m", "a\nb", ""]
)
def test_the_command_shows_any_name(tmp_path: Path, name: str):
    nodes = [et.node(1, name, "COMP_NODE", us=20, is_cpu_op=False, **{"odd\x1b": (name, "string")})]
    prefix = et.write(tmp_path / "t", [nodes, [], [], []])
    shown = CliRunner().invoke(build_app(()), ["replay", str(prefix), "--topology", "dgx_h100", "--set", "chips=4"])
    assert shown.exit_code == 0
    assert "\x1b" not in shown.output
    assert name in shown.output or not name.isprintable()


def test_the_command_takes_groups(tmp_path: Path):
    prefix = et.write(tmp_path / "t", [[et.collective(1, 2**20, pg_name=str(rank // 2))] for rank in range(4)])
    (tmp_path / "groups.json").write_text('{"0": [0, 1], "1": [2, 3]}')
    command = ["replay", str(prefix), "--topology", "dgx_h100", "--set", "chips=4", "--json", "--comm-groups"]
    found = json.loads(CliRunner().invoke(build_app(()), [*command, str(tmp_path / "groups.json")]).output)
    assert found["step_s"] * 1e12 == pytest.approx(alone_ps(machine("dgx_h100", "chips=2"), "all_reduce", 2**20))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("palm540b_decode_ws2d", ["engine.layers=1"]),
        ("llama3_70b_tp8_standard", ["engine.layers=2", "engine.shortcuts=layers"]),
        ("llama3_70b_tp8_p2p_disabled_decode", ["engine.layers=2"]),
        ("llama3_70b_tp8_ladder", ["engine.layers=2"]),  # with interference
        ("pmep_gpt3_host", ["engine.layers=4"]),  # with copy engines
    ],
)
def test_a_replayed_trace_is_the_run_and_leaves_nothing_open(tmp_path: Path, name: str, settings: list[str]):
    done = run(load.scenario(name, settings))
    trace, topology = done.passes[0].whole()
    (first, *_) = outputs.export(done, tmp_path, "chakra", messages=True)
    again = load_traces(first.parent / first.name.removesuffix(".0.et"), topology)
    assert simulate(again.program).makespan_ps == trace.makespan_ps
    assert again.dtype == done.scenario.workload.activations
    assert again.notes == ()


def test_every_node_of_ours_says_whether_it_is_the_host_s(tmp_path: Path):
    done = run(load.scenario("llama3_70b_tp8_p2p_disabled_decode", ["engine.layers=1"]))
    trace, topology = done.passes[0].whole()
    for nodes in message_nodes(trace.program, topology.chips):
        for node in nodes:
            on_chip = node.type != NodeType.COMP or str(node.attributes["resource"]).endswith(":compute")
            assert node.attributes["is_cpu_op"] == (not on_chip)
