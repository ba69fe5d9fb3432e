"""Machines of chips on a switch or on a graph, drawn node by node or as boxes that are all alike."""

import itertools
import math
import re
from collections import Counter
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from sim.errors import suggest
from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.held import find_excess, held_by_nccl
from sim.specs.link import LinkSpec
from sim.specs.machine import MAX_CHIPS, MAX_LINKS, MachineSpec
from sim.specs.nccl import NcclSpec

NodeKind = Literal["chip", "switch", "socket", "multicast"]


_Routed = TypeVar("_Routed", "SwitchSpec", "GraphSpec")


def _check_channels(machine: _Routed) -> _Routed:
    excess = find_excess(machine.chip, held_by_nccl(machine.nccl))
    if excess is not None:
        raise wrong(*excess.field, rule=excess.rule, got=excess.got, hint=excess.hint)
    return machine


class SwitchSpec(MachineSpec):
    """Chips on one non-blocking switch; `link` is the port of one chip, one direction."""

    kind: Literal["switch"]
    chips: Annotated[int, Field(gt=0, le=MAX_CHIPS)]
    link: LinkSpec
    nccl: NcclSpec | None = None
    """With it collectives run as NCCL would choose, unless an algorithm is named."""
    reduces: bool = False
    """True if the switch adds up and multicasts (NVLS)."""

    _channels_fit_on_the_chip = model_validator(mode="after")(_check_channels)

    @property
    def chip_count(self) -> int:
        """Number of chips."""
        return self.chips

    def keep_first_chips(self, count: int) -> Self:
        """Returns a switch of so many chips."""
        return self.model_copy(update={"chips": count})


def _boxes_or_nodes(schema: dict[str, Any]) -> None:
    """A file gives boxes, which bring their chip, or nodes and links."""
    schema["required"] = [field for field in schema["required"] if field != "chip"]
    schema["anyOf"] = [{"required": ["boxes"]}, {"required": ["chip", "nodes", "link_types", "links"]}]


class EdgeSpec(Strict):
    """Links between two nodes of a graph, `count` of them side by side, each in both directions.

    A range of nodes, such as `gpu0..7`, stands for all of them: a link from each, and of a range to itself one between
    any two.
    """

    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    link: str
    count: Count = 1


class AdaptersSpec(Strict):
    """Network adapters of each box and the leaf switches they are on."""

    link: LinkSpec
    """Latency from an adapter to its leaf switch, one direction."""
    at: Annotated[list[Name], Field(min_length=1)] | None = None
    """Nodes of a box that hold its adapters, an entry per adapter. Default: each chip holds one."""


class LeavesSpec(AdaptersSpec):
    """Leaf switches that take all adapters of some boxes."""

    boxes: Count
    """Number of boxes on each leaf switch."""


class SpinesSpec(Strict):
    """Spine switches that join the leaf switches."""

    count: Count
    link: LinkSpec
    links: Count = 1
    """Cables from each leaf switch to each spine switch."""


class BoxesSpec(Strict):
    """Boxes that are all alike, and the network between them: rails, or leaves."""

    count: Count
    of: Annotated["SwitchSpec | GraphSpec", Field(discriminator="kind")]
    """One box. What the machine's file leaves out of chip, nccl, reduces and launch overhead is the box's."""
    rails: AdaptersSpec | None = None
    """Adapter i of every box is on leaf switch i."""
    leaves: LeavesSpec | None = None
    """All adapters of a box are on one leaf switch."""
    spines: SpinesSpec | None = None

    @model_validator(mode="after")
    def _network_fits(self) -> Self:
        if (self.rails is None) == (self.leaves is None):
            raise wrong("rails", rule="boxes require either 'rails' or 'leaves'")
        network = self.network
        box = self.box
        for i, node in enumerate(network.at or ()):
            if node not in box.nodes:
                field = "rails" if self.rails else "leaves"
                raise wrong(field, "at", i, rule="must be a node of a box", got=node, hint=suggest(node, box.nodes))
        if (chips := self.count * box.chip_count) > MAX_CHIPS:
            raise wrong("count", rule=f"must have at most {MAX_CHIPS} chips", got=chips)
        adapters = len(network.at) if network.at else box.chip_count
        leaves = -(-self.count // self.leaves.boxes) if self.leaves else adapters
        inside = sum(edge.count for edge in box.links) + len(box.nodes)
        between = self.spines.count * self.spines.links * leaves if self.spines else 0
        if (links := self.count * (inside + adapters) + between) > MAX_LINKS:
            field = "spines" if between > links // 2 else "count"
            raise wrong(field, rule=f"must have at most {MAX_LINKS} nodes and links", got=links)
        return self

    @property
    def box(self) -> "GraphSpec":
        """One box as a graph."""
        return self.of if isinstance(self.of, GraphSpec) else _as_graph(self.of)

    @property
    def network(self) -> AdaptersSpec:
        """Network that joins the adapters."""
        network = self.rails or self.leaves
        if network is None:
            raise ValueError("boxes without a network")
        return network


class GraphSpec(MachineSpec):
    """An arbitrary graph: chips, switches and sockets as nodes, named link types as edges.

    `boxes` is short for the nodes and links of boxes that are all alike, to which the file may add nodes and links;
    `gpu0..7: chip` is short for eight nodes.
    """

    model_config = ConfigDict(json_schema_extra=_boxes_or_nodes)

    kind: Literal["graph"]
    nodes: dict[Name, NodeKind] = {}
    link_types: dict[Name, LinkSpec] = {}
    links: list[EdgeSpec] = []
    boxes: BoxesSpec | None = None
    nccl: NcclSpec | None = None
    """With it collectives run as NCCL would choose, unless an algorithm is named."""
    reduces: bool = False
    """True if switches between chips add up and multicast (NVLS)."""

    _channels_fit_on_the_chip = model_validator(mode="after")(_check_channels)

    @property
    def chip_count(self) -> int:
        """Number of chips."""
        return sum(kind == "chip" for kind in self.nodes.values())

    def keep_first_chips(self, count: int) -> Self:
        """Returns the graph without its other chips and their links."""
        gone = set([name for name, kind in self.nodes.items() if kind == "chip"][count:])
        nodes = {name: kind for name, kind in self.nodes.items() if name not in gone}
        links = [edge for edge in self.links if not set(edge.between) & gone]
        return self.model_copy(update={"nodes": nodes, "links": links}) if gone else self

    @model_validator(mode="after")
    def _draw(self) -> Self:
        """Replaces boxes and ranges of nodes by the nodes and links that they are short for."""
        drawing = Drawing()
        if self.boxes is not None:
            drawing.add_boxes(self.boxes)
        for name, kind in self.nodes.items():
            if not (names := _names(name)) or len(drawing.nodes) + len(names) > MAX_LINKS:
                raise wrong("nodes", name, rule=f"must count up, to at most {MAX_LINKS} nodes", got=name)
            if twice := [node for node in names if node in drawing.nodes]:
                raise wrong("nodes", name, rule="must name new nodes", got=twice[0])
            drawing.nodes |= dict.fromkeys(names, kind)
        for name in self.link_types:
            if name in drawing.link_types:
                raise wrong("link_types", name, rule="must be a name that the boxes do not use", got=name)
        drawing.link_types |= self.link_types
        for i, edge in enumerate(self.links):
            drawing.add_edge(i, edge)
        if self.boxes is None and len(drawing.nodes) == len(self.nodes) and len(drawing.links) == len(self.links):
            return self
        fields = {"nodes": drawing.nodes, "link_types": drawing.link_types, "links": drawing.links, "boxes": None}
        return self.model_copy(update=fields)

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        chips = self.chip_count
        if not 1 <= chips <= MAX_CHIPS:
            raise wrong("nodes", rule=f"must have 1 to {MAX_CHIPS} chips", got=chips)
        multicasting = [name for name, kind in self.nodes.items() if kind == "multicast"]
        if len(multicasting) > 1:
            raise wrong("nodes", rule="must have at most one 'multicast' node", got=multicasting)
        return self


class Drawing:
    """Nodes and links of a graph.

    Nodes of boxes are numbered on from box to box: `gpu0` of the second box of eight is `gpu8`. Boxes come first, then
    adapters box by box, then the links to the spines.
    """

    def __init__(self) -> None:
        self.nodes: dict[str, NodeKind] = {}
        self.link_types: dict[str, LinkSpec] = {}
        self.links: list[EdgeSpec] = []
        self._count = 0
        """Number of links, parallel ones counted."""

    def add_edge(self, number: int, edge: EdgeSpec) -> None:
        """Add an entry of `links`: a link between any two different nodes of two ranges.

        Raises:
            PydanticCustomError: no such node or link type, or too many links.
        """
        here, there = (_names(end) for end in edge.between)
        for node in (*here, *there):
            if node not in self.nodes:
                hint = suggest(node, self.nodes)
                raise wrong("links", number, "between", rule="must name two of the nodes", got=node, hint=hint)
        if not here or not there or (here == there and len(here) == 1):
            raise wrong("links", number, "between", rule="must name two different nodes", got=edge.between)
        if edge.link not in self.link_types:
            adds = f"link_types: {{{edge.link}: {edge.link}}} adds a file or shipped link of that name"
            hint = "; ".join(filter(None, (suggest(edge.link, self.link_types), adds)))
            raise wrong("links", number, "link", rule="must be one of the link_types", got=edge.link, hint=hint)
        self._count += edge.count * (len(here) * len(there) if here != there else math.comb(len(here), 2))
        if self._count > MAX_LINKS:
            raise wrong("links", rule=f"must have at most {MAX_LINKS} links", got=self._count)
        between = itertools.combinations(here, 2) if here == there else itertools.product(here, there)
        self.links += [_edge(a, b, edge.link, edge.count) for a, b in between if a != b]

    def add_boxes(self, boxes: BoxesSpec) -> None:
        """Add all boxes and the network between them."""
        box = boxes.box
        self.link_types |= box.link_types
        names = [self._box(box, numbered) for numbered in _numbered(box, boxes.count)]
        leaves = self._leaves(boxes, box, names)
        if boxes.spines:
            link = self._link_type("spine", boxes.spines.link)
            for spine in (f"spine{i}" for i in range(boxes.spines.count)):
                self.nodes[spine] = "switch"
                self.links += [_edge(leaf, spine, link, boxes.spines.links) for leaf in leaves]
        self._count = sum(edge.count for edge in self.links)

    def _box(self, box: GraphSpec, names: dict[str, str]) -> dict[str, str]:
        self.nodes |= {names[node]: kind for node, kind in box.nodes.items()}
        self.links += [_edge(names[e.between[0]], names[e.between[1]], e.link, e.count) for e in box.links]
        return names

    def _leaves(self, boxes: BoxesSpec, box: GraphSpec, names: list[dict[str, str]]) -> list[str]:
        """Adds leaf switches and the links of the adapters; returns the switches."""
        network = boxes.network
        link = self._link_type("adapter", network.link)
        holders = network.at or [node for node, kind in box.nodes.items() if kind == "chip"]
        leaves: dict[str, None] = {}
        for number, own in enumerate(names):
            for adapter, holder in enumerate(holders):
                leaf = f"leaf{number // boxes.leaves.boxes}" if boxes.leaves else f"rail{adapter}"
                leaves[leaf] = None
                self.links.append(_edge(own[holder], leaf, link, 1))
        self.nodes |= dict.fromkeys(leaves, "switch")
        return list(leaves)

    def _link_type(self, role: str, link: LinkSpec) -> str:
        """Adds a link type under the name of its link, or of its role where a box has a link of that name."""
        name = link.name if self.link_types.get(link.name, link) == link else f"{role}_{link.name}"
        self.link_types[name] = link
        return name


def _edge(a: str, b: str, link: str, count: int) -> EdgeSpec:
    return EdgeSpec(between=[a, b], link=link, count=count)


def _names(text: str) -> list[str]:
    """`gpu0 ... gpu7` of the range `gpu0..7`; the name alone of one node; nothing of a range that counts down."""
    found = re.fullmatch(r"(.*?)([0-9]{1,6})\.\.([0-9]{1,6})", text)
    return [f"{found[1]}{i}" for i in range(int(found[2]), int(found[3]) + 1)] if found else [text]


def _numbered(box: GraphSpec, count: int) -> list[dict[str, str]]:
    """[boxes] the name in the whole machine of each node of a box."""
    made: Counter[str] = Counter()
    names: list[dict[str, str]] = []
    for _ in range(count):
        names.append({})
        for node in box.nodes:
            stem = re.sub("[0-9]+$", "", node) or "gpu"
            names[-1][node] = f"{stem}{made[stem]}"
            made[stem] += 1
    return names


def _as_graph(box: SwitchSpec) -> GraphSpec:
    """A switch as a node: a way from chip to chip has two links, with half of the latency each."""
    latency = box.link.latency.model_copy(update={"value": box.link.latency.value / 2})
    chips = [f"gpu{chip}" for chip in range(box.chips)]
    given = {name: getattr(box, name) for name in GraphSpec.model_fields if name in SwitchSpec.model_fields}
    return GraphSpec.model_construct(
        **given
        | {
            "kind": "graph",
            "nodes": dict.fromkeys(chips, "chip") | {"nvswitch": "switch"},
            "link_types": {box.link.name: box.link.model_copy(update={"latency": latency})},
            "links": [_edge(chip, "nvswitch", box.link.name, 1) for chip in chips],
        }
    )
