"""The public Chakra schema, et_def.proto 0.0.4, as classes of protobuf's own runtime, and traces written with them.

The numbers are written down here once more, from github.com/mlcommons/chakra, so that a mistake in those of the package
shows. Nothing here imports the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2", reason="needs protobuf")
from google.protobuf import descriptor_pool, message_factory  # noqa: E402
from google.protobuf.internal.decoder import _DecodeVarint32  # noqa: E402
from google.protobuf.internal.encoder import _VarintBytes  # noqa: E402

SCALARS = {
    "double": 3, "float": 5, "int32": 7, "int64": 9, "uint32": 11, "uint64": 13, "sint32": 15, "sint64": 17,
    "fixed32": 19, "fixed64": 21, "sfixed32": 23, "sfixed64": 25, "bool": 27, "string": 29, "bytes": 31,
}  # fmt: skip
"""Field of a value of each type; that of its list is the next."""

NODE_TYPES = (
    "INVALID_NODE", "METADATA_NODE", "MEM_LOAD_NODE", "MEM_STORE_NODE", "COMP_NODE", "COMM_SEND_NODE",
    "COMM_RECV_NODE", "COMM_COLL_NODE",
)  # fmt: skip
COLLECTIVE_TYPES = (
    "ALL_REDUCE", "REDUCE", "ALL_GATHER", "GATHER", "SCATTER", "BROADCAST", "ALL_TO_ALL", "REDUCE_SCATTER",
    "REDUCE_SCATTER_BLOCK", "BARRIER",
)  # fmt: skip

USUAL = {
    "is_cpu_op": "bool", "num_ops": "int64", "tensor_size": "uint64", "comm_type": "int64", "comm_size": "int64",
    "comm_src": "int32", "comm_dst": "int32", "comm_tag": "int32", "pg_name": "string", "involved_dim": "bool_list",
    "dtype": "string",
}  # fmt: skip
"""Types in which the schema's own converters write attributes."""


def _classes() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")
    for name, values in (("NodeType", NODE_TYPES), ("CollectiveCommType", COLLECTIVE_TYPES)):
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)

    def message(name: str, *members: tuple[str, int, int, bool, str]) -> Any:
        made = file.message_type.add(name=name)
        for member, number, kind, repeated, type_name in members:
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            made.field.add(name=member, number=number, type=kind, label=label, type_name=type_name or None)
        return made

    attribute = message(
        "AttributeProto", ("name", 1, field.TYPE_STRING, False, ""), ("doc_string", 2, field.TYPE_STRING, False, "")
    )
    attribute.oneof_decl.add(name="value")
    for name, number in SCALARS.items():
        kind = getattr(field, f"TYPE_{name.upper()}")
        of_list = f"{name.capitalize()}List"
        message(of_list, ("values", 1, kind, True, ""))
        attribute.field.add(name=f"{name}_val", number=number, type=kind, label=field.LABEL_OPTIONAL, oneof_index=0)
        attribute.field.add(
            name=f"{name}_list",
            number=number + 1,
            type=field.TYPE_MESSAGE,
            label=field.LABEL_OPTIONAL,
            type_name=f".ChakraProtoMsg.{of_list}",
            oneof_index=0,
        )
    text, ids, inner = field.TYPE_STRING, field.TYPE_UINT64, field.TYPE_MESSAGE
    of_attributes = ".ChakraProtoMsg.AttributeProto"
    message("GlobalMetadata", ("version", 1, text, False, ""), ("attr", 2, inner, True, of_attributes))
    message("IOInfo", *((name, i, text, False, "") for i, name in enumerate(("values", "shapes", "types"), 1)))
    message(
        "Node",
        ("id", 1, ids, False, ""),
        ("name", 2, text, False, ""),
        ("type", 3, field.TYPE_ENUM, False, ".ChakraProtoMsg.NodeType"),
        ("ctrl_deps", 4, ids, True, ""),
        ("data_deps", 5, ids, True, ""),
        ("start_time_micros", 6, ids, False, ""),
        ("duration_micros", 7, ids, False, ""),
        ("inputs", 8, inner, False, ".ChakraProtoMsg.IOInfo"),
        ("outputs", 9, inner, False, ".ChakraProtoMsg.IOInfo"),
        ("attr", 10, inner, True, of_attributes),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ChakraProtoMsg.{name}"))
        for name in ("AttributeProto", "GlobalMetadata", "Node")
    }


CLASSES = _classes()


def attribute(name: str, value: Any, kind: str = "") -> Any:
    """An AttributeProto; `kind` is a scalar's name, with `_list` behind it for a list; default: the usual one."""
    kind = kind or USUAL[name]
    made = CLASSES["AttributeProto"](name=name)
    if kind.endswith("_list"):
        getattr(made, kind).values.extend(value)
        getattr(made, kind).SetInParent()
    else:
        setattr(made, f"{kind}_val", value)
    return made


def node(
    id: int,
    name: str,
    kind: str,
    *,
    after: Sequence[int] = (),
    ctrl: Sequence[int] = (),
    us: int = 0,
    **attributes: Any,
) -> Any:
    """A Node; an attribute is a value of the usual type, or (value, type)."""
    made = CLASSES["Node"](id=id, name=name, type=kind, data_deps=after, ctrl_deps=ctrl, duration_micros=us)
    for key, value in attributes.items():
        pair = value if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str) else (value, "")
        made.attr.append(attribute(key, *pair))
    return made


def computation(id: int, us: int = 0, **more: Any) -> Any:
    """A COMP_NODE of the chip."""
    return node(id, f"op{id}", "COMP_NODE", us=us, **{"is_cpu_op": False, **more})


def collective(id: int, size: int, kind: str = "ALL_REDUCE", **more: Any) -> Any:
    """A COMM_COLL_NODE."""
    number = COLLECTIVE_TYPES.index(kind)
    return node(
        id, f"coll{id}", "COMM_COLL_NODE", **{"comm_type": number, "comm_size": size, "is_cpu_op": False, **more}
    )


def write(prefix: Path, ranks: Sequence[Sequence[Any]]) -> Path:
    """Writes PREFIX.RANK.et of the nodes of every rank; returns the prefix."""
    for rank, nodes in enumerate(ranks):
        raw = [each.SerializeToString() for each in (CLASSES["GlobalMetadata"](version="0.0.4"), *nodes)]
        Path(f"{prefix}.{rank}.et").write_bytes(b"".join(_VarintBytes(len(each)) + each for each in raw))
    return prefix


def read(path: Path) -> tuple[str, list[Any]]:
    """The version and the nodes of a file."""
    raw, at, found = path.read_bytes(), 0, []
    while at < len(raw):
        size, at = _DecodeVarint32(raw, at)
        found.append(CLASSES["Node" if found else "GlobalMetadata"].FromString(raw[at : at + size]))
        at += size
    return found[0].version, found[1:]
