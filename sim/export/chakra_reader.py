"""Chakra execution traces as nodes, whoever wrote them: field numbers and types are those of et_def.proto 0.0.4.

A file is a sequence of messages, each after its length: GlobalMetadata, then Nodes. Parents are read from both lists,
`ctrl_deps` and `data_deps`: converters put what a node waits for in either.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sim.errors import InputError
from sim.export.attributes import Value, read_attribute
from sim.export.chakra import Node, NodeType
from sim.export.wire import BYTES, VARINT, elements, fields, read_varint
from sim.terminal import printable

_ID, _NAME, _TYPE, _CTRL_DEPS, _DATA_DEPS, _DURATION, _INPUTS, _ATTRIBUTE = 1, 2, 3, 4, 5, 7, 8, 10
_VALUES, _TYPES = 1, 3
"""Field numbers of IOInfo: values and types of a node's inputs, as text."""
_TENSOR = re.compile(r"Tensor\(([\w:]+)\)")


def read(path: Path) -> list[Node]:
    """Returns the nodes of one rank, in the order of the file.

    Raises:
        InputError: no Chakra trace.
    """
    try:
        first, *rest = _messages(path.read_bytes())
        if [kind for field, kind, _ in fields(first) if field == 1] != [BYTES]:
            raise ValueError("it does not begin with GlobalMetadata and its version")
        nodes = [_node(message) for message in rest]
        _check_ids(nodes)
        return nodes
    except FileNotFoundError:
        hint = "name traces PREFIX.0.et, PREFIX.1.et, ... by their PREFIX, as `sim export FOLDER chakra` writes them"
        raise InputError("no such file", where=str(path), hint=hint) from None
    except (OSError, ValueError) as error:
        raise InputError("must be a Chakra trace", where=str(path), got=str(error)) from None


def _messages(raw: bytes) -> Iterator[bytes]:
    if not raw:
        raise ValueError("it is empty")
    at = 0
    while at < len(raw):
        size, at = read_varint(raw, at)
        if at + size > len(raw):
            raise ValueError("it ends in the middle of a node")
        yield raw[at : at + size]
        at += size


def _check_ids(nodes: list[Node]) -> None:
    seen: set[int] = set()
    for node in nodes:
        if node.id in seen:
            raise ValueError(f"two nodes have the id {node.id}")
        seen.add(node.id)


def _node(message: bytes) -> Node:
    numbers = {_ID: 0, _TYPE: 0, _DURATION: 0}
    texts = {_NAME: b"", _INPUTS: b""}
    deps: list[int] = []
    attributes: dict[str, Value] = {}
    for field, kind, part in fields(message):
        if field in (_CTRL_DEPS, _DATA_DEPS):
            parts = elements(part, VARINT) if isinstance(part, bytes) else (part,)
            deps += [dep for dep in parts if isinstance(dep, int)]
        elif field == _ATTRIBUTE and isinstance(part, bytes):
            name, value = read_attribute(part)
            if value is not None:  # a name without a value says nothing
                attributes[printable(name)] = value
        elif field in numbers and isinstance(part, int):
            numbers[field] = part
        elif field in texts and isinstance(part, bytes):
            texts[field] = part
        elif field in numbers or field in texts or field == _ATTRIBUTE:
            raise ValueError(f"field {field} of a node has wire type {kind}")
    name = printable(texts[_NAME].decode())
    if numbers[_TYPE] not in NodeType.__members__.values():
        raise ValueError(f"node {numbers[_ID]} ({name}) has the unknown type {numbers[_TYPE]}")
    values, types = _inputs(texts[_INPUTS])
    if (tensor := _TENSOR.search(types)) and "dtype" not in attributes:
        attributes["dtype"] = tensor[1]
    return Node(
        numbers[_ID],
        name,
        NodeType(numbers[_TYPE]),
        tuple(dict.fromkeys(deps)),
        numbers[_DURATION],
        attributes,
        values,
    )


def _inputs(raw: bytes) -> tuple[str, str]:
    """Returns the text of the values of a node's inputs, and that of their types."""
    texts = {_VALUES: "", _TYPES: ""}
    for field, _, part in fields(raw):
        if field in texts and isinstance(part, bytes):
            texts[field] = part.decode(errors="replace")
    return texts[_VALUES], texts[_TYPES]
