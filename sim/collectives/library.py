"""Collectives as NCCL runs them: algorithm x protocol, channels, loops of chunks, and the choice between them.

A ring passes chunks on step by step, 2 (n-1) for an all-reduce. A chunk is limited by the protocol's buffers, so a
large array goes around in several loops, one behind the other, and every step of each pays the protocol's latency.
With few bytes NCCL uses few of its channels, and so little of the bandwidth. Both follow from the size, so a schedule
of NCCL's is made for one size.

All channels between the same two ports are one send: they share the port and run in step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sim.closed_form import nccl as tuner
from sim.collectives import in_switch, point_to_point, rings, trees
from sim.collectives.fold import folding
from sim.collectives.numbered import numbered
from sim.collectives.schedule import Schedule, Timing
from sim.errors import InputError
from sim.specs import MEDIA, PROTOCOLS, NcclSpec, NvlsSpec, Protocol
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.paths import cut_off
from sim.topology.rings import Rings, chains, find, own_chains

Looped = Callable[[Topology, tuple[str, ...], int, int], Schedule]
"""(topology, axes, loops, channels) -> Schedule."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One of NCCL's ways to run a collective."""

    algorithm: str
    protocol: Protocol
    run: Looped

    @property
    def latencies(self) -> Literal["ring", "tree"]:
        """Whose latencies it has."""
        return "tree" if self.algorithm == "tree" else "ring"


def _send_recv(topology: Topology, axes: tuple[str, ...], loops: int, channels: int) -> Schedule:
    return numbered(point_to_point.pairwise_exchange)(topology, axes)


def _kernels() -> dict[str, dict[str, Kernel]]:
    found: dict[str, dict[str, Kernel]] = {}
    for collective in ("all_gather", "reduce_scatter", "all_reduce"):
        run = functools.partial(rings.looped, collective)
        found[collective] = {f"ring_{protocol}": Kernel("ring", protocol, run) for protocol in PROTOCOLS}
    found["all_reduce"] |= {f"tree_{protocol}": Kernel("tree", protocol, trees.looped) for protocol in PROTOCOLS}
    found["all_reduce"]["nvls"] = Kernel("nvls", "simple", in_switch.all_reduce)
    found["all_to_all"] = {"send_recv": Kernel("send_recv", "simple", _send_recv)}
    return found


ON_NCCL: dict[str, dict[str, Kernel]] = _kernels()
"""By collective and name. An algorithm without protocol stands for the best of its protocols, `auto` for the best."""


def names(collective: str) -> tuple[str, ...]:
    """What may be asked of NCCL: its kernels, `auto`, and algorithms without a protocol."""
    kernels = ON_NCCL.get(collective, {})
    return tuple(dict.fromkeys([*(["auto"] if kernels else []), *kernels, *(k.algorithm for k in kernels.values())]))


def fabric(topology: Topology) -> tuner.Fabric:
    """What NCCL's search finds on the machine."""
    spec, found, count = _spec(topology), find(topology), len(boxes(topology))
    own = own_chains(topology) if count == 1 else None
    nvls = None
    if topology.reducer is not None and count == 1 and topology.chips > 1:
        budget = found.bandwidth
        if topology.multicast is not None:
            budget = min(topology.links[link].bandwidth for port in in_switch.ports(topology) for link in port)
        nvls = tuner.nvls_channels(spec, topology.chips, budget)
    tree = None if own is None else tuner.Tree(own.medium, _channels(spec, own, boxes=1))
    return tuner.Fabric(topology.chips, count, found.medium, _channels(spec, found, count), nvls, tree)


def _channels(spec: NcclSpec, found: Rings, boxes: int) -> tuner.Channels:
    """A ring is divided into channels of speeds that NCCL tries; of several rings each is one, in a box two if fast."""
    if found.count == 1:
        return tuner.search(spec, found.bandwidth, between_boxes=boxes > 1)
    if boxes == 1:
        return tuner.split(spec, tuner.Channels(found.count, found.bandwidth))
    fitting = (speed for speed in spec.inter_speeds if speed <= found.bandwidth * (1 + 1e-9))
    return tuner.Channels(found.count, next(fitting, found.bandwidth))


def _spec(topology: Topology) -> NcclSpec:
    if topology.nccl is None:
        rule = "this algorithm is NCCL's, and the machine has no 'nccl'"
        raise InputError(rule, where=f"topology {topology.name}", hint="such as nccl: hopper")
    return topology.nccl


def predictions(topology: Topology, collective: str, size: float) -> Mapping[str, float]:
    """Time that NCCL's tuner predicts for each kernel it offers here, s."""
    spec, box = _spec(topology), fabric(topology)
    times = {
        name: tuner.predict(spec, box, collective, kernel.algorithm, kernel.protocol, size)
        for name, kernel in ON_NCCL[collective].items()
    }
    return {name: time for name, time in times.items() if time is not None}


def choose(topology: Topology, collective: str, wanted: str, size: float | None) -> str:
    """The kernel of that name, else the one with the smallest predicted time of those that `wanted` leaves.

    Raises:
        InputError: the machine offers none of them.
        ValueError: the choice depends on the size, and none is given.
    """
    kernels = ON_NCCL[collective]
    left = [name for name, kernel in kernels.items() if wanted in ("auto", kernel.algorithm, name)]
    least = topology.nccl.nvls.least_chips if topology.nccl and topology.nccl.nvls else 0
    if "nvls" in left and (topology.reducer is None or len(boxes(topology)) > 1 or topology.chips < least):
        left.remove("nvls")
    if not left and topology.intact and topology.intact.reducer is not None and topology.reducer is None:
        raise cut_off(topology, "not all chips reach the switch that reduces")
    if not left:
        rule = f"the algorithm '{wanted}' of {collective} needs all chips on one switch that reduces"
        others = ", ".join(name for name in names(collective) if name != wanted)
        raise InputError(rule, where=f"topology {topology.name}", hint=f"choose from {others}")
    if len(left) == 1 or topology.chips == 1:
        return left[0]
    if size is None:
        raise ValueError(f"{collective} by '{wanted}' on {topology.name}: NCCL chooses by the size")
    times = predictions(topology, collective, size)
    return min((name for name in left if name in times), key=times.__getitem__)


def timed(topology: Topology, collective: str, axes: tuple[str, ...], name: str, size: float) -> Schedule:
    """The schedule of a kernel for `size` bytes."""
    whole = topology.unfolded or topology
    spec, kernel, n = _spec(whole), ON_NCCL[collective][name], whole.chips
    if n == 1:
        return _run(topology, collective, axes, name, 1, 1)
    if kernel.algorithm == "nvls":
        loops = in_switch.rounds(_nvls_of(whole), n, size)
        nvls = _nvls_of(whole)
        timing = _timing(whole, kernel, nvls.latency, nvls.channels, share=nvls.bandwidth_share.value)
        return _timed(topology, collective, axes, name, loops, 1, timing)
    protocol, box, wires = spec.protocols[kernel.protocol], fabric(whole), find(whole)
    if kernel.algorithm == "tree" and box.tree is not None:
        wires = chains(whole)
    channels = box.channels(kernel.algorithm).count
    overhead_s = spec.base[kernel.latencies][kernel.protocol] + spec.startup[kernel.protocol].value
    if kernel.algorithm == "send_recv":
        return _timed(topology, collective, axes, name, 1, 1, _timing(whole, kernel, overhead_s, channels))
    on_tree = kernel.algorithm == "tree"
    used = _used(size, channels, protocol.channel_bytes * (n if kernel.protocol == "ll" and not on_tree else 1))
    loops = math.ceil(size / (used * (protocol.tree_chunk if on_tree else n * protocol.chunk)))
    # Channels that share a ring share its links; with fewer channels than rings some rings are not used.
    rings = min(used, wires.count)
    share = min(1.0, used / channels * wires.count / rings)
    timing = _timing(whole, kernel, overhead_s, used, wire=1 / protocol.payload, share=share)
    return _timed(topology, collective, axes, name, loops, used if on_tree else rings, timing)


def _timing(
    topology: Topology, kernel: Kernel, overhead_s: float, channels: int, wire: float = 1.0, share: float = 1.0
) -> Timing:
    """Between boxes a step inside one takes at least as long as the network's proxy, as in NCCL's tuner."""
    spec, protocol = _spec(topology), kernel.protocol
    proxy_s = spec.net_overhead * (3 if protocol == "simple" else 1) if len(boxes(topology)) > 1 else 0.0
    steps = tuple(max(spec.step[medium][kernel.latencies][protocol], proxy_s) for medium in MEDIA)
    return Timing(overhead_s, steps, wire, share, channels)


def _nvls_of(topology: Topology) -> NvlsSpec:
    spec = _spec(topology)
    if spec.nvls is None:
        raise InputError("this generation of GPUs has no NVLS", where=f"topology {topology.name}", got=spec.generation)
    return spec.nvls


def _used(size: float, channels: int, least: float) -> int:
    """Channels that get at least `least` bytes each, one at least. Source: NCCL 2.30, src/enqueue.cc."""
    return max(1, min(channels, int(size / least)))


@folding()
def _run(topology: Topology, collective: str, axes: tuple[str, ...], name: str, loops: int, channels: int) -> Schedule:
    return ON_NCCL[collective][name].run(topology, axes, loops, channels)


@functools.lru_cache(maxsize=256)
def _timed(
    topology: Topology, collective: str, axes: tuple[str, ...], name: str, loops: int, channels: int, timing: Timing
) -> Schedule:
    return replace(_run(topology, collective, axes, name, loops, channels), timing=timing)
