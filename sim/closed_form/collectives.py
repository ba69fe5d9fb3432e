"""Time of a collective as a formula: alpha-beta models, lower bounds, nccl-tests bandwidths.

    V  bytes of the collective: the full gathered array (all-gather, reduce-scatter, gather, scatter), the array
       (all-reduce, broadcast, reduce), the local buffer (all-to-all), the message (permute, sendrecv)
    K  chips on an axis; A  number of axes longer than one chip; n  chips of the group, the product of the K
    w  bandwidth of one direction of one link, bytes/s; t  latency of one hop, s
    c  bytes of one message of a stage

An axis is a pair (K, whether it closes a ring). All times are in seconds.

On a switch w is the bandwidth of one direction of a chip's port and t the latency from chip to chip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from sim.errors import InputError, suggest

Axes = Sequence[tuple[int, bool]]

BROADCAST_CHUNKS = 32
"""Chunks behind each other in a pipelined broadcast, per tree."""

# --- all-gather, reduce-scatter, all-reduce --------------------------------------------------------------------------


def one_way_ring(K: int, c: float, w: float, t: float) -> float:
    """(K-1) (c/w + t): each of K-1 hops passes one chunk on. Chan et al. 2007, section 4; scaling-book, chapter 3."""
    return (K - 1) * (c / w + t)


def two_way_ring(K: int, c: float, w: float, t: float) -> float:
    """(K-1)/2 c/w + floor(K/2) t: a chip receives K-1 chunks over two links, the farthest over floor(K/2) hops.

    The scaling-book (chapter 3) rounds this to V/(2w) + K/2 t, with V = K c.
    """
    return (K - 1) / 2 * c / w + K // 2 * t


def line(K: int, c: float, w: float, t: float) -> float:
    """(K-1) (c/w + t): the last chip receives K-1 chunks over one link, twice the time of the two-way ring."""
    return (K - 1) * (c / w + t)


def _gather_stage(algorithm: str, K: int, ring: bool, c: float, w: float, t: float) -> float:
    if algorithm == "line" or not ring:
        return line(K, c, w, t)
    return one_way_ring(K, c, w, t) if algorithm == "ring" else two_way_ring(K, c, w, t)


def _gather(algorithm: str, axes: Axes, V: float, w: float, t: float) -> float | None:
    """One stage per axis, with chunks c that grow by the K of every axis gathered: c = V/n, V/n K_1, V/n K_1 K_2, ...

    multi_axis works on V/A in every axis at the same time, so on A rings of K each it sums to
    V/(2 A w) (1 - K^-A) + A floor(K/2) t. It is exact where all axes take the same time and all chips finish a stage
    together: equal rings, or equal lines of two chips.
    """
    parts = len(axes) if algorithm == "multi_axis" else 1
    if parts > 1 and not _in_step(axes):
        return None
    total, c = 0.0, V / math.prod(K for K, _ in axes) / max(1, parts)
    for K, ring in axes:
        total += _gather_stage(algorithm, K, ring, c, w, t)
        c *= K
    return total


def _in_step(axes: Axes) -> bool:
    return len(set(axes)) == 1 and (axes[0][1] or axes[0][0] == 2)


def ends_together(algorithm: str, axes: Axes) -> bool:
    """Returns True if all chips that begin a collective of `predict` together also end it together. On a line of more
    than two chips those in the middle end before those at its ends, and their next operations begin earlier."""
    return all(K <= 2 or (ring and algorithm != "line") for K, ring in axes)


# --- all-to-all ------------------------------------------------------------------------------------------------------


def ring_all_to_all(K: int, c: float, w: float, t: float) -> float:
    """Returns the time of an all-to-all on a ring with messages of c bytes, the farthest first, those to the opposite
    chip in two halves.

    A link passes its messages in rounds r = 1 .. H = floor(K/2), in round r all that make their r-th hop: those for
    distances r .. H, f + (H - r) c bytes for even K with f = c/2, (H - r) c + f for odd K with f = c. The next round
    starts when this one has passed and its first message, f bytes, has arrived:

        T = sum over r < H of max((f + (H - r) c)/w, f/w + t), and f/w + t for the last

    With c/w >= t it is K^2/8 c/w + t (odd K: (K^2-1)/8 c/w + t): the K V/(8w) = (all bytes)/(4 * 2w) of the
    scaling-book, chapter 3, and one hop of latency.
    """
    H = K // 2
    f = c / 2 if K % 2 == 0 else c
    return sum(max(f + (H - r) * c, f + t * w) for r in range(1, H)) / w + f / w + t


def _all_to_all(algorithm: str, axes: Axes, S: float, w: float, t: float) -> float | None:
    """A stages on every axis at the same time, each with 1/A of the buffer in K messages: A ring_all_to_all(S/(A K)).

    No exact form for unequal axes, for lines longer than two chips, and for direct messages over several axes: the
    queues of their links run dry at times that depend on the sizes.
    """
    if (algorithm == "dimension_ordered" and len(axes) > 1) or not _in_step(axes):
        return None
    A = len(axes)
    K, ring = axes[0]
    c = S / (A * K)
    return A * (ring_all_to_all(K, c, w, t) if ring else c / w + t)


def starts_beside_hops(collective: str, axes: Axes) -> int:
    """Messages of an all-to-all that a chip starts beside those that are in the latency of the hops: K-1 on a ring, one
    after the other, of which floor(K/2) are."""
    return sum(K - 1 - K // 2 for K, ring in axes if ring and K > 1) if collective == "all_to_all" else 0


# --- broadcast -------------------------------------------------------------------------------------------------------


def pipelined_trees(axes: Axes, V: float, w: float, t: float) -> float:
    """Link-disjoint spanning trees from the root: 2A on a torus, A where an axis closes no ring, c = V/(trees chunks).

        T = (chunks - 1) c/w + depth (c/w + t)

    A tree goes K-1 hops along every axis, and with A > 1 one more to the chips beside its root: over the wrap, or on a
    line back from the first chip, which is 2 + sum of K-1 over the other axes hops from the root.
    """
    trees = 2 * len(axes) if all(ring for _, ring in axes) else len(axes)
    c = V / (trees * BROADCAST_CHUNKS)
    depth = reach = sum(K - 1 for K, _ in axes)
    if len(axes) > 1:
        depth = max(reach + 1 if ring else max(reach, reach - (K - 1) + 2) for K, ring in axes)
    return (BROADCAST_CHUNKS - 1) * c / w + depth * (c / w + t)


def scattered_trees(axes: Axes, V: float, w: float, t: float) -> float:
    """Scatter down, or gather up, the trees of `pipelined_trees`: a message of c = V/(trees n) per chip and tree.

        T = max over d of (N_d + d - 1) c/w + d t,   N_d: chips at least d hops from the root

    The root's link passes the messages of the farthest chips first, and the last of these goes on d-1 hops. A chip is
    as many hops away as its positions add up to; one at position 0 of the first axis that is not on the root's line is
    reached last, over the wrap, or on a line back from position 1.
    """
    trees = 2 * len(axes) if all(ring for _, ring in axes) else len(axes)
    c = V / (trees * math.prod(K for K, _ in axes))
    time = 0.0
    for first in range(len(axes)):
        (K, ring), *others = [*axes[first:], *axes[:first]]
        rows = [1]  # [hops] chips that the other axes reach
        for size, _ in others:
            rows = [sum(rows[max(0, d - size + 1) : d + 1]) for d in range(len(rows) + size - 1)]
        at = [0] * (K + len(rows) + 2)
        for d, chips in enumerate(rows):
            for position in range(1, K):
                at[position + d] += chips
            at[d + (K if ring else 2) if d else 0] += chips
        below = 0
        for d in range(len(at) - 1, 0, -1):
            below += at[d]
            if at[d]:
                time = max(time, (below + d - 1) * c / w + d * t)
    return time


def ring_sendrecv(K: int, ring: bool, V: float, w: float, t: float) -> float:
    """V/w + t around a ring or between two chips; on a longer line the last message goes K-1 hops back in chunks."""
    if ring or K == 2:
        return V / w + t
    return (BROADCAST_CHUNKS + K - 2) / BROADCAST_CHUNKS * V / w + (K - 1) * t


# --- on one switch ---------------------------------------------------------------------------------------------------


def on_switch(collective: str, algorithm: str, n: int, V: float, w: float, t: float) -> float | None:
    """Returns the time of a collective of n chips on one non-blocking switch, s; None if there is no exact form.

    With c = V/n, an all-gather or reduce-scatter takes (n-1) c/w at every port, and the latency of as many messages as
    wait for each other: n-1 on a ring, log2(n) by doubling, one directly (Thakur et al. 2005, Int. J. High Perform.
    Comput. Appl. 19:49, without the time to add up). All-reduce: twice that, or (n-1) V/w + t if every chip gets every
    array, or 2 log2(n) (V/w + t) on a binomial tree, for powers of two: the ports of other trees have queues.

    Broadcast on a binomial tree: the chip whose number has highest bit h and b bits set is reached over b messages, the
    last one sent in step h: (h + 1) V/w + b t. On a ring of k chunks: (k - 1 + n - 1) V/(k w) + (n-1) t.
    """
    if n == 1:
        return 0.0
    log = (n - 1).bit_length()
    power_of_two = n == 1 << log
    gather: dict[str, float] = {"ring": (n - 1) * t, "one_shot": t, "two_shot": t, "hierarchical": t}
    if power_of_two:
        gather["halving_doubling"] = log * t
    gather = {name: (n - 1) / n * V / w + flight for name, flight in gather.items()}
    k = BROADCAST_CHUNKS
    time: float | None = None
    match collective, algorithm:
        case "all_reduce", "one_shot" | "cube_mesh":
            time = (n - 1) * V / w + t
        case "all_reduce", "tree" if power_of_two:
            time = 2 * log * (V / w + t)
        case "all_gather" | "reduce_scatter", _ if algorithm in gather:
            time = gather[algorithm]
        case "all_reduce", _ if algorithm in gather:
            time = 2 * gather[algorithm]
        case "all_to_all", "one_shot":
            time = (n - 1) / n * V / w + t
        case "broadcast" | "reduce", "ring":
            time = (k + n - 2) / k * V / w + (n - 1) * t
        case "broadcast", "tree":
            time = max(chip.bit_length() * V / w + chip.bit_count() * t for chip in range(1, n))
        case "reduce", "tree" if power_of_two:
            time = log * (V / w + t)
        case "gather" | "scatter", "one_shot":
            time = (n - 1) / n * V / w + t
        case "permute", "neighbour":
            time = V / w + t
        case "sendrecv", "ring":
            time = V / w + t
    return time


ENDS_TOGETHER_ON_SWITCH = ("ring", "one_shot", "two_shot", "halving_doubling", "hierarchical", "cube_mesh")
"""Algorithms of `on_switch` that all chips end together if they begin together; the root of a tree is done early."""


# --- on the axes of a torus ------------------------------------------------------------------------------------------

_GATHERS = ("multi_axis", "bidirectional_ring", "ring", "line")


def predict(
    collective: str,
    algorithm: str,
    axes: Axes,
    size_bytes: float,
    bandwidth: float,
    latency_s: float,
) -> float | None:
    """Returns the time of a collective by itself on links that are all alike, s; None if there is no exact form.

    Args:
        axes: (K, ring) of the mesh axes of the group in order.
        size_bytes: V as at the top of this module.
        bandwidth, latency_s: of one direction of one link.
    """
    axes = [(K, ring) for K, ring in axes if K > 1]
    if not axes:
        return 0.0
    V, w, t = size_bytes, bandwidth, latency_s
    time: float | None = None
    match collective:
        case "all_gather" | "reduce_scatter" if algorithm in _GATHERS:
            time = _gather(algorithm, axes, V, w, t)
        case "all_reduce" if algorithm in _GATHERS:
            half = _gather(algorithm, axes, V, w, t)
            time = None if half is None else 2 * half
        case "all_to_all" if algorithm in ("multi_axis", "dimension_ordered"):
            time = _all_to_all(algorithm, axes, V, w, t)
        case "broadcast" | "reduce" if algorithm == "spanning_trees":
            time = pipelined_trees(axes, V, w, t)
        case "gather" | "scatter" if algorithm == "spanning_trees":
            time = scattered_trees(axes, V, w, t)
        case "sendrecv" if len(axes) == 1:
            time = ring_sendrecv(*axes[0], V, w, t)
        case "permute" if algorithm == "neighbour" and len(axes) == 1:
            time = V / w + t
    return time


def bound(collective: str, axes: Axes, size_bytes: float, bandwidth: float, latency_s: float) -> float:
    """Returns the time that no algorithm over the links of these axes, none of them twisted, can beat, s: the larger of

    - bytes over the busiest chip or cut, and the one hop on which the last of them flies;
    - one hop latency for every hop between the chips farthest apart.

    With d the fewest links out of a chip (two per ring, one per line), L the links of the group and n its chips:
    all-gather and reduce-scatter (n-1)/n V/(d w), into or out of one chip. All-reduce V/(d w), since every chip must
    pass on V bytes, and 2 (n-1) V/(L w), the fewest bytes moved in total (Patarasuk and Yuan 2009, J. Parallel Distrib.
    Comput. 69:117). All-to-all (n-1)/n V/(d w) and, cutting an axis into h = floor(K/2) and K-h, the messages across
    over the one link per line or two per ring: V h (K-h)/(K w), or half of it. Broadcast, reduce, permute and
    sendrecv V/(d w). Gather and scatter (n-1)/n V/(d w): the root has no more links than any other chip.

    Raises:
        InputError: unknown collective.
    """
    axes = [(K, ring) for K, ring in axes if K > 1]
    n = math.prod(K for K, _ in axes)
    out = sum(2 if ring else 1 for _, ring in axes)
    links = sum(2 * n * (K if ring else K - 1) // K for K, ring in axes)
    cut = max((K // 2 * (K - K // 2) / K / (2 if ring else 1) for K, ring in axes), default=0.0)
    if not axes:
        return 0.0
    loads = {
        "all_gather": (n - 1) / n / out,
        "reduce_scatter": (n - 1) / n / out,
        "all_reduce": max(1 / out, 2 * (n - 1) / links),
        "all_to_all": max((n - 1) / n / out, cut),
        "broadcast": 1 / out,
        "permute": 1 / out,
        "reduce": 1 / out,
        "gather": (n - 1) / n / out,
        "scatter": (n - 1) / n / out,
        "sendrecv": 1 / out,
    }
    if collective not in loads:
        raise InputError("no bound is known for this collective", got=collective, hint=suggest(collective, loads))
    diameter = 1 if collective in ("permute", "sendrecv") else sum(K // 2 if ring else K - 1 for K, ring in axes)
    return max(loads[collective] * size_bytes / bandwidth + latency_s, diameter * latency_s)


def algbw(size_bytes: float, time_s: float) -> float:
    """Bytes/s as nccl-tests counts them: size over time."""
    return size_bytes / time_s


def busbw(collective: str, group: int, size_bytes: float, time_s: float) -> float:
    """algbw times the share of the size that must pass a chip's ports: comparable with the hardware's bandwidth.

    2 (n-1)/n for all-reduce, (n-1)/n for all-gather, reduce-scatter, all-to-all, gather and scatter, 1 for the others.
    Source: nccl-tests, doc/PERFORMANCE.md; its size of all-gather and reduce-scatter is the full array, as V here.

    Raises:
        InputError: unknown collective.
    """
    share = (group - 1) / group
    factors = {
        "all_reduce": 2 * share,
        "all_gather": share,
        "reduce_scatter": share,
        "all_to_all": share,
        "broadcast": 1.0,
        "permute": 1.0,
        "reduce": 1.0,
        "gather": share,
        "scatter": share,
        "sendrecv": 1.0,
    }
    if collective not in factors:
        raise InputError("no bus bandwidth is defined", got=collective, hint=suggest(collective, factors))
    return factors[collective] * algbw(size_bytes, time_s)
