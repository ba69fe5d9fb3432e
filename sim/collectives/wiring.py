"""One axis of a topology as arrays over all chips, so that algorithms step all chips at once."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.collectives.schedule import Int32s
from sim.errors import InputError, suggest
from sim.topology.graph import Topology
from sim.topology.paths import cut_off


class WiredAxis(Struct, frozen=True, eq=False):
    """Neighbours along one axis; `after[+1][c]` is the chip one hop from chip c in the + direction."""

    name: str
    size: int
    ring: bool
    """True if the axis closes onto itself after `size` hops."""
    twisted: bool
    """True if the ends are joined to other lines (twisted torus), so that wrap links close no ring."""
    position: Int32s
    """[chips] position along the axis."""
    place: Int32s
    """[chips] hops from the first chip of its line: the position, except on a ring opened by a failed cable."""
    after: dict[int, Int32s]
    """Next chip, [chips] per direction; -1 at the end of an axis that is no ring."""
    link: dict[int, Int32s]
    """Link to the next chip, [chips] per direction; -1 if there is none."""

    def without_wrap(self) -> WiredAxis:
        """Returns the axis as a line from place 0 to `size` - 1, without failures the axis without its wraparound."""
        ends = {direction: self.place == self.end(direction) for direction in (1, -1)}
        return replace(
            self,
            ring=False,
            after={d: np.where(ends[d], np.int32(-1), self.after[d]) for d in ends},
            link={d: np.where(ends[d], np.int32(-1), self.link[d]) for d in ends},
        )

    def end(self, direction: int) -> int:
        """Returns the last place in a direction."""
        return self.size - 1 if direction > 0 else 0


def axis_number(topology: Topology, name: str) -> int:
    """Returns the number of the axis of that name. Raises InputError."""
    names = [axis.name for axis in topology.axes]
    if name not in names:
        where = f"topology {topology.name}"
        raise InputError("no axis of that name", where=where, got=name, hint=suggest(name, names))
    return names.index(name)


@functools.lru_cache(maxsize=256)
def wired_axis(topology: Topology, name: str) -> WiredAxis:
    """Returns the axis with all its links, including wraparounds that shift other axes.

    On a folded machine every link leads from the chip here that stands for its sender to the one for its receiver.
    """
    axis = topology.axes[axis_number(topology, name)]
    whole, stand_in = topology.unfold(), topology.representative_links
    position = positions(topology, (name,))[:, 0]
    after, link = {}, {}
    for d in (1, -1):
        hops = [whole.neighbour(topology.chip_number(chip), name, d) or (-1, -1) for chip in range(topology.chips)]
        after[d] = np.array([topology.representative_of(chip) if chip >= 0 else -1 for chip, _ in hops], dtype=np.int32)
        link[d] = np.array([stand_in[index] if index >= 0 else -1 for _, index in hops], dtype=np.int32)
    return WiredAxis(name, axis.size, axis.ring, False, position, position, after, link)


@functools.lru_cache(maxsize=256)
def line_axis(topology: Topology, name: str) -> WiredAxis:
    """Returns the axis of that name, as a line unless it closes a ring.

    Raises:
        InputError: no such axis, or chips that follow each other along it have no link.
    """
    axis = topology.axes[axis_number(topology, name)]
    result = wired_axis(topology, name)
    after, position = result.after, result.position
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
    closes = bool(topology.failed) and _closes(result)
    twisted = axis.size > 1 and not closes and bool((after[1][position == axis.size - 1] >= 0).any())
    opened = replace(result, place=_places(topology, result, closes))
    return replace(opened.without_wrap(), twisted=twisted)


def _closes(axis: WiredAxis) -> bool:
    """Returns True if `size` hops in the + direction lead every chip back to itself."""
    if (axis.after[1] < 0).any():
        return False
    chips = np.arange(len(axis.position), dtype=np.int32)
    at: Int32s = chips
    for _ in range(axis.size):
        at = axis.after[1][at]
    return bool((at == chips).all())


def _places(topology: Topology, axis: WiredAxis, closes: bool) -> Int32s:
    """Returns [chips] the hops from the first chip of each line. A ring starts behind its failed link.

    Raises:
        InputError: the failed links cut a line into pieces.
    """
    place, failed = axis.position.copy(), sorted(topology.failed)
    # Whether the cable behind each chip in the + direction has failed, by either of its links.
    cut = np.isin(axis.link[1], failed)
    cut[axis.after[-1][np.isin(axis.link[-1], failed)]] = True
    for chip in np.flatnonzero(cut).tolist():
        if not closes and axis.position[chip] == axis.size - 1:
            continue  # the ends of a twisted axis, which is used as lines
        line = [int(axis.after[1][chip])]
        while closes and line[-1] != chip:
            line.append(int(axis.after[1][line[-1]]))
        if not closes or cut[line].sum() > 1:
            raise cut_off(topology, f"its line along {axis.name} falls apart behind chip {chip}")
        place[line] = np.arange(len(line), dtype=np.int32)
    return place


@functools.lru_cache(maxsize=256)
def is_lattice(topology: Topology, axes: tuple[str, ...]) -> bool:
    """Returns True if the chips of a group along `axes` are a lattice of rings, straight or twisted.

    Then a step along an axis leads to another chip of the group from every chip, and what a chip does, all can do.
    """
    whole = topology.unfold()
    if not whole.is_vertex_transitive or not whole.has_lines:
        return False
    others = positions(whole, tuple(axis.name for axis in whole.axes if axis.name not in axes))
    steps = [wired_axis(whole, name).after[1] for name in axes if whole.axis(name).size > 1]
    return all(bool((others[after] == others).all()) for after in steps)


class Grid(Struct, frozen=True, eq=False):
    """Chips of each group numbered along axes that are rings or lines, for one order of the axes."""

    axes: tuple[WiredAxis, ...]
    """Axes longer than one chip, in that order."""
    place: Int32s
    """[chips, A] place of each chip along the group's axes, in the order in which the group names them."""


def line_grid(topology: Topology, axes: tuple[str, ...], order: Sequence[str]) -> Grid:
    """Returns the axes of the wiring; axes that close no ring are lines."""
    return Grid(tuple(line_axis(topology, name) for name in order), positions(topology, axes))


@functools.lru_cache(maxsize=256)
def ring_grid(topology: Topology, axes: tuple[str, ...], order: tuple[str, ...]) -> Grid:
    """Returns the axes as rings, also if they are twisted and the group is a lattice; else as wired.

    Steps along the first axis of the order lead through K chips back to the start. Steps along the second lead through
    L chips until they meet one of those K, and so on: every chip of the group is reached by one combination of fewer
    than K, L, ... steps. Those that differ in their steps along the first axes alone are a set to which L steps along
    the next lead back, so this axis is a ring of L between such sets. (On the 4x4x8 torus twisted in x and y the
    lengths are 8, 4 and 4 in every order.)
    """
    whole = topology.unfold()
    if all(whole.axis(name).ring for name in order) or not is_lattice(topology, axes):
        return line_grid(topology, axes, order)
    at = np.flatnonzero((positions(whole, axes) == 0).all(axis=1)).astype(np.int32)[:, None]
    place, sizes = np.zeros((whole.chips, len(axes)), dtype=np.int32), []
    for name in order:
        after, start, layers = wired_axis(whole, name).after[1], set(at[0].tolist()), [at]
        while int((at := after[layers[-1]])[0, 0]) not in start:
            place[at] = place[layers[-1]]
            place[at, axes.index(name)] += 1
            layers.append(at)
        at = np.concatenate(layers, axis=1)
        sizes.append(len(layers))
    here = place[topology.chip_numbers]
    rings = []
    for name, size in zip(order, sizes, strict=True):
        column = here[:, axes.index(name)]
        rings.append(replace(wired_axis(topology, name), size=size, ring=True, position=column, place=column))
    return Grid(tuple(rings), here)


def line_axes(topology: Topology, names: tuple[str, ...]) -> tuple[WiredAxis, ...]:
    """Returns the named axes that are longer than one chip: the others need no communication."""
    axes = tuple(line_axis(topology, name) for name in names)
    return tuple(axis for axis in axes if axis.size > 1)


def positions(topology: Topology, names: tuple[str, ...]) -> Int32s:
    """Returns [chips, A] the position of every chip along the named axes."""
    chips = topology.chip_numbers
    at = np.unravel_index(chips, [axis.size for axis in topology.axes])
    columns = [at[axis_number(topology, name)].astype(np.int32) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((topology.chips, 0), dtype=np.int32)
