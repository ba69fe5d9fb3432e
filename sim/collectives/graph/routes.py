"""Messages along routes, for machines on which a switch or an arbitrary graph of links joins the chips.

A message is one send per link of its route (on a switch, the sender's egress and the receiver's ingress), each
following the one before: PCI Express, NVSwitches and networks forward packets, not messages. All sends name the chips
at both ends of the route. Equally good routes (`Topology.ways`) carry equal parts of the message, so the order of links
in the machine's file has no effect.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from sim.collectives.schedule import Hop, Int32s, Payload, ScheduleBuilder
from sim.collectives.wiring import positions
from sim.topology.graph import Topology
from sim.topology.paths import Way


class Messages:
    """Builder of a schedule of messages between any two chips of a switch or graph.

    `n` is the number of chips, `chips` their numbers [n] and `build()` returns the schedule.

    Args:
        topology: the machine, as the algorithm gets it.
        collective: name of the operation, such as `all_gather`.
        axes: mesh axes of the collective, as the algorithm gets them.
        parts: number of independent parts of the array, each with messages of its own.
    """

    def __init__(self, topology: Topology, collective: str, axes: tuple[str, ...], parts: int = 1) -> None:
        self.n = topology.chips if axes else 1
        self.chips = np.arange(self.n, dtype=np.int32)
        self._topology = topology
        self._home = positions(topology, axes)
        self._builder = ScheduleBuilder(collective, axes, parts)
        self.direction = 0
        """Direction around a ring of the messages sent next."""
        self._others: dict[int, list[int]] = {}
        """Last sends of a message on its other routes, by its last send on the first."""
        self.add, self.build, self.repeat = self._builder.add, self._builder.build, self._builder.repeat

    def send(
        self,
        src: Int32s,
        dst: Int32s,
        payload: Payload,
        step: int,
        deps: Sequence[Int32s] = (),
        links: Sequence[Sequence[int]] | None = None,
    ) -> Int32s:
        """Sends a message from each entry of `src` to `dst`; returns [n] the last send of each message.

        Args:
            src: [n] chips that send.
            dst: [n] chips that receive.
            payload: data of each message.
            step: number of the step of the algorithm, from 0 in the order sent; messages wait for `deps` alone.
            deps: [n] arrays of the arrivals that each message waits for, -1 for none.
            links: [n] the route of each message; None for the machine's routes.
        """
        if not len(src):
            return src
        pairs = zip(src.tolist(), dst.tolist(), strict=True)
        ways = [self._ways(*pair) for pair in pairs] if links is None else [(way,) for way in links]
        counts = np.array([len(equal) for equal in ways])
        first = np.cumsum(counts) - counts
        message = np.repeat(np.arange(len(src)), counts)
        way_of = np.arange(len(message)) - first[message]
        links_of = padded([way for equal in ways for way in equal])
        owns, parts = (np.broadcast_to(column, len(src)) for column in (payload.own, payload.part))
        shares = np.broadcast_to(payload.share, len(src)) / counts
        origin, target = (None if chips is None else self._home[chips] for chips in (payload.origin, payload.target))
        arrivals = [each for dep in deps for each in self._on_all_ways(dep)]

        sent = np.full(len(message), -1, dtype=np.int32)
        for hop in range(links_of.shape[1]):
            rows = np.flatnonzero(links_of[:, hop] >= 0)
            of = message[rows]
            data = Payload(
                shares[of],
                False if hop else owns[of],
                part=parts[of],
                half=payload.half,
                origin=None if origin is None else origin[of],
                target=None if target is None else target[of],
            )
            sent[rows] = self._builder.add(
                Hop(src[of], dst[of], links_of[rows, hop], direction=self.direction, way=way_of[rows]),
                data,
                step,
                follows=sent[rows],
                deps=[] if hop else [each[of] for each in arrivals],
            )
        for at in np.flatnonzero(counts > 1):
            self._others[int(sent[first[at]])] = sent[first[at] + 1 : first[at] + counts[at]].tolist()
        arrived: Int32s = sent[first]
        return arrived

    def _ways(self, src: int, dst: int) -> list[Way]:
        """Returns the routes of a message, ordered by the chips on them."""
        ways = self._topology.ways(src, dst)
        if len(ways) == 1:
            return list(ways)
        links, chips = self._topology.links, self._topology.chips
        return sorted(ways, key=lambda way: [node for link in way if (node := links[link].dst) < chips])

    def _on_all_ways(self, arrivals: Int32s) -> list[Int32s]:
        """Returns columns of the arrivals on each route of the messages, -1 for a message with fewer routes."""
        others = [self._others.get(send, []) for send in arrivals.tolist()] if self._others else []
        columns = itertools.zip_longest(*others, fillvalue=-1)
        return [arrivals, *(np.array(column, dtype=np.int32) for column in columns)]


def padded(rows: Sequence[Sequence[int]]) -> Int32s:
    """Returns the rows as a table, -1 where a row is shorter than the longest."""
    length = max(map(len, rows))
    return np.array([(*row, *[-1] * (length - len(row))) for row in rows], dtype=np.int32)


def store_and_forward(
    builder: ScheduleBuilder, topology: Topology, routes: Sequence[Sequence[int]], payload: Payload
) -> None:
    """Sends messages on a machine of chips only: every chip on a route receives a message and sends it on.

    Args:
        routes: [n] links of each message's route.
        payload: its `own` holds for the first hop only.
    """
    ways = padded(routes)
    src, dst, direction = (topology.link_column(name) for name in ("src", "dst", "direction"))
    parts, shares = (np.broadcast_to(column, len(routes)) for column in (payload.part, payload.share))
    sent = np.full(len(routes), -1, dtype=np.int32)
    for step in range(ways.shape[1]):
        moving = ways[:, step] >= 0
        link = ways[moving, step]
        data = Payload(
            shares[moving],
            payload.own if step == 0 else False,
            part=parts[moving],
            origin=None if payload.origin is None else payload.origin[moving],
            target=None if payload.target is None else payload.target[moving],
        )
        hop = Hop(src[link], dst[link], link, direction=direction[link])
        sent[moving] = builder.add(hop, data, step, deps=[sent[moving]])
