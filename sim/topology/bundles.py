"""Bundles: cables and switches of a graph that no chip can tell apart, joined into one.

Cables side by side between the same two nodes, of the same kind, are one link of their summed bandwidth. Switches are
one switch where each has the same share of its bandwidth to the same neighbours, taken as one where they are alike
themselves: the coarsest equitable partition of the graph in which every chip is alone (colour refinement). Whatever
flow of bytes the joined links can carry, the cables can carry too, each its share of every message; and all paths that
become one are equally long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from sim.specs import GraphSpec, LinkSpec, Medium, NetworkSpec


@dataclass(frozen=True, slots=True)
class Kind:
    """Properties that joined cables have in common."""

    latency_s: float
    medium: Medium
    network: NetworkSpec | None = field(hash=False)

    @classmethod
    def of(cls, spec: LinkSpec) -> Kind:
        """Returns the kind of a link type."""
        return cls(spec.latency.value, spec.medium, spec.network)


@dataclass(frozen=True, slots=True)
class Bundle:
    """Cables of one kind between two nodes, in both directions."""

    between: tuple[str, str]
    bandwidth: float
    """Bandwidth of all cables together, bytes/s, efficiency applied."""
    nominal_bandwidth: float
    """The same of the data sheet."""
    kind: Kind
    cables: int


def effective(spec: LinkSpec) -> tuple[float, float]:
    """Returns (bandwidth in bytes/s with efficiency applied, latency in s) of a link type."""
    return spec.bandwidth.value * spec.efficiency.value, spec.latency.value


def bundle(spec: GraphSpec) -> list[Bundle]:
    """Returns the links of a graph in the file's order; of switches joined to one only the first has any."""
    one_of = _joined_switches(spec)
    between: dict[tuple[frozenset[str], Kind], tuple[str, str]] = {}
    bandwidth: dict[tuple[frozenset[str], Kind], Fraction] = {}
    nominal: dict[tuple[frozenset[str], Kind], Fraction] = {}
    cables: dict[tuple[frozenset[str], Kind], int] = {}
    for edge in spec.links:
        width, _ = effective(spec.link_types[edge.link])
        ends = one_of[edge.between[0]], one_of[edge.between[1]]
        if ends[0] == ends[1]:
            continue
        key = frozenset(ends), Kind.of(spec.link_types[edge.link])
        between.setdefault(key, ends)
        bandwidth[key] = bandwidth.get(key, Fraction(0)) + Fraction(width) * edge.count
        nominal[key] = nominal.get(key, Fraction(0)) + Fraction(spec.link_types[edge.link].bandwidth.value) * edge.count
        cables[key] = cables.get(key, 0) + edge.count
    return [
        Bundle(ends, float(bandwidth[key]), float(nominal[key]), key[1], cables[key]) for key, ends in between.items()
    ]


def _joined_switches(spec: GraphSpec) -> dict[str, str]:
    """Returns for every node the first node, in the order of the file, that it is joined with."""
    links: dict[str, list[tuple[str, Kind, Fraction]]] = {name: [] for name in spec.nodes}
    for edge in spec.links:
        bandwidth, _ = effective(spec.link_types[edge.link])
        of_link = Kind.of(spec.link_types[edge.link])
        for node, other in (edge.between, reversed(edge.between)):
            links[node].append((other, of_link, Fraction(bandwidth) * edge.count))
    whole = {node: sum((width for _, _, width in own), Fraction(0)) for node, own in links.items()}
    colour: dict[str, object] = {name: name if kind == "chip" else ("kind", kind) for name, kind in spec.nodes.items()}
    colours = 0
    while len(set(colour.values())) > colours:
        colours = len(set(colour.values()))
        number = {seen: i for i, seen in enumerate(dict.fromkeys(colour.values()))}
        told: dict[str, object] = {}
        for node, own in links.items():
            shares: dict[tuple[int, Kind], Fraction] = {}
            for other, of_link, width in own:
                key = number[colour[other]], of_link
                shares[key] = shares.get(key, Fraction(0)) + width / whole[node]
            told[node] = number[colour[node]], frozenset(shares.items())
        colour = told
    first: dict[object, str] = {}
    return {node: first.setdefault(seen, node) for node, seen in colour.items()}
