"""NCCL's published tuning model: the time it predicts for each algorithm and protocol, by which it chooses.

    time = latency + bytes / algorithm bandwidth

The bytes are those of the array (all-reduce, broadcast, reduce) or of the full gathered array (all-gather,
reduce-scatter).
Source: NVIDIA/nccl 2.30 (commit 5067397), src/graph/tuning.cc, search.cc and enqueue.cc; its constants are `counted` in
topologies/nccl. The search for channels is reduced to the largest product of their count and speed that the bandwidth
of a GPU allows. NVLS inside one box is not bounded by the speed between boxes: with that bound the measured onset at
five GPUs of an HGX H200 does not come out.

The choice follows these numbers; what a kernel takes does not (`sim.collectives.nccl.kernels`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from sim.specs import Medium, NcclSpec, Protocol

_DUPLICATED_FROM = 25e9
"""Bytes/s of a channel from which on it is split into two (search.cc)."""
_NEWER_SPLIT_FROM, _NEWER_MOST = 50e9, 4
"""Conditions on GPUs newer than Ampere: lowest speed, or largest number of channels."""
_MOST_CHANNELS = 32

ALGORITHMS: Mapping[str, tuple[str, ...]] = {
    "all_reduce": ("ring", "tree", "nvls", "nvls_tree"),
    "all_gather": ("ring",),
    "reduce_scatter": ("ring",),
    "broadcast": ("ring",),
    "reduce": ("ring",),
}
"""Algorithms between which the tuner chooses; CollNet, PAT and NVLS gathers are not modelled."""


class Channels(Struct, frozen=True):
    """Channels that the search finds."""

    count: int
    speed: float
    """Bandwidth of one channel, bytes/s."""

    @property
    def bandwidth(self) -> float:
        """Bandwidth of all channels together, bytes/s."""
        return self.count * self.speed


class Tree(Struct, frozen=True):
    """Channels that the search finds for trees."""

    medium: Medium
    """Slowest kind of link along its chains."""
    channels: Channels


class Fabric(Struct, frozen=True):
    """Properties of a machine that the tuner's model uses."""

    chips: int
    boxes: int
    medium: Medium
    """Slowest kind of link between GPUs of a box that follow each other on a ring."""
    ring: Channels
    tree: Tree
    nvls: Channels | None = None
    """Channels of reductions in the switch of a box; None if no switch reduces."""


def search(spec: NcclSpec, budget: float, *, between_boxes: bool = False, most: int = _MOST_CHANNELS) -> Channels:
    """The channels with the largest product of count and speed that `budget` bytes/s per GPU and direction allow.

    Of several with the same product the fastest. A channel fast enough is then split into two of half its speed. Where
    not even one channel of the slowest speed fits, one takes all that there is, as NCCL then falls back to one channel.
    """
    speeds = spec.counted.inter_speeds if between_boxes else spec.counted.intra_speeds
    if budget * (1 + 1e-9) < min(speeds):
        return Channels(1, budget)
    found = [Channels(min(int(budget / speed * (1 + 1e-9)), most), speed) for speed in speeds]
    return split(spec, max(found, key=lambda channels: channels.bandwidth))


def split(spec: NcclSpec, best: Channels) -> Channels:
    """Two channels of half the speed for each where one is fast."""
    newer = spec.generation in ("hopper", "blackwell")
    if best.speed < _DUPLICATED_FROM or (newer and best.speed < _NEWER_SPLIT_FROM and best.count > _NEWER_MOST):
        return best
    return Channels(2 * best.count, best.speed / 2)


def nvls_channels(spec: NcclSpec, chips: int, budget: float) -> Channels | None:
    """A channel per GPU, which takes twice its speed at its own GPU and once at every other; None where none fits."""
    count = min(chips, _MOST_CHANNELS)
    fitting = [speed for speed in spec.counted.intra_speeds if (count + 1) * speed <= budget]
    return Channels(count, fitting[0]) if fitting and chips > 1 else None


def predict(
    spec: NcclSpec, fabric: Fabric, collective: str, algorithm: str, protocol: Protocol, size_bytes: float
) -> float | None:
    """Time that the tuner predicts, s; None where NCCL does not offer this combination."""
    if algorithm not in ALGORITHMS.get(collective, ()):
        return None
    match algorithm:
        case "ring":
            bandwidth = _ring_bandwidth(spec, fabric, protocol) * fabric.chips / ring_steps(collective, fabric.chips)
            return _ring_latency(spec, fabric, collective, protocol, size_bytes) + size_bytes / bandwidth
        case "tree":
            bandwidth = _tree_bandwidth(spec, fabric, protocol) / 2
            entry = math.floor(math.log2(max(1.0, size_bytes / 64)))
            factors = spec.counted.tree_correction[protocol]
            correction = factors[entry] if entry < len(factors) else 1.0
            return _tree_latency(spec, fabric, protocol) + size_bytes / (bandwidth * correction)
        case "nvls":
            return _nvls(spec, fabric, protocol, size_bytes)
        case _:
            return _nvls_tree(spec, fabric, protocol, size_bytes)


def ring_steps(collective: str, chips: int) -> int:
    """Dependent steps of a ring: 2 (n-1) for an all-reduce, n for a broadcast or reduce, else n-1."""
    return chips if collective in ("broadcast", "reduce") else (2 if collective == "all_reduce" else 1) * (chips - 1)


def ring_share(spec: NcclSpec, fabric: Fabric, protocol: Protocol) -> float:
    """Share of its channels' bandwidth that a ring in one box reaches."""
    return _ring_bandwidth(spec, replace(fabric, boxes=1), protocol) / fabric.ring.bandwidth


def tree_share(spec: NcclSpec, fabric: Fabric, protocol: Protocol) -> float:
    """Share of its channels' bandwidth that a tree in one box reaches, its pipeline full."""
    return _tree_bandwidth(spec, replace(fabric, boxes=1), protocol) / fabric.tree.channels.bandwidth


def _by_boxes(table: Sequence[float], boxes: int) -> float:
    return table[min(boxes, 3) - 1]


def _ring_bandwidth(spec: NcclSpec, fabric: Fabric, protocol: Protocol) -> float:
    """Bus bandwidth, bytes/s."""
    bus, boxes, counted = fabric.ring.bandwidth, fabric.boxes, spec.counted
    if protocol == "ll":
        return min(_by_boxes(counted.ll_ceiling, boxes), bus / 2)
    if protocol == "ll128":
        ceiling = fabric.ring.count * _by_boxes(counted.ring_ll128_ceiling, boxes)
        return min(counted.ring_ll128_share.value * bus, ceiling)
    return bus


def _ring_latency(spec: NcclSpec, fabric: Fabric, collective: str, protocol: Protocol, size_bytes: float) -> float:
    counted, steps = spec.counted, ring_steps(collective, fabric.chips)
    between = 0 if fabric.boxes == 1 else ring_steps(collective, fabric.boxes)
    overhead = 0.0 if fabric.boxes == 1 else counted.net_overhead * (3 if protocol == "simple" else 1)
    inside = max(counted.step[fabric.medium]["ring"][protocol], overhead)
    hops = (steps - between) * inside + between * counted.step["net"]["ring"][protocol]
    latency = counted.base["ring"][protocol] + hops
    per_chunk = size_bytes / (fabric.ring.count * fabric.chips)
    if protocol == "simple" and collective == "all_reduce" and fabric.boxes > 1 and per_chunk >= 64:
        latency *= 1.9 if spec.generation == "volta" else 1.4
    return latency


def _tree_bandwidth(spec: NcclSpec, fabric: Fabric, protocol: Protocol) -> float:
    channels, boxes, counted = fabric.tree.channels, fabric.boxes, spec.counted
    count = channels.count
    simple = min(0.92 * channels.bandwidth, count * _by_boxes(counted.tree_ceiling, boxes))
    if protocol == "ll":
        return min(simple / 3.8, _by_boxes(counted.ll_ceiling, boxes))
    if protocol == "ll128":
        share = 7 / 9 if boxes == 1 else 120 / 128
        return min(simple * share, count * _by_boxes(counted.tree_ll128_ceiling, boxes))
    return simple


def _tree_latency(spec: NcclSpec, fabric: Fabric, protocol: Protocol) -> float:
    step = spec.counted.step
    inside = (fabric.chips // fabric.boxes - 1) * step[fabric.tree.medium]["tree"][protocol]
    between = int(math.log2(fabric.boxes)) * step["net"]["tree"][protocol]
    return spec.counted.base["tree"][protocol] + 2 * (inside + between)


def _channel_in_box(spec: NcclSpec, nvls: Channels) -> float:
    """Bus bandwidth of one of the channels that reduce in the switch of a box, bytes/s."""
    if spec.counted.nvls is None:
        raise ValueError(f"{spec.name} reduces in no switch")
    return 2 * nvls.speed * spec.counted.nvls.efficiency * (nvls.count - 1) / nvls.count


def _nvls(spec: NcclSpec, fabric: Fabric, protocol: Protocol, size_bytes: float) -> float | None:
    """Returns True for one box with two GPUs or more; over several boxes NCCL also requires a network that reduces."""
    if not _in_switch(spec, fabric, protocol, size_bytes) or fabric.boxes > 1:
        return None
    n, counted, nvls = fabric.chips, spec.counted.nvls, fabric.nvls
    if counted is None or nvls is None:
        return None
    bus = nvls.count * _channel_in_box(spec, nvls)
    return counted.latency + size_bytes / (bus * n / ring_steps("all_reduce", n))


def _nvls_tree(spec: NcclSpec, fabric: Fabric, protocol: Protocol, size_bytes: float) -> float | None:
    """Over several boxes: in the switch of each, and on a tree of boxes over every adapter, a channel each."""
    if not _in_switch(spec, fabric, protocol, size_bytes) or fabric.boxes == 1:
        return None
    n, boxes, counted, nvls = fabric.chips, fabric.boxes, spec.counted.nvls, fabric.nvls
    if counted is None or nvls is None:
        return None
    between = fabric.ring.speed * (2 if boxes == 2 else 1)
    channel = min(_channel_in_box(spec, nvls), between, _by_boxes(counted.tree_ceiling, boxes))
    bandwidth = fabric.ring.count * channel * n / ring_steps("all_reduce", n)
    return counted.latency + 2 * int(math.log2(boxes)) * counted.hop + size_bytes / bandwidth


def _in_switch(spec: NcclSpec, fabric: Fabric, protocol: Protocol, size_bytes: float) -> bool:
    """Returns True if the switch of a box reduces an array of this size for this number of GPUs."""
    if spec.nvls is None or fabric.nvls is None or protocol != "simple" or fabric.nvls.count < 2:
        return False
    return size_bytes >= (spec.nvls.least_size or 0.0) and fabric.chips >= spec.nvls.least_chips
