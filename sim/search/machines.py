"""The machines of a search: slices of a family with every order of their axes, GPUs in groups of every size."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim import load
from sim.errors import InputError
from sim.specs import TopologySpec, TorusSpec, chips_of
from sim.topology import build

Counts = tuple[tuple[int, int], ...]
"""Numbers of chips as ranges, both ends included; one number is a range of itself."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Chips to search on."""

    topology: str
    """A shipped name or a path."""
    mesh: str
    """Sizes of its axes in the order in which layouts use them, such as `8x4x4`; of GPUs their number."""
    chips: int
    torus: bool
    settings: tuple[str, ...] = ()
    """What makes this mesh of the topology."""


def counts(text: str) -> Counts:
    """`16,64,256` or `64..256`, or several of both. Raises InputError."""
    found = []
    for part in text.split(","):
        first, dots, last = (each.strip() for each in part.partition(".."))
        ends = first, (last if dots else first)
        if not all(end.isdecimal() and len(end) < 16 and int(end) > 0 for end in ends) or int(ends[0]) > int(ends[1]):
            rule = "must be numbers of chips or ranges of them"
            raise InputError(rule, where="--chips", got=text, hint="such as 16,64 or 64..256")
        found.append((int(ends[0]), int(ends[1])))
    return tuple(found)


def machines(topologies: Sequence[str], chips: Counts | None = None, settings: Sequence[str] = ()) -> list[Machine]:
    """The machines to search on, each once.

    A torus comes with every order of its axes, a switch or graph as a tensor-parallel group of each power of two and of
    all its GPUs.

    Args:
        chips: with these numbers of chips only. A torus then also stands for the shipped slices of its family: those of
            the same chip and links.
        settings: of the scenario; those of the machine hold here too.

    Raises:
        InputError: no such machine, or none of these numbers of chips.
    """
    if chips and any(setting.startswith("topology.axes") for setting in settings):
        raise InputError("chooses the axes, and so does --set topology.axes", where="--chips", hint="leave one out")
    found: list[Machine] = []
    for topology in topologies:
        own = [text.removeprefix("topology.") for text in settings if text.startswith("topology.")]
        spec = load.topology_spec(topology, own)
        build(spec)  # a group of its GPUs may be wired where the machine is not
        names = family(topology) if chips and isinstance(spec, TorusSpec) else {topology: spec}
        every = [each for name, one in names.items() for each in _meshes(name, one)]
        if chips is not None:
            _check(chips, {each.chips for each in every}, topology)
            every = [each for each in every if _wanted(each.chips, chips)]
        found += every
    once = {(each.topology, each.mesh, each.settings): each for each in found}
    return list(once.values())


def family(topology: str) -> dict[str, TopologySpec]:
    """A torus and the shipped ones of the same chip and links, by name; of two with the same axes in another order one.

    Twisted tori are wired otherwise and come only where they are named; without symmetry they take long to simulate.

    Raises:
        InputError: no such machine.
    """
    first = load.topology_spec(topology)
    every: Iterable[tuple[str, TopologySpec]] = ((name, load.topology_spec(name)) for name in load.shipped("topology"))
    found: dict[str, TopologySpec] = {}
    shapes = set()
    for name, spec in ((topology, first), *every):
        if not isinstance(spec, TorusSpec) or not isinstance(first, TorusSpec):
            continue
        axes = spec.axes.values()
        shape = tuple(sorted((axis.size, axis.wrap, axis.link.name if axis.link else "") for axis in axes))
        if spec is not first and any(axis.twist for axis in axes):
            continue
        if (spec.chip, spec.link) == (first.chip, first.link) and shape not in shapes:
            shapes.add(shape)
            found[name] = spec
    return dict(sorted(found.items(), key=lambda each: chips_of(each[1])))


def _wanted(chips: int, among: Counts) -> bool:
    return any(low <= chips <= high for low, high in among)


def _check(chips: Counts, known: set[int], topology: str) -> None:
    """Every number, and every range, must have a machine. Raises InputError."""
    for low, high in chips:
        if not any(low <= count <= high for count in known):
            got = str(low) if low == high else f"{low}..{high}"
            hint = f"there are {', '.join(map(str, sorted(known)))}"
            raise InputError(f"no machine like {topology} has so many chips", where="--chips", got=got, hint=hint)


def _meshes(topology: str, spec: TopologySpec) -> list[Machine]:
    """What of a machine is searched, its own mesh first; a torus with a twist has no other."""
    if not isinstance(spec, TorusSpec):
        return [_group(topology, chips) for chips in _sizes(chips_of(spec))]
    axes, count = list(spec.axes.values()), chips_of(spec)
    if any(axis.twist for axis in axes):
        return [Machine(topology, "x".join(str(axis.size) for axis in axes), count, torus=True)]
    orders = {
        tuple((axis.size, axis.wrap, axis.link) for axis in order): order for order in itertools.permutations(axes)
    }
    found = []
    for order in orders.values():
        named = dict(zip(spec.axes, order, strict=True))
        fields = {name: axis.model_dump(mode="json", exclude_unset=True) for name, axis in named.items()}
        assigned = (f"topology.axes={json.dumps(fields)}",) if len(orders) > 1 else ()
        found.append(
            Machine(topology, "x".join(str(axis.size) for axis in order), count, torus=True, settings=assigned)
        )
    return found


def _sizes(chips: int) -> list[int]:
    """Powers of two up to a number, and the number."""
    return [*(2**power for power in range(chips.bit_length()) if 2**power < chips), chips]


def _group(topology: str, chips: int) -> Machine:
    settings = (f"layout.mesh.tensor={chips}",)
    return Machine(topology, str(chips), chips, torus=False, settings=settings)
