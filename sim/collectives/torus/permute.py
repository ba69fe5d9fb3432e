"""Permute: every chip sends its message to the next chip along an axis (the send/recv of a pipeline).

Sendrecv: every chip sends its message to the next of its group, the last to the first, whatever lies between.
"""

from __future__ import annotations

import math

import numpy as np

from sim.collectives.graph.routes import store_and_forward
from sim.collectives.schedule import Payload, Schedule, ScheduleBuilder, plans_one_chip
from sim.collectives.wiring import line_axes, positions
from sim.errors import InputError
from sim.topology.graph import Topology

CHUNKS = 32
"""Chunks of every message where some go around failed links, so that these are on all links of their way at once."""


@plans_one_chip(on="rings")
def neighbour(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One hop in the + direction: T = V/w + t. The last chip of an axis that closes no ring sends nothing.

    Where that link has failed, the message takes `topology.route` of h hops in CHUNKS chunks, one behind the other:
    (CHUNKS + h - 1) V/(CHUNKS w) + h t where no other message is in its way.

    Raises:
        InputError: more than one axis longer than one chip, or failed links that leave a message no way.
    """
    whole = topology.intact
    longer = line_axes(whole, axes)
    if len(longer) > 1:
        raise InputError("a permute goes along one axis", got="".join(axes), hint="name one axis")
    if not longer:
        return ScheduleBuilder("permute", axes, parts=1).build()
    (axis,) = longer
    src = np.flatnonzero(axis.after[1] >= 0).astype(np.int32)
    dst, link = axis.after[1][src], axis.link[1][src]
    chunks = CHUNKS if topology.failed.intersection(link.tolist()) else 1
    builder = ScheduleBuilder("permute", axes, parts=chunks)
    home = positions(topology, axes)
    target = home[src]
    target[:, axes.index(axis.name)] = (axis.position[src] + 1) % axis.size
    routes = [
        topology.route(here, there) if way in topology.failed else (way,)
        for here, there, way in zip(src.tolist(), dst.tolist(), link.tolist(), strict=True)
    ]
    payload = Payload(
        1 / chunks,
        True,
        part=np.repeat(np.arange(chunks), len(src)),
        origin=np.tile(home[src], (chunks, 1)),
        target=np.tile(target, (chunks, 1)),
    )
    store_and_forward(builder, topology, routes * chunks, payload)
    return builder.build()


def ring(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Sendrecv over the machine's routes; those of h hops in CHUNKS chunks: (CHUNKS + h - 1) V/(CHUNKS w) + h t.

    Raises:
        InputError: failed links that leave a message no way.
    """
    home = positions(topology, axes)
    sizes = [topology.axis(name).size for name in axes]
    place = np.ravel_multi_index(tuple(home.T), sizes) if axes else np.zeros(topology.chips, dtype=np.int64)
    group = positions(topology, tuple(axis.name for axis in topology.axes if axis.name not in axes))
    chip_at = {(*map(int, rest), int(at)): chip for chip, (rest, at) in enumerate(zip(group, place, strict=True))}
    n = math.prod(sizes)
    if n == 1:
        return ScheduleBuilder("sendrecv", axes, parts=1).build()
    dst = [chip_at[(*map(int, rest), (int(at) + 1) % n)] for rest, at in zip(group, place, strict=True)]
    routes = [topology.route(chip, there) for chip, there in enumerate(dst)]
    chunks = CHUNKS if max(map(len, routes)) > 1 else 1
    builder = ScheduleBuilder("sendrecv", axes, parts=chunks)
    payload = Payload(
        1 / chunks,
        True,
        part=np.repeat(np.arange(chunks), topology.chips),
        origin=np.tile(home, (chunks, 1)),
        target=np.tile(home[dst], (chunks, 1)),
    )
    store_and_forward(builder, topology, routes * chunks, payload)
    return builder.build()
