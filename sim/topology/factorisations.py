"""Meshes worth trying on a machine: axes of a torus in every order and merged; GPUs along one axis, and along two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from msgspec import Struct

from sim import topology
from sim.specs import AxisSpec, LinkSpec, TopologySpec
from sim.specs.mesh import BOXES
from sim.topology.boxes import boxes

_MOST_AXES = 4
"""Axes of a torus that are reordered and merged: 75 ways for four, 541 for five."""


class Factorisation(Struct, frozen=True):
    """A mesh over some chips of a machine."""

    label: str
    """Lengths of its axes in the order in which layouts use them: `8x4x4`, `2 boxes x 8`."""
    axes: Mapping[str, tuple[str, ...]]
    """Parts of each axis, none if it has one chip. Axes with the same parts are interchangeable."""
    mesh: Mapping[str, Any] | None = None
    """The mesh as a scenario gives it; None for the machine's own."""
    merged: Mapping[str, tuple[str, ...]] | None = None
    """Axes of the machine's own mesh that are used together as one axis; None if each is used alone."""
    for_key_values: bool = False
    """True if it becomes two axes where chips hold copies of key-value heads (`sim.lowering.placement`)."""


def group_sizes(machine: TopologySpec, chips: int) -> list[int]:
    """Returns the numbers of chips that a mesh may have: all of a torus; on other machines powers of two as well."""
    powers = range(0 if machine.lines else (chips - 1).bit_length())
    return [*(2**power for power in powers), chips]


def lengths_of_slice(machine: TopologySpec, family: TopologySpec) -> tuple[str, ...]:
    """Returns the parts of the axes of a torus with the same chip and links, sorted; none for any other machine, or for
    a twisted torus."""
    alike = machine.chip == family.chip and _links_by_name(machine) == _links_by_name(family)
    twisted = machine is not family and any(axis.twist for axis in machine.lines.values())
    return tuple(sorted(sum(_made_of(machine.lines).values(), ()))) if alike and not twisted else ()


def _links_by_name(machine: TopologySpec) -> dict[str, LinkSpec]:
    return {link.name: link for link in machine.line_links.values()}


def factorisations(machine: TopologySpec, chips: int) -> list[Factorisation]:
    """Returns the machine's own mesh, then others; one of each set of interchangeable meshes."""
    by_axes: dict[tuple[tuple[str, ...], ...], Factorisation] = {}
    for each in _of_lines(machine.lines) if machine.lines else _of_boxes(machine, chips):
        by_axes.setdefault(tuple(each.axes.values()), each)
    return list(by_axes.values())


def _of_lines(axes: Mapping[str, AxisSpec]) -> Iterator[Factorisation]:
    """Yields orders of axes, then merged axes; a twist names axes, so a twisted torus has only its own mesh."""
    sizes, made_of = {name: axis.size for name, axis in axes.items()}, _made_of(axes)
    yield Factorisation("x".join(map(str, sizes.values())), made_of)
    longer = tuple(name for name in sizes if made_of[name])
    if len(longer) > _MOST_AXES or any(axis.twist for axis in axes.values()):
        return
    for dealt in sorted(_ordered_partitions(longer), key=len, reverse=True):
        blocks = [*dealt, *((name,) for name in sizes if not made_of[name])]
        label = "x".join(str(prod(sizes[name] for name in block)) for block in blocks)
        parts = {"".join(block): tuple(sorted(part for name in block for part in made_of[name])) for block in blocks}
        if len(dealt) == len(longer):
            yield Factorisation(label, parts, {name: name for name in parts})
        else:
            yield Factorisation(label, parts, merged={"".join(block): block for block in blocks})


def _made_of(axes: Mapping[str, AxisSpec]) -> dict[str, tuple[str, ...]]:
    links = {name: axis.link.name if axis.link else "" for name, axis in axes.items()}
    return {
        name: (f"{axis.size}{'' if axis.wrap else ' open'} {links[name]}",) if axis.size > 1 else ()
        for name, axis in axes.items()
    }


def _ordered_partitions(names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yields every partition of names into ordered blocks."""
    if not names:
        yield ()
    for count in range(1, len(names) + 1):
        for block in itertools.combinations(names, count):
            for rest in _ordered_partitions(tuple(name for name in names if name not in block)):
                yield block, *rest


def _of_boxes(machine: TopologySpec, chips: int) -> Iterator[Factorisation]:
    """Yields one axis of all chips, then two axes: within a box, or boxes and the chips of each, in both orders."""
    yield Factorisation(str(chips), {"chips": (str(chips),) if chips > 1 else ()}, for_key_values=True)
    all_boxes = boxes(topology.build(machine))
    box = len(all_boxes[0])
    if chips <= box:
        for across in (2**power for power in range(1, chips.bit_length())):
            if chips % across == 0 and across < chips:
                inside = chips // across
                parts = {"outer": (f"{across} across",), "inner": (f"{inside}",)}
                yield Factorisation(f"{across}x{inside}", parts, {"outer": across, "inner": inside})
    elif chips % box == 0 and all(len(each) == box for each in all_boxes):
        count = chips // box
        parts = {"box": (f"{count} across",), "gpu": (f"{box}",)}
        yield Factorisation(f"{count} boxes x {box}", parts, {"box": count, "gpu": box})
        if count == len(all_boxes):
            yield Factorisation(f"{box} x {count} boxes", dict(reversed(parts.items())), {"gpu": box, "box": BOXES})
