"""Lower bound of the time of a collective on a machine, from bytes through cuts and distances of messages.

Two facts hold for every algorithm, on a torus, a switch and any graph alike.

- Bytes through a cut. The links into a set S of nodes carry at least what the members of each group inside S need from
  those outside. With V the size, n the chips of a group and k of them inside S, the bytes into and out of S are

      all-gather       (n-k)/n V   k/n V        reduce-scatter   k/n V   (n-k)/n V
      all-reduce       V           V            all-to-all       k (n-k)/n V, both ways
      broadcast        V into every S without the root, V out of the S that has it; reduce the other way round
      scatter          k/n V into every S without the root, (n-k)/n V out of the S that has it; gather the other way
      permute          V per message that crosses, and sendrecv

  An all-reduce also brings 2 (m-1) V bytes into m disjoint sets together, the fewest that sum and spread an array
  (Patarasuk and Yuan 2009, J. Parallel Distrib. Comput. 69:117), where no switch adds up.
- Bytes times distance. Each message of an all-to-all uses as many links as lie on its shortest path, and all links of
  the machine together carry no more than their bandwidth.

The cuts that are tried: every chip; the i-th chips of all groups; halves of a torus along each axis; and what falls
apart without the narrower links, the slower kinds of links, or the switches farther from the chips.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim import units
from sim.errors import InputError, suggest
from sim.specs import MEDIA
from sim.topology.graph import Int32s, Topology
from sim.topology.mesh import mesh_groups
from sim.topology.working_links import Floats, WorkingLinks

MOST_PAIRS = 512**2
"""Largest number of pairs of chips whose distances are summed (a second), unless all chips are alike."""

_MOST_HALVES = 64
"""Largest number of positions along an axis at which it is cut."""

COLLECTIVES = (
    *("all_gather", "reduce_scatter", "all_reduce", "all_to_all"),
    *("broadcast", "reduce", "scatter", "gather", "permute", "sendrecv"),
)


class _Coefficients(Struct, frozen=True):
    """Lower bound as a function of the size."""

    s_per_byte: float
    """Load of the busiest cut, per byte of the collective's size."""
    least_s: float
    """Least latency between two chips: before the first byte is at a cut, and after the last has passed it."""
    flight_s: float
    """Largest latency between two chips of which one needs data of the other."""


def lower_bound(topology: Topology, collective: str, axes: tuple[str, ...], size_bytes: float) -> float:
    """Returns the time, s, that no algorithm can beat when all groups along mesh axes run the collective at once.

    Failed links carry nothing. Launch overheads are left out.

    Raises:
        InputError: unknown collective.
    """
    return lower_bound_of_groups(topology, collective, mesh_groups(topology, axes), size_bytes)


def lower_bound_of_groups(topology: Topology, collective: str, members: Int32s, size_bytes: float) -> float:
    """Returns the same for any groups of chips, `members` [groups, n], each in its own order.

    Raises:
        InputError: unknown collective.
    """
    if collective not in COLLECTIVES:
        raise InputError("no bound is known for this collective", got=collective, hint=suggest(collective, COLLECTIVES))
    coefficients = _coefficients(topology, collective, members.astype(np.int32).tobytes(), members.shape[1])
    return max(coefficients.s_per_byte * size_bytes + coefficients.least_s, coefficients.flight_s)


def bound_of_sets(topology: Topology, labels: Int32s, out: Floats, into: Floats) -> float:
    """Returns the time, s, of the bytes of the busiest set of nodes over all its links.

    Args:
        labels: [nodes] number of each node's set, -1 for none.
        out, into: [sets] bytes that must leave and enter each set.
    """
    capacity_into, capacity_out = WorkingLinks.of(topology).capacity(labels)
    pairs = ((out, capacity_out), (into, capacity_into))
    return max(float((bytes[bytes > 0] / width[bytes > 0]).max(initial=0.0)) for bytes, width in pairs)


def single_chips(topology: Topology) -> Int32s:
    """Returns [nodes] labels with which each chip is a set of its own."""
    labels = np.full(len(topology.nodes), -1, dtype=np.int32)
    labels[: topology.chips] = np.arange(topology.chips)
    return labels


@functools.lru_cache(maxsize=256)
def _coefficients(topology: Topology, collective: str, chips: bytes, n: int) -> _Coefficients:
    members = np.frombuffer(chips, dtype=np.int32).reshape(-1, n)
    if members.shape[1] < 2:
        return _Coefficients(0.0, 0.0, 0.0)
    links = WorkingLinks.of(topology)
    loads = [_cut_load(collective, members, labels, links) for labels in _partitions(topology, members, links)]
    if collective == "all_reduce" and not topology.reduction.enabled:
        loads += [_sum_load(members, labels, links) for labels in _partitions(topology, members, links)]
    if collective == "all_to_all":
        hops = _total_hops(topology, members, links)
        loads.append(hops / members.shape[1] / float(links.bandwidth.sum()))
    least_ps, most_ps = _latencies_ps(topology, collective, members, links)
    return _Coefficients(max(loads), least_ps / units.PS_PER_S, most_ps / units.PS_PER_S)


def _partitions(topology: Topology, members: Int32s, links: WorkingLinks) -> Iterator[Int32s]:
    """Yields partitions of the machine: [nodes] the number of each node's set, -1 for none."""
    yield single_chips(topology)
    if len(members) > 1:
        place = np.full(links.nodes, -1, dtype=np.int32)
        place[members] = np.arange(members.shape[1], dtype=np.int32)
        yield place
    if topology.has_lines:
        yield from _halves(topology)
        return
    ends = links.src.astype(np.int64) * links.nodes + links.dst
    _, pair = np.unique(ends, return_inverse=True)
    width = np.bincount(pair.ravel(), links.bandwidth)[pair.ravel()]
    far = _hops_from_chips(topology, links)
    keeps = [width >= least for least in sorted(set(width.tolist()))]
    keeps += [links.medium < kind for kind in range(1, len(MEDIA))]
    keeps += [(far[links.src] < most) & (far[links.dst] < most) for most in range(1, int(far.max()) + 1)]
    for kept in keeps:
        yield links.components(kept)


def _halves(topology: Topology) -> Iterator[Int32s]:
    """Yields the two halves of a torus along each axis, from some positions; from one if all chips are alike."""
    at = np.unravel_index(np.arange(topology.chips), [axis.size for axis in topology.axes])
    for axis, position in zip(topology.axes, at, strict=True):
        starts = range(1) if topology.is_vertex_transitive else range(0, axis.size, -(-axis.size // _MOST_HALVES))
        for start in starts if axis.size > 1 else ():
            yield ((position - start) % axis.size < axis.size // 2).astype(np.int32)


def _hops_from_chips(topology: Topology, links: WorkingLinks) -> Int32s:
    """Returns [nodes] the number of links from the nearest chip."""
    hops = np.where(np.arange(links.nodes) < topology.chips, 0, links.nodes).astype(np.int32)
    while True:
        before = hops.copy()
        np.minimum.at(hops, links.dst, hops[links.src] + 1)
        if (hops == before).all():
            return hops


def _cut_load(collective: str, members: Int32s, labels: Int32s, links: WorkingLinks) -> float:
    """Returns seconds per byte of the size at the busiest set of a partition, the larger of in and out."""
    groups, n = members.shape
    of = labels[members]
    sets = int(labels.max()) + 1
    into, out = np.zeros(sets), np.zeros(sets)
    if collective in ("permute", "sendrecv"):
        senders = of if collective == "sendrecv" else of[:, :-1]
        receivers = np.roll(of, -1, axis=1)[:, : senders.shape[1]]
        for sums, ends in ((into, receivers), (out, senders)):
            np.add.at(sums, ends[(senders != receivers) & (ends >= 0)], 1.0)
    elif collective in ("broadcast", "reduce", "scatter", "gather"):
        key, k = _inside(of, groups)
        root, cut = of[key % groups, 0] == key // groups, key // groups
        shares = collective in ("scatter", "gather")
        away, home = (into, out) if collective in ("broadcast", "scatter") else (out, into)
        np.add.at(away, cut[~root], k[~root] / n if shares else 1.0)
        crosses = root & (k < n)
        np.add.at(home, cut[crosses], (n - k[crosses]) / n if shares else 1.0)
    else:
        key, number = _inside(of, groups)
        cut, k = key[number < n] // groups, number[number < n]
        share = {
            "all_gather": ((n - k) / n, k / n),
            "reduce_scatter": (k / n, (n - k) / n),
            "all_reduce": (np.ones(len(k)),) * 2,
            "all_to_all": (k * (n - k) / n,) * 2,
        }[collective]
        np.add.at(into, cut, share[0])
        np.add.at(out, cut, share[1])
    return max(
        float(np.divide(needed, width, out=np.zeros(sets), where=width > 0).max())
        for needed, width in zip((into, out), links.capacity(labels), strict=True)
    )


def _inside(of: Int32s, groups: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns (set x groups + group, members of the group in the set) for each set and group that meet."""
    key = of.astype(np.int64) * groups + np.arange(groups)[:, None]
    return np.unique(key[of >= 0], return_counts=True)


def _sum_load(members: Int32s, labels: Int32s, links: WorkingLinks) -> float:
    """Returns seconds per byte of an all-reduce over all sets of a partition together."""
    groups = len(members)
    met, _ = _inside(labels[members], groups)
    width = float(links.capacity(labels)[0].sum())
    return 2 * (len(met) - groups) / width if width else 0.0


def _total_hops(topology: Topology, members: Int32s, links: WorkingLinks) -> float:
    """Returns the links on shortest paths, summed over all ordered pairs of chips of a group; 0 if too many."""
    one = np.ones(len(links.src), dtype=np.int64)
    if topology.is_vertex_transitive and members.shape == (1, topology.chips):
        return float(topology.chips * links.distances(members[0, :1], one)[:, : topology.chips].sum())
    if topology.chips**2 > MOST_PAIRS:
        return 0.0
    apart = links.distances(np.arange(topology.chips, dtype=np.int32), one)
    return float(sum(apart[np.ix_(group, group)].sum() for group in members))


def _latencies_ps(topology: Topology, collective: str, members: Int32s, links: WorkingLinks) -> tuple[int, int]:
    """Returns (least latency between two chips, largest between two of which one needs data of the other), ps."""
    if topology.is_vertex_transitive or topology.chips**2 > MOST_PAIRS:
        members = members[:1]
        sources = members if collective in ("permute", "sendrecv") else members[:, :1]
    else:
        sources = members
    apart = links.distances(sources.ravel(), links.latency_ps)[:, : topology.chips]
    other = sources.ravel()[:, None] != np.arange(topology.chips)
    least = int(apart[other].min())
    apart = apart.reshape(*sources.shape, -1)
    if collective in ("permute", "sendrecv"):
        last = None if collective == "sendrecv" else -1
        needed = [
            of_group[np.arange(len(group)), np.roll(group, -1)][:last]
            for of_group, group in zip(apart, members, strict=True)
        ]
    elif collective in ("reduce", "gather"):
        needed = [of_group[:, group[0]] for of_group, group in zip(apart, members, strict=True)]
    elif collective in ("broadcast", "scatter"):
        needed = [of_group[0, group] for of_group, group in zip(apart, members, strict=True)]
    else:
        needed = [of_group[:, group] for of_group, group in zip(apart, members, strict=True)]
    return least, int(max(latencies.max() for latencies in needed))
