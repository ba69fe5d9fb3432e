"""Weights in another memory: which layer lives where, stalls beside their closed form, memory over time, what fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sim.closed_form.memory_pool import most_layers, stall_per_group
from sim.program import Floats, Ints, Kind, Period
from sim.program.trace import Trace
from sim.report.memory import Memory
from sim.shortcuts import periodic
from sim.specs import Scenario
from sim.units import PS_PER_S

Series = tuple[Floats, Floats]
"""(times in seconds, bytes from each on)."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A memory pool in one pass. Seconds, bytes per chip."""

    to: str
    offload_every: int
    remote_layers: tuple[int, ...]
    """Those that live in the other memory; all others in the chip's own."""
    layer_bytes: float
    remote_bytes: float
    fetch_s: float
    """Time of one copy, in either direction."""
    stall_s: float
    """What the pass takes longer than with all weights in the chip's own memory."""
    closed_form_stall_s: float
    """The same by the formula, with the mean time of a layer of that other pass."""
    slower: float
    """Stall over the latency without a pool."""
    layers_that_fit: int
    """Of the largest model of this width, with the pool."""
    layers_that_fit_without: int


def pool_report(
    scenario: Scenario,
    copy_ps: int,
    makespan_ps: int,
    plain_ps: int,
    plain_layers_ps: int,
    memory: Memory,
    layer_bytes: float,
) -> Pool | None:
    """What became of a scenario's memory pool, None where it has none.

    Args:
        copy_ps: time of one copy.
        plain_ps: time of the same pass without a pool, and `plain_layers_ps` of its layers.
    """
    spec = scenario.memory_pool
    if spec is None:
        return None
    every, layers = spec.offload_every, scenario.layers
    copy_s, stall_s = copy_ps / PS_PER_S, (makespan_ps - plain_ps) / PS_PER_S
    layer_s = plain_layers_ps / PS_PER_S / layers
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
        slower=stall_s * PS_PER_S / plain_ps,
        layers_that_fit=most_layers(memory.capacity_bytes, rest, layer_bytes, cache, every),
        layers_that_fit_without=most_layers(memory.capacity_bytes, rest, layer_bytes, cache),
    )


def copy_ps(trace: Trace) -> int:
    """Time of the first copy of a pass with a memory pool; all take as long."""
    first = trace.times[trace.program.kind == Kind.COPY][0]
    return int(first["end"] - first["start"])


def layers_ps(trace: Trace, periods: Sequence[Period]) -> int:
    """From the first start to the last end in layers, those that were left out included."""

    def ends(each: Trace) -> Ints:
        times = each.times[each.program.layer >= 0]
        return np.array([times["start"].min(), times["end"].max()])

    first, last = periodic.sum_over_copies(
        trace.program, [ends(each) for each in periodic.extrapolate(trace, periods)]
    ).tolist()
    return int(last - first)


def over_time(trace: Trace, chip: int, most_bytes: float, layer_bytes: float) -> Series:
    """A chip's memory: a fetch takes room as it begins, a copy back frees it as it ends. `most_bytes` is what it holds
    while a layer is visiting, as when the pass begins."""
    return _series(trace, chip, most_bytes, {("fetch", "start"): layer_bytes, ("evict", "end"): -layer_bytes})


def peer_over_time(trace: Trace, chip: int, most_bytes: float, layer_bytes: float) -> Series:
    """The chip's layers in the other memory, `most_bytes` when all are there; one is away when the pass begins."""
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
