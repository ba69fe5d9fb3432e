"""A node of one rank with its attributes as what they mean: numbers, flags and names, whatever types they came in."""

from __future__ import annotations

import math
from collections import Counter

from msgspec import Struct

from sim.errors import InputError
from sim.export.attributes import Value
from sim.export.chakra import Node
from sim.terminal import printable

Key = tuple[int, int]
"""(rank, id) of a node."""

_FORMATS = {"bfloat16": "bf16", "half": "fp16", "float16": "fp16", "char": "int8", "float": "fp32", "float32": "fp32"}
"""PyTorch's names of number formats that have another one here."""

SIMULATED = frozenset(
    {
        *("is_cpu_op", "num_ops", "tensor_size", "dtype", "layer"),
        *("comm_type", "comm_size", "comm_src", "comm_dst", "comm_tag", "pg_name", "involved_dim"),
        *("resource", "follows", "busy_ps", "flight_ps", "compute_ps", "memory_ps", "overhead_ps"),
        *("slows", "slow_ppm", "yields_ppm"),
    }
)
"""Attributes that a replay understands; `layer` is a label."""


_LONGEST = 60
"""Characters of a name in a trace that a message repeats."""


def shorten(name: str) -> str:
    """Returns a name as messages show it."""
    return printable(name if len(name) <= _LONGEST else f"{name[:_LONGEST]} ...")


class RankNode(Struct, frozen=True):
    """A node and the rank of its file."""

    rank: int
    node: Node

    @property
    def key(self) -> Key:
        return self.rank, self.node.id

    def __str__(self) -> str:
        return f"rank {self.rank}, node {self.node.id} ({shorten(self.node.name)})"

    def quantity(self, name: str) -> float | None:
        """Returns a size or a number of operations, None where the node has none. A float may be no whole number.

        Raises:
            InputError: no number, or a negative one.
        """
        value = self._number(name)
        if value is not None and not 0 <= value < math.inf:
            raise self.wrong(name, "must be a finite number that is not negative", value)
        return value

    def whole(self, name: str) -> int | None:
        """Returns a whole number, None where the node has none.

        Raises:
            InputError: no whole number.
        """
        value = self._number(name)
        if value is None or isinstance(value, int):
            return value
        if not value.is_integer():
            raise self.wrong(name, "must be a whole number", value)
        return int(value)

    def _number(self, name: str) -> int | float | None:
        value = self.node.attributes.get(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self.wrong(name, "must be a number", value)

    def flag(self, name: str) -> bool | None:
        """Returns a truth value, written as a bool or as 0 or 1; None where the node has none."""
        value = self.node.attributes.get(name)
        return None if value is None else self._flag(name, value)

    def flags(self, name: str) -> tuple[bool, ...]:
        """Returns a list of truth values; a single one is a list of one."""
        value = self.node.attributes.get(name, ())
        return tuple(self._flag(name, each) for each in (value if isinstance(value, tuple) else (value,)))

    def _flag(self, name: str, value: Value) -> bool:
        if isinstance(value, int) and value in (0, 1):
            return bool(value)
        raise self.wrong(name, "must be true or false", value)

    def text(self, name: str) -> str:
        """Returns a name, which may be written as a whole number; empty where the node has none."""
        value = self.node.attributes.get(name, "")
        if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
        raise self.wrong(name, "must be a name", value)

    @property
    def dtype(self) -> str:
        """Number format of its operands; empty where the node does not say."""
        name = self.text("dtype").rpartition("::")[2].rpartition(".")[2].lower()
        return _FORMATS.get(name, name)

    def required(self, name: str) -> float:
        """Returns a quantity that the node must have."""
        value = self.quantity(name)
        if value is None:
            raise self.wrong(name, "must be given")
        return value

    def ends(self, *, sends: bool) -> tuple[int, int, int]:
        """Returns sender, receiver and tag of a message. A node may leave out its own end: that is its rank.

        Raises:
            InputError: the other end is missing, or its own end is another rank.
        """
        this, other = ("comm_src", "comm_dst") if sends else ("comm_dst", "comm_src")
        there = self.whole(other)
        if there is None:
            raise self.wrong(other, "must be given: the rank at the other end of the message")
        here = self.whole(this)
        if here not in (None, self.rank):
            raise self.wrong(this, f"must be the rank of the file, {self.rank}", here)
        src, dst = (self.rank, there) if sends else (there, self.rank)
        return src, dst, self.whole("comm_tag") or 0

    def wrong(self, name: str, rule: str, got: object = None, hint: str = "") -> InputError:
        """Returns the error of an attribute."""
        return InputError(f"{name} {rule}", where=str(self), got=got, hint=hint)


class Notes:
    """Omissions of a trace and their number: one sentence each in the result."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def count(self, sentence: str, times: int = 1) -> None:
        """Adds to how often something happened; `{n}` in the sentence is the number."""
        if times:
            self._counts[sentence] += times

    def lines(self) -> tuple[str, ...]:
        return tuple(sentence.replace("{n}", f"{times:,}") for sentence, times in self._counts.items())
