"""Permute: every chip sends its message to the next chip along an axis (the send/recv of a pipeline or a ring)."""

from __future__ import annotations

import numpy as np

from sim.collectives.mesh import mesh_axes, positions
from sim.collectives.schedule import Schedule, ScheduleBuilder
from sim.errors import InputError
from sim.topology.graph import Topology
from sim.topology.paths import cut_off


def neighbour(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """One hop in the + direction: T = V/w + t. The last chip of an axis that closes no ring sends nothing.

    Raises:
        InputError: more than one axis longer than one chip.
    """
    longer = mesh_axes(topology, axes)
    if len(longer) > 1:
        raise InputError("a permute goes along one axis", got="".join(axes), hint="name one axis")
    builder = ScheduleBuilder("permute", axes, parts=1)
    for axis in longer:
        if any(topology.links[link].axis == axis.name for link in topology.failed):
            raise cut_off(topology, f"neighbours along {axis.name} have no other link")
        src = np.flatnonzero(axis.after[1] >= 0).astype(np.int32)
        dst = axis.after[1][src]
        home = positions(topology, axes)
        target = home[src]
        target[:, axes.index(axis.name)] = (axis.position[src] + 1) % axis.size
        builder.add(
            src,
            dst,
            axis.link[1][src],
            share=1.0,
            step=0,
            direction=1,
            own=True,
            part=0,
            origin=home[src],
            target=target,
        )
    return builder.build()
