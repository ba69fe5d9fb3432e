"""All-to-all with messages of any size: a matrix says how many bytes each chip sends to each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sim.collectives.graph.routes import Messages, store_and_forward
from sim.collectives.schedule import Payload, Schedule, ScheduleBuilder
from sim.collectives.wiring import positions
from sim.topology.graph import Topology


def all_to_all(topology: Topology, shares: npt.NDArray[np.float64]) -> Schedule:
    """A message over the machine's route between any two chips that have something to send.

    Chip i sends first to i+1, then to i+2, and so on, so that not all send to the same chip at the same time.

    Args:
        shares: [chips, chips] bytes from each chip to each over the collective's size; the diagonal is not sent.

    Raises:
        InputError: failed links leave a message no way.
    """
    axes = tuple(axis.name for axis in topology.axes)
    n = topology.chips
    steps = np.arange(1, n)
    src = np.tile(np.arange(n, dtype=np.int32), n - 1)
    dst = (src + np.repeat(steps, n).astype(np.int32)) % np.int32(n)
    sent = shares[src, dst] > 0
    src, dst = src[sent], dst[sent]
    if not topology.has_lines:
        to = Messages(topology, "all_to_all", axes)
        to.send(src, dst, Payload(shares[src, dst], True, origin=src, target=dst), 0)
        return to.build()
    builder, home = ScheduleBuilder("all_to_all", axes, parts=1), positions(topology, axes)
    if len(src):
        routes = [topology.route(a, b) for a, b in zip(src.tolist(), dst.tolist(), strict=True)]
        payload = Payload(shares[src, dst], True, origin=home[src], target=home[dst])
        store_and_forward(builder, topology, routes, payload)
    return builder.build()
