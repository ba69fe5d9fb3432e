"""Messages along routes, for machines on which chips are joined by a switch or an arbitrary graph of links.

A message is one send per link of `Topology.route` (on a switch, the sender's egress and the receiver's ingress), each
following the one before: PCI Express, NVSwitches and networks forward packets, not messages. All of them name the chips
at both ends of the route, whatever nodes the link joins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.collectives.mesh import positions
from sim.collectives.schedule import Int32s, ScheduleBuilder
from sim.topology.graph import Topology


class Messages:
    """Builds a schedule of messages between any two chips of the one group that a switch or graph has."""

    def __init__(self, topology: Topology, collective: str, axes: tuple[str, ...], parts: int = 1) -> None:
        self.n = topology.chips if axes else 1
        self.chips = np.arange(self.n, dtype=np.int32)
        self._topology = topology
        self._home = positions(topology, axes)
        self._builder = ScheduleBuilder(collective, axes, parts)
        self.add, self.build, self.repeat = self._builder.add, self._builder.build, self._builder.repeat

    def send(
        self,
        src: Int32s,
        dst: Int32s,
        *,
        share: npt.ArrayLike,
        step: int,
        own: npt.ArrayLike,
        part: npt.ArrayLike = 0,
        origin: Int32s | None = None,
        target: Int32s | None = None,
        deps: Sequence[Int32s] = (),
        links: Sequence[Sequence[int]] | None = None,
    ) -> Int32s:
        """A message for each entry of `src`: the last sends [n], which bring them to `dst`.

        Args:
            share, part: [n], or of all.
            links: [n] the way of each message; None for the machine's routes.
            origin, target: [n] chips whose data this is and whom it is for; None for all.
            deps: [n] arrays of the arrivals that each message waits for, -1 for none.
        """
        if not len(src):
            return src
        routes = links or [self._topology.route(a, b) for a, b in zip(src.tolist(), dst.tolist(), strict=True)]
        hops = max(len(route) for route in routes)
        ways = np.array([(*route, *[-1] * (hops - len(route))) for route in routes], dtype=np.int32)
        parts, shares = np.broadcast_to(part, len(src)), np.broadcast_to(share, len(src))
        boxes = [None if chips is None else self._home[chips] for chips in (origin, target)]

        sent = np.full(len(src), -1, dtype=np.int32)
        for hop in range(hops):
            rows = np.flatnonzero(ways[:, hop] >= 0)
            of, to = (None if box is None else box[rows] for box in boxes)
            sent[rows] = self._builder.add(
                src[rows],
                dst[rows],
                ways[rows, hop],
                follows=sent[rows],
                share=shares[rows],
                step=step,
                direction=0,
                own=False if hop else own,
                part=parts[rows],
                origin=of,
                target=to,
                deps=[] if hop else deps,
            )
        return sent


def pass_on(
    builder: ScheduleBuilder,
    topology: Topology,
    routes: Sequence[Sequence[int]],
    *,
    share: npt.ArrayLike,
    part: npt.ArrayLike,
    origin: Int32s,
    target: Int32s,
) -> None:
    """Messages from chip to chip on machines of chips only, where every hop is a send between neighbours.

    Args:
        routes: [n] links of each message's way.
        share, part: [n], or of all.
        origin, target: [n, A] mesh positions of the chips whose data it is and whom it is for.
    """
    hops = max(len(route) for route in routes)
    ways = np.array([(*route, *[-1] * (hops - len(route))) for route in routes], dtype=np.int32)
    src, dst, direction = (
        np.array([getattr(link, name) for link in topology.links], dtype=np.int32)
        for name in ("src", "dst", "direction")
    )
    parts, shares = np.broadcast_to(part, len(routes)), np.broadcast_to(share, len(routes))
    sent = np.full(len(routes), -1, dtype=np.int32)
    for step in range(hops):
        moving = ways[:, step] >= 0
        link = ways[moving, step]
        sent[moving] = builder.add(
            src[link],
            dst[link],
            link,
            share=shares[moving],
            step=step,
            direction=direction[link],
            own=step == 0,
            part=parts[moving],
            origin=origin[moving],
            target=target[moving],
            deps=[sent[moving]],
        )
