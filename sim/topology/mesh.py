"""The mesh: named logical axes over the chips of a machine, whatever joins the chips.

Chips are numbered row-major over the axes of a torus, and consecutively through the boxes of GPUs. So every axis of the
wiring, every split of one into consecutive parts, and every product of such parts is given by (size, stride) pieces:
the position of a chip on a piece is (chip // stride) % size. The axes of a mesh together number every chip once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.errors import InputError, suggest

if TYPE_CHECKING:
    from sim.topology.graph import Axis, Topology

Int32s = npt.NDArray[np.int32]


class MeshAxis(Struct, frozen=True):
    """One logical axis."""

    name: str
    pieces: tuple[tuple[int, int], ...]
    """(size, stride) over chip numbers, outermost first."""
    lines: tuple[str, ...] = ()
    """Axes of the wiring that it is made of, whole, outermost first; empty where it is not."""

    @property
    def size(self) -> int:
        """Number of positions along the axis."""
        return prod(size for size, _ in self.pieces)

    def positions(self, chips: npt.NDArray[np.integer]) -> Int32s:
        """Position of each of the chips along the axis."""
        at = np.zeros(len(chips), dtype=np.int32)
        for size, stride in self.pieces:
            at = (at * size + chips // stride % size).astype(np.int32)
        return at


def natural_mesh(axes: Sequence[Axis]) -> tuple[MeshAxis, ...]:
    """Returns the mesh whose axes are those of the wiring."""
    sizes = [axis.size for axis in axes]
    return tuple(MeshAxis(axis.name, ((axis.size, prod(sizes[i + 1 :])),), (axis.name,)) for i, axis in enumerate(axes))


Pieces = Sequence[tuple[str, Sequence[tuple[int, int]]]]
"""(name, its (size, stride) over chip numbers, outermost first) of each axis of a mesh."""


def mesh_of_pieces(axes: Sequence[Axis], pieces: Pieces) -> tuple[MeshAxis, ...]:
    """Returns the mesh over a machine whose wiring has these axes."""
    result = []
    for name, own in pieces:
        axis = MeshAxis(name, tuple(own))
        lines = _lines(axes, (axis,))
        result.append(MeshAxis(name, axis.pieces, lines or ()))
    return tuple(result)


def row_major(sizes: Iterable[tuple[str, int]]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Returns (name, pieces) of axes over which chips are numbered row-major: the last varies fastest."""
    given = list(sizes)
    return [(name, [(size, prod(after for _, after in given[i + 1 :]))]) for i, (name, size) in enumerate(given)]


def mesh_without(mesh: Sequence[MeshAxis], names: Sequence[str]) -> dict[str, list[tuple[int, int]]]:
    """Returns the pieces of the axes that are left where those of the names are fixed, over the chips that are left."""
    gone = [piece for axis in mesh if axis.name in names for piece in axis.pieces]
    return {
        axis.name: [
            (size, stride // prod(other for other, below in gone if below < stride)) for size, stride in axis.pieces
        ]
        for axis in mesh
        if axis.name not in names
    }


def mesh_axis(topology: Topology, name: str) -> MeshAxis:
    """Returns the mesh axis of that name. Raises InputError."""
    result = next((axis for axis in topology.mesh if axis.name == name), None)
    if result is None:
        hint = suggest(name, [axis.name for axis in topology.mesh])
        raise InputError("no axis of that name", where=f"topology {topology.name}", got=name, hint=hint)
    return result


def mesh_positions(topology: Topology, names: Sequence[str]) -> Int32s:
    """Returns [chips, A] the position of every chip along mesh axes; of a folded machine, of the chips that it is."""
    chips = topology.chip_numbers
    columns = [mesh_axis(topology, name).positions(chips) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((topology.chips, 0), dtype=np.int32)


def mesh_groups(topology: Topology, names: tuple[str, ...]) -> Int32s:
    """Returns [groups, n] the chips of each group along mesh axes, row-major over them; all chips of a folded machine.

    Raises:
        InputError: no axis of that name, or one that is named twice.
    """
    if len(set(names)) < len(names):
        raise InputError("a collective names each axis once", where="axes", got=joined(names))
    return groups_along(topology.mesh, tuple(mesh_axis(topology, name) for name in names))


@functools.lru_cache(maxsize=64)
def groups_along(mesh: tuple[MeshAxis, ...], axes: tuple[MeshAxis, ...]) -> Int32s:
    """Returns [groups, n] the chips of each group along some axes of a mesh, row-major over them."""
    chips = np.arange(prod(axis.size for axis in mesh))
    key = np.zeros(len(chips), dtype=np.int64)
    for axis in (*(axis for axis in mesh if axis not in axes), *axes):
        key = key * axis.size + axis.positions(chips)
    return np.argsort(key).astype(np.int32).reshape(-1, prod(axis.size for axis in axes))


def whole_lines(topology: Topology, names: Sequence[str]) -> tuple[str, ...] | None:
    """Returns the axes of the wiring that mesh axes are made of together, whole; None where they are not.

    Raises:
        InputError: no axis of that name.
    """
    return _lines(topology.axes, [mesh_axis(topology, name) for name in names])


def _lines(wired: Sequence[Axis], axes: Sequence[MeshAxis]) -> tuple[str, ...] | None:
    size_of = {axis.name: axis.size for axis in wired}
    names = dict.fromkeys(name for axis in axes for name in axis.lines or _along(wired, axis))
    return tuple(names) if prod(size_of[name] for name in names) == prod(axis.size for axis in axes) else None


def _along(wired: Sequence[Axis], axis: MeshAxis) -> list[str]:
    """Axes of the wiring along which the positions of a mesh axis lie."""
    strides = {each.name: prod(other.size for other in wired[i + 1 :]) for i, each in enumerate(wired)}
    return [
        each.name
        for size, stride in axis.pieces
        for each in wired
        if size > 1 and strides[each.name] < stride * size and stride < strides[each.name] * each.size
    ]


def joined(names: Sequence[str]) -> str:
    """Returns the names as one word: `yz`, or `data,tensor` where some name has several letters."""
    return ("" if all(len(name) == 1 for name in names) else ",").join(names)
