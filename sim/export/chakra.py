"""Chakra execution traces: nodes of every rank, written as ASTRA-sim's feeder reads them.

A file is a sequence of messages, each after its length: GlobalMetadata, then Nodes. Field and attribute names and
numbers are those of et_def.proto 0.0.4 in github.com/mlcommons/chakra. Every node has `is_cpu_op`, because the feeder
takes a node without it for one of the host. `chakra_collectives` and `chakra_messages` make the nodes of a program.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path

from msgspec import Struct, field

from sim.export.attributes import FIELDS, Value
from sim.export.wire import data, integer, packed, varint

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


class Node(Struct, frozen=True):
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


def write(ranks: Iterable[Iterable[Node]], folder: Path, name: str) -> list[Path]:
    """Writes `folder`/`name`.RANK.et with the nodes of every rank; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for rank, nodes in enumerate(ranks):
        paths.append(folder / f"{name}.{rank}.et")
        messages = [data(1, VERSION), *(_encode(node) for node in nodes)]
        paths[-1].write_bytes(b"".join(varint(len(message)) + message for message in messages))
    return paths


_TYPES = {"comm_src": "int32", "comm_dst": "int32", "comm_tag": "int32", "layer": "int32"}
_TYPES |= dict.fromkeys(("comm_type", "comm_size", "num_ops", "slow_ppm", "yields_ppm"), "int64")
"""Types of attributes that are whole numbers; the others are uint64."""


def _encode(node: Node) -> bytes:
    head = integer(1, node.id) + data(2, node.name) + integer(3, node.type)
    attributes = b"".join(
        _encode_attribute(name, value, isinstance(value, bool)) for name, value in node.attributes.items()
    )
    return head + packed(5, list(node.deps)) + integer(7, node.duration_us) + attributes


@functools.lru_cache(maxsize=65536)
def _encode_attribute(name: str, value: Value, is_flag: bool) -> bytes:
    """Encodes an attribute; `is_flag` tells True from 1 in the cache."""
    if is_flag:
        field = integer(FIELDS["bool"], bool(value))
    elif isinstance(value, int):
        field = integer(FIELDS[_TYPES.get(name, "uint64")], value)
    else:
        field = data(FIELDS["string"], str(value))
    return data(10, data(1, name) + field)
