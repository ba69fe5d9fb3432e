"""Messages along routes, for machines on which chips are joined by a switch or an arbitrary graph of links.

A message is one send per link of its way (on a switch, the sender's egress and the receiver's ingress), each following
the one before: PCI Express, NVSwitches and networks forward packets, not messages. All of them name the chips at both
ends of the way, whatever nodes the link joins. Of several equally good ways (`Topology.ways`) each takes as much of the
message, so that it is no matter which of them comes first in the machine's file.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.collectives.schedule import Int32s, ScheduleBuilder
from sim.collectives.wiring import positions
from sim.topology.graph import Topology
from sim.topology.paths import Way


class Messages:
    """Builds a schedule of messages between any two chips of the one group that a switch or graph has."""

    def __init__(self, topology: Topology, collective: str, axes: tuple[str, ...], parts: int = 1) -> None:
        self.n = topology.chips if axes else 1
        self.chips = np.arange(self.n, dtype=np.int32)
        self._topology = topology
        self._home = positions(topology, axes)
        self._builder = ScheduleBuilder(collective, axes, parts)
        self._others: dict[int, list[int]] = {}
        """Of a message's last send on its first way: those on its other ways."""
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
        half: int = -1,
        direction: int = 0,
        origin: Int32s | None = None,
        target: Int32s | None = None,
        deps: Sequence[Int32s] = (),
        links: Sequence[Sequence[int]] | None = None,
    ) -> Int32s:
        """A message for each entry of `src`: [n] sends that bring them to `dst`, each for all of its message.

        Args:
            share, part, own: [n], or of all.
            direction: of a ring that the messages go around.
            links: [n] the one way of each message; None for the machine's ways.
            origin, target: [n] chips whose data this is and whom it is for; None for all.
            deps: [n] arrays of the arrivals that each message waits for, -1 for none.
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
        owns, parts = (np.broadcast_to(column, len(src)) for column in (own, part))
        shares = np.broadcast_to(share, len(src)) / counts
        boxes = [None if chips is None else self._home[chips] for chips in (origin, target)]
        arrivals = [each for dep in deps for each in self._on_all_ways(dep)]

        sent = np.full(len(message), -1, dtype=np.int32)
        for hop in range(links_of.shape[1]):
            rows = np.flatnonzero(links_of[:, hop] >= 0)
            of = message[rows]
            sent[rows] = self._builder.add(
                src[of],
                dst[of],
                links_of[rows, hop],
                follows=sent[rows],
                share=shares[of],
                step=step,
                direction=direction,
                half=half,
                own=False if hop else owns[of],
                way=way_of[rows],
                part=parts[of],
                origin=None if boxes[0] is None else boxes[0][of],
                target=None if boxes[1] is None else boxes[1][of],
                deps=[] if hop else [each[of] for each in arrivals],
            )
        for at in np.flatnonzero(counts > 1):
            self._others[int(sent[first[at]])] = sent[first[at] + 1 : first[at] + counts[at]].tolist()
        arrived: Int32s = sent[first]
        return arrived

    def _ways(self, src: int, dst: int) -> list[Way]:
        """The ways of a message, by the numbers of the chips on them."""
        links, chips = self._topology.links, self._topology.chips
        ways = self._topology.ways(src, dst)
        return sorted(ways, key=lambda way: [node for link in way if (node := links[link].dst) < chips])

    def _on_all_ways(self, arrivals: Int32s) -> list[Int32s]:
        """Columns of what arrives over each way of the messages, -1 where a message has fewer."""
        others = [self._others.get(send, []) for send in arrivals.tolist()] if self._others else []
        columns = itertools.zip_longest(*others, fillvalue=-1)
        return [arrivals, *(np.array(column, dtype=np.int32) for column in columns)]


def padded(rows: Sequence[Sequence[int]]) -> Int32s:
    """Returns the rows as a table, -1 where a row is shorter than the longest."""
    length = max(map(len, rows))
    return np.array([(*row, *[-1] * (length - len(row))) for row in rows], dtype=np.int32)


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
    ways = padded(routes)
    src, dst, direction = (topology.link_column(name) for name in ("src", "dst", "direction"))
    parts, shares = np.broadcast_to(part, len(routes)), np.broadcast_to(share, len(routes))
    sent = np.full(len(routes), -1, dtype=np.int32)
    for step in range(ways.shape[1]):
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
