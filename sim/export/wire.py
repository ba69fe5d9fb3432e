"""Protocol buffers on the wire, as much as writing and reading traces takes (protobuf.dev/programming-guides/encoding).

A message is bytes; fields are appended in order. So neither protoc nor the protobuf runtime is needed to run.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""
_ONE_BYTE = [bytes([value]) for value in range(0x80)]
_FIXED_SIZES = {FIXED64: 8, FIXED32: 4}


def varint(value: int) -> bytes:
    """Encodes an unsigned or, as two's complement of 64 bits, a negative integer."""
    if 0 <= value <= 0x7F:  # most are: tags, lengths of names, flags
        return _ONE_BYTE[value]
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    """Encodes an integer, an enum or a bool."""
    return varint(field << 3 | VARINT) + varint(value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | FIXED64) + struct.pack("<d", value)


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | FIXED64) + struct.pack("<Q", value)


def data(field: int, value: bytes | str) -> bytes:
    """Encodes a string, bytes or a message."""
    raw = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | BYTES) + varint(len(raw)) + raw


def packed(field: int, values: list[int]) -> bytes:
    """Encodes repeated integers; nothing without any."""
    return data(field, b"".join(map(varint, values))) if values else b""


def read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """Returns (value, position after it). Raises ValueError if the bytes end."""
    value = shift = 0
    while True:
        if at >= len(raw) or shift > 63:
            raise ValueError("not a protocol buffer: an integer does not end")
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def fields(raw: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """Yields (field, wire type, value) of a message: the unsigned integer of a varint, the bytes of anything else.

    Raises:
        ValueError: no protocol buffer.
    """
    at = 0
    while at < len(raw):
        key, at = read_varint(raw, at)
        field, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = read_varint(raw, at)
            yield field, kind, value
            continue
        if kind == BYTES:
            size, at = read_varint(raw, at)
        elif kind in _FIXED_SIZES:
            size = _FIXED_SIZES[kind]
        else:
            raise ValueError(f"not a protocol buffer: wire type {kind}")
        if at + size > len(raw):
            raise ValueError("not a protocol buffer: it ends in the middle of a field")
        yield field, kind, raw[at : at + size]
        at += size


def elements(raw: bytes, kind: int) -> Iterator[int | bytes]:
    """Yields the values of a packed field, each as `fields` yields one of that wire type.

    Raises:
        ValueError: the bytes are no whole number of values.
    """
    at = 0
    while at < len(raw):
        if kind == VARINT:
            value, at = read_varint(raw, at)
            yield value
            continue
        size = _FIXED_SIZES[kind]
        if at + size > len(raw):
            raise ValueError("not a protocol buffer: it ends in the middle of a field")
        yield raw[at : at + size]
        at += size
