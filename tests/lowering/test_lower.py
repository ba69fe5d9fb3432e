"""Lowered layouts against the closed form, against the sharding algebra, and with and without overlap."""

import itertools

import numpy as np
import pytest

from sim import topology
from sim.closed_form.pass_time import predict_per_operation
from sim.engine import simulate
from sim.lowering.lower import lower
from sim.program import Kind
from sim.report.metrics import measure
from sim.simulate.communication import Communication
from sim.specs import load

SHIPPED = ("palm540b_decode_ws2d", "palm540b_decode_ws2d_b512", "palm540b_prefill_ws2d_b1")
IDEAL = (
    "topology.link.latency=0 s",
    "topology.link.efficiency=1",
    "stack.collective_overhead=0 s",
    "stack.collective_step=0 s",
    "stack.op_overhead=0 s",
    "stack.matmul_efficiency=1",
    "stack.hbm_efficiency=1",
)


def simulated(scenario):
    machine = topology.build(scenario.topology, scenario.stack)
    lowered = lower(scenario, machine)
    return machine, simulate(lowered.program)


def rounding_ps(program) -> float:
    """How far whole picoseconds can move the end: half a picosecond for every task that takes time, one after another
    on one chip. A chip's sends on one link follow each other, those on several links run side by side."""
    mine = (program.chip == 0) & (program.busy_ps + program.flight_ps > 0)
    return 0.5 * int(mine.sum())


@pytest.mark.parametrize("settings", [IDEAL, ()], ids=["ideal", "with latency, overheads and efficiencies"])
@pytest.mark.parametrize("block", ["parallel", "serial"])
@pytest.mark.parametrize("name", SHIPPED)
def test_without_overlap_the_step_is_the_per_axis_closed_form(name, block, settings):
    changes = [*settings, "layout.overlap=none", "engine.layers=3", f"layout.block={block}"]
    scenario = load.scenario(name, changes)
    _, trace = simulated(scenario)
    form = predict_per_operation(scenario, Communication(scenario))
    assert form.exact
    assert abs(trace.makespan_ps - form.step_s * 1e12) <= rounding_ps(trace.program)


@pytest.mark.parametrize("name", SHIPPED)
def test_collective_matmul_is_never_slower_than_none_plus_its_own_launches(name):
    layers = 2
    with_loop = load.scenario(name, [f"engine.layers={layers}"])
    machine, looped = simulated(with_loop)
    _, plain = simulated(load.scenario(name, [f"engine.layers={layers}", "layout.overlap=none"]))

    def launches(trace) -> int:
        return int(((trace.program.kind == Kind.COMPUTE) & (trace.program.chip == 0)).sum())

    extra_s = (launches(looped) - launches(plain)) * machine.chip.op_overhead_s
    assert launches(looped) > launches(plain)
    assert looped.makespan_ps <= plain.makespan_ps + extra_s * 1e12
    assert looped.makespan_ps < plain.makespan_ps  # and in the shipped scenarios it pays


@pytest.mark.parametrize("name", SHIPPED)
def test_shards_move_under_the_matmul_pieces(name):
    machine, trace = simulated(load.scenario(name, ["engine.layers=1"]))
    program, times = trace.program, trace.times
    for op in ("q_wi", "o_wo"):
        matmul = program.op == program.op_names.index(op)
        (wire,) = [
            i for i, n in enumerate(program.op_names) if n.startswith(("all_gather", "reduce_sc")) and n.endswith(op)
        ]
        pieces = np.flatnonzero(matmul & (program.chip == 0))
        sends = np.flatnonzero((program.op == wire) & (program.kind == Kind.SEND) & (program.chip == 0))
        assert len(pieces) >= 2
        under = [
            any(times["start"][s] < times["free"][p] and times["start"][p] < times["free"][s] for p in pieces)
            for s in sends
        ]
        assert any(under)
    figures = measure(trace, machine)
    assert figures.overlapped_communication_s[0] > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_no_overlap_means_no_overlap(name):
    machine, trace = simulated(load.scenario(name, ["engine.layers=2", "layout.overlap=none"]))
    figures = measure(trace, machine)
    assert figures.overlapped_communication_s.max() == 0
    assert figures.idle_s.max() == 0  # a chip computes or communicates


def test_bytes_on_the_wire_are_those_of_the_paper_block():
    """Pope et al. section 3 applied to PaLM 540B, 64 heads, 4x4x4, B = 64, L = 1, bf16; V (K-1)/K is sent per chip."""
    _, trace = simulated(load.scenario("palm540b_decode_ws2d", ["engine.layers=1", "layout.overlap=none"]))
    program = trace.program
    sends = (program.kind == Kind.SEND) & (program.chip == 5) & (program.layer == 0)
    sent = {
        name: program.bytes[sends & (program.op == i)].sum()
        for i, name in enumerate(program.op_names)
        if (sends & (program.op == i)).any()
    }
    # An all-to-all of 32,768 B on an axis of 4: a byte goes 1 hop on average, and counts on every hop.
    assert sent == pytest.approx(
        {
            "all_gather(z) residual": 589_824 / 4 * 3 / 4,  # 64 x 18432/4 x 2 B over z and y, a quarter of it over z
            "all_gather(y) residual": 589_824 * 3 / 4,
            "all_reduce(x) norm": 2 * 64 * 4 * 3 / 4,
            "reduce_scatter(x) q_wi": 1_310_720 * 3 / 4,  # 64 x (2 x 73728 + 64 x 256)/16 x 2 B
            "reduce_scatter(x) kv": 4_096 * 3 / 4,  # 64/16 x 2 x 256 x 2 B
            **{f"all_to_all({axis}) {name}": 32_768 for axis in "xyz" for name in ("q", "attention out")},
            "all_gather(x) o_wo": 720_896 * 3 / 4,  # 64 x (73728 + 64 x 256)/16 x 2 B
            "reduce_scatter(y) residual": 589_824 * 3 / 4,
            "reduce_scatter(z) residual": 589_824 / 4 * 3 / 4,
        }
    )


def test_layers_repeat_exactly():
    """Repeating the second layer is the same program as lowering every layer: the same starts, shifted."""
    _, trace = simulated(load.scenario("palm540b_decode_ws2d", ["engine.layers=5"]))
    starts = [trace.times["start"][trace.program.layer == layer] for layer in range(5)]
    steps = [np.unique(b - a) for a, b in itertools.pairwise(starts[1:])]
    assert all(len(step) == 1 for step in steps)
    assert len({int(step[0]) for step in steps}) == 1


def test_memory_of_palm_540b():
    """558.17e9 padded parameters in int8 over 64 chips, kv projections over x only; the cache over 64 sequences."""
    scenario = load.scenario("palm540b_decode_ws2d")
    lowered = lower(scenario, topology.build(scenario.topology, scenario.stack))
    per_layer = (3 * 18432 * 73728 + 2 * 18432 * 64 * 256) / 64 + 2 * 18432 * 256 / 4 + 18432 / 4
    assert lowered.weights_bytes == 118 * per_layer + 256128 * 18432 / 64 + 18432
    assert lowered.kv_cache_bytes == 118 * 2 * 256 * 2 * (64 / 64) * (2048 + 64)


def test_loops_asked_for_on_a_mesh_that_does_not_wrap_are_said_to_be_left_out():
    settings = ["topology=tpu_v4_2x4x4", "model=palm_8b", "engine.layers=1"]
    line = load.scenario("palm540b_decode_ws2d", settings)
    (note,) = [note for note in lower(line, topology.build(line.topology, line.stack)).notes if "loop" in note]
    assert note == "overlap collective_matmul: no loop around y and z, which do not wrap"
    ring = load.scenario("palm540b_decode_ws2d", ["engine.layers=1"])
    assert not lower(ring, topology.build(ring.topology, ring.stack)).notes


# --- memory on the chip, and what pieces and shards cost each other --------------------------------------------------


def test_only_what_memory_on_the_chip_does_not_hold_goes_through_hbm():
    """q_wi of a prefill of 64 x 32 tokens: 2048 x 4608 in, two of 2048 x 4608 and one of 2048 x 1024 out, in bf16; the
    weights are 4608 x 10240. With 10 MB on the chip, what the three larger ones have beyond that goes through."""
    settings = [
        "engine.layers=1",
        "layout.overlap=none",
        "workload={phase: prefill, batch: 64, prompt: 32, weights: bf16}",
    ]
    weights, large = 4608 * 10240 * 2, 2048 * 4608 * 2
    for memory, moved in (("128 MiB", 0.0), ("10 MB", 3 * (large - 10e6))):
        scenario = load.scenario("palm540b_decode_ws2d", [*settings, f"topology.chip.on_chip_memory={memory}"])
        program = simulated(scenario)[1].program
        task = np.flatnonzero((program.op == program.op_names.index("q_wi")) & (program.chip == 0))
        assert program.bytes[task].tolist() == [pytest.approx(weights + moved)]


@pytest.mark.parametrize("overlap", [1.0, 0.6])
def test_a_loop_takes_its_last_piece_and_the_longer_of_piece_and_shard_and_the_rest_of_the_shorter(overlap):
    """T = p + 3 (max(p, s) + (1 - o) min(p, s)) on a ring of 4: pieces of 4608 x 10240 / 4 weights in bf16 from memory,
    shards of 64 x 10240 x 2 B / 8 each way; FLOPs and the chip's own memory take no time."""
    free = ("topology.chip.peak.bf16=1e20 FLOP/s", "stack.collective_matmul_efficiency=1", "stack.collective_step=0 s")
    settings = [*free, "engine.layers=1", "workload.weights=bf16", f"stack.roofline_overlap={overlap}"]
    scenario = load.scenario("palm540b_decode_ws2d", settings)
    machine, trace = simulated(scenario)
    program, chip = trace.program, machine.chip
    p = 4608 * 10240 / 4 * 2 / (chip.hbm_bandwidth * chip.hbm_efficiency)
    s = 64 * 10240 * 2 / 8 / machine.links[0].bandwidth + 1e-6
    loop = [op for op, name in enumerate(program.op_names) if name == "q_wi" or name.endswith(") q_wi")]
    tasks = np.flatnonzero(np.isin(program.op, loop) & (program.chip == 0))
    took_s = (trace.times["end"][tasks].max() - trace.times["start"][tasks].min()) / 1e12
    assert took_s == pytest.approx(p + 3 * (max(p, s) + (1 - overlap) * min(p, s)), rel=1e-5)
