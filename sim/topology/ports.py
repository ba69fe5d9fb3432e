"""Checks that a node that adds up and multicasts has a link to every chip of its box."""

from __future__ import annotations

from sim.errors import InputError
from sim.specs import GraphSpec
from sim.topology.boxes import boxes
from sim.topology.graph import Topology


def check_ports(spec: GraphSpec, topology: Topology) -> None:
    """Checks that nodes that add up have a link to every chip of their box.

    Raises:
        InputError: a chip has none.
    """
    if not topology.reduction.enabled or topology.reduction.node is not None:
        return
    wanted = "multicast" if topology.reduction.multicast_nodes else "switch"
    linked = {frozenset(edge.between) for edge in spec.links if spec.link_types[edge.link].medium != "net"}
    for box in boxes(topology) if wanted == "switch" else [range(topology.chips)]:
        without = {
            node: [topology.nodes[chip] for chip in box if frozenset((node, topology.nodes[chip])) not in linked]
            for node, kind in spec.nodes.items()
            if kind == wanted
        }
        if len(box) == 1 or not all(without.values() or [True]):
            continue
        where = f"{topology.name}: links"
        if not without:
            raise InputError("'reduces' requires a switch in every box", where=where, hint="leave 'reduces' out")
        node, chips = min(without.items(), key=lambda each: len(each[1]))
        rule = f"{node} must have a link to every chip of its box"
        raise InputError(rule, where=where, got=f"none to {', '.join(chips)}", hint="it adds up what all chips send")
