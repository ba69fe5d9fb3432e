"""Chakra execution traces: a program as one file per rank, as ASTRA-sim's feeder reads them, and such files again.

A file is a sequence of messages, each after its length: GlobalMetadata, then Nodes. Field and attribute names and
numbers are those of et_def.proto 0.0.4 in github.com/mlcommons/chakra. Every task becomes a node of its chip's rank:

    compute, launches, ends of collectives     COMP_NODE      num_ops, tensor_size
    a message that arrives                     COMM_SEND_NODE comm_src, comm_dst, comm_size, comm_tag
    ... at its receiver                        COMM_RECV_NODE the same; who waits for the message waits for this node
    a hop of a message on its way              METADATA_NODE, after which the next hop or the message follows

Durations are whole microseconds in the schema; `busy_ps`, `flight_ps`, the resources held and what a task takes of
another's rate (`slows`, `slow_ppm`) are attributes beside them, with which the same program can be read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import numpy as np

from sim.errors import InputError
from sim.export.wire import data, fields, integer, packed, read_varint, unpacked, varint
from sim.program import Kind, Program

VERSION = "0.0.4"
_INT32, _INT64, _UINT64, _BOOL, _BOOLS, _STRING = 7, 9, 13, 27, 28, 29


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


COLLECTIVES = {0: "all_reduce", 2: "all_gather", 5: "broadcast", 6: "all_to_all", 7: "reduce_scatter"}
"""`CollectiveCommType` of the schema, those that are simulated."""


Attributes = dict[str, int | str | bool | tuple[bool, ...]]


@dataclass(frozen=True, slots=True)
class Node:
    """One node of one rank."""

    id: int
    name: str
    type: NodeType
    deps: tuple[int, ...]
    """Nodes of the same rank that must have ended."""
    duration_us: int = 0
    attributes: Attributes = field(default_factory=dict)


def write(program: Program, chips: int, folder: Path, name: str) -> list[Path]:
    """Write `folder`/`name`.RANK.et for every chip; their paths.

    Raises:
        InputError: a task waits for a task of another chip that is no message to it, as in switches that add up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for rank, nodes in enumerate(nodes_of(program, chips)):
        paths.append(folder / f"{name}.{rank}.et")
        messages = [data(1, VERSION), *(_encoded(node) for node in nodes)]
        paths[-1].write_bytes(b"".join(varint(len(message)) + message for message in messages))
    return paths


def nodes_of(program: Program, chips: int) -> list[list[Node]]:
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
        held = ",".join(program.resources[resource] for resource in program.resources_of(task).tolist())
        common: Attributes = {
            "is_cpu_op": False,
            "resources": held,
            "busy_ps": int(program.busy_ps[task]),
            "flight_ps": int(program.flight_ps[task]),
            "layer": int(program.layer[task]),
        }
        if program.slow_ppm[task]:
            common |= {"slows": program.resources[program.slows[task]], "slow_ppm": int(program.slow_ppm[task])}
        op = program.op_names[program.op[task]]
        duration = int(program.busy_ps[task] + program.flight_ps[task] + 500_000) // 1_000_000
        if kind[task] == Kind.SEND and arrives[task]:
            message: Attributes = {
                "comm_src": chip[task],
                "comm_dst": peer[task],
                "comm_tag": task,
                "comm_size": round(float(program.bytes[task])),
            }
            ranks[chip[task]].append(Node(task, op, NodeType.COMM_SEND, tuple(deps), duration, common | message))
            received: Attributes = {"is_cpu_op": False, **message}
            ranks[peer[task]].append(Node(task + count, op, NodeType.COMM_RECV, (), 0, received))
        elif kind[task] == Kind.SEND:
            size: Attributes = {"comm_size": round(float(program.bytes[task]))}
            ranks[chip[task]].append(Node(task, op, NodeType.METADATA, tuple(deps), duration, common | size))
        else:
            work: Attributes = {
                "num_ops": round(float(program.flops[task])),
                "tensor_size": round(float(program.bytes[task])),
                "compute_ps": int(program.compute_ps[task]),
                "memory_ps": int(program.memory_ps[task]),
            }
            ranks[chip[task]].append(Node(task, op, NodeType.COMP, tuple(deps), duration, common | work))
    return ranks


_TYPES = {"comm_src": _INT32, "comm_dst": _INT32, "comm_tag": _INT32, "comm_size": _INT64, "num_ops": _INT64}
_TYPES |= {"tensor_size": _UINT64, "comm_type": _INT64, "layer": _INT32, "slow_ppm": _INT64}


def _encoded(node: Node) -> bytes:
    attributes = b""
    for name, value in node.attributes.items():
        if isinstance(value, bool):
            held = integer(_BOOL, value)
        elif isinstance(value, str):
            held = data(_STRING, value)
        elif isinstance(value, tuple):
            held = data(_BOOLS, packed(1, list(map(int, value))))
        else:
            held = integer(_TYPES.get(name, _UINT64), value)
        attributes += data(10, data(1, name) + held)
    head = integer(1, node.id) + data(2, node.name) + integer(3, node.type)
    return head + packed(5, list(node.deps)) + integer(7, node.duration_us) + attributes


def read(path: Path) -> list[Node]:
    """The nodes of one rank.

    Raises:
        InputError: no Chakra trace.
    """
    try:
        raw = path.read_bytes()
        messages = list(_messages(raw))
        return [_decoded(message) for message in messages[1:]]
    except FileNotFoundError:
        hint = "name traces PREFIX.0.et, PREFIX.1.et, ... by their PREFIX, as `sim export FOLDER chakra` writes them"
        raise InputError("no such file", where=str(path), hint=hint) from None
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise InputError("is no Chakra trace", where=str(path), got=str(error)) from None


def _messages(raw: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(raw):
        size, at = read_varint(raw, at)
        if at + size > len(raw):
            raise ValueError("it ends in the middle of a node")
        yield raw[at : at + size]
        at += size


def _decoded(message: bytes) -> Node:
    found: dict[int, list[int | bytes]] = {}
    for number, value in fields(message):
        found.setdefault(number, []).append(value)

    deps = [dep for number in (4, 5) for part in found.get(number, []) for dep in _ids(part)]
    attributes: Attributes = {}
    for part in found.get(10, []):
        held = dict(fields(bytes(part))) if isinstance(part, bytes) else {}
        name = held.pop(1, b"").decode()
        for number, value in held.items():
            if number == _BOOL:
                attributes[name] = bool(value)
            elif number == _BOOLS:
                attributes[name] = tuple(map(bool, (flag for _, part in fields(value) for flag in _ids(part))))
            elif isinstance(value, bytes):
                attributes[name] = value.decode(errors="replace")
            elif number > 2:
                attributes[name] = value - (1 << 64) if value >> 63 else value
    numbers = {field: found[field][-1] for field in (1, 3, 7) if field in found}
    name = found.get(2, [b""])[-1]
    if not isinstance(name, bytes) or not all(isinstance(value, int) for value in numbers.values()):
        raise ValueError("a node's fields are of other types")
    number, kind, duration = (int(numbers.get(field, 0)) for field in (1, 3, 7))
    return Node(number, name.decode(), NodeType(kind), tuple(dict.fromkeys(deps)), duration, attributes)


def _ids(part: int | bytes) -> Sequence[int]:
    """Packed or not, both are legal."""
    return [part] if isinstance(part, int) else unpacked(part)
