"""Odd links of a graph: a machine is built without those onto which messages would crowd.

A message takes the shortest of the widest paths, whatever others take (`sim.topology.paths`). So one link more may
shorten the paths of many messages and make all of them slower: a cable between two boxes that have a rail for every
chip would carry what all rails carried. Software that chooses its adapters does not send so. Therefore an odd link is
used only where it is no bottleneck: while all chips send as much to all others, the busiest link must be no busier with
it, neither under all messages nor under those alone whose paths it changes, and whether equally good paths share a
message or the first carries it all. Nor may rings through several boxes become slower.

A link is odd if both its ends look like no fewer nodes without it than with it, and one of them like more. Machines of
boxes that are wired alike have none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Set
from contextlib import suppress
from itertools import permutations, product

from msgspec import Struct
from msgspec.structs import replace

from sim.errors import InputError
from sim.specs import GraphSpec, StackSpec
from sim.specs.graph import EdgeSpec
from sim.topology import graph
from sim.topology.boxes import boxes
from sim.topology.graph import Link, Topology
from sim.topology.rings import find

MOST_ROUTED = 2**17
"""Largest number of messages that are routed to choose among odd links (seconds); where it takes more, none is used."""

_SLIGHTLY_LESS = 1 - 1e-9
"""Sums of equal loads differ by less."""

_Ways = tuple[tuple[Link, ...], ...]
"""Equally good paths of a message."""
_Look = tuple[str, frozenset[tuple[str, int]]]
"""Kind of a node, and how many cables of each type it has."""


class _Routed(Struct, frozen=True):
    """A machine on which every chip sends a message to every other."""

    machine: Topology
    messages: list[_Ways]

    @classmethod
    def on(cls, machine: Topology) -> _Routed:
        links, pairs = machine.links, permutations(range(machine.chips), 2)
        return cls(machine, [tuple(tuple(links[i] for i in way) for way in machine.ways(*pair)) for pair in pairs])

    def busiest_s(self, messages: Iterable[int], *, shared: bool = True) -> float:
        """Returns for how long the busiest link is busy with some of the messages, a byte each, s.

        Args:
            messages: places in the list of all.
            shared: whether equally good paths carry equal parts of a message, or the first carries it all.
        """
        load = [0.0] * len(self.machine.links)
        for message in messages:
            ways = self.messages[message] if shared else self.messages[message][:1]
            for way in ways:
                for link in way:
                    load[link.index] += 1 / len(ways)
        busy_s = (carried / link.bandwidth for carried, link in zip(load, self.machine.links, strict=True))
        return max(busy_s, default=0.0)

    @property
    def rings_bandwidth(self) -> float:
        """Bandwidth of all rings through several boxes, bytes/s; infinite in one box, where the network has no part."""
        rings = find(self.machine)
        return rings.count * rings.bandwidth if len(boxes(self.machine)) > 1 else float("inf")

    def is_slower_than(self, before: _Routed) -> bool:
        """Tells whether some link or the rings are a bottleneck that they are not on the machine `before`."""
        every = range(len(self.messages))
        changed = [each for each in every if _names(self.messages[each]) != _names(before.messages[each])]
        return self.rings_bandwidth < before.rings_bandwidth * _SLIGHTLY_LESS or any(
            self.busiest_s(messages, shared=shared) * _SLIGHTLY_LESS > before.busiest_s(messages, shared=shared)
            for messages, shared in product((every, changed), (True, False))
        )


def build(spec: GraphSpec, stack: StackSpec) -> Topology:
    """Builds the machine of a graph; `Topology.unused` names the odd links that are left out.

    Where chips would be cut off without odd links, all links are used.

    Raises:
        InputError: a chip that cannot reach another.
    """
    whole, odd = graph.build(spec, stack), odd_links(spec)
    if not odd:
        return whole
    with suppress(InputError):
        machine, unused = _use_harmless(spec, stack, odd)
        return replace(machine, unused=tuple("-".join(spec.links[edge].between) for edge in sorted(unused)))
    return whole


def _use_harmless(spec: GraphSpec, stack: StackSpec, odd: Set[int]) -> tuple[Topology, Set[int]]:
    """Returns the machine with the odd links that slow nothing down, and the others.

    The one with which the busiest link is least busy is used first, then the next.
    """
    machine, unused = graph.build(_without(spec, odd), stack), odd
    if len(odd) * (len(odd) + 1) // 2 * machine.chips**2 > MOST_ROUTED:
        return machine, unused
    best = _Routed.on(machine)
    while unused:
        tried = {edge: _Routed.on(graph.build(_without(spec, unused - {edge}), stack)) for edge in sorted(unused)}
        harmless = {edge: each for edge, each in tried.items() if not each.is_slower_than(best)}
        if not harmless:
            break
        used = min(harmless, key=lambda edge: tried[edge].busiest_s(range(len(tried[edge].messages))))
        best, unused = tried[used], unused - {used}
    return best.machine, unused


def odd_links(spec: GraphSpec) -> set[int]:
    """Returns the places in the file of its odd links; of several of a type between the same nodes only the last."""
    cables = {name: Counter[str]() for name in spec.nodes}
    for edge in spec.links:
        for node in edge.between:
            cables[node][edge.link] += edge.count
    looks: dict[str, _Look] = {node: (spec.nodes[node], frozenset(own.items())) for node, own in cables.items()}
    alike = Counter(looks.values())

    def is_odd(edge: EdgeSpec) -> bool:
        gone = Counter({edge.link: edge.count})
        now = [looks[node] for node in edge.between]
        then: list[_Look] = [(spec.nodes[node], frozenset((cables[node] - gone).items())) for node in edge.between]
        more = [
            alike[look] - now.count(look) + then.count(look) - alike[before]
            for before, look in zip(now, then, strict=True)
        ]
        return min(more) >= 0 and max(more) > 0

    last = {(frozenset(edge.between), edge.link): place for place, edge in enumerate(spec.links)}
    return {place for place in last.values() if is_odd(spec.links[place])}


def _without(spec: GraphSpec, edges: Set[int]) -> GraphSpec:
    return spec.model_copy(update={"links": [edge for i, edge in enumerate(spec.links) if i not in edges]})


def _names(ways: _Ways) -> list[list[str]]:
    return [[link.name for link in way] for way in ways]
