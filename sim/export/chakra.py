"""Chakra execution traces: a program as one file per rank, as ASTRA-sim's feeder reads them.

A file is a sequence of messages, each after its length: GlobalMetadata, then Nodes. Field and attribute names and
numbers are those of et_def.proto 0.0.4 in github.com/mlcommons/chakra. Every task becomes a node of its chip's rank:

    compute, launches, ends of collectives     COMP_NODE      num_ops, tensor_size
    a message that arrives                     COMM_SEND_NODE comm_src, comm_dst, comm_size, comm_tag
    ... at its receiver                        COMM_RECV_NODE the same; who waits for the message waits for this node
    a hop of a message on its way              METADATA_NODE, after which the next hop or the message follows

Durations are whole microseconds in the schema; `busy_ps`, `flight_ps`, the resources held and what a task takes of
another's rate (`slows`, `slow_ppm`, `yields_ppm`) are attributes beside them, with which the same program can be read
again.
Computations carry the number format of the run, `dtype`. `is_cpu_op` is true of launches by the host and else false;
every node has it, because the feeder takes a node without it for one of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np

from sim.errors import InputError
from sim.export.attributes import FIELDS, Value
from sim.export.wire import data, integer, packed, varint
from sim.program import FULL_PPM, Kind, Program

VERSION = "0.0.4"


class NodeType(IntEnum):
    """`NodeType` of the schema."""

    INVALID = 0
    METADATA = 1
    MEM_LOAD = 2
    MEM_STORE = 3
    COMP = 4
    COMM_SEND = 5
    COMM_RECV = 6
    COMM_COLL = 7


class CollectiveType(IntEnum):
    """`CollectiveCommType` of the schema."""

    ALL_REDUCE = 0
    REDUCE = 1
    ALL_GATHER = 2
    GATHER = 3
    SCATTER = 4
    BROADCAST = 5
    ALL_TO_ALL = 6
    REDUCE_SCATTER = 7
    REDUCE_SCATTER_BLOCK = 8
    BARRIER = 9


@dataclass(frozen=True, slots=True)
class Node:
    """One node of one rank."""

    id: int
    name: str
    type: NodeType
    deps: tuple[int, ...]
    """Nodes of the same rank that must have ended."""
    duration_us: int = 0
    attributes: Mapping[str, Value] = field(default_factory=dict)
    inputs: str = ""
    """Values of its inputs as text, in traces of PyTorch."""


def write(program: Program, chips: int, folder: Path, name: str, dtype: str = "") -> list[Path]:
    """Write `folder`/`name`.RANK.et for every chip; their paths.

    Args:
        dtype: number format of the computations, where it is known.

    Raises:
        InputError: a task waits for a task of another chip that is no message to it, as in switches that add up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for rank, nodes in enumerate(nodes_of(program, chips, dtype)):
        paths.append(folder / f"{name}.{rank}.et")
        messages = [data(1, VERSION), *(_encoded(node) for node in nodes)]
        paths[-1].write_bytes(b"".join(varint(len(message)) + message for message in messages))
    return paths


def nodes_of(program: Program, chips: int, dtype: str = "") -> list[list[Node]]:
    """Nodes of every rank; a task's id is its own, and its receiver's node has that id + the number of tasks."""
    count = len(program)
    kind, chip, peer = (column.tolist() for column in (program.kind, program.chip, program.peer))
    waiter = np.repeat(np.arange(count), np.diff(program.dep_offset))
    arrives = np.zeros(count, dtype=bool)
    into = (program.kind[program.deps] == Kind.SEND) & (program.peer[program.deps] == program.chip[waiter])
    # What a chip waits for that it sent itself is a hop, unless it sends to itself.
    arrives[program.deps[into]] = True
    ranks: list[list[Node]] = [[] for _ in range(chips)]
    for task in range(count):
        deps = []
        for dep in program.dependencies(task).tolist():
            if kind[dep] == Kind.SEND and peer[dep] == chip[task] and arrives[dep]:
                deps.append(dep + count)
            elif chip[dep] == chip[task]:
                deps.append(dep)
            else:
                rule = "Chakra traces have no way to wait for another rank but by a message"
                raise InputError(rule, where=program.describe(task), got=f"a wait for {program.describe(dep)}")
        if (before := int(program.follows[task])) >= 0:
            deps.append(before)
        held = int(program.resource[task])
        common: dict[str, Value] = {
            "is_cpu_op": kind[task] == Kind.LAUNCH,
            "resource": program.resources[held] if held >= 0 else "",
            "busy_ps": int(program.busy_ps[task]),
            "flight_ps": int(program.flight_ps[task]),
            "layer": int(program.layer[task]),
        }
        if before >= 0:
            common["follows"] = True
        if program.slow_ppm[task]:
            common |= {"slows": program.resources[program.slows[task]], "slow_ppm": int(program.slow_ppm[task])}
        if program.yields_ppm[task] != FULL_PPM:
            common["yields_ppm"] = int(program.yields_ppm[task])
        op = program.op_names[program.op[task]]
        duration = int(program.busy_ps[task] + program.flight_ps[task] + 500_000) // 1_000_000
        if kind[task] == Kind.SEND and arrives[task]:
            message: dict[str, Value] = {
                "comm_src": chip[task],
                "comm_dst": peer[task],
                "comm_tag": task,
                "comm_size": round(float(program.bytes[task])),
            }
            ranks[chip[task]].append(Node(task, op, NodeType.COMM_SEND, tuple(deps), duration, common | message))
            received: dict[str, Value] = {"is_cpu_op": False, **message}
            ranks[peer[task]].append(Node(task + count, op, NodeType.COMM_RECV, (), 0, received))
        elif kind[task] == Kind.SEND:
            size: dict[str, Value] = {"comm_size": round(float(program.bytes[task]))}
            ranks[chip[task]].append(Node(task, op, NodeType.METADATA, tuple(deps), duration, common | size))
        else:
            work: dict[str, Value] = {
                "num_ops": round(float(program.flops[task])),
                "tensor_size": round(float(program.bytes[task])),
                "compute_ps": int(program.compute_ps[task]),
                "memory_ps": int(program.memory_ps[task]),
                "overhead_ps": int(program.overhead_ps[task]),
            }
            if dtype and kind[task] == Kind.COMPUTE:
                work["dtype"] = dtype
            ranks[chip[task]].append(Node(task, op, NodeType.COMP, tuple(deps), duration, common | work))
    return ranks


_TYPES = {"comm_src": "int32", "comm_dst": "int32", "comm_tag": "int32", "layer": "int32"}
_TYPES |= dict.fromkeys(("comm_size", "num_ops", "slow_ppm", "yields_ppm"), "int64")
"""Types of attributes that are whole numbers; the others are uint64."""


def _encoded(node: Node) -> bytes:
    attributes = b""
    for name, value in node.attributes.items():
        if isinstance(value, bool):
            held = integer(FIELDS["bool"], value)
        elif isinstance(value, int):
            held = integer(FIELDS[_TYPES.get(name, "uint64")], value)
        else:
            held = data(FIELDS["string"], str(value))
        attributes += data(10, data(1, name) + held)
    head = integer(1, node.id) + data(2, node.name) + integer(3, node.type)
    return head + packed(5, list(node.deps)) + integer(7, node.duration_us) + attributes
