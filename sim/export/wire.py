"""Protocol buffers on the wire, as much as writing and reading traces takes (protobuf.dev/programming-guides/encoding).

A message is bytes; fields are appended in order. So neither protoc nor the protobuf runtime is needed to run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def varint(value: int) -> bytes:
    """An unsigned or, as two's complement of 64 bits, a negative integer."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    """An integer, an enum or a bool."""
    return varint(field << 3 | _VARINT) + varint(value)


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | _FIXED64) + struct.pack("<Q", value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | _FIXED64) + struct.pack("<d", value)


def data(field: int, value: bytes | str) -> bytes:
    """A string, bytes or a message."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | _BYTES) + varint(len(raw)) + raw


def packed(field: int, values: list[int]) -> bytes:
    """Repeated integers; nothing where there are none."""
    return data(field, b"".join(map(varint, values))) if values else b""


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """(value, position after it). Raises ValueError where the bytes end."""
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("not a protocol buffer: an integer does not end")
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """(field, value) of a message: int of a varint or a fixed number, bytes of the rest.

    Raises:
        ValueError: no protocol buffer.
    """
    at = 0
    while at < len(raw):
        key, at = read_varint(raw, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = read_varint(raw, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, at = read_varint(raw, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"not a protocol buffer: wire type {kind}")
        if at + size > len(raw):
            raise ValueError("not a protocol buffer: it ends in the middle of a field")
        part = raw[at : at + size]
        yield key >> 3, part if kind == _BYTES else int.from_bytes(part, "little")
        at += size


def unpacked(raw: bytes) -> list[int]:
    """Packed integers."""
    values, at = [], 0
    while at < len(raw):
        value, at = read_varint(raw, at)
        values.append(value)
    return values
