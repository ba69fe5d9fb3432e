"""The built machine: chips, nodes and directed links in fixed order; and machines given as an arbitrary graph."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim import units
from sim.errors import InputError
from sim.specs import GraphSpec, Medium, NcclSpec, NetworkSpec, StackSpec
from sim.topology.bundles import bundle
from sim.topology.chip import Chip
from sim.topology.mesh import MeshAxis, natural_mesh
from sim.topology.paths import Way, shortest, widest

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of one link: a resource of the engine."""

    index: int
    """Position in `Topology.links`."""
    name: str
    """`3:x+` (torus, from chip 3) or `gpu0->sw1#0` (graph)."""
    src: int
    """Sending node; chips are the nodes 0 .. chips-1."""
    dst: int
    bandwidth: float
    """Bytes/s, one direction, efficiency applied."""
    latency_s: float
    """Per hop."""
    axis: str = ""
    """Torus axis it runs along."""
    direction: int = 0
    """+1 or -1 along `axis`."""
    medium: Medium = "nvlink"
    cables: int = 1
    """Cables side by side that this is."""
    network: NetworkSpec | None = field(default=None, repr=False, compare=False)
    """Of a link of medium `net`: what NCCL's messages over it take."""

    def busy_ps(self, size: float) -> int:
        """Time a message of `size` bytes holds the link, ps."""
        return units.to_ps_or_more(size / self.bandwidth)

    @property
    def latency_ps(self) -> int:
        return units.to_ps_or_more(self.latency_s)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the wiring: of a torus, or `g` for all chips that routes join."""

    name: str
    size: int
    ring: bool
    """Whether following the axis closes onto itself after `size` hops (wrapped and not twisted)."""


@dataclass(frozen=True, slots=True, eq=False)
class StandsFor:
    """Of a folded machine (`sim.topology.folding`): which of its chips and links stands for which of the whole."""

    whole: Topology
    chip: Int32s
    """[chips of the whole machine] the chip here that stands for each."""
    link: Int32s
    """[links of the whole machine] the link here that stands for each."""
    first: Int32s
    """[chips here] the lowest chip that each stands for: the one it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Chips and links of one machine.

    Chips are numbered 0 .. chips-1, row-major over `axes` (the last axis varies fastest); other nodes follow.
    """

    name: str
    chip: Chip
    axes: tuple[Axis, ...]
    nodes: tuple[str, ...]
    """Names of all nodes, chips first."""
    links: tuple[Link, ...]
    collective_overhead_s: float
    collectives: Mapping[str, str]
    """Default algorithm per collective."""
    ways_of: Callable[[Topology, int, int], tuple[Way, ...]] = field(repr=False)
    kind: Literal["torus", "switch", "graph"] = "graph"
    nccl: NcclSpec | None = None
    """How NCCL runs on this machine; None where it does not."""
    reduces: bool = False
    """Whether switches add up and multicast."""
    multicast: int | None = None
    """Node of a switch that only adds up and multicasts: no message from chip to chip takes its links."""
    reducer: int | None = None
    """Node that adds up and multicasts and has a link to every chip; None where there is none that has."""
    vertex_transitive: bool = False
    """Whether all chips are alike: moving every chip by the same step maps the links onto themselves."""
    message_start_s: float = 0.0
    """Of a torus: what the software takes to start a message; part of the latency of every link."""
    failed: frozenset[int] = frozenset()
    """Links that carry nothing (see `without`); they stay in `links`, so that numbers and names do."""
    intact: Topology | None = field(default=None, repr=False)
    """The machine with all its links, where some have failed."""
    stands_for: StandsFor | None = field(default=None, repr=False)
    """Where some chips stand for all of a larger machine: whom."""
    mesh: tuple[MeshAxis, ...] = ()
    """Logical axes, which number every chip once; those of the wiring where no others are given."""
    _neighbours: Mapping[tuple[int, str, int], tuple[int, int]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.mesh:
            object.__setattr__(self, "mesh", natural_mesh(self.axes))

    @property
    def mesh_chips(self) -> int:
        """Number of chips of the machine."""
        return prod(axis.size for axis in self.axes)

    @property
    def has_lines(self) -> bool:
        """Whether chips are joined to neighbours along axes; else messages between any two chips take their routes."""
        return self.kind == "torus"

    @property
    def has_ports(self) -> bool:
        """Whether every chip has a port to and from one switch, and no other links."""
        return self.kind == "switch"

    @property
    def working_links(self) -> tuple[Link, ...]:
        """The links that have not failed."""
        return tuple(link for link in self.links if link.index not in self.failed)

    def link_column(self, name: Literal["src", "dst", "direction"]) -> Int32s:
        """[links] one number of every link."""
        return np.array([getattr(link, name) for link in self.links], dtype=np.int32)

    @property
    def unfolded(self) -> Topology | None:
        """The whole machine, where some chips stand for all of it."""
        return self.stands_for.whole if self.stands_for else None

    @property
    def chips(self) -> int:
        """Number of chips here: those of the machine, or those that stand for all of them."""
        return self.mesh_chips if self.stands_for is None else len(self.stands_for.first)

    def number(self, chip: int) -> int:
        """Number in the whole machine of a chip here; the lowest that it stands for."""
        return chip if self.stands_for is None else int(self.stands_for.first[chip])

    def stand_in(self, chip: int) -> int:
        """The chip here that stands for a chip of the whole machine."""
        return chip if self.stands_for is None else int(self.stands_for.chip[chip])

    def stood_for(self, chips: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """The chips of the whole machine for which chips here stand, in order."""
        return chips if self.stands_for is None else np.flatnonzero(np.isin(self.stands_for.chip, chips))

    @property
    def stand_in_links(self) -> Int32s:
        """[links of the whole machine] the link here that stands for each."""
        return np.arange(len(self.links), dtype=np.int32) if self.stands_for is None else self.stands_for.link

    def without(self, links: frozenset[int]) -> Topology:
        """The same machine where these links have failed: routes and rings avoid them, and axes along them are lines.

        On a torus, routes are then the shortest that are left, not dimension-ordered. On a graph a link fails together
        with the one that leads back, which the reverse of an algorithm would need. A switch that reduces does so only
        while all chips reach it.
        """
        return _without(self, links) if links else self

    def axis(self, name: str) -> Axis:
        """The axis of the wiring of that name. Raises StopIteration."""
        return next(axis for axis in self.axes if axis.name == name)

    def neighbour(self, chip: int, axis: str, direction: int) -> tuple[int, int] | None:
        """(chip, link index) one hop along `axis` in `direction` (+1 or -1); None where there is no such link.

        Only a torus has neighbours; on a switch or a graph use `route`.
        """
        return self._neighbours.get((chip, axis, direction))

    def ways(self, src: int, dst: int) -> tuple[Way, ...]:
        """The equally good ways from chip `src` to chip `dst`, over which a message goes in equal parts."""
        if self.stands_for is None:
            return self.ways_of(self, src, dst)
        link = self.stands_for.link
        ways = self.stands_for.whole.ways(self.number(src), self.number(dst))
        return tuple(tuple(int(link[each]) for each in way) for way in ways)

    def route(self, src: int, dst: int) -> Way:
        """The first way from chip `src` to chip `dst`; no links from a chip to itself."""
        return self.ways(src, dst)[0]

    def reaches(self, src: int, dst: int) -> bool:
        """Whether there is a route from chip `src` to chip `dst`: failed links may leave none."""
        try:
            self.route(src, dst)
        except InputError:
            return False
        return True

    def coordinates(self, chip: int) -> tuple[int, ...]:
        """Position of a chip on each axis."""
        result = []
        for axis in reversed(self.axes):
            chip, position = divmod(chip, axis.size)
            result.append(position)
        return tuple(reversed(result))


def _back(whole: Topology, links: frozenset[int]) -> frozenset[int]:
    """The links that lead back over the same cables."""
    between: dict[tuple[int, int], list[int]] = {}
    for link in whole.links:
        between.setdefault((link.src, link.dst), []).append(link.index)
    ends = {link: (whole.links[link].src, whole.links[link].dst) for link in links}
    return frozenset(between[dst, src][between[src, dst].index(link)] for link, (src, dst) in ends.items())


@functools.lru_cache(maxsize=64)
def _without(whole: Topology, failed: frozenset[int]) -> Topology:
    along = {whole.links[link].axis for link in failed}
    if not (whole.has_lines or whole.has_ports):
        failed |= _back(whole, failed)
    all_reach = not any(whole.reducer in (whole.links[link].src, whole.links[link].dst) for link in failed)
    return replace(
        whole,
        axes=tuple(replace(axis, ring=axis.ring and axis.name not in along) for axis in whole.axes),
        ways_of=shortest if whole.has_lines else whole.ways_of,
        vertex_transitive=False,
        reduces=whole.reduces and (whole.reducer is None or all_reach),
        reducer=whole.reducer if all_reach else None,
        failed=failed,
        intact=whole.intact or whole,
    )


def build(spec: GraphSpec, stack: StackSpec) -> Topology:
    """Nodes in the file's order, chips first; links in the file's order, alike ones as one (`sim.topology.bundles`).

    Links between the same two nodes are numbered: `gpu0->gpu1#0`, `gpu1->gpu0#0`, and `#1` where there is another kind.

    Raises:
        InputError: a chip that cannot reach another.
    """
    bundles = bundle(spec)
    linked = {node for each in bundles for node in each.between}
    chips = [name for name, kind in spec.nodes.items() if kind == "chip"]
    nodes = (*chips, *(name for name, kind in spec.nodes.items() if kind != "chip" and name in linked))
    number = {name: node for node, name in enumerate(nodes)}
    links: list[Link] = []
    made: Counter[tuple[str, str]] = Counter()
    for each in bundles:
        for src, dst in (each.between, each.between[::-1]):
            name = f"{src}->{dst}#{made[src, dst]}"
            made[src, dst] += 1
            ends, kind = (number[src], number[dst]), each.kind
            links.append(
                Link(
                    len(links),
                    name,
                    *ends,
                    each.bandwidth,
                    kind.latency_s,
                    medium=kind.medium,
                    cables=each.cables,
                    network=kind.network,
                )
            )
    multicasts = "multicast" in spec.nodes.values()
    topology = Topology(
        name=spec.name,
        chip=Chip.of(spec.chip, stack),
        axes=(Axis("g", len(chips), ring=False),),
        nodes=nodes,
        links=tuple(links),
        collective_overhead_s=stack.collective_overhead.value,
        collectives=spec.collectives,
        ways_of=widest,
        nccl=spec.nccl,
        reduces=spec.reduces or multicasts,
        multicast=next((number[name] for name in nodes if spec.nodes[name] == "multicast"), None),
        reducer=_reducer(links, len(chips), [number[name] for name in nodes if spec.nodes[name] == _adds_up(spec)]),
    )
    for chip in range(1, len(chips)):
        topology.route(0, chip)  # every link has a reverse, so reaching all chips from one is enough
    return topology


def _adds_up(spec: GraphSpec) -> str:
    """The kind of node that adds up and multicasts, empty where none does."""
    return "multicast" if "multicast" in spec.nodes.values() else "switch" if spec.reduces else ""


def _reducer(links: Sequence[Link], chips: int, nodes: Sequence[int]) -> int | None:
    """The first of the nodes that has a link to every chip. No network switch adds up."""
    linked: dict[int, set[int]] = {node: set() for node in nodes}
    for link in links:
        if link.src in linked and link.dst < chips and link.medium != "net":
            linked[link.src].add(link.dst)
    return next((node for node, reached in linked.items() if len(reached) == chips), None)
