"""All-to-all by direct messages: each is cut into pieces, and every piece takes a shortest path to its target.

A piece takes the axes one after the other. The pieces of a message start with different axes, so that all axes are
busy at all times. Where several combinations of hops are equally short (to the chip opposite on a ring, to most chips
of a twisted torus), the pieces are spread over them.

Where moving every chip by the same step maps the links onto themselves, all links of one axis and direction carry the
same load: S/n bytes times the hops in that direction, added up over all n targets of one chip, whatever the order of
the hops. So combinations are chosen for one chip, such that the busiest direction has as few hops as can be found, and
the schedule of one chip is that of all. Where links have failed, and in groups that a twist leaves, paths are chosen
for each pair of chips instead.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.collectives.graph.routes import store_and_forward
from sim.collectives.schedule import Hop, Payload, Schedule, ScheduleBuilder, plans_one_chip
from sim.collectives.torus.all_to_all import messages
from sim.collectives.wiring import WiredAxis, axis_number, is_lattice, line_axes, line_axis, positions, wired_axis
from sim.errors import InputError
from sim.topology.graph import Topology
from sim.topology.mesh import groups_along, natural_mesh
from sim.topology.paths import cut_off, outgoing
from sim.topology.working_links import WorkingLinks

_POWER = 8
"""Exponent of a link's load in the cost of a path."""

MAX_SENDS = 2_000_000
"""Pieces times their hops, of all chips that are planned: above this planning and simulating take minutes."""

Hops = tuple[int, ...]
"""Signed hops along each axis."""


class _Target(Struct, frozen=True):
    """A chip some hops away, from any chip."""

    offset: Hops
    """Difference of the positions, modulo the sizes of the axes where they wrap."""
    ways: tuple[Hops, ...]
    """Combinations of fewest hops that lead there."""

    @property
    def hops(self) -> int:
        return sum(map(abs, self.ways[0]))


@plans_one_chip(on="lattices")
def dimension_ordered(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Every message straight to its target in pieces of equal size, over shortest paths that share the load.

    Raises:
        InputError: more sends than can be simulated, or failed links that leave a message no way.
    """
    longer = tuple(axis for name in axes if (axis := wired_axis(topology, name)).size > 1)
    if is_lattice(topology, axes):
        targets = _lattice_targets(topology, longer)
    elif topology.failed or any(line_axis(topology, axis.name).twisted for axis in longer):
        return _pair_by_pair(topology, axes)
    else:
        longer = line_axes(topology, axes)
        targets = _grid_targets(longer)
    _refuse_many(axes, topology.chips * len(longer) * sum(target.hops for target in targets))
    builder = ScheduleBuilder("all_to_all", axes, max(1, len(longer)))
    targets.sort(key=lambda target: -target.hops)
    for target, ways in zip(targets, _balanced(targets, 2 * len(longer)), strict=True):
        for half, part in itertools.product((0, 1), range(len(longer))):
            pair = ways[2 * part : 2 * part + 2]
            if half == 1 and pair[0] == pair[1]:
                continue  # both halves in one piece
            order = [*range(part, len(longer)), *range(part)]
            legs = [(longer[i], pair[half][i]) for i in order]
            whole = pair[0] == pair[1]
            _send_along(builder, topology, legs, _Piece(axes, target.offset, part, -1 if whole else half))
    return builder.build()


def suits(topology: Topology) -> bool:
    """Returns True if direct messages are the better all-to-all: stages keep all links busy only if all axes are equal.

    On meshes stages lose 1 % and need far fewer sends. Machines whose chips together would send more than can be
    simulated keep the stages as well.
    """
    axes = [axis for axis in topology.axes if axis.size > 1]
    many = topology.total_chips**2 * len(axes) * sum(axis.size for axis in axes) / 3 > MAX_SENDS
    unlike = topology.is_vertex_transitive and len({(axis.size, axis.ring) for axis in axes}) > 1
    return not many and (unlike or bool(topology.failed))


def _refuse_many(axes: tuple[str, ...], sends: int) -> None:
    if sends > MAX_SENDS:
        rule = f"direct all-to-all messages must take at most {MAX_SENDS:,} sends, and take {sends:,}"
        raise InputError(rule, where=f"all_to_all({''.join(axes)})", hint="choose the algorithm multi_axis")


# --- targets and the ways to them ------------------------------------------------------------------------------------


def _grid_targets(axes: Sequence[WiredAxis]) -> list[_Target]:
    """Targets on rings and lines: the hops along the axes add up, and half way round a ring there are two ways."""
    alone = [
        [(0,), *((hops, -hops) if half == 0 else (hops,) for hops, half in _signed(axis) if half <= 0)] for axis in axes
    ]
    targets = [
        _Target(tuple(ways[0] for ways in combination), tuple(itertools.product(*combination)))
        for combination in itertools.product(*alone)
    ]
    return [target for target in targets if target.hops]


def _signed(axis: WiredAxis) -> Iterator[tuple[int, int]]:
    """(signed hops, half) to every other position of an axis."""
    return ((direction * distance, half) for direction, distance, half in messages(axis))


def _lattice_targets(topology: Topology, axes: Sequence[WiredAxis]) -> list[_Target]:
    """Targets where moving every chip by the same step maps the links onto themselves: a search from the first chip."""
    whole = topology.unfold()
    start = int(topology.chip_number(0))
    at = [whole.coordinates(start)[axis_number(whole, axis.name)] for axis in axes]
    ways: dict[int, set[Hops]] = {start: {(0,) * len(axes)}}
    level = ways
    while level:
        beyond: dict[int, set[Hops]] = {}
        for chip, combinations in level.items():
            for i, direction in itertools.product(range(len(axes)), (1, -1)):
                step = whole.neighbour(chip, axes[i].name, direction)
                if step is not None and step[0] not in ways:
                    found = beyond.setdefault(step[0], set())
                    found |= {(*hops[:i], hops[i] + direction, *hops[i + 1 :]) for hops in combinations}
        ways |= beyond
        level = beyond
    del ways[start]
    offsets = {
        chip: tuple(
            (whole.coordinates(chip)[axis_number(whole, axis.name)] - here) % axis.size
            for axis, here in zip(axes, at, strict=True)
        )
        for chip in ways
    }
    return [_Target(offsets[chip], tuple(sorted(combinations, reverse=True))) for chip, combinations in ways.items()]


def _balanced(targets: Sequence[_Target], pieces: int) -> list[list[Hops]]:
    """[targets] the way of each of `pieces` pieces, such that the directions of all axes carry as equal loads as found.

    Pieces choose one after the other; what a way costs is how much it adds to the sum of the squares of the loads.
    They choose a second time when all others are placed.
    """
    if not targets:
        return []
    loads = np.zeros((2, len(targets[0].offset)))

    def used(way: Hops) -> npt.NDArray[np.float64]:
        hops = np.array(way, dtype=np.float64)
        return np.maximum([hops, -hops], 0.0)

    chosen: list[list[Hops]] = [[] for _ in targets]
    hops_of = {way: used(way) for target in targets for way in target.ways}
    for target, ways in zip(targets, chosen, strict=True):
        if len(target.ways) == 1:
            ways += target.ways * pieces
            loads += pieces * hops_of[target.ways[0]]
    undecided = [(target, ways) for target, ways in zip(targets, chosen, strict=True) if len(target.ways) > 1]
    for again in (False, True):
        for piece, (target, ways) in itertools.product(range(pieces), undecided):
            if again:
                loads -= hops_of[ways[piece]]
            costs = [float((hops_of[way] * (2 * loads + hops_of[way])).sum()) for way in target.ways]
            best = target.ways[int(np.argmin(costs))]
            loads += hops_of[best]
            ways[piece : piece + 1] = [best]
    return chosen


# --- sends -----------------------------------------------------------------------------------------------------------


class _Piece(Struct, frozen=True):
    """Messages of all chips to targets at one offset."""

    axes: tuple[str, ...]
    offset: Hops
    part: int
    half: int


def _send_along(
    builder: ScheduleBuilder, topology: Topology, legs: Sequence[tuple[WiredAxis, int]], piece: _Piece
) -> None:
    """One piece from every chip that has a target over these signed hops along the axes, hop after hop."""
    hops = [(axis, 1 if hops > 0 else -1) for axis, hops in legs for _ in range(abs(hops))]
    ends = np.arange(topology.chips, dtype=np.int32)
    for axis, direction in hops:
        ends = np.where(ends < 0, ends, axis.after[direction][ends])
    source = np.flatnonzero(ends >= 0).astype(np.int32)
    home, target = positions(topology, piece.axes)[source], positions(topology, piece.axes)[source]
    lengths = [topology.axis(name).size for name in piece.axes]
    columns = [piece.axes.index(axis.name) for axis, _ in sorted(legs, key=lambda leg: piece.axes.index(leg[0].name))]
    for column, offset in zip(columns, piece.offset, strict=True):
        target[:, column] = (target[:, column] + offset) % lengths[column]
    if topology.folding is None:
        target = positions(topology, piece.axes)[ends[source]]
    share = 1 / (prod(lengths) * max(1, len(legs)))
    at, sent = source, None
    for step, (axis, direction) in enumerate(hops):
        to = axis.after[direction][at]
        sent = builder.add(
            Hop(at, to, axis.link[direction][at], direction=direction),
            Payload(
                share if piece.half < 0 else share / 2,
                step == 0,
                part=piece.part,
                half=piece.half,
                origin=home,
                target=target,
            ),
            step,
            deps=[] if sent is None else [sent],
        )
        at = to


# --- pair by pair ----------------------------------------------------------------------------------------------------


def _pair_by_pair(topology: Topology, axes: tuple[str, ...]) -> Schedule:
    """Every message in pieces along shortest paths over the links that work, the longest first."""
    links = WorkingLinks.of(topology)
    apart = links.distances(np.arange(topology.chips, dtype=np.int32), np.ones(len(links.src), dtype=np.int64))
    mesh = natural_mesh(topology.axes)
    groups = groups_along(mesh, tuple(axis for name in axes for axis in mesh if axis.name == name))
    pairs = [(src, dst) for group in groups.tolist() for src, dst in itertools.permutations(group, 2)]
    for src, dst in pairs:
        if not apart[src, dst]:
            raise cut_off(topology, f"{topology.nodes[src]} cannot reach {topology.nodes[dst]}")
    parts = max(1, sum(topology.axis(name).size > 1 for name in axes))
    _refuse_many(axes, parts * sum(int(apart[pair]) for pair in pairs))
    pairs.sort(key=lambda pair: -int(apart[pair]))
    builder, home = ScheduleBuilder("all_to_all", axes, parts), positions(topology, axes)
    if pairs:
        src, dst = (np.array(ends * parts, dtype=np.int32) for ends in map(list, zip(*pairs, strict=True)))
        payload = Payload(
            1 / (parts * groups.shape[1]),
            True,
            part=np.repeat(np.arange(parts), len(pairs)),
            origin=home[src],
            target=home[dst],
        )
        store_and_forward(builder, topology, _spread(topology, apart, pairs * parts), payload)
    return builder.build()


def _spread(
    topology: Topology, apart: npt.NDArray[np.int64], pairs: Sequence[tuple[int, int]]
) -> list[tuple[int, ...]]:
    """Shortest paths of pieces between pairs of chips, chosen one after the other.

    A piece takes the path on which the sum of the loads' powers is least. The power is so high that the links with the
    highest load decide.
    """
    out = [[(link.index, link.dst) for link in links] for links in outgoing(topology)]
    mean = sum(int(apart[pair]) for pair in pairs) / sum(map(len, out))
    load, cost = [0] * len(topology.links), [0.0] * len(topology.links)
    hops_to = apart.T.tolist()

    def cheapest(src: int, dst: int) -> tuple[int, ...]:
        hops = hops_to[dst]

        @functools.cache
        def rest(at: int) -> tuple[float, tuple[int, ...]]:
            if at == dst:
                return 0.0, ()
            nearer = [(link, rest(to)) for link, to in out[at] if to == dst or 0 < hops[to] < hops[at]]
            return min((cost[link] + beyond[0], (link, *beyond[1])) for link, beyond in nearer)

        return rest(src)[1]

    paths = [cheapest(*pairs[0])]
    for pair in pairs[1:]:
        for used in paths[-1]:
            load[used] += 1
            cost[used] = (load[used] / mean) ** _POWER
        paths.append(cheapest(*pair))
    return paths
