"""The machines of a search: slices of a family of tori, and groups of every size of the GPUs of others."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sim.errors import InputError
from sim.specs import TopologySpec, load
from sim.topology import build
from sim.topology.boxes import boxes
from sim.topology.factorisations import Factorisation, factorisations, group_sizes, lengths_of_slice

Counts = tuple[tuple[int, int], ...]
"""Numbers of chips as ranges, both ends included; one number is a range of itself."""


class Machine(Struct, frozen=True):
    """Chips to search on."""

    topology: str
    """A shipped name or a path."""
    chips: int
    whole: bool
    """True if these are all chips of the topology."""
    across_boxes: bool
    meshes: tuple[Factorisation, ...]


def parse_counts(text: str) -> Counts:
    """Parses `16,64,256` or `64..256`, or several of both. Raises InputError."""
    ranges = tuple(parse_range(part) for part in text.split(","))
    if None in ranges:
        rule = "must be numbers of chips or ranges of them"
        raise InputError(rule, where="--chips", got=text, hint="such as 16,64 or 64..256")
    return tuple(each for each in ranges if each)


def parse_range(text: str) -> tuple[int, int] | None:
    """Returns both ends of `64..256`, or of the range `64` of one number; None for other text."""
    first, dots, last = (each.strip() for each in text.partition(".."))
    ends = first, (last if dots else first)
    known = all(end.isdecimal() and len(end) < 16 and int(end) > 0 for end in ends) and int(ends[0]) <= int(ends[1])
    return (int(ends[0]), int(ends[1])) if known else None


def list_machines(
    topologies: Sequence[str], chips: Counts | None = None, settings: Sequence[str] = ()
) -> list[Machine]:
    """Returns the machines to search on, each once.

    Args:
        chips: with these numbers of chips only. A machine that cannot be used in parts then also stands for the shipped
            slices of its family: those of the same chip and links.
        settings: of the scenario; those of the machine hold here too.

    Raises:
        InputError: no such machine, or none of these numbers of chips.
    """
    if chips and any(setting.startswith("topology.axes") for setting in settings):
        raise InputError("is not supported with --set topology.axes", where="--chips", hint="leave one out")
    result: dict[tuple[str, int], Machine] = {}
    for topology in topologies:
        fields = [text.removeprefix("topology.") for text in settings if text.startswith("topology.")]
        spec = load.topology_spec(topology, fields)
        build(spec)  # a group of its GPUs may be wired where the machine is not
        every = [
            (name, one, count)
            for name, one in (slices_of(topology) if chips else {topology: spec}).items()
            for count in group_sizes(one, one.chip_count)
        ]
        if chips is not None:
            _check(chips, {count for _, _, count in every}, topology)
            every = [each for each in every if any(low <= each[2] <= high for low, high in chips)]
        for name, one, count in every:
            is_all, box = count == one.chip_count, max(map(len, boxes(build(one))))
            result[name, count] = Machine(name, count, is_all, count > box, tuple(factorisations(one, count)))
    return list(result.values())


def slices_of(topology: str) -> dict[str, TopologySpec]:
    """A machine and the shipped slices of the same chip and links, by name; of two with the same axes in another order
    one.

    Twisted tori are wired otherwise and come only where they are named; without symmetry they take long to simulate.

    Raises:
        InputError: no such machine.
    """
    first = load.topology_spec(topology)
    members, lengths = {topology: first}, {lengths_of_slice(first, first)}
    for name in load.shipped("topology"):
        spec = load.topology_spec(name)
        slice_lengths = lengths_of_slice(spec, first)
        if slice_lengths and slice_lengths not in lengths:
            lengths.add(slice_lengths)
            members[name] = spec
    return dict(sorted(members.items(), key=lambda each: each[1].chip_count))


def _check(chips: Counts, known: set[int], topology: str) -> None:
    """Checks that every number, and every range, has a machine. Raises InputError."""
    for low, high in chips:
        if not any(low <= count <= high for count in known):
            got = str(low) if low == high else f"{low}..{high}"
            hint = f"there are {', '.join(map(str, sorted(known)))}"
            raise InputError(f"no machine like {topology} has so many chips", where="--chips", got=got, hint=hint)
