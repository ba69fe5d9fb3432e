"""The mesh of a scenario: names for the axes by which a layout splits tensors, over a machine of any kind."""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from sim.errors import suggest
from sim.specs.base import MESH_AXIS, Count, Strict, wrong
from sim.specs.machine import AxisSpec
from sim.specs.topology import TopologySpec

RACKS = "racks"
"""The size of the axis along which the racks of a machine lie: boxes on the same leaf switches."""
BOXES = "boxes"
"""The size of the axis along which the boxes of a machine lie, or those of each rack beside an axis of racks."""


class SplitAxis(Strict):
    """Part of an axis of a torus; its parts follow each other, outermost first.

    Where their product is less than the axis, the mesh has its first chips, and they end without a wraparound.
    """

    of: str
    size: Count


MeshSpec = Annotated[
    dict[
        Annotated[str, Field(pattern=MESH_AXIS, max_length=100)],
        Count | str | Annotated[list[str], Field(min_length=1)] | SplitAxis,
    ],
    Field(min_length=1),
]
"""Mesh axes.

On a torus: `{x: x, yz: [y, z]}`, or parts `{outer: {of: x, size: 2}, inner: {of: x, size: 2}}`; every axis once.
On a switch or graph: sizes, row-major over the machine's first chips; one may be `boxes` and one `racks`, the others
divide a box, or a rack where no axis is `boxes`."""


def check_mesh(mesh: MeshSpec, machine: TopologySpec) -> None:
    """Raises the rule that a mesh breaks on this machine; how its boxes lie is known once it is built."""
    if machine.lines:
        _check_on_torus(mesh, machine.lines)
        return
    for name, size in mesh.items():
        if not isinstance(size, int) and size not in (BOXES, RACKS):
            rule = f"must be a number of chips, '{BOXES}' or '{RACKS}' on a {machine.kind}"
            raise wrong("mesh", name, rule=rule, got=size.model_dump() if isinstance(size, SplitAxis) else size)
    for level in (BOXES, RACKS):
        if list(mesh.values()).count(level) > 1:
            raise wrong("mesh", rule=f"must have '{level}' along one axis", got=", ".join(mesh))
    product, chips = math.prod(size for size in mesh.values() if isinstance(size, int)), machine.chip_count
    if product > chips:
        raise wrong("mesh", rule=f"must have a product of at most the machine's {chips} chips", got=product)


def _check_on_torus(mesh: MeshSpec, axes: Mapping[str, AxisSpec]) -> None:
    dealt: dict[str, int] = {}
    for name, axis, size in _parts(mesh, axes):
        whole = size == axes[axis].size
        if axis in dealt and (whole or dealt[axis] == axes[axis].size):
            raise wrong("mesh", name, rule="must use every axis of the torus once", got=axis)
        dealt[axis] = dealt.get(axis, 1) * size
    for axis, spec in axes.items():
        if axis not in dealt:
            rule = "must use every axis of the torus once"
            raise wrong("mesh", rule=rule, got=", ".join(dealt), hint=f"add {axis}: {axis}")
        if dealt[axis] > spec.size:
            parts = [name for name, of, _ in _parts(mesh, axes) if of == axis]
            rule = f"parts {', '.join(parts)} must have a product of at most axis '{axis}', {spec.size}"
            raise wrong("mesh", parts[0], "size", rule=rule, got=dealt[axis])


def _parts(mesh: MeshSpec, axes: Mapping[str, AxisSpec]) -> Iterator[tuple[str, str, int]]:
    """(mesh axis, axis of the torus, size of the part of it), in the order of the file."""
    for name, given in mesh.items():
        if isinstance(given, int):
            rule = "must be an axis of the torus, a list of axes, or a part {of: AXIS, size: COUNT}"
            raise wrong("mesh", name, rule=rule, got=given, hint=f"it has {', '.join(axes)}")
        for axis in [given] if isinstance(given, str) else [given.of] if isinstance(given, SplitAxis) else given:
            if axis not in axes:
                hint = suggest(axis, axes)
                raise wrong("mesh", name, rule="must be an axis of the torus", got=axis, hint=hint)
            yield name, axis, given.size if isinstance(given, SplitAxis) else axes[axis].size


def part_of(machine: TopologySpec, mesh: MeshSpec | None) -> TopologySpec:
    """Returns the part of a torus that a mesh uses, whose chips are numbered by themselves; any other machine whole."""
    if mesh is None or not machine.lines:
        return machine
    return machine.model_copy(update={"axes": lines_of(mesh, machine.lines)})


def lines_of(mesh: MeshSpec, axes: Mapping[str, AxisSpec]) -> dict[str, AxisSpec]:
    """Returns the axes of a torus as long as a mesh that has passed `check_mesh` uses them.

    The part of an axis does not wrap, and of a part of the torus no twisted axis does.
    """
    lengths = dict.fromkeys(axes, 1)
    for _, axis, size in _parts(mesh, axes):
        lengths[axis] *= size
    if all(lengths[name] == axis.size for name, axis in axes.items()):
        return dict(axes)
    return {
        name: AxisSpec(size=size, wrap=axis.wrap and not axis.twist and size == axis.size, link=axis.link)
        for (name, axis), size in zip(axes.items(), lengths.values(), strict=True)
    }


def pieces_on_torus(mesh: MeshSpec, axes: Mapping[str, AxisSpec]) -> list[tuple[str, list[tuple[int, int]]]]:
    """Returns (name, (size, stride) pieces over chip numbers) of each axis of a mesh that uses all of these axes."""
    sizes = [axis.size for axis in axes.values()]
    left = {name: math.prod(sizes[i:]) for i, name in enumerate(axes)}
    pieces: dict[str, list[tuple[int, int]]] = {name: [] for name in mesh}
    for name, axis, size in _parts(mesh, axes):
        left[axis] //= size
        pieces[name].append((size, left[axis]))
    return list(pieces.items())
