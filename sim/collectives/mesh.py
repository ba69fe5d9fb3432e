"""One axis of a topology as arrays over all chips, so that algorithms step all chips at once."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from sim.collectives.schedule import Int32s
from sim.errors import InputError, suggest
from sim.topology.graph import Topology


@dataclass(frozen=True, slots=True, eq=False)
class MeshAxis:
    """Who is next to whom along one axis; `after[+1][c]` is the chip one hop from chip c in the + direction."""

    name: str
    size: int
    ring: bool
    """Whether the hops close onto themselves after `size` of them."""
    twisted: bool
    """Whether the ends are joined to other lines (twisted torus): the wrap links are there but close no ring."""
    position: Int32s
    """[chips] position along the axis."""
    after: dict[int, Int32s]
    """Per direction [chips]: the next chip, -1 at the end of an axis that is no ring."""
    link: dict[int, Int32s]
    """Per direction [chips]: index of the link to the next chip, -1 where there is none."""

    def without_wrap(self) -> MeshAxis:
        """The same axis as a line from position 0 to `size` - 1."""
        ends = {direction: self.position == self.end(direction) for direction in (1, -1)}
        return replace(
            self,
            ring=False,
            after={d: np.where(ends[d], np.int32(-1), self.after[d]) for d in ends},
            link={d: np.where(ends[d], np.int32(-1), self.link[d]) for d in ends},
        )

    def end(self, direction: int) -> int:
        """Last position in a direction."""
        return self.size - 1 if direction > 0 else 0


def axis_number(topology: Topology, name: str) -> int:
    """Which axis of the topology has that name. Raises InputError."""
    names = [axis.name for axis in topology.axes]
    if name not in names:
        where = f"topology {topology.name}"
        raise InputError("no axis of that name", where=where, got=name, hint=suggest(name, names))
    return names.index(name)


@functools.lru_cache(maxsize=256)
def mesh_axis(topology: Topology, name: str) -> MeshAxis:
    """The axis of that name.

    Raises:
        InputError: no such axis, or chips that follow each other along it have no link.
    """
    axis = topology.axes[axis_number(topology, name)]
    chips = np.arange(topology.chips)
    position = positions(topology, (name,))[:, 0]
    hops = {d: [topology.neighbour(int(chip), name, d) or (-1, -1) for chip in chips] for d in (1, -1)}
    after = {d: np.array([chip for chip, _ in hop], dtype=np.int32) for d, hop in hops.items()}
    link = {d: np.array([index for _, index in hop], dtype=np.int32) for d, hop in hops.items()}
    result = MeshAxis(name, axis.size, axis.ring, False, position, after, link)
    for d in (1, -1):
        linked = (after[d] >= 0) | (not axis.ring and position == result.end(d)) | (axis.size == 1)
        if not linked.all():
            raise InputError(
                f"chips next to each other along axis '{name}' must have a link",
                where=f"topology {topology.name}",
                hint="choose an algorithm that fits this topology",
            )
    if axis.ring:
        return result
    twisted = axis.size > 1 and bool((after[1][position == axis.size - 1] >= 0).any())
    return replace(result.without_wrap(), twisted=twisted)


def mesh_axes(topology: Topology, names: tuple[str, ...]) -> tuple[MeshAxis, ...]:
    """The named axes that are longer than one chip: the others need no communication."""
    axes = tuple(mesh_axis(topology, name) for name in names)
    return tuple(axis for axis in axes if axis.size > 1)


def positions(topology: Topology, names: tuple[str, ...]) -> Int32s:
    """[chips, A] position of every chip along the named axes."""
    at = np.unravel_index(np.arange(topology.chips), [axis.size for axis in topology.axes])
    columns = [at[axis_number(topology, name)].astype(np.int32) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((topology.chips, 0), dtype=np.int32)
