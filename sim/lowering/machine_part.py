"""Parts of a machine: the chips at one position of some mesh axes, as a machine of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.program import Ids
from sim.topology.graph import Topology
from sim.topology.group import group_of
from sim.topology.mesh import mesh_groups, mesh_of_pieces, mesh_without


class MachinePart(Struct, frozen=True, eq=False):
    """Chips of a machine and the links between them."""

    chips: Ids
    """Its chips, as the machine numbers them, in order."""
    links: Ids
    """The machine's link for each of its own."""
    topology: Topology
    """Its chips with the mesh axes that are left."""


def cut_machine(topology: Topology, axes: Sequence[str]) -> tuple[MachinePart, ...]:
    """Returns the parts of a machine at each position of mesh axes. Links that failed there have in the parts."""
    mesh = mesh_without(topology.mesh, axes)
    parts = []
    for chips in np.sort(mesh_groups(topology, tuple(mesh))):
        group = group_of(topology.intact, tuple(chips.tolist()))
        lost = frozenset(np.flatnonzero(np.isin(group.links, sorted(topology.failed))).tolist())
        machine = replace(group.machine, mesh=mesh_of_pieces(group.machine.axes, list(mesh.items())))
        parts.append(MachinePart(chips, group.links, machine.fail_links(lost)))
    return tuple(parts)
