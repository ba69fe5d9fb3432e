"""Chips on one non-blocking switch: each has a port with an outgoing and an incoming link."""

from __future__ import annotations

from sim.specs import StackSpec, SwitchSpec
from sim.topology.bundles import effective
from sim.topology.chip import Chip
from sim.topology.graph import Axis, Link, Software, SwitchReduction, Topology
from sim.topology.paths import Way, cut_off


def build(spec: SwitchSpec, stack: StackSpec) -> Topology:
    """Builds chips as nodes 0 .. n-1 and the switch as node n; links by chip, egress then ingress.

    The switch itself never limits a transfer; several senders to one receiver queue for its ingress (incast).

    The latency in the file is that of a port, chip to chip. A route has two links, so the egress carries the latency
    and the ingress none: along every route the latencies sum to the file's.
    """
    bandwidth, latency_s = effective(spec.link)
    links: list[Link] = []
    for chip in range(spec.chips):
        for name, src, dst, latency in (("egress", chip, spec.chips, latency_s), ("ingress", spec.chips, chip, 0.0)):
            ends, nominal = (f"gpu{chip}:{name}", src, dst), spec.link.bandwidth.value
            links.append(
                Link(len(links), *ends, bandwidth, latency, medium=spec.link.medium, nominal_bandwidth=nominal)
            )
    return Topology(
        name=spec.name,
        chip=Chip.from_spec(spec.chip, stack),
        axes=(Axis("g", spec.chips, ring=False),),
        nodes=(*(f"gpu{chip}" for chip in range(spec.chips)), "switch"),
        links=tuple(links),
        software=Software(
            stack.collective_overhead.value,
            algorithms=spec.collectives,
            nccl=spec.nccl,
            multimem=stack.multimem.value,
        ),
        ways_of=_ways,
        kind="switch",
        reduction=SwitchReduction(enabled=spec.reduces, node=spec.chips if spec.reduces else None),
        is_vertex_transitive=True,
    )


def _ways(topology: Topology, src: int, dst: int) -> tuple[Way, ...]:
    """Returns the sender's egress, then the receiver's ingress. Raises InputError if one has failed."""
    ports = () if src == dst else (2 * src, 2 * dst + 1)
    if not topology.failed.isdisjoint(ports):
        lost = topology.links[next(port for port in ports if port in topology.failed)].name
        raise cut_off(topology, f"{topology.nodes[src]} cannot reach {topology.nodes[dst]} without {lost}")
    return (ports,)
