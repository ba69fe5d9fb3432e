"""Closed form of one collective on a built machine, from `sim.closed_form` or NCCL's tuner."""

from __future__ import annotations

from collections.abc import Sequence

from sim.closed_form import collectives as closed_form
from sim.collectives import ON_NCCL
from sim.collectives.nccl import kernels
from sim.collectives.wiring import is_lattice
from sim.topology.graph import Topology


def of_nccl(topology: Topology, collective: str, algorithm: str) -> bool:
    """Returns True if the algorithm is NCCL's, whose closed form is its tuner."""
    return topology.software.nccl is not None and algorithm in ON_NCCL.get(collective, {})


def closed_form_s(
    topology: Topology, collective: str, algorithm: str, names: Sequence[str], size: float
) -> float | None:
    """Returns the time that the algorithm's formula gives, s; None where it has none."""
    link, overhead_s = topology.links[0], topology.software.collective_overhead_s
    if topology.has_lines:
        shape = [(topology.axis(name).size, topology.axis(name).ring) for name in names]
        if is_lattice(topology, tuple(names)) and not all(ring for _, ring in shape):
            return None  # twisted: rings of other lengths than the axes
        if len({(link.bandwidth, link.latency_s) for link in topology.links if link.axis in names}) > 1:
            return None  # axes of several speeds
        link = next((link for link in topology.links if link.axis in names), link)
        overhead_s += closed_form.starts_beside_hops(collective, shape) * topology.software.message_start_s
        time_s = closed_form.predict(collective, algorithm, shape, size, link.bandwidth, link.latency_s)
        return None if time_s is None else overhead_s + time_s
    if of_nccl(topology, collective, algorithm):
        return kernels.predictions(topology, collective, size).get(algorithm)
    if not topology.has_ports:
        return None
    time_s = closed_form.on_switch(collective, algorithm, topology.chips, size, link.bandwidth, link.latency_s)
    return None if time_s is None else overhead_s + time_s
