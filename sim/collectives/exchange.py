"""Dispatch and combine of a mixture of experts: rows of tokens to the chips that have their experts, and back.

A matrix says how many rows each chip sends to each. Rows go straight to their chip, or once to the destination's box,
to the chip with the sender's place there, which forwards them (DeepEP's normal kernels, HybridEP). Combine sends what
dispatch sent, the other way: a box's chips send their rows to the forwarding chip, which adds them up.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim.collectives import uneven
from sim.collectives.fold import folding
from sim.collectives.graph.routes import Messages
from sim.collectives.groups import merged
from sim.collectives.schedule import GroupPlan, Int32s, Payload, Schedule, Timing
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.group import groups_of
from sim.topology.mesh import mesh_groups

Floats = npt.NDArray[np.float64]
PIECES = 4
"""Pieces in which rows are forwarded: the box's chips send on a piece while the next one is on its way. Assumed; DeepEP
forwards chunks of a few rows."""


class ExchangeSpec(Struct, frozen=True, eq=False):
    """Rows of one dispatch."""

    rows: tuple[Floats, ...]
    """[groups] matrices [members, members] of rows from each chip of a group to each; groups that exchange alike share
    one."""
    boxed: tuple[Floats | None, ...]
    """[groups] matrices [members, boxes] of rows that a chip sends to a box to be forwarded; None to send straight."""
    algorithm: str | None = None
    """All-to-all of a torus. Default: the machine's."""
    timing: Timing | None = None
    """Timing of the kernels; None for the links\' latencies and bandwidths."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExchangeSpec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Hashable, ...]:
        """Returns what messages and times follow from: equal rows of several layers make one schedule."""
        matrices = (*self.rows, *self.boxed)
        distinct = {id(matrix): matrix for matrix in matrices}
        place = {number: place for place, number in enumerate(distinct)}
        values = tuple(each if each is None else (each.shape, each.tobytes()) for each in distinct.values())
        return tuple(place[id(matrix)] for matrix in matrices), values, self.algorithm, self.timing

    @property
    def mean_rows(self) -> float:
        """Rows that a chip sends and keeps on average: the shares of a schedule refer to them."""
        first = self.rows[0] if self.boxed[0] is None else self.boxed[0]
        return float(first.sum() / len(first)) or 1.0


@folding()
def exchange(
    topology: Topology, axes: tuple[str, ...], spec: ExchangeSpec, way: Literal["dispatch", "combine"]
) -> Schedule:
    """Returns the messages of a dispatch or a combine in all groups along mesh axes.

    The schedule\'s shares refer to the bytes of `spec.mean_rows` rows.
    """
    groups = groups_of(topology, tuple(map(tuple, mesh_groups(topology, axes).tolist())))
    plans: dict[tuple[Topology, int], Schedule] = {}
    planned = []
    for group, rows, boxed in zip(groups, spec.rows, spec.boxed, strict=True):
        key = group.machine, id(rows)
        if key not in plans:
            shares = rows / spec.mean_rows
            if boxed is None:
                sent = shares if way == "dispatch" else shares.T
                plan = uneven.all_to_all(group.machine, sent, spec.algorithm)
            else:
                forward = _forwarded if way == "dispatch" else _collected
                plan = forward(group.machine, shares, boxed / spec.mean_rows)
            plans[key] = replace(plan, collective=way, timing=spec.timing)
        planned.append(GroupPlan(group, plans[key]))
    return merged(topology, axes, tuple(planned))


class _Boxes:
    """The boxes of a machine, and the messages between and inside them."""

    def __init__(self, machine: Topology, rows: Floats, boxed: Floats, collective: str) -> None:
        self.members = boxes(machine)
        self.box_of = {chip: box for box, chips in enumerate(self.members) for chip in chips}
        self.place = {chip: place for chips in self.members for place, chip in enumerate(chips)}
        self.rows, self.boxed = rows, boxed
        self.to = Messages(machine, collective, tuple(axis.name for axis in machine.axes), parts=PIECES)

    def proxy(self, chip: int, box: int) -> int:
        """Returns the chip of a box that forwards what `chip` sends there: the one with its place."""
        members = self.members[box]
        return members[self.place[chip] % len(members)]

    def steps(self) -> list[list[tuple[int, int]]]:
        """Returns rounds of (chip, box) in which no two chips of a box send to one box beyond their own at a time."""
        count, chips = len(self.members), sorted(self.box_of)
        return [[(chip, (self.box_of[chip] + step) % count) for chip in chips] for step in range(count)]

    def send(
        self, pairs: Sequence[tuple[int, int]], shares: Sequence[float], piece: int, deps: Sequence[Int32s]
    ) -> Int32s:
        src, dst = (np.array(column, dtype=np.int32) for column in zip(*pairs, strict=True))
        payload = Payload(np.array(shares) / PIECES, True, part=piece, origin=src, target=dst)
        return self.to.send(src, dst, payload, piece, deps=deps)


def _forwarded(machine: Topology, rows: Floats, boxed: Floats) -> Schedule:
    """Dispatch: to the box\'s chip of the same place, which sends each other chip there its rows."""
    each = _Boxes(machine, rows, boxed, "dispatch")
    for piece in range(PIECES):
        for step in each.steps():
            hops = [(chip, each.proxy(chip, box), box) for chip, box in step]
            crossing = [hop for hop in hops if each.box_of[hop[0]] != hop[2] and boxed[hop[0], hop[2]] > 0]
            arrived: dict[tuple[int, int], int] = {}
            if crossing:
                sent = each.send(
                    [hop[:2] for hop in crossing], [boxed[chip, box] for chip, _, box in crossing], piece, []
                )
                arrived = {(chip, box): int(send) for (chip, _, box), send in zip(crossing, sent, strict=True)}
            _fan(each, hops, piece, arrived)
    return each.to.build()


def _fan(each: _Boxes, hops: Sequence[tuple[int, int, int]], piece: int, arrived: dict[tuple[int, int], int]) -> None:
    """Sends rows on from the forwarding chips, or from the chip itself in its own box, to all other chips there."""
    most = max(map(len, each.members))
    for away in range(1, most):
        pairs, shares, waits = [], [], []
        for chip, proxy, box in hops:
            members = each.members[box]
            if away >= len(members):
                continue
            dst = members[(each.place[proxy] + away) % len(members)]
            if each.rows[chip, dst] > 0:
                pairs.append((proxy, dst))
                shares.append(each.rows[chip, dst])
                waits.append(arrived.get((chip, box), -1))
        if pairs:
            each.send(pairs, shares, piece, [np.array(waits, dtype=np.int32)])


def _collected(machine: Topology, rows: Floats, boxed: Floats) -> Schedule:
    """Combine: a box\'s chips send their rows to the chip of the receiver\'s place, which sends on the sums."""
    each = _Boxes(machine, rows, boxed, "combine")
    most = max(map(len, each.members))
    for piece in range(PIECES):
        for step in each.steps():
            hops = [(chip, each.proxy(chip, box), box) for chip, box in step]
            given: dict[tuple[int, int], list[int]] = {}
            for away in range(1, most):
                inside = [
                    (chip, proxy, box, each.members[box][(each.place[proxy] + away) % len(each.members[box])])
                    for chip, proxy, box in hops
                    if away < len(each.members[box])
                ]
                inside = [hop for hop in inside if rows[hop[0], hop[3]] > 0]
                if inside:
                    pairs = [(src, proxy) for _, proxy, _, src in inside]
                    sent = each.send(pairs, [rows[chip, src] for chip, _, _, src in inside], piece, [])
                    for (chip, _, box, _), send in zip(inside, sent, strict=True):
                        given.setdefault((chip, box), []).append(int(send))
            crossing = [hop for hop in hops if each.box_of[hop[0]] != hop[2] and boxed[hop[0], hop[2]] > 0]
            if crossing:
                waits = [given.get((chip, box), []) for chip, _, box in crossing]
                deps = [
                    np.array([wait[i] if i < len(wait) else -1 for wait in waits], dtype=np.int32)
                    for i in range(max(map(len, waits)))
                ]
                pairs = [(proxy, chip) for chip, proxy, _ in crossing]
                each.send(pairs, [boxed[chip, box] for chip, _, box in crossing], piece, deps)
    return each.to.build()
