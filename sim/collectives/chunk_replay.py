"""Replay of a schedule chunk by chunk: does it carry out its collective, and does every send hold what it claims?

Every algorithm of this package is tested with it on many machines; one that was registered from outside is replayed
when it is first used. Nothing here knows how an algorithm works. Data is cut into elements (part, half, origin, target)
as `Schedule` names them; every send's payload must be there when the sends it waits for have arrived, whatever else may
be under way.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.collectives.schedule import PER_SEND, GroupPlan, Schedule
from sim.topology.graph import Topology
from sim.topology.group import Group

Position = tuple[int, ...]
Element = tuple[int, int, Position, Position]
"""(part, half, origin, target); for sums and copies the box that is not named is all -1."""


_DATA = ("part", "half", "origin", "target")
"""Columns of a schedule that say which data a send carries."""
MESSAGES = ("all_to_all", "permute", "gather", "scatter", "sendrecv")
"""Collectives whose every element has one sender and one receiver."""


class ReplayError(RuntimeError):
    """A schedule that does not do what its columns say, or not what its collective means."""


def replay(schedule: Schedule, topology: Topology) -> None:
    """Raises ReplayError unless the schedule carries out its collective on every group of the mesh."""
    left = len(schedule)
    for each in schedule.groups:
        part = _of_group(schedule, each, topology)
        left -= len(part)
        _Replay(_on_first_ways(part, topology), topology, each.group).run()
    if not schedule.groups:
        _Replay(_on_first_ways(schedule, topology), topology).run()
    elif left:
        raise ReplayError(f"{left} sends are of no group")


def _of_group(schedule: Schedule, of: GroupPlan, topology: Topology) -> Schedule:
    """Returns the sends of a group, on the links of the whole machine."""
    own = np.isin(schedule.src, of.group.chips)
    rows, number = np.flatnonzero(own), (np.cumsum(own) - 1).astype(np.int32)
    follows = schedule.follows[rows]
    places = None
    if of.plan.places is not None:
        places = np.full((of.plan.parts, topology.chips, len(of.plan.axes)), -1, dtype=np.int32)
        places[:, of.group.chips] = of.plan.places
    columns = {name: getattr(schedule, name)[rows] for name in PER_SEND}
    columns |= {name: columns[name][:, : len(of.plan.axes)] for name in ("origin", "target")}
    return replace(
        schedule,
        axes=of.plan.axes,
        parts=of.plan.parts,
        places=places,
        groups=(),
        dep_counts=schedule.dep_counts[rows],
        deps=number[schedule.deps[np.repeat(own, schedule.dep_counts)]],
        follows=np.where(follows >= 0, number[follows], follows),
        **columns,
    )


def _on_first_ways(schedule: Schedule, topology: Topology) -> Schedule:
    """Returns the schedule as if each message went over the first of its ways alone.

    Raises:
        ReplayError: a way does not lead to the receiver, the ways of a message carry different things, or something
            waits for only some of them.
    """
    if not schedule.way.any():
        return schedule
    head = schedule.heads()
    last = np.zeros(len(schedule), dtype=np.int64)
    np.maximum.at(last, head, np.arange(len(schedule)))
    ends = np.array([(link.src, link.dst) for link in topology.links])[schedule.link]
    comes_from = np.where(schedule.follows < 0, schedule.src, ends[schedule.follows, 1])
    strays = (ends[:, 0] != comes_from) | (ends[last[head], 1] != schedule.dst)
    what = np.column_stack([getattr(schedule, name) for name in ("src", "dst", "share", *_DATA)])
    changes = (what != what[head]).any(axis=1) | (schedule.own & (schedule.follows >= 0))
    if ((strays | changes) & (schedule.way > 0)).any():
        raise ReplayError("a way of a message does not lead to its receiver, or carries something else on the way")
    ways = _heads_of_messages(schedule, np.unique(head))
    message = {each: set(last[rows].tolist()) for rows in ways for each in last[rows].tolist()}
    number = np.cumsum(schedule.way == 0) - 1
    counts, dep_counts, deps = np.ones(len(schedule)), np.zeros_like(schedule.dep_counts), list[int]()
    for rows in ways:
        waits = [set(schedule.dependencies(row).tolist()) for row in rows]
        if any(each != waits[0] for each in waits) or np.ptp(schedule.share[rows]) > 0:
            raise ReplayError(f"sends {rows} are one message, and wait for other sends or carry other bytes")
        if any(not waits[0].issuperset(message.get(dep, ())) for dep in waits[0]):
            raise ReplayError(f"send {rows[0]} waits for only some ways of a message")
        counts[rows[0]] = len(rows)
        left = [int(number[dep]) for dep in schedule.dependencies(rows[0]) if schedule.way[dep] == 0]
        dep_counts[rows[0]] = len(left)
        deps += left
    kept = np.flatnonzero(schedule.way == 0)
    follows = np.where(schedule.follows >= 0, number[schedule.follows], -1)
    columns = {name: getattr(schedule, name)[kept] for name in PER_SEND}
    columns |= {
        "share": (schedule.share * counts[head])[kept],
        "follows": follows[kept],
        "dep_counts": dep_counts[kept],
    }
    return replace(schedule, deps=np.array(deps, dtype=np.int32), **columns)


def _heads_of_messages(schedule: Schedule, heads: npt.NDArray[np.int64]) -> list[list[int]]:
    """Returns the first sends of each message, one for every way: the i-th of each way are of the i-th message."""
    names = ("src", "dst", "own", *_DATA)
    columns = map(tuple, np.column_stack([getattr(schedule, name)[heads] for name in names]).tolist())
    found: dict[tuple[object, int], list[tuple[int, int]]] = {}
    seen: Counter[tuple[object, int]] = Counter()
    for send, way, data in zip(heads.tolist(), schedule.way[heads].tolist(), columns, strict=True):
        found.setdefault((data, seen[data, way]), []).append((way, send))
        seen[data, way] += 1
    for ways in found.values():
        ways.sort()
        if [way for way, _ in ways] != list(range(len(ways))):
            raise ReplayError(f"the ways of the message of send {ways[0][1]} must be numbered from 0")
    return sorted([send for _, send in ways] for ways in found.values())


class _Replay:
    def __init__(self, schedule: Schedule, topology: Topology, of: Group | None = None) -> None:
        """`of`: the group whose sends these are, named as on its machine; None for all sends on `topology`."""
        self.schedule, self.topology = schedule, topology
        self.named_on = of.machine if of else topology
        self.members = of.chips.tolist() if of else list(range(topology.chips))
        names = [axis.name for axis in self.named_on.axes]
        columns = [names.index(name) for name in schedule.axes]
        nowhere: Position = (-1,) * len(columns)
        coordinates = {chip: self.named_on.coordinates(number) for number, chip in enumerate(self.members)}
        mesh: list[Position] = [
            tuple(coordinates[chip][column] for column in columns) if chip in coordinates else nowhere
            for chip in range(topology.chips)
        ]
        given = schedule.places
        self.position = [mesh] * schedule.parts if given is None else [list(map(tuple, of)) for of in given.tolist()]
        """[parts][chips]"""
        self.group: list[Position] = [
            tuple(x for column, x in enumerate(coordinates[chip]) if column not in columns)
            if chip in coordinates
            else (-1 - chip,)
            for chip in range(topology.chips)
        ]
        self.sizes = [tuple(max(at) + 1 for at in zip(*of, strict=True)) for of in self.position]
        """[parts]"""
        self.everyone = [list(itertools.product(*map(range, sizes))) for sizes in self.sizes]
        """[parts]"""
        self.n = len({mesh[chip] for chip in self.members})
        self.bits: dict[Position, int] = {}
        for chip in self.members:
            self.bits[self.group[chip]] = self.bits.get(self.group[chip], 0) + self._bit(chip)
        for positions, everyone in zip(self.position, self.everyone, strict=True):
            for group in self.bits:
                if sorted(positions[chip] for chip in self.members if self.group[chip] == group) != everyone:
                    raise ReplayError("a part does not number the chips of each group")
        self.all: Position = (-1,) * len(columns)
        self.src, self.dst = schedule.src.tolist(), schedule.dst.tolist()
        self.part, self.half = schedule.part.tolist(), schedule.half.tolist()
        self.own = schedule.own.tolist()
        self.origin = [tuple(row) for row in schedule.origin.tolist()]
        self.target = [tuple(row) for row in schedule.target.tolist()]
        ends = schedule.dep_counts.cumsum().tolist()
        flat = schedule.deps.tolist()
        self.deps = [flat[end - count : end] for end, count in zip(ends, schedule.dep_counts.tolist(), strict=True)]
        for send, before in enumerate(schedule.follows.tolist()):
            if before >= 0 and self.deps[send]:
                raise ReplayError(f"send {send} follows another and waits for some, too")
            self.deps[send] += [before] if before >= 0 else []
        self.box, self.elements = functools.cache(self._box), functools.cache(self._elements)
        self.followed = set(schedule.follows.tolist())
        self.arrives: list[bool] = []
        """[sends] True if a send reaches its receiver, and not just a node on the way."""
        self.passes_on: list[bool] = []
        """[sends] True if a send continues a message."""
        self.end: list[int] = []
        """[sends] node that it reaches."""
        self.home: list[Position] = []
        """[sends] group whose data it is; it may pass through chips of other groups."""
        self.payload: list[frozenset[Element]] = []
        """[sends replayed so far] payload."""
        self.sums: list[dict[Element, int]] = []
        """[sends] contributions in each element, a bit per chip; empty for copies."""

    def run(self) -> None:
        self._check_columns()
        collective = self.schedule.collective
        for send in range(len(self.schedule)):
            self.payload.append(self.elements(self.origin[send], self.target[send], self.part[send], self.half[send]))
            self._check_share(send)
            adds = collective in ("reduce_scatter", "all_reduce", "reduce") and self.origin[send] == self.all
            self.sums.append(self._add_up(send) if adds else {})
            if not adds and not self.passes_on[send]:
                self._check_copy(send)
        self._check_result()

    # --- what is in a send -------------------------------------------------------------------------------------------

    def _box(self, pattern: Position, part: int) -> tuple[Position, ...]:
        ranges = (range(size) if at < 0 else (at,) for at, size in zip(pattern, self.sizes[part], strict=True))
        return tuple(itertools.product(*ranges))

    def _elements(self, origin: Position, target: Position, part: int, half: int) -> frozenset[Element]:
        if self.schedule.collective not in MESSAGES:
            copies = origin != self.all
            boxes = (
                ((o, self.all) for o in self.box(origin, part))
                if copies
                else ((self.all, t) for t in self.box(target, part))
            )
        else:
            boxes = ((o, t) for o in self.box(origin, part) for t in self.box(target, part))
        halves = (0, 1) if half < 0 else (half,)
        return frozenset((part, each, o, t) for o, t in boxes for each in halves)

    def _check_columns(self) -> None:
        schedule, links = self.schedule, self.topology.links
        for send, (link, direction) in enumerate(zip(schedule.link.tolist(), schedule.direction.tolist(), strict=True)):
            self._check_route(send, link)
            if self.named_on is self.topology and links[link].direction != direction:
                raise ReplayError(f"send {send} goes in direction {direction} on {links[link].name}")
            if any(dep >= send for dep in self.deps[send]):
                raise ReplayError(f"send {send} waits for a later one")
            starts = self.own[send] or not self.deps[send]
            self.home.append(self.group[self.src[send]] if starts else self.home[self.deps[send][0]])
            if any(self.home[dep] != self.home[send] for dep in self.deps[send]):
                raise ReplayError(f"send {send} mixes the data of groups")
            if not self.passes_on[send] and any(
                self.dst[dep] != self.src[send] or not self.arrives[dep] for dep in self.deps[send]
            ):
                raise ReplayError(f"send {send} waits for a send that did not end at its chip")

    def _check_route(self, send: int, link: int) -> None:
        """A send is on a link between its chips, or on the next link after the send that it follows."""
        links, chips = self.topology.links, self.topology.chips
        start, end = links[link].src, links[link].dst
        self.arrives.append(end == self.dst[send])
        self.passes_on.append(start != self.src[send])
        if self.passes_on[send] and self.topology.reduction.enabled:
            if self.own[send] or not self.deps[send] or any(self.end[dep] != start for dep in self.deps[send]):
                raise ReplayError(f"send {send} joins messages that have not reached the switch")
        elif self.passes_on[send]:
            before = int(self.schedule.follows[send]) if self.schedule.follows[send] >= 0 else send
            same = all(column[before] == column[send] for column in (self.src, self.dst, self.part, self.half))
            same &= (self.origin[before], self.target[before]) == (self.origin[send], self.target[send])
            if before == send or not same or self.end[before] != start or self.own[send]:
                raise ReplayError(f"send {send} does not pass a message on")
        if not self.arrives[send] and end < chips and send not in self.followed:
            raise ReplayError(f"send {send} is not on a link from {self.src[send]} to {self.dst[send]}")
        self.end.append(end)

    def _check_share(self, send: int) -> None:
        n = 1 if self.schedule.collective in ("broadcast", "permute", "reduce", "sendrecv") else self.n
        expected = len(self.payload[send]) / (2 * self.schedule.parts * n)
        if abs(self.schedule.share[send] - expected) > 1e-12:
            raise ReplayError(f"send {send} carries {expected} of the size and says {self.schedule.share[send]}")

    # --- copies ------------------------------------------------------------------------------------------------------

    def _check_copy(self, send: int) -> None:
        chip = self.src[send]
        at_home = self.home[send] == self.group[chip]
        own = frozenset(
            element for element in self.payload[send] if at_home and element[2] == self.position[self.part[send]][chip]
        )
        if bool(own) != self.own[send]:
            raise ReplayError(f"send {send} says own={self.own[send]}")
        if self.schedule.collective == "all_reduce":
            for element in own:
                self._check_sum(send, element)
        missing = self.payload[send] - own
        for dep in self._ancestors(send):
            if not missing:
                return
            if not self.sums[dep] and self.dst[dep] == self.src[send] and self.arrives[dep]:
                missing -= self.payload[dep]
        if missing:
            raise ReplayError(f"send {send} carries {min(missing)} before it is there")

    def _ancestors(self, send: int) -> Iterator[int]:
        """Sends it waits for, nearest first."""
        seen, queue = set(self.deps[send]), list(self.deps[send])
        for dep in queue:
            yield dep
            fresh = [earlier for earlier in self.deps[dep] if earlier not in seen]
            seen.update(fresh)
            queue += fresh

    # --- sums --------------------------------------------------------------------------------------------------------

    def _add_up(self, send: int) -> dict[Element, int]:
        own = self._bit(self.src[send]) if self.own[send] else 0
        return {element: self._total(own, element, self.deps[send], send) for element in self.payload[send]}

    def _bit(self, chip: int) -> int:
        """Position of a chip, the same in each part."""
        return 1 << chip

    def _everyone(self, chip: int) -> int:
        """The bits of a chip's group."""
        return self.bits[self.group[chip]]

    def _total(self, total: int, element: Element, arrivals: list[int], send: int) -> int:
        for arrival in arrivals:
            added = self.sums[arrival].get(element, 0)
            if total & added:
                raise ReplayError(f"send {send} counts a contribution to {element} twice")
            total |= added
        return total

    def _check_sum(self, send: int, element: Element) -> None:
        """The sender's own chunk of an all-reduce is complete."""
        part, half, origin, _ = element
        chip = self.src[send]
        total = self._total(self._bit(chip), (part, half, self.all, origin), self.deps[send], send)
        if total != self._everyone(chip):
            raise ReplayError(f"send {send} gathers {element} before its sum is complete")

    # --- the collective ----------------------------------------------------------------------------------------------

    def _check_result(self) -> None:
        arrivals: list[list[int]] = [[] for _ in self.group]
        for send, chip in enumerate(self.dst):
            if self.arrives[send] and self.home[send] == self.group[chip]:
                arrivals[chip].append(send)
        for chip in self.members:
            wanted = [self._wanted(part, of[chip]) for part, of in enumerate(self.position)]
            missing = frozenset[Element]().union(*wanted)
            missing = missing.difference(*(self.payload[i] for i in arrivals[chip] if not self.sums[i]))
            if self.schedule.collective in ("reduce_scatter", "all_reduce"):
                own = {(part, half, self.all, of[chip]) for part, of in enumerate(self.position) for half in (0, 1)}
                sums = {(part, half, self.all, o) for part, half, o, _ in missing}
                self._check_whole(chip, own | sums, arrivals[chip])
            elif self.schedule.collective == "reduce":
                own = {
                    (part, half, self.all, of[chip])
                    for part, of in enumerate(self.position)
                    for half in (0, 1)
                    if of[chip] == self.everyone[part][0]
                }
                self._check_whole(chip, own, arrivals[chip])
            elif missing:
                raise ReplayError(f"chip {chip} ends without {min(missing)}")

    def _check_whole(self, chip: int, elements: set[Element], arrivals: list[int]) -> None:
        """The chip has received each whole sum, or all that adds up to it with its own contribution."""
        everyone, holders = self._everyone(chip), dict[Element, list[int]]()
        for send in arrivals:
            for element in self.sums[send]:
                holders.setdefault(element, []).append(send)
        for element in elements:
            received = holders.get(element, [])
            if any(self.sums[send][element] == everyone for send in received):
                continue
            if self._total(self._bit(chip), element, received, -1) != everyone:
                raise ReplayError(f"chip {chip} ends without the whole sum")

    def _wanted(self, part: int, position: Position) -> frozenset[Element]:
        """Returns what a chip must have received by the end, apart from its own data."""
        everyone = self.everyone[part]
        others, root = [other for other in everyone if other != position], everyone[0]
        match self.schedule.collective:
            case "all_gather" | "all_reduce":
                boxes = [(other, self.all) for other in others]
            case "reduce_scatter" | "reduce":
                boxes = []
            case "gather":
                boxes = [(other, root) for other in others] if position == root else []
            case "scatter":
                boxes = [(root, position)] if position != root else []
            case "sendrecv":
                boxes = [(everyone[everyone.index(position) - 1], position)] if others else []
            case "all_to_all":
                boxes = [(other, position) for other in others]
            case "broadcast":
                boxes = [(root, self.all)] if position != root else []
            case "permute":
                boxes = [(before, position) for before in self._before(part, position)]
        return frozenset((part, half, o, t) for half in (0, 1) for o, t in boxes)

    def _before(self, part: int, position: Position) -> list[Position]:
        """The chip one hop back along the one axis longer than one chip, where there is one, its link failed or not."""
        result = []
        whole = self.named_on.intact
        for i, name in enumerate(self.schedule.axes):
            size = self.sizes[part][i]
            if size > 1 and (position[i] > 0 or whole.axis(name).ring):
                result.append((*position[:i], (position[i] - 1) % size, *position[i + 1 :]))
        return result
