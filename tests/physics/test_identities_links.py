"""Bytes, bounds and labels of every shipped scenario, beside formulas that this file states again."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import yaml
from support.scenarios import stack_of
from support.shipped import CASES, IDS, PS, ROUNDING, every_case, phases, result, scenario

from sim.collectives import algorithm_of
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.report.breakdown import compute_breakdown
from sim.simulate.forward_pass import lower_pass, simulate_pass
from sim.specs import DTYPE_BYTES, Scenario, load
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.lower_bound import lower_bound
from sim.topology.mesh import mesh_axis

# --- bytes on links --------------------------------------------------------------------------------------------------


def sent_bytes(collective: str, algorithm: str, sizes: Sequence[tuple[int, bool]], size: float, boxes: int) -> float:
    """Bytes that a chip of the group sends on average, each hop of a forwarded message counted.

    With V bytes of the whole collective and n chips: an all-gather or reduce-scatter moves the n - 1 shards of V / n
    that a chip does not have; an all-reduce is both, by a ring, a tree or directly; a one-shot sends V to every other
    chip. In the switch a chip passes V up to be added and V / n, its share of the sum, to be multicast, and takes V
    and V / n down; of several boxes, heads pass V of their box on, up and down a tree of boxes. An all-to-all of V on
    rings of K sends every message V / n over K / 4 hops per even ring on average, and over as many hops as lie between
    on a line.

    Args:
        sizes: (chips, whether it is a ring) along each axis.
    """
    n = math.prod(size for size, _ in sizes)
    if collective in ("all_gather", "reduce_scatter"):
        return (n - 1) / n * size
    if collective == "all_reduce":
        special = {"one_shot": (n - 1) * size} | dict.fromkeys(("nvls", "multimem"), 2 * (1 + 1 / n) * size)
        special["nvls_tree"] = 2 * (1 + (2 * boxes - 1) / n) * size
        return special.get(algorithm, 2 * (n - 1) / n * size)
    if collective == "all_to_all" and algorithm == "multi_axis":
        hops = 0.0
        for K, ring in sizes:
            apart = np.abs(np.subtract.outer(np.arange(K), np.arange(K)))
            hops += np.minimum(apart, K - apart).mean() if ring else apart.mean()
        return hops * size
    raise AssertionError(f"no formula here for {collective} by {algorithm}: add it")


@functools.cache
def mesh(case: tuple[str, ...], i: int) -> Topology:
    return mesh_of(result(*case).passes[i].scenario)


def collectives(case: tuple[str, ...], i: int):
    """(name, axes, size in bytes, tasks) of every collective of a pass but sends between stages."""
    part = result(*case).passes[i]
    program = part.lowered.program
    order = np.argsort(program.collective, kind="stable")
    numbers, starts = np.unique(program.collective[order], return_index=True)
    for number, tasks in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
        begins = tasks[program.kind[tasks] == Kind.BEGIN]
        if number < 0 or not len(begins):
            continue
        text = program.op_names[program.op[begins[0]]]
        name, axes = text.partition("(")[0].split()[0], dict(program.axes).get(text, ())
        # What dispatch and combine send is the routing's, and their bounds too (proofs/test_exchange.py).
        if name not in ("send", "fetch", "evict", "dispatch", "combine"):
            yield name, axes, float(program.bytes[begins].mean()), tasks


@every_case
def test_chips_send_the_bytes_of_the_closed_form(case):
    for i, (given, part, _) in enumerate(phases(case)):
        program, topology = part.lowered.program, mesh(case, i)
        if given.layout.kv_transfer:  # its collectives are of the chips of the prefill, a part of the mesh
            continue
        for name, axes, size, tasks in collectives(case, i):
            algorithm = algorithm_of(topology, name, given.collectives.get(name), size)
            begins = np.count_nonzero(program.kind[tasks] == Kind.BEGIN)
            messages = tasks[(program.kind[tasks] == Kind.SEND) & (program.follows[tasks] < 0)]
            sent = program.bytes[messages].sum() / begins
            rings = {axis.name for axis in topology.axes if axis.ring}
            over = [mesh_axis(topology, axis) for axis in axes]
            lengths = [(axis.size, rings.issuperset(axis.lines)) for axis in over]
            expected = sent_bytes(name, algorithm, lengths, size, len(boxes(topology)))
            assert sent == pytest.approx(expected, rel=1e-6), (name, algorithm, axes, size)


SUMS_PER_LAYER = {"standard": 2.0, "hybrid": 2.0, "ladder": 2.0, "parallel": 1.0, "desync2": 1.0, "desync4": 0.5}
TENSOR = [
    case
    for case in CASES
    if (own := scenario(*case).layout).ffn == "tensor_parallel"
    and not (own.sequence_parallel or own.pipeline or own.kv_transfer)
]


@pytest.mark.parametrize("case", TENSOR, ids=[IDS[CASES.index(case)] for case in TENSOR])
def test_layers_sum_the_residual_stream_as_often_as_their_scheme_says(case):
    """A sum is of rows x d_model numbers: per layer two in the standard scheme, one with parallel blocks, and so on."""
    for i, (given, part, _) in enumerate(phases(case)):
        program, work = part.lowered.program.unroll(), given.workload
        rows = given.packed_rows or work.batch * work.tokens_per_step
        begins = np.flatnonzero((program.kind == Kind.BEGIN) & (program.layer >= 0))
        assert {program.op_names[op].partition("(")[0] for op in program.op[begins]} <= {"all_reduce"}
        summed = program.bytes[begins].sum() / max(1, len(np.unique(program.chip)))
        stream = rows * given.model.d_model * DTYPE_BYTES[work.activations]
        alone = mesh(case, i).total_chips == 1
        assert summed == pytest.approx(0 if alone else SUMS_PER_LAYER.get(given.residual, 0.0) * given.layers * stream)


# --- bounds ----------------------------------------------------------------------------------------------------------


@every_case
def test_no_step_is_faster_than_the_peak_the_memory_or_a_link(case):
    """FLOPs of a chip at its peak, HBM bytes at the nominal bandwidth, bytes of a link at its own."""
    for given, part, _ in phases(case):
        program, chip, step_s = part.trace.program, given.topology.chip, part.makespan_ps * PS
        compute = program.kind == Kind.COMPUTE
        flops = np.bincount(program.chip[compute], program.flops[compute])
        moved = np.bincount(program.chip[compute], program.bytes[compute])
        assert step_s >= flops.max() / max(rate.value for rate in chip.peak.values())
        assert step_s >= moved.max() / chip.hbm_bandwidth.value
        sends = np.flatnonzero(program.kind == Kind.SEND)
        loads = np.zeros(len(part.topology.links))
        np.add.at(loads, program.resource[sends] - part.topology.chips, program.bytes[sends])
        bandwidths = np.array([link.bandwidth for link in part.topology.links])
        assert (loads / bandwidths <= step_s).all()


@every_case
def test_no_collective_is_faster_than_its_bound(case):
    for i, (_, part, _) in enumerate(phases(case)):
        program, times, topology = part.lowered.program, part.part.times, mesh(case, i)
        assert len(times) == len(program)
        for name, axes, size, tasks in collectives(case, i):
            begins = tasks[program.kind[tasks] == Kind.BEGIN]
            took_s = (times["end"][tasks].max() - times["start"][begins].min()) * PS
            assert took_s >= lower_bound(topology, name, tuple(axes), size) - PS, (name, axes, size)


@every_case
def test_links_are_busy_no_longer_than_the_step(case):
    for _, _, report in phases(case):
        assert 0 <= report.links.mean_utilisation <= report.links.utilisation <= 1
        assert report.links.bytes <= report.links.total_bytes


# --- labels ----------------------------------------------------------------------------------------------------------


def durations_ps(given: Scenario, hbm: float = 1.0, flops: float = 1.0) -> np.ndarray:
    """Of all tasks of a pass whose chips have other rates."""
    chip = given.topology.chip

    def times(quantity, factor):
        return quantity and quantity.model_copy(update={"value": quantity.value * factor})

    rates = {
        "hbm_bandwidth": times(chip.hbm_bandwidth, hbm),
    }
    rates["vector_peak"] = times(chip.vector_peak, flops)
    rates["peak"] = {dtype: times(rate, flops) for dtype, rate in chip.peak.items()}
    topology = given.topology.model_copy(update={"chip": chip.model_copy(update=rates)})
    return lower_pass(given.model_copy(update={"topology": topology}))[1].program.busy_ps


CHIPS = load.shipped("chip")
BATCHES = (1, 8, 64, 100, 160, 256, 400, 1000)
"""Decoding goes from memory-bound to compute-bound between these."""


def one_chip(chip: str, batch: int) -> Scenario:
    """Few layers on one chip, without a collective, so that all of the breakdown is compute."""
    dtype = next(iter(yaml.safe_load(CHIPS[chip].read_text(encoding="utf-8"))["peak"]))
    work = (
        f"workload={{phase: decode, batch: {batch}, context: 64, generate: 1, weights: {dtype}, activations: {dtype}}}"
    )
    settings = [
        f"topology.chip={chip}",
        f"stack={stack_of(chip)}",
        "layout={ffn: tensor_parallel, attention: heads, mesh: {tensor: 1}}",
        work,
    ]
    return load.scenario("llama3_8b_tp8_ladder", [*settings, "engine.layers=1"])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("chip", CHIPS)
def test_compute_is_called_memory_bound_where_faster_memory_would_shorten_it_more(chip, batch):
    """A little more memory bandwidth or peak, with the same tiles: what saves more is what limits the operation."""
    given = one_chip(chip, batch)
    part = simulate_pass(given)
    program, before = part.lowered.program, durations_ps(given)
    by_memory, by_compute = (before - durations_ps(given, *rates) for rates in ((1.01, 1.0), (1.0, 1.01)))
    compute = (program.kind == Kind.COMPUTE) & (np.abs(by_memory - by_compute) > 2)  # else rounding decides
    shortened = by_memory > by_compute
    parts = compute_breakdown(part.trace, part.topology)
    unclear_s = before[(program.kind == Kind.COMPUTE) & ~compute].sum() * PS
    for name, own in (("memory-bound", compute & shortened), ("compute-bound", compute & ~shortened)):
        assert parts[name] == pytest.approx(before[own].sum() * PS, abs=unclear_s, rel=ROUNDING)
