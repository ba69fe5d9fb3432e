"""Memory pool: layers in another memory, stalls beside their closed form, memory over time, largest model that fits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from sim.closed_form.memory_pool import max_layers, stall_per_group
from sim.program import Floats, Ints, Kind
from sim.program.trace import Trace
from sim.report.memory import Memory
from sim.report.metrics import PassTrace
from sim.shortcuts import periodic
from sim.specs import MemoryPoolSpec, Scenario
from sim.units import PS_PER_S

Series = tuple[Floats, Floats]
"""Step function: times (s) and bytes from then on."""


class Pool(Struct, frozen=True):
    """Memory pool in one pass; seconds, bytes per chip."""

    to: str
    offload_every: int
    remote_layers: tuple[int, ...]
    """Layers stored in the other memory."""
    layer_bytes: float
    remote_bytes: float
    fetch_s: float
    """Time of one copy, in either direction."""
    stall_s: float
    """Additional time over a pass with all weights in the chip's own memory."""
    closed_form_stall_s: float
    """Stall by the formula, with the mean time of a layer of the pass without a pool."""
    slower: float
    """Stall / latency without a pool."""
    layers_that_fit: int
    """Layers of the largest model of this width that fits with the pool."""
    layers_that_fit_without: int


def report_pool(
    scenario: Scenario, spec: MemoryPoolSpec, pooled: PassTrace, resident: PassTrace, layer_bytes: float, memory: Memory
) -> Pool:
    """Reports a memory pool by comparing a pass with it to the same pass with all layers in the chip's own memory."""
    every, layers, resident_ps = spec.offload_every, scenario.layers, resident.makespan_ps
    copy_s, stall_s = _copy_ps(pooled.trace) / PS_PER_S, (pooled.makespan_ps - resident_ps) / PS_PER_S
    layer_s = _layers_ps(resident) / PS_PER_S / layers
    groups = layers // every
    held = layers - groups + 1
    rest = memory.used_bytes - held * layer_bytes - memory.kv_cache_bytes
    cache = memory.kv_cache_bytes / layers
    return Pool(
        to=spec.to,
        offload_every=every,
        remote_layers=tuple(range(every - 1, layers, every)),
        layer_bytes=layer_bytes,
        remote_bytes=groups * layer_bytes,
        fetch_s=copy_s,
        stall_s=stall_s,
        closed_form_stall_s=groups * stall_per_group(every, layer_s, copy_s, copy_s, spec.prefetch_layers),
        slower=stall_s * PS_PER_S / resident_ps,
        layers_that_fit=max_layers(memory.capacity_bytes, rest, layer_bytes, cache, every),
        layers_that_fit_without=max_layers(memory.capacity_bytes, rest, layer_bytes, cache),
    )


def _copy_ps(trace: Trace) -> int:
    """Returns the time of the first copy of a pass with a memory pool; all copies take as long."""
    first = trace.times[trace.program.kind == Kind.COPY][0]
    return int(first["end"] - first["start"])


def _layers_ps(measured: PassTrace) -> int:
    """Returns the time from the first start to the last end in layers, including those that were not simulated."""

    def ends(trace: Trace) -> Ints:
        times = trace.times[trace.program.layer >= 0]
        return np.array([times["start"].min(), times["end"].max()])

    traces = periodic.extrapolate(measured.trace, measured.periods)
    first, last = periodic.sum_over_copies(measured.trace.program, [ends(trace) for trace in traces]).tolist()
    return int(last - first)


def memory_over_time(trace: Trace, chip: int, most_bytes: float, layer_bytes: float) -> Series:
    """Returns a chip's memory over time: a fetch takes room as it begins, a copy back frees it as it ends.

    Args:
        most_bytes: bytes held while a fetched layer is present, as when the pass begins.
    """
    return _series(trace, chip, most_bytes, {("fetch", "start"): layer_bytes, ("evict", "end"): -layer_bytes})


def peer_memory_over_time(trace: Trace, chip: int, most_bytes: float, layer_bytes: float) -> Series:
    """Returns the bytes of the chip's layers in the other memory over time; one layer is away when the pass begins.

    Args:
        most_bytes: bytes when all of these layers are there.
    """
    changes = {("evict", "start"): layer_bytes, ("fetch", "end"): -layer_bytes}
    return _series(trace, chip, most_bytes - layer_bytes, changes)


def _series(trace: Trace, chip: int, begin_bytes: float, change: Mapping[tuple[str, str], float]) -> Series:
    program = trace.program
    names = np.array(program.op_names)[program.op]
    times, changes = [np.zeros(1)], [np.array([begin_bytes])]
    for (op, moment), size in change.items():
        tasks = np.flatnonzero((program.kind == Kind.COPY) & (program.chip == chip) & (names == op))
        times.append(trace.times[moment][tasks] / PS_PER_S)
        changes.append(np.full(len(tasks), size))
    time, step = np.concatenate(times), np.concatenate(changes)
    order = np.concatenate([[0], 1 + np.lexsort((step[1:], time[1:]))])
    return time[order], np.cumsum(step[order])
