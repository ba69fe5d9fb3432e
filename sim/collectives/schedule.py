"""A collective as sends between chips: which data goes over which link after which other sends.

A schedule is for one unit of data: every send carries a share of the collective's size, so one schedule serves all
sizes, and covers all groups of the mesh at once (an all-gather over x of a 4x4x4 torus has 16 groups). It knows nothing
of tasks or time; `lower` turns it into tasks, tests replay it chunk by chunk.

Data is named by *chunks* (part, half, origin, target): the array is cut into `parts` of equal size (each takes its own
way through the axes), each part into two halves, and each by the mesh position of the chip it comes from (`origin`) and
the chip it is for (`target`). A part may number the chips in its own way (`places`), as rings on a twisted torus are of
other lengths than its axes. -1 means all positions of the group, so one send may carry a *box* of chunks:

- all-gather, broadcast: `target` is all -1; `origin` is -1 on the axes that were gathered before.
- reduce-scatter: `origin` is all -1; `target` is -1 on the axes that are still to be scattered. The payload is the sum
  of the sender's own contribution and of all that arrived for these targets in the sends it depends on.
- all-reduce: first sends of a reduce-scatter, then sends of an all-gather of the sums; or, with both all -1, sums of
  whole arrays, the sender's own (if `own`) and all that arrived in the sends it depends on.
- all-to-all: `origin` is -1 on the axes travelled before, `target` on those still to be travelled.

A message whose way has several links is a send per link, all from its first to its last chip; only the first may be
`own` and wait for other sends, each later one follows the one before, and the last arrives. A message that has several
equally good ways is such a row of sends on each, with as many bytes on one as on another, and what waits for it waits
for the last of every row. A switch that reduces may join the messages that have reached it into one, their sum, and
send one message on to several chips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.errors import InputError
from sim.topology.graph import Topology
from sim.topology.group import Group

Int32s = npt.NDArray[np.int32]


class Timing(Struct, frozen=True):
    """Latencies and bandwidths of a library's protocol on a machine."""

    overhead_s: float
    """Launch overhead, instead of the machine's."""
    added_s: tuple[float, ...]
    """Time from a message's arrival to its use, by the slowest kind of link (`MEDIA`) on its route."""
    share: tuple[float, ...]
    """Share of the bandwidth of links of each kind in `MEDIA` that data gets."""
    channels: int = 0
    """Thread blocks that a chip's compute units spend on it."""
    least_s: float | tuple[float, ...] = 0.0
    """Shortest time of the collective, of all chips or [chips] of each: of signals that pass beside the data, and of
    multiprocessors that copy it."""


class Schedule(Struct, frozen=True, eq=False):
    """n sends in an order in which dependencies point backwards. A is the number of axes of the collective."""

    collective: str
    axes: tuple[str, ...]
    """Axes of the wiring along which chips are named, those that the group spans whole; where `groups` are given, the
    mesh axes of the groups, whose chips are named along the axes of each group's machine."""
    parts: int
    src: Int32s
    """[n] sending chip."""
    dst: Int32s
    """[n] receiving chip."""
    link: Int32s
    """[n] index into `Topology.links`."""
    follows: Int32s
    """[n] the send of the same message on the link before, -1 for none."""
    share: npt.NDArray[np.float64]
    """[n] bytes over the collective's size (size: the full gathered array for all-gather and reduce-scatter, the array
    for all-reduce and broadcast, the local buffer for all-to-all, the message for permute)."""
    step: Int32s
    """[n] hop number along its axis (all-to-all by direct messages: along its route), from 0 in the order sent."""
    direction: Int32s
    """[n] +1 or -1 along its axis; 0 on a switch or graph."""
    own: npt.NDArray[np.bool_]
    """[n] whether the payload holds data of the sender itself (its shard, or its contribution to a sum)."""
    way: Int32s
    """[n] number of its route among the equally good ones, which carry equal parts of the message."""
    dep_counts: Int32s
    """[n] number of sends that each send waits for."""
    deps: Int32s
    """Numbers of those sends, flat, in send order."""
    part: Int32s
    """[n]"""
    half: Int32s
    """[n] 0 or 1, -1 for both."""
    origin: Int32s
    """[n, A] mesh position of the chips whose data this is, along `axes`; -1 for all positions."""
    target: Int32s
    """[n, A] mesh position of the chips the data is for; -1 for all positions."""
    places: Int32s | None = None
    """[parts, chips, A] the position of every chip by which a part names data; None for the mesh position."""
    timing: Timing | None = None
    """Timing of the protocol; None for the links' latencies and bandwidths, or those of each group."""
    groups: tuple[GroupPlan, ...] = ()
    """Plan of every group, in the order of the sends, if the groups span no full axes of the wiring."""

    def __len__(self) -> int:
        return len(self.src)

    @property
    def timings(self) -> set[Timing | None]:
        """Timings of all groups; several if a library serves them with different kernels."""
        return {each.plan.timing for each in self.groups} or {self.timing}

    def arrives(self, topology: Topology) -> npt.NDArray[np.bool_]:
        """Returns [n] True if a send reaches `dst`, and not just a node on the way."""
        result: npt.NDArray[np.bool_] = topology.link_column("dst")[self.link] == self.dst
        result[self.follows[self.follows >= 0]] = False  # past a chip that the same folded chip represents
        return result

    def heads(self) -> npt.NDArray[np.int64]:
        """Returns [n] the first send of each send's message."""
        head = np.where(self.follows < 0, np.arange(len(self)), self.follows)
        while (further := head[head]).tobytes() != head.tobytes():
            head = further
        return head

    def dependencies(self, send: int) -> Int32s:
        """Returns the sends that must arrive before `send`, the first of its message, starts."""
        end = int(self.dep_counts[: send + 1].sum())
        return self.deps[end - int(self.dep_counts[send]) : end]


class GroupPlan(Struct, frozen=True):
    """Plan of one group on the machine of its chips."""

    group: Group
    plan: Schedule


Algorithm = Callable[[Topology, tuple[str, ...]], Schedule]
"""Algorithm of a collective over axes: (topology, axes) -> Schedule."""


def plans_one_chip(on: Literal["rings", "lattices"]) -> Callable[[Algorithm], Algorithm]:
    """Declares that an algorithm does the same at every chip, and can plan the sends of the one chip of a folded torus.

    These sends name the data of any of the chips that the one represents.

    Args:
        on: `rings` if every axis must close a ring by itself, `lattices` if axes may be twisted.
    """

    def declare(algorithm: Algorithm) -> Algorithm:
        algorithm.__dict__["plans_one_chip_on"] = on
        return algorithm

    return declare


MOST_SENDS = 20_000_000
"""Largest number of sends of a collective: more than the all-reduce of 65,536 chips, some gigabytes."""

_DTYPES = {"share": np.float64, "own": np.bool_}
_COLUMNS = ("src", "dst", "link", "share", "step", "direction", "own", "way", "part", "half")


PER_SEND = (*_COLUMNS, "origin", "target")
"""Columns of a schedule with a row per send that do not name other sends."""


def check_size(collective: str, sends: int) -> None:
    """Raises InputError if a collective has more than MOST_SENDS sends."""
    if sends > MOST_SENDS:
        rule = f"must take at most {MOST_SENDS:,} sends on this machine"
        hint = "ask for less data or fewer chips, or choose another algorithm"
        raise InputError(rule, where=collective, hint=hint)


class Hop(Struct, frozen=True):
    """Chips and link of each of n sends; the other columns are [n], or of all."""

    src: Int32s
    dst: Int32s
    link: Int32s
    direction: npt.ArrayLike = 0
    way: npt.ArrayLike = 0


class Payload(Struct, frozen=True):
    """Data of each of n sends or messages: columns of `Schedule`, arrays [n], or one value for all."""

    share: npt.ArrayLike
    """Bytes of the message as a share of the collective's size: 1 / n for a block of an all-gather over n chips."""
    own: npt.ArrayLike
    """True where the sender adds its own data: all of the message, or in a reduction its term of the sum. False where
    it only passes on what it received."""
    part: npt.ArrayLike = 0
    """Number of the independent part of the array, below `parts` of `Messages`."""
    half: npt.ArrayLike = -1
    """Half of the part's block that is sent, 0 or 1; -1 for both."""
    origin: Int32s | None = None
    """Chips whose data this is: [n] chips in `Messages.send`, else [n, A] mesh positions; None for all chips."""
    target: Int32s | None = None
    """Chips that the data is for: [n] chips in `Messages.send`, else [n, A] mesh positions; None for all chips."""


class ScheduleBuilder:
    """Appends sends in blocks. Sends are numbered in order, dependencies point backwards."""

    def __init__(self, collective: str, axes: tuple[str, ...], parts: int, places: Int32s | None = None) -> None:
        self._collective, self._axes, self._parts, self._places = collective, axes, parts, places
        self._columns: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in _COLUMNS}
        self._origin: list[Int32s] = []
        self._target: list[Int32s] = []
        self._follows: list[Int32s] = []
        self._dep_counts: list[Int32s] = []
        self._deps: list[Int32s] = []
        self.size = 0
        """Sends so far."""
        self._waits = 0

    def add(
        self, hop: Hop, payload: Payload, step: int, follows: npt.ArrayLike = -1, deps: Sequence[Int32s] = ()
    ) -> Int32s:
        """Appends n sends, one per entry of `hop.src`, and returns their numbers [n].

        Args:
            follows: [n], or of all: the send of the same message on the link before, -1 for none.
            deps: arrays [n] of earlier sends; send i waits for entry i of each. -1 means none.
        """
        n = len(hop.src)
        records: tuple[Hop | Payload, ...] = hop, payload
        values = {name: getattr(record, name) for record in records for name in record.__struct_fields__}
        values["step"] = step
        for name in _COLUMNS:
            column: npt.NDArray[np.generic] = np.empty(n, dtype=_DTYPES.get(name, np.int32))
            column[:] = values[name]
            self._columns[name].append(column)
        everywhere = np.full((n, len(self._axes)), -1, dtype=np.int32)
        self._origin.append(everywhere if payload.origin is None else payload.origin)
        self._target.append(everywhere if payload.target is None else payload.target)
        self._follows.append(np.broadcast_to(np.asarray(follows, dtype=np.int32), n))
        self._grow(n, n * len(deps))
        table = np.stack(deps, axis=1).astype(np.int32) if deps else np.empty((n, 0), dtype=np.int32)
        given = table >= 0
        self._dep_counts.append(given.sum(axis=1, dtype=np.int32))
        self._deps.append(table[given])
        return np.arange(self.size - n, self.size, dtype=np.int32)

    def repeat(self, first: int, times: int, parts: int) -> None:
        """Appends the sends from number `first` on again, `times` times, each time for parts that are `parts` higher.

        Each time they wait for those of the time before, as the sends from `first` on wait for what is before `first`.
        """
        sends, start = self.size - first, len(self._dep_counts)
        left = sends
        while left:
            start -= 1
            left -= len(self._dep_counts[start])
        deps = np.concatenate(self._deps[start:])
        self._grow(sends * times, len(deps) * times)
        time = np.arange(1, times + 1, dtype=np.int32)
        for name, blocks in self._columns.items():
            again = np.tile(np.concatenate(blocks[start:]), times)
            blocks.append(again + np.repeat(time * parts, sends) if name == "part" else again)
        for boxes in (self._origin, self._target):
            boxes.append(np.tile(np.concatenate(boxes[start:]), (times, 1)))
        self._deps.append(np.tile(deps, times) + np.repeat(time * sends, len(deps)))
        self._dep_counts.append(np.tile(np.concatenate(self._dep_counts[start:]), times))
        follows = np.tile(np.concatenate(self._follows[start:]), times)
        self._follows.append(np.where(follows >= 0, follows + np.repeat(time * sends, sends), follows))

    def _grow(self, sends: int, waits: int) -> None:
        self.size += sends
        self._waits += waits
        check_size(self._collective, max(self.size, self._waits // 4))

    def build(self) -> Schedule:
        """Returns the finished schedule."""
        none = np.empty(0, dtype=np.int32)
        no_box = np.empty((0, len(self._axes)), dtype=np.int32)
        columns = {
            name: np.concatenate([np.empty(0, dtype=_DTYPES.get(name, np.int32)), *blocks])
            for name, blocks in self._columns.items()
        }
        return Schedule(
            collective=self._collective,
            axes=self._axes,
            parts=self._parts,
            places=self._places,
            dep_counts=np.concatenate([none, *self._dep_counts]),
            deps=np.concatenate([none, *self._deps]),
            origin=np.concatenate([no_box, *self._origin]),
            target=np.concatenate([no_box, *self._target]),
            follows=np.concatenate([none, *self._follows]),
            **columns,  # type: ignore[arg-type]
        )
