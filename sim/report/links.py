"""Load of the links of each kind: of every direction of every axis of a torus, else of every medium and bandwidth."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from sim.program import Floats
from sim.report.critical_path import link_class
from sim.topology.graph import Topology


class KindLoad(Struct, frozen=True):
    """Links of one kind during a step."""

    kind: str
    links: int
    bytes: float
    """Sum over the links; a message counts on every hop."""
    utilisation: float
    """Busy time / step time, mean of the links."""
    busiest: str
    """Busiest link, the first of them."""
    tied: int
    """Number of links that are as busy as that."""
    busiest_utilisation: float
    rate_bytes_per_s: float
    """Bytes / busy time of all links together; 0 where nothing was sent."""
    bandwidth_bytes_per_s: float
    """Rate of a link in a long transfer; the mean of the links."""


def load_by_kind(machine: Topology, utilisation: Floats, bytes: Floats, step_s: float) -> tuple[KindLoad, ...]:
    """Returns the load of the links of each kind, in the order of the machine's links.

    Args:
        machine: unfolded.
        utilisation: [links] busy time / step time.
        bytes: [links] bytes.
        step_s: time of the step.
    """
    links_of: dict[str, list[int]] = {}
    for link in machine.links:
        links_of.setdefault(link_class(machine, link), []).append(link.index)
    result = []
    for kind, links in links_of.items():
        busy = utilisation[links]
        most, busy_s, sent = int(busy.argmax()), float(busy.sum()) * step_s, float(bytes[links].sum())
        result.append(
            KindLoad(
                kind=kind,
                links=len(links),
                bytes=sent,
                utilisation=float(busy.mean()),
                busiest=machine.links[links[most]].name,
                tied=int(np.count_nonzero(busy == busy[most])),
                busiest_utilisation=float(busy[most]),
                rate_bytes_per_s=sent / busy_s if busy_s else 0.0,
                bandwidth_bytes_per_s=float(np.mean([machine.links[link].bandwidth for link in links])),
            )
        )
    return tuple(result)
