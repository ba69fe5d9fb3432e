"""Machine with chips, nodes and directed links in fixed order; builds machines from an arbitrary graph."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field
from msgspec.structs import force_setattr, replace

from sim import units
from sim.errors import InputError
from sim.specs import GraphSpec, Medium, MultimemTimes, NcclSpec, NetworkSpec, StackSpec
from sim.topology.bundles import bundle
from sim.topology.chip import Chip
from sim.topology.mesh import MeshAxis, natural_mesh
from sim.topology.paths import Way, shortest, widest

Int32s = npt.NDArray[np.int32]


class Link(Struct, frozen=True):
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
    """Latency per hop, s."""
    axis: str = ""
    """Torus axis it runs along."""
    direction: int = 0
    """+1 or -1 along `axis`."""
    medium: Medium = "nvlink"
    cables: int = 1
    """Number of parallel cables that form the link."""
    network: NetworkSpec | None = None
    """NCCL's costs of messages over a link of medium `net`."""
    nominal_bandwidth: float = 0.0
    """Bytes/s, one direction, of the data sheet; 0 where it is not known."""
    latency_ps: int = 0
    """`latency_s` on the clock of the simulation."""

    def __post_init__(self) -> None:
        force_setattr(self, "latency_ps", units.to_ps_or_more(self.latency_s))

    @property
    def is_below_nominal(self) -> bool:
        """Returns True if the link reaches less than its data sheet says."""
        return self.bandwidth < self.nominal_bandwidth * units.EXACTLY

    def busy_ps(self, size: float) -> int:
        """Returns the time for which a message of `size` bytes holds the link, ps."""
        return units.to_ps_or_more(size / self.bandwidth)


class Axis(Struct, frozen=True):
    """One axis of the wiring: of a torus, or `g` for all chips that routes join."""

    name: str
    size: int
    ring: bool
    """True if the axis closes onto itself after `size` hops (wrapped and not twisted)."""


class Software(Struct, frozen=True):
    """Software that communicates on a machine."""

    collective_overhead_s: float
    message_start_s: float = 0.0
    """Time to start a message on a torus; part of the latency of every link."""
    algorithms: Mapping[str, str] = field(default_factory=dict)
    """Default algorithm per collective."""
    nccl: NcclSpec | None = None
    """NCCL's parameters on this machine; None where it does not run."""
    multimem: MultimemTimes = field(default_factory=MultimemTimes.model_construct)
    """Rates of kernels on multicast memory."""


class SwitchReduction(Struct, frozen=True):
    """Switches that add up and multicast."""

    enabled: bool = False
    node: int | None = None
    """Node that adds up and multicasts and has a link to every chip; None if there is no such node."""
    multicast_nodes: frozenset[int] = frozenset()
    """Switches that only add up and multicast: no message from chip to chip takes their links."""


class Failures(Struct, frozen=True, eq=False):
    """Links that carry nothing. They stay in `Topology.links`, so that numbers and names stay the same."""

    links: frozenset[int] = frozenset()
    intact: Topology | None = None
    """The machine with all its links."""


class Folding(Struct, frozen=True, eq=False):
    """Representation of a machine by a few of its chips (`sim.topology.folding`)."""

    machine: Topology
    """The machine with all its chips."""
    representative: Int32s
    """[chips of the machine] the chip of the folded machine that represents each."""
    representative_link: Int32s
    """[links of the machine] the link of the folded machine that represents each."""
    chips: Int32s
    """[chips of the folded machine] number of each in the machine, the lowest of those that it represents."""


_NO_FAILURES = Failures()


class Topology(Struct, frozen=True, eq=False):
    """Nodes, links and routes of one machine.

    Chips are numbered 0 .. chips-1, row-major over `axes` (the last axis varies fastest); other nodes follow.
    """

    name: str
    chip: Chip
    axes: tuple[Axis, ...]
    nodes: tuple[str, ...]
    """Names of all nodes, chips first."""
    links: tuple[Link, ...]
    software: Software
    ways_of: Callable[[Topology, int, int], tuple[Way, ...]]
    kind: Literal["torus", "switch", "graph"] = "graph"
    reduction: SwitchReduction = SwitchReduction()
    is_vertex_transitive: bool = False
    """True if all chips are alike: moving every chip by the same step maps the links onto themselves."""
    failures: Failures = _NO_FAILURES
    folding: Folding | None = None
    """Set on a folded machine, whose chips represent all chips of a larger one."""
    unused: tuple[str, ...] = ()
    """Links of the file that are left out, as messages would crowd onto them (`sim.topology.odd_links`)."""
    mesh: tuple[MeshAxis, ...] = ()
    """Logical axes, which number every chip once. Default: the axes of the wiring."""
    _neighbours: Mapping[tuple[int, str, int], tuple[int, int]] = field(default_factory=dict)

    def __repr__(self) -> str:
        mesh = " x ".join(f"{axis.name}={axis.size}" for axis in self.mesh)
        folded = f" folded to {self.chips}" if self.is_folded else ""
        links = f"{len(self.links)} links"
        return f"Topology({self.name}: {self.kind} of {self.total_chips} chips{folded}, {links}, mesh {mesh})"

    def __post_init__(self) -> None:
        if not self.mesh:
            force_setattr(self, "mesh", natural_mesh(self.axes))

    @property
    def total_chips(self) -> int:
        """Number of chips of the machine, also of a folded one."""
        return prod(axis.size for axis in self.axes)

    @property
    def has_lines(self) -> bool:
        """True if chips have links to neighbours along axes; else messages between any two chips take routes."""
        return self.kind == "torus"

    @property
    def has_ports(self) -> bool:
        """True if every chip has a port to and from one switch, and no other links."""
        return self.kind == "switch"

    @property
    def working_links(self) -> tuple[Link, ...]:
        """Links that have not failed."""
        return tuple(link for link in self.links if link.index not in self.failed)

    def link_column(self, name: Literal["src", "dst", "direction"]) -> Int32s:
        """Returns [links] one number of every link."""
        return np.array([getattr(link, name) for link in self.links], dtype=np.int32)

    @property
    def failed(self) -> frozenset[int]:
        """Indices of the failed links."""
        return self.failures.links

    @property
    def intact(self) -> Topology:
        """The machine with all its links."""
        return self.failures.intact or self

    @property
    def is_folded(self) -> bool:
        """True if chips here represent all chips of a larger machine."""
        return self.folding is not None

    def unfold(self) -> Topology:
        """Returns the machine with all its chips: itself unless it is folded."""
        return self.folding.machine if self.folding else self

    @property
    def chips(self) -> int:
        """Number of chips; of a folded machine, of those that represent the others."""
        return self.total_chips if self.folding is None else len(self.folding.chips)

    @property
    def chip_numbers(self) -> npt.NDArray[np.integer]:
        """[chips] number of each chip in the unfolded machine."""
        return np.arange(self.total_chips) if self.folding is None else self.folding.chips

    def chip_number(self, chip: int) -> int:
        """Returns the number of a chip in the unfolded machine."""
        return chip if self.folding is None else int(self.folding.chips[chip])

    def representative_of(self, chip: int) -> int:
        """Returns the chip that represents a chip of the unfolded machine."""
        return chip if self.folding is None else int(self.folding.representative[chip])

    def represented_by(self, chips: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Returns the chips of the unfolded machine that these chips represent, in order."""
        return chips if self.folding is None else np.flatnonzero(np.isin(self.folding.representative, chips))

    @property
    def representative_links(self) -> Int32s:
        """[links of the unfolded machine] the link that represents each."""
        return np.arange(len(self.links), dtype=np.int32) if self.folding is None else self.folding.representative_link

    def fail_links(self, links: frozenset[int]) -> Topology:
        """Returns the machine with failed links: routes and rings avoid them, and axes along them are lines.

        On a torus, routes are then the shortest that are left, not dimension-ordered. On a graph a link fails together
        with the one that leads back, which the reverse of an algorithm needs. A switch reduces only if all chips reach
        it.
        """
        return _fail_links(self, links) if links else self

    def axis(self, name: str) -> Axis:
        """Returns the axis of the wiring of that name. Raises StopIteration."""
        return next(axis for axis in self.axes if axis.name == name)

    def neighbour(self, chip: int, axis: str, direction: int) -> tuple[int, int] | None:
        """Returns (chip, link index) one hop along `axis` in `direction` (+1 or -1); None if there is no such link.

        Only a torus has neighbours; on a switch or a graph use `route`.
        """
        return self._neighbours.get((chip, axis, direction))

    def ways(self, src: int, dst: int) -> tuple[Way, ...]:
        """Returns the equally good routes from chip `src` to chip `dst`, which carry equal parts of a message."""
        if self.folding is None:
            return self.ways_of(self, src, dst)
        link, (here, there) = self.folding.representative_link, self.folding.chips[[src, dst]].tolist()
        return tuple(tuple(int(link[hop]) for hop in way) for way in self.folding.machine.ways(here, there))

    def route(self, src: int, dst: int) -> Way:
        """Returns the first route from chip `src` to chip `dst`; no links from a chip to itself."""
        return self.ways(src, dst)[0]

    def can_reach(self, src: int, dst: int) -> bool:
        """Returns True if there is a route from chip `src` to chip `dst`; failed links may leave none."""
        try:
            self.route(src, dst)
        except InputError:
            return False
        return True

    def coordinates(self, chip: int) -> tuple[int, ...]:
        """Returns the position of a chip on each axis."""
        result = []
        for axis in reversed(self.axes):
            chip, position = divmod(chip, axis.size)
            result.append(position)
        return tuple(reversed(result))


def _back(machine: Topology, links: frozenset[int]) -> frozenset[int]:
    """Returns the links that lead back over the same cables."""
    between: dict[tuple[int, int], list[int]] = {}
    for link in machine.links:
        between.setdefault((link.src, link.dst), []).append(link.index)
    ends = {link: (machine.links[link].src, machine.links[link].dst) for link in links}
    return frozenset(between[dst, src][between[src, dst].index(link)] for link, (src, dst) in ends.items())


@functools.lru_cache(maxsize=64)
def _fail_links(machine: Topology, failed: frozenset[int]) -> Topology:
    along = {machine.links[link].axis for link in failed}
    if not (machine.has_lines or machine.has_ports):
        failed |= _back(machine, failed)
    reduction = machine.reduction
    if any(reduction.node in (machine.links[link].src, machine.links[link].dst) for link in failed):
        reduction = SwitchReduction(multicast_nodes=reduction.multicast_nodes)
    return replace(
        machine,
        axes=tuple(replace(axis, ring=axis.ring and axis.name not in along) for axis in machine.axes),
        ways_of=shortest if machine.has_lines else machine.ways_of,
        is_vertex_transitive=False,
        reduction=reduction,
        failures=Failures(failed, machine.intact),
    )


def build(spec: GraphSpec, stack: StackSpec) -> Topology:
    """Builds a machine with nodes and links in the order of the file, chips first; joins parallel links (`bundles`).

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
                    nominal_bandwidth=each.nominal_bandwidth,
                )
            )
    multicasts = "multicast" in spec.nodes.values()
    topology = Topology(
        name=spec.name,
        chip=Chip.from_spec(spec.chip, stack),
        axes=(Axis("g", len(chips), ring=False),),
        nodes=nodes,
        links=tuple(links),
        software=Software(
            stack.collective_overhead.value,
            algorithms=spec.collectives,
            nccl=spec.nccl,
            multimem=stack.multimem.value,
        ),
        ways_of=widest,
        reduction=SwitchReduction(
            enabled=spec.reduces or multicasts,
            node=find_reducer(
                links, len(chips), [number[name] for name in nodes if spec.nodes[name] == _adds_up(spec)]
            ),
            multicast_nodes=frozenset(number[name] for name in nodes if spec.nodes[name] == "multicast"),
        ),
    )
    for chip in range(1, len(chips)):
        topology.route(0, chip)  # every link has a reverse, so reaching all chips from one is enough
    return topology


def _adds_up(spec: GraphSpec) -> str:
    """Returns the kind of node that adds up and multicasts, empty if there is none."""
    return "multicast" if "multicast" in spec.nodes.values() else "switch" if spec.reduces else ""


def find_reducer(links: Sequence[Link], chips: int, nodes: Sequence[int]) -> int | None:
    """Returns the first of the nodes that has a link to every chip. Network switches do not add up."""
    linked: dict[int, set[int]] = {node: set() for node in nodes}
    for link in links:
        if link.src in linked and link.dst < chips and link.medium != "net":
            linked[link.src].add(link.dst)
    return next((node for node, reached in linked.items() if len(reached) == chips), None)
