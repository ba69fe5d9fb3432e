"""Replay of a schedule chunk by chunk: does it carry out its collective, and does every send hold what it claims?

Nothing here knows how an algorithm works. Data is cut into elements (part, half, origin, target) as `Schedule` names
them; every send's payload must be there when the sends it waits for have arrived, whatever else may be under way.
"""

import functools
import itertools
from collections.abc import Iterator

from sim.collectives import Schedule
from sim.topology import Topology

Position = tuple[int, ...]
Element = tuple[int, int, Position, Position]
"""(part, half, origin, target); for sums and copies the box that is not named is all -1."""


MESSAGES = ("all_to_all", "permute", "gather", "scatter", "sendrecv")
"""Collectives whose every element has one sender and one receiver."""


class ReplayError(AssertionError):
    """A schedule that does not do what its columns say, or not what its collective means."""


def replay(schedule: Schedule, topology: Topology) -> None:
    """Raises ReplayError unless the schedule carries out its collective on every group of the mesh."""
    _Replay(schedule, topology).run()


class _Replay:
    def __init__(self, schedule: Schedule, topology: Topology) -> None:
        self.schedule, self.topology = schedule, topology
        names = [axis.name for axis in topology.axes]
        columns = [names.index(name) for name in schedule.axes]
        self.sizes = tuple(topology.axes[column].size for column in columns)
        coordinates = [topology.coordinates(chip) for chip in range(topology.chips)]
        self.position: list[Position] = [tuple(at[column] for column in columns) for at in coordinates]
        self.group = [tuple(x for column, x in enumerate(at) if column not in columns) for at in coordinates]
        self.everyone = list(itertools.product(*(range(size) for size in self.sizes)))
        self.all: Position = (-1,) * len(columns)
        self.src, self.dst = schedule.src.tolist(), schedule.dst.tolist()
        self.part, self.half = schedule.part.tolist(), schedule.half.tolist()
        self.own = schedule.own.tolist()
        self.origin = [tuple(row) for row in schedule.origin.tolist()]
        self.target = [tuple(row) for row in schedule.target.tolist()]
        ends = schedule.dep_counts.cumsum().tolist()
        flat = schedule.deps.tolist()
        self.deps = [flat[end - count : end] for end, count in zip(ends, schedule.dep_counts.tolist(), strict=True)]
        self.box = functools.cache(self._box)
        self.arrives: list[bool] = []
        """Of each send: whether it reaches its receiver, and not just a node on the way."""
        self.passes_on: list[bool] = []
        """Of each send: whether it moves a message on that is on the way."""
        self.end: list[int] = []
        """Of each send: the node it reaches."""
        self.home: list[Position] = []
        """Of each send: the group whose data it is; on its way it may pass through chips of others."""
        self.payload: list[frozenset[Element]] = []
        """Of each send replayed so far."""
        self.sums: list[dict[Element, int]] = []
        """Of each send: the contributions in each element, a bit per position of the group; empty for copies."""

    def run(self) -> None:
        self._check_columns()
        collective = self.schedule.collective
        for send in range(len(self.schedule)):
            self.payload.append(self._payload(send))
            self._check_share(send)
            adds = collective in ("reduce_scatter", "all_reduce", "reduce") and self.origin[send] == self.all
            self.sums.append(self._add_up(send) if adds else {})
            if not adds and not self.passes_on[send]:
                self._check_copy(send)
        self._check_result()

    # --- what is in a send -------------------------------------------------------------------------------------------

    def _box(self, pattern: Position) -> tuple[Position, ...]:
        ranges = (range(size) if at < 0 else (at,) for at, size in zip(pattern, self.sizes, strict=True))
        return tuple(itertools.product(*ranges))

    def _payload(self, send: int) -> frozenset[Element]:
        origin, target = self.origin[send], self.target[send]
        if self.schedule.collective not in MESSAGES:
            copies = origin != self.all
            boxes = ((o, self.all) for o in self.box(origin)) if copies else ((self.all, t) for t in self.box(target))
        else:
            boxes = ((o, t) for o in self.box(origin) for t in self.box(target))
        halves = (0, 1) if self.half[send] < 0 else (self.half[send],)
        return frozenset((self.part[send], half, o, t) for o, t in boxes for half in halves)

    def _check_columns(self) -> None:
        schedule, links = self.schedule, self.topology.links
        for send, (link, direction) in enumerate(zip(schedule.link.tolist(), schedule.direction.tolist(), strict=True)):
            self._check_route(send, link, int(schedule.ingress[send]))
            if links[link].direction != direction:
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
                raise ReplayError(f"send {send} waits for something that its chip cannot see")

    def _check_route(self, send: int, link: int, ingress: int) -> None:
        """A send is on a link between its chips, on a port of each, or on the next link after an earlier send."""
        links, chips = self.topology.links, self.topology.chips
        start, end = links[link].src, links[link].dst
        if ingress >= 0:
            between = self.schedule.between[send].tolist() if len(self.schedule.between) else []
            for held in (*(link for link in between if link >= 0), ingress):
                if links[held].src != end:
                    raise ReplayError(f"send {send} holds ports that do not meet")
                end = links[held].dst
        self.arrives.append(end == self.dst[send])
        self.passes_on.append(start != self.src[send])
        if self.passes_on[send] and self.topology.reduces:
            if self.own[send] or not self.deps[send] or any(self.end[dep] != start for dep in self.deps[send]):
                raise ReplayError(f"send {send} joins messages that have not reached the switch")
        elif self.passes_on[send]:
            before = self.deps[send][0] if len(self.deps[send]) == 1 else send
            same = all(column[before] == column[send] for column in (self.src, self.dst, self.part, self.half))
            same &= (self.origin[before], self.target[before]) == (self.origin[send], self.target[send])
            if before == send or not same or self.end[before] != start or self.own[send]:
                raise ReplayError(f"send {send} does not pass a message on")
        if not self.arrives[send] and (end < chips and self.topology.kind == "torus"):
            raise ReplayError(f"send {send} is not on a link from {self.src[send]} to {self.dst[send]}")
        self.end.append(end)

    def _check_share(self, send: int) -> None:
        n = 1 if self.schedule.collective in ("broadcast", "permute", "reduce", "sendrecv") else len(self.everyone)
        expected = len(self.payload[send]) / (2 * self.schedule.parts * n)
        if abs(self.schedule.share[send] - expected) > 1e-12:
            raise ReplayError(f"send {send} carries {expected} of the size and says {self.schedule.share[send]}")

    # --- copies ------------------------------------------------------------------------------------------------------

    def _check_copy(self, send: int) -> None:
        chip = self.src[send]
        at_home = self.home[send] == self.group[chip]
        own = frozenset(element for element in self.payload[send] if at_home and element[2] == self.position[chip])
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
        own = self._bit(self.position[self.src[send]]) if self.own[send] else 0
        return {element: self._total(own, element, self.deps[send], send) for element in self.payload[send]}

    def _bit(self, position: Position) -> int:
        return 1 << self.everyone.index(position)

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
        total = self._total(self._bit(origin), (part, half, self.all, origin), self.deps[send], send)
        if total != 2 ** len(self.everyone) - 1:
            raise ReplayError(f"send {send} gathers {element} before its sum is complete")

    # --- the collective ----------------------------------------------------------------------------------------------

    def _check_result(self) -> None:
        arrivals: list[list[int]] = [[] for _ in self.position]
        for send, chip in enumerate(self.dst):
            if self.arrives[send] and self.home[send] == self.group[chip]:
                arrivals[chip].append(send)
        for chip, position in enumerate(self.position):
            missing = self._wanted(position).difference(*(self.payload[i] for i in arrivals[chip] if not self.sums[i]))
            if self.schedule.collective in ("reduce_scatter", "all_reduce"):
                halves = itertools.product(range(self.schedule.parts), (0, 1))
                self._check_whole(chip, {(part, half, self.all, position) for part, half in halves}, arrivals[chip])
                sums = {(part, half, self.all, o) for part, half, o, _ in missing}
                self._check_whole(chip, sums, arrivals[chip])
            elif self.schedule.collective == "reduce" and position == self.everyone[0]:
                halves = itertools.product(range(self.schedule.parts), (0, 1))
                self._check_whole(chip, {(part, half, self.all, position) for part, half in halves}, arrivals[chip])
            elif missing:
                raise ReplayError(f"chip {chip} ends without {min(missing)}")

    def _check_whole(self, chip: int, elements: set[Element], arrivals: list[int]) -> None:
        """The chip has received each whole sum, or all that adds up to it with its own contribution."""
        everyone = 2 ** len(self.everyone) - 1
        for element in elements:
            if any(self.sums[send].get(element) == everyone for send in arrivals):
                continue
            if self._total(self._bit(self.position[chip]), element, arrivals, -1) != everyone:
                raise ReplayError(f"chip {chip} ends without the whole sum")

    def _wanted(self, position: Position) -> frozenset[Element]:
        """What a chip must have received by the end, its own data apart."""
        others = [other for other in self.everyone if other != position]
        root = self.everyone[0]
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
                boxes = [(self.everyone[self.everyone.index(position) - 1], position)] if others else []
            case "all_to_all":
                boxes = [(other, position) for other in others]
            case "broadcast":
                boxes = [(root, self.all)] if position != root else []
            case "permute":
                boxes = [(before, position) for before in self._before(position)]
        return frozenset((part, half, o, t) for part in range(self.schedule.parts) for half in (0, 1) for o, t in boxes)

    def _before(self, position: Position) -> list[Position]:
        """The chip one hop back along the one axis longer than one chip, where there is one, its link failed or not."""
        result = []
        whole = self.topology.intact or self.topology
        for i, name in enumerate(self.schedule.axes):
            if self.sizes[i] > 1 and (position[i] > 0 or whole.axis(name).ring):
                result.append((*position[:i], (position[i] - 1) % self.sizes[i], *position[i + 1 :]))
        return result
