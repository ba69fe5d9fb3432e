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

from sim.closed_form import nccl as tuner
from sim.collectives import in_switch, point_to_point, rings
from sim.collectives.schedule import Schedule, Timing
from sim.errors import InputError
from sim.specs import MEDIA, PROTOCOLS, NcclSpec, NvlsSpec, Protocol
from sim.topology.graph import Topology
from sim.topology.rings import find

Looped = Callable[[Topology, tuple[str, ...], int], Schedule]
"""(topology, axes, loops) -> Schedule."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One of NCCL's ways to run a collective."""

    algorithm: str
    protocol: Protocol
    run: Looped


def _send_recv(topology: Topology, axes: tuple[str, ...], loops: int) -> Schedule:
    return point_to_point.pairwise_exchange(topology, axes)


def _kernels() -> dict[str, dict[str, Kernel]]:
    found: dict[str, dict[str, Kernel]] = {}
    for collective in ("all_gather", "reduce_scatter", "all_reduce"):
        run = functools.partial(rings.looped, collective)
        found[collective] = {f"ring_{protocol}": Kernel("ring", protocol, run) for protocol in PROTOCOLS}
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
    spec = _spec(topology)
    found = find(topology)
    ring = tuner.search(spec, found.bandwidth) if found.count == 1 else tuner.Channels(found.count, found.bandwidth)
    nvls = tuner.nvls_channels(spec, topology.chips, found.bandwidth) if topology.reduces else None
    return tuner.Fabric(topology.chips, 1, found.medium, ring, nvls)


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
    if "nvls" in left and not topology.reduces:
        left.remove("nvls")
    if not left:
        rule = f"the algorithm '{wanted}' of {collective} needs a switch that reduces"
        raise InputError(rule, where=f"topology {topology.name}", hint=f"choose from {', '.join(names(collective))}")
    if len(left) == 1:
        return left[0]
    if size is None:
        raise ValueError(f"{collective} by '{wanted}' on {topology.name}: NCCL chooses by the size")
    times = predictions(topology, collective, size)
    return min((name for name in left if name in times), key=times.__getitem__)


def timed(topology: Topology, collective: str, axes: tuple[str, ...], name: str, size: float) -> Schedule:
    """The schedule of a kernel for `size` bytes."""
    spec, kernel, n = _spec(topology), ON_NCCL[collective][name], topology.chips
    if kernel.algorithm == "nvls":
        loops = in_switch.rounds(_nvls_of(topology), n, size)
        return _timed(topology, collective, axes, name, loops, _timing(spec, kernel, _nvls_of(topology).latency))
    protocol, channels = spec.protocols[kernel.protocol], fabric(topology).ring.count
    overhead_s = spec.base["ring"][kernel.protocol] + spec.startup[kernel.protocol].value
    if kernel.algorithm == "send_recv":
        return _timed(topology, collective, axes, name, 1, _timing(spec, kernel, overhead_s))
    used = _used(size, channels, protocol.channel_bytes * (n if kernel.protocol == "ll" else 1))
    loops = math.ceil(size / (n * protocol.chunk * used))
    timing = _timing(spec, kernel, overhead_s, wire=1 / protocol.payload, share=used / channels)
    return _timed(topology, collective, axes, name, loops, timing)


def _timing(spec: NcclSpec, kernel: Kernel, overhead_s: float, wire: float = 1.0, share: float = 1.0) -> Timing:
    return Timing(overhead_s, tuple(spec.step[medium]["ring"][kernel.protocol] for medium in MEDIA), wire, share)


def _nvls_of(topology: Topology) -> NvlsSpec:
    spec = _spec(topology)
    if spec.nvls is None:
        raise InputError("this generation of GPUs has no NVLS", where=f"topology {topology.name}", got=spec.generation)
    return spec.nvls


def _used(size: float, channels: int, least: float) -> int:
    """Channels that get at least `least` bytes each, one at least. Source: NCCL 2.30, src/enqueue.cc."""
    return max(1, min(channels, int(size / least)))


@functools.lru_cache(maxsize=64)
def _run(topology: Topology, collective: str, axes: tuple[str, ...], name: str, loops: int) -> Schedule:
    return ON_NCCL[collective][name].run(topology, axes, loops)


@functools.lru_cache(maxsize=256)
def _timed(
    topology: Topology, collective: str, axes: tuple[str, ...], name: str, loops: int, timing: Timing
) -> Schedule:
    return replace(_run(topology, collective, axes, name, loops), timing=timing)
