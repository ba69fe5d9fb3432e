"""All-to-all with messages of any size: a matrix says how many bytes each chip sends to each.

On a torus it is the machine's all-to-all, each of whose sends carries the bytes of its own chips. Elsewhere there is a
message over the machine's routes between any two chips.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.collectives import schedule
from sim.collectives.graph.routes import Messages
from sim.collectives.schedule import PER_SEND, Int32s, Payload, Schedule
from sim.topology.graph import Topology

Floats = npt.NDArray[np.float64]


def all_to_all(topology: Topology, shares: Floats, algorithm: str | None = None) -> Schedule:
    """Returns the sends of an all-to-all.

    On a switch or graph chip i sends first to i+1, then to i+2, and so on, so that not all send to the same chip at the
    same time.

    Args:
        shares: [chips, chips] bytes from each chip to each over the collective's size; the diagonal is not sent.
        algorithm: of a torus. Default: the machine's.

    Raises:
        InputError: failed links leave a message no way.
    """
    axes = tuple(axis.name for axis in topology.axes)
    if topology.has_lines:
        return _weighted(schedule(topology, "all_to_all", axes, algorithm), topology, shares)
    n = topology.chips
    steps = np.arange(1, n)
    src = np.tile(np.arange(n, dtype=np.int32), n - 1)
    dst = (src + np.repeat(steps, n).astype(np.int32)) % np.int32(n)
    sent = shares[src, dst] > 0
    src, dst = src[sent], dst[sent]
    to = Messages(topology, "all_to_all", axes)
    to.send(src, dst, Payload(shares[src, dst], True, origin=src, target=dst), 0)
    return to.build()


def _weighted(plan: Schedule, topology: Topology, shares: Floats) -> Schedule:
    """Returns an all-to-all of equal messages with messages of other sizes; sends that carry nothing are left out."""
    sizes = [topology.axis(axis).size for axis in plan.axes]
    mean = _mean_of_boxes(np.hstack([plan.origin, plan.target]), shares, sizes)
    share = plan.share * topology.chips * mean
    kept = share > 0
    number = (np.cumsum(kept) - 1).astype(np.int32)
    waiting = np.repeat(np.arange(len(plan)), plan.dep_counts)
    needed = kept[waiting] & kept[plan.deps]
    columns = {name: getattr(plan, name)[kept] for name in PER_SEND} | {"share": share[kept]}
    follows = np.where(plan.follows >= 0, number[plan.follows], np.int32(-1))[kept]
    counts = np.bincount(waiting[needed], minlength=len(plan))[kept].astype(np.int32)
    return replace(plan, deps=number[plan.deps[needed]], dep_counts=counts, follows=follows, **columns)


def _mean_of_boxes(boxes: Int32s, shares: Floats, sizes: list[int]) -> Floats:
    """Returns [sends] the mean of the shares from the chips of a send's origin to those of its target.

    Args:
        boxes: [sends, 2 A] positions of origin and target; -1 for all positions.
        sizes: [A] lengths of the axes.
    """
    table, result = shares.reshape(*sizes, *sizes), np.empty(len(boxes))
    patterns, of = np.unique(boxes < 0, axis=0, return_inverse=True)
    for number, everywhere in enumerate(patterns):
        mean, sends = table.mean(axis=tuple(np.flatnonzero(everywhere))), np.flatnonzero(of.ravel() == number)
        result[sends] = mean[tuple(boxes[sends][:, ~everywhere].T)]
    return result
