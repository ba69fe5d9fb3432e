"""Attributes of Chakra traces: AttributeProto of et_def.proto 0.0.4, with every type that its value may have.

A value stands in the field of its type, and a list of values in the next field. The type decides how the bytes are
read: the same varint is -1 as sint64 and 1 as int64, and the same eight bytes are a double or a fixed64.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from sim.export.wire import BYTES, FIXED32, FIXED64, VARINT, elements, fields

Scalar = int | float | bool | str | bytes
Value = Scalar | tuple[Scalar, ...]


def _signed(bits: int) -> Callable[[int], int]:
    """Returns the reader of two's complement of so many bits."""
    return lambda value: (value & (1 << bits) - 1) - (value >> bits - 1 & 1) * (1 << bits)


def _unsigned(bits: int) -> Callable[[int], int]:
    return lambda value: value & (1 << bits) - 1


def _zigzag(bits: int) -> Callable[[int], int]:
    """Returns the reader of 0, -1, 1, -2, ... written as 0, 1, 2, 3, ..."""
    return lambda value: ((value & (1 << bits) - 1) >> 1) ^ -(value & 1)


def _packed(form: str) -> Callable[[bytes], int | float]:
    def read(raw: bytes) -> int | float:
        (value,) = struct.unpack(form, raw)
        return value  # type: ignore[no-any-return]

    return read


_TYPES: dict[str, tuple[int, Callable[..., Scalar]]] = {
    "double": (FIXED64, _packed("<d")),
    "float": (FIXED32, _packed("<f")),
    "int32": (VARINT, _signed(32)),
    "int64": (VARINT, _signed(64)),
    "uint32": (VARINT, _unsigned(32)),
    "uint64": (VARINT, _unsigned(64)),
    "sint32": (VARINT, _zigzag(32)),
    "sint64": (VARINT, _zigzag(64)),
    "fixed32": (FIXED32, _packed("<I")),
    "fixed64": (FIXED64, _packed("<Q")),
    "sfixed32": (FIXED32, _packed("<i")),
    "sfixed64": (FIXED64, _packed("<q")),
    "bool": (VARINT, bool),
    "string": (BYTES, bytes.decode),
    "bytes": (BYTES, bytes),
}
"""Wire type and reader of each type, in the order of their fields."""

FIELDS = {name: 3 + 2 * i for i, name in enumerate(_TYPES)}
"""Field of a value of each type; the field of its list is one higher."""
_NAMES = {field: name for name, field in FIELDS.items()}


def read_attribute(raw: bytes) -> tuple[str, Value | None]:
    """Returns (name, value) of an AttributeProto; None where it has a name and no value.

    Raises:
        ValueError: no AttributeProto, or a value of a type that the schema does not have.
    """
    name, unknown = "", 0
    value: Value | None = None
    for field, kind, part in fields(raw):
        if field == 1 and isinstance(part, bytes):
            name = part.decode()
        elif field in _NAMES:
            value = _scalar(_NAMES[field], kind, part)
        elif field - 1 in _NAMES:
            value = _list(_NAMES[field - 1], part)
        elif field != 2:
            unknown = field
    if unknown:
        raise ValueError(f"attribute '{name}' has a value of an unknown type, field {unknown}")
    return name, value


def _scalar(name: str, kind: int, part: int | bytes) -> Scalar:
    expected, read = _TYPES[name]
    if kind != expected:
        raise ValueError(f"an attribute of type {name} has wire type {kind}")
    return read(part)


def _list(name: str, raw: int | bytes) -> tuple[Scalar, ...]:
    """Returns the values of a list message, packed or not: both are legal."""
    if not isinstance(raw, bytes):
        raise ValueError(f"an attribute of type list of {name} is no message")
    expected, read = _TYPES[name]
    values: list[Scalar] = []
    for field, kind, part in fields(raw):
        if field != 1:
            raise ValueError(f"a list of {name} has an unknown field {field}")
        if kind == BYTES != expected and isinstance(part, bytes):
            values += [read(each) for each in elements(part, expected)]
        else:
            values.append(_scalar(name, kind, part))
    return tuple(values)
