"""A piece of a matmul costs what a matmul of its shape costs; reports say of an operation what its cost says."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.algorithms import FORMS
from support.scenarios import stack_of
from support.selection import each_once, first_of_each

from sim.lowering.costs import Attended, Work, cost
from sim.lowering.emitter import Emitter
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.plots import roofline
from sim.program import Kind
from sim.report.metrics import measure
from sim.report.roofline import is_memory_bound
from sim.simulate.forward_pass import lower_pass, simulate_pass
from sim.specs import load
from sim.specs.uses import PRESETS
from sim.studies.explain.changes import with_fields

ROOT = Path(__file__).parents[2]
CHIPS = sorted(path.stem for path in (ROOT / "topologies" / "chips").glob("*.yaml"))
SCENARIOS = sorted(path.stem for path in (ROOT / "scenarios").glob("*.yaml"))
LOOPS = "layout.overlap=collective_matmul"
WORKLOADS = {
    "decode": {"phase": "decode", "batch": 64, "context": 128, "generate": 1},
    "one prompt": {"phase": "prefill", "batch": 1, "prompt": 1024},
    "prompts": {"phase": "prefill", "batch": 64, "prompt": 128},
}
WITHOUT_LOOPS = (
    "tensor_parallel",
    "megatron_sequence_parallel",
    "attention_data_parallel",
    "data_parallel",
    "expert_parallel",
    "tensor_expert_parallel",
)
"""On three axes: what they gather and scatter is over more than one, or nothing."""
LOOPED = [
    (layout, workload)
    for layout in PRESETS
    if layout not in WITHOUT_LOOPS
    for workload in WORKLOADS
    if workload != "one prompt" or layout.startswith("weight_stationary")  # the others split the batch
]


def machine_and_layout(name: str) -> tuple[object, ...]:
    """What decides which operations a scenario has, and on which chip and stack."""
    given = load.scenario(name)
    layout = given.layout
    return given.topology.chip.name, given.stack.name, layout.ffn, layout.residual, layout.overlap, given.workload.phase


def formats(chip):
    """A number format of two bytes that a chip multiplies, for weights and activations."""
    peak = yaml.safe_load((ROOT / "topologies" / "chips" / f"{chip}.yaml").read_text())["peak"]
    return dict.fromkeys(("weights", "activations"), "bf16" if "bf16" in peak else "fp16")


def torus(layout, *settings, workload="decode", chip="tpu_v4", stack=""):
    """One layer of PaLM 540B, all numbers of two bytes and through HBM, on a 4x4x4 torus of any chip."""
    own = [
        f"topology.chip={chip}",
        "topology.chip.on_chip_memory=null",
        f"stack={stack or stack_of(chip)}",
        "engine.layers=1",
        "layout.overlap=none",
        f"layout.ffn={layout}",
        f"workload={WORKLOADS[workload] | formats(chip)}",
    ]
    return load.scenario("palm540b_decode_ws2d", [*own, *settings])


def box(*settings, chip="h100_sxm"):
    """One layer of Llama-3 70B on 8 chips, a prefill, all numbers through HBM."""
    own = [f"workload.{name}={dtype}" for name, dtype in formats(chip).items()]
    return load.scenario(
        "llama3_70b_tp8_prefill",
        [
            "engine.layers=1",
            f"topology.chip={chip}",
            "topology.chip.on_chip_memory=null",
            f"stack={stack_of(chip)}",
            *own,
            *settings,
        ],
    )


def launches(scenario, monkeypatch):
    """By name, (work, duration of chip 0 in ps) of every launch of a matmul."""
    found, compute = {}, Emitter.compute

    def seen(self, op, work, *rest, **named):
        tasks = compute(self, op, work, *rest, **named)
        if work.rows:
            found.setdefault(op, []).append((work, int(tasks[-1][0])))
        return tasks

    with monkeypatch.context() as patch:
        patch.setattr(Emitter, "compute", seen)
        program = lower(scenario, mesh_of(scenario)).program
    for works in found.values():
        assert all(program.bytes[task] == work.bytes and program.flops[task] == work.flops for work, task in works)
    return {op: [(work, int(program.busy_ps[task])) for work, task in works] for op, works in found.items()}


def shape(work):
    """([r, k] x [k, c], values of a sum that it reads as well), of numbers of two bytes."""
    r, c = work.rows, work.columns
    k = work.inner
    return r, k, c, work.bytes / 2 - (r * k + k * c + r * c)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("layout", "workload"), LOOPED)
def test_a_piece_of_a_loop_costs_what_a_matmul_of_its_shape_costs_alone(layout, workload, form, monkeypatch):
    """It reads r k and k c values and writes r c; what it reads besides are sums, of r c values each, to add to.

    Around a ring of 4 an all-gather's pieces leave one sum of the whole output, and of a reduce-scatter's four chunks
    three have arrived from other chips.
    """
    collectives = f"collectives.collective_matmul={form}"
    whole = launches(torus(layout, workload=workload), monkeypatch)
    cut = launches(torus(layout, LOOPS, collectives, workload=workload), monkeypatch)
    assert cut.keys() == whole.keys()
    looped = [op for op in whole if len(cut[op]) > len(whole[op])]
    assert looped
    for op in looped:
        ((only, _),) = whole[op]
        values = only.rows * only.columns
        written = read = flops = 0
        for i, (work, _) in enumerate(cut[op]):
            r, k, c, sums = shape(work)
            assert k == int(k)
            assert sums >= 0
            assert i or sums == 0
            assert sums % (r * c / 2) == 0
            written, read, flops = written + r * c, read + sums, flops + work.flops
        assert flops == only.flops
        if written == values:  # cut by rows or columns
            assert read in (0, values * 3 / 4)
        else:
            assert written - read == values


@pytest.mark.parametrize(("layout", "chip"), each_once(product(PRESETS, CHIPS)))
def test_the_pieces_of_a_loop_take_no_less_than_the_whole(layout, chip, monkeypatch):
    """They read what they share more than once, and fill no more of their tiles."""
    whole = launches(torus(layout, workload="prompts", chip=chip), monkeypatch)
    cut = launches(torus(layout, LOOPS, workload="prompts", chip=chip), monkeypatch)
    for op, works in cut.items():
        ((only, whole_ps),) = whole[op]
        assert sum(ps for _, ps in works) >= whole_ps
        if len(works) > 1:
            assert sum(work.bytes for work, _ in works) > only.bytes


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("chunks", [2, 3, 7])
def test_a_chunk_of_a_matmul_costs_what_a_matmul_of_its_columns_costs_alone(chunks, chip, monkeypatch):
    """Every chunk reads the whole input; 8192 columns in 3 or 7 chunks are not all of one width."""
    plain, chunked = ("layout.overlap=none",), ("layout.overlap=chunked_matmul", f"layout.chunks={chunks}")
    whole, cut = (launches(box(*settings, chip=chip), monkeypatch) for settings in (plain, chunked))
    pieces = [op for op in cut if len(cut[op]) == chunks]
    assert pieces == ["o", "wo"]
    for op in pieces:
        ((only, whole_ps),) = whole[op]
        r, k, c, _ = shape(only)
        shapes = [shape(work) for work, _ in cut[op]]
        assert [(own[0], own[1], own[3]) for own in shapes] == [(r, k, 0)] * chunks
        widths = [own[2] for own in shapes]
        assert sum(widths) == c
        assert max(widths) - min(widths) <= 1
        assert sum(ps for _, ps in cut[op]) > whole_ps
        for width, (_, ps) in zip(widths, cut[op], strict=True):  # equal shapes, equal times
            assert {ps} == {other for w, (_, other) in zip(widths, cut[op], strict=True) if w == width}


def test_a_chunk_pays_for_the_whole_of_its_last_tile(monkeypatch):
    """7 chunks of 8192 columns are 7 times 1171 or 1170: of 64 columns each, 19 tiles, 133 instead of 128."""
    many = "topology.chip.hbm_bandwidth=1000 TB/s", "stack.op_overhead=0 s", "stack.matmul_overhead=0 s"
    whole = launches(box("layout.overlap=none", *many), monkeypatch)["wo"]
    cut = launches(box("layout.overlap=chunked_matmul", "layout.chunks=7", *many), monkeypatch)["wo"]
    assert sum(ps for _, ps in cut) / whole[0][1] > 133 / 128


def shipped(name):
    """The phases of a shipped scenario, with few layers."""
    whole = load.scenario(name)
    stages = whole.layout.mesh.pipeline
    every = whole.memory_pool.offload_every if whole.memory_pool else 1
    layers = [f"engine.layers={2 * stages * every}"]
    if whole.pipeline and whole.pipeline.stages:
        layers.append(f"layout.pipeline.stages={[2 * every] * stages}")
    return load.scenario(name, layers).phases


def busy_ps(scenario, faster):
    """Duration of every task where what `faster` names has a rate a thousandth higher, at which no tile is changed."""
    chip = scenario.topology.chip
    peak = {name: rate.model_copy(update={"value": 1.001 * rate.value}) for name, rate in chip.peak.items()}
    rates = {
        "compute": {
            "topology.chip.peak": peak,
            **({"topology.chip.vector_peak": 1.001 * chip.vector_peak.value} if chip.vector_peak else {}),
        },
        "memory": {
            "topology.chip.hbm_bandwidth": 1.001 * chip.hbm_bandwidth.value,
        },
        "nothing": {},
    }
    settings = rates[faster]
    return lower_pass(with_fields(scenario, settings))[1].program.busy_ps


def assert_labels_follow(scenario):
    """What is labelled memory-bound gains more from a higher memory bandwidth than from a higher FLOP rate.

    Times are rounded to picoseconds.
    """
    program = lower_pass(scenario)[1].program
    compute = program.kind == Kind.COMPUTE
    own = busy_ps(scenario, "nothing")
    by_memory, by_flops = own - busy_ps(scenario, "memory"), own - busy_ps(scenario, "compute")
    slow = is_memory_bound(program)
    assert slow[compute & (by_memory > by_flops + 2)].all()
    assert not slow[compute & (by_flops > by_memory + 2)].any()
    assert not slow[~compute].any()


@pytest.mark.parametrize("name", first_of_each(SCENARIOS, machine_and_layout))
def test_labels_of_every_shipped_scenario_follow_the_costs(name):
    for scenario in shipped(name):
        assert_labels_follow(scenario)


@pytest.mark.parametrize(("chip", "kv_heads"), each_once(product(CHIPS, ("shared", "expanded"))))
def test_labels_of_every_chip_follow_the_costs(chip, kv_heads):
    """From one row, which is streamed, to many, whose tiles are not full: the limit changes where the costs say."""
    for batch in (1, 2, 65, 129, 150, 200, 257, 300, 400):
        workload = f"workload={WORKLOADS['decode'] | formats(chip) | {'batch': batch}}"
        assert_labels_follow(box(workload, f"layout.kv_heads={kv_heads}", chip=chip))


@pytest.mark.parametrize("name", first_of_each(SCENARIOS, machine_and_layout))
def test_table_and_figure_say_of_an_operation_what_its_launches_cost(name):
    """Where all its launches have one limit, and nothing slows them, their parts also make up its time.

    In a loop, the shard on its way meanwhile holds a piece up by at most the share of it that passes under nothing.
    """
    for scenario in shipped(name):
        found, stack = simulate_pass(scenario), scenario.stack
        program = found.trace.program
        bounds = {}
        for op, slow in zip(program.op.tolist(), is_memory_bound(program).tolist(), strict=True):
            bounds.setdefault(program.op_names[op], set()).add("memory" if slow else "compute")
        table = {op.op: op for op in measure(found.trace, found.topology).ops if op.kind == "compute"}
        drawn = {point.op: point.bound for point in roofline.list_points(found.trace, found.topology)}
        assert drawn
        assert drawn == {op: table[op].bound for op in drawn}
        for op in table.values():
            if len(bounds[op.op]) > 1:
                continue
            assert bounds[op.op] == {op.bound}
            shorter, longer = sorted((op.compute_s, op.memory_s))
            interferes = stack.compute_interference.value or stack.memory_interference.value
            if not interferes and not scenario.perturb:
                beside = 1 - stack.roofline_overlap.value
                parts, rounding = longer + beside * shorter + op.overhead_s, 1.5e-12 * op.count
                shards = f") {op.op}", f") {op.op} weights"
                looped = scenario.overlap == "collective_matmul" and any(n.endswith(shards) for n in program.op_names)
                held_up = beside * parts if looped else 0.0
                assert parts - rounding <= op.time_s <= parts + held_up + rounding


def test_the_figure_has_a_roof_for_every_bandwidth_that_the_costs_apply():
    """Matmuls of several rows and all else, where the stack tells them apart."""
    for name, stack, count in (("h100_sxm", "torch_compile", 2), ("tpu_v4", "jax_tpu", 1)):
        chip = mesh_of(torus("weight_stationary_2d", chip=name, stack=stack)).chip
        _, *reached = roofline.list_roofs(chip, formats(name)["weights"])
        assert len(reached) == count
        for (_, _, roof), rows in zip(reached, (2, 1), strict=False):
            for intensity in (1.0, 1e4):  # FLOPs per byte
                own = cost(chip, Work(intensity * 1e12, 1e12, rows=rows), formats(name)["weights"])
                assert roof(np.array([intensity])) == pytest.approx(intensity * 1e12 / own.roofline_s)


# --- tiles -----------------------------------------------------------------------------------------------------------


def gpu(*settings, topology="dgx_h100"):
    """A chip whose matmuls are tiled, with the stack of best kernels."""
    return mesh_of(
        load.scenario("llama3_70b_tp8_prefill", [f"topology={topology}", "stack=best_kernels", *settings])
    ).chip


def matmul(rows, columns, inner, products=1):
    """Of numbers of two bytes."""
    moved = 2 * products * (rows * inner + inner * columns + rows * columns)
    return Work(2.0 * rows * columns * inner * products, moved, rows=rows, columns=columns, products=products)


def seconds(chip, work):
    """Without the overhead of a launch."""
    return cost(chip, work, "bf16").roofline_s


def flops_per_s(chip, *shape):
    work = matmul(*shape)
    return work.flops / cost(chip, work, "bf16").compute_s


def test_a_large_matmul_waits_for_its_operands_a_little_and_a_small_one_much():
    """Tiles of 256 x 256 load 512 values for 65,536 products: against 103.5 of side, 0.4 of the time."""
    chip = gpu("topology.chip.hbm_bandwidth=1000 TB/s")
    share = flops_per_s(chip, 2**17, 2**17, 2**14) / chip.peak_flops["bf16"]
    multiply, load_ = 1 / chip.matmul_efficiency, chip.matmul_balance / 256
    assert share == pytest.approx((multiply**4 + load_**4) ** -0.25, rel=0.01)
    assert flops_per_s(chip, 256, 256, 256) < share / 2 * chip.peak_flops["bf16"]


def test_a_tile_more_than_the_multiprocessors_take_at_once_is_another_wave():
    """One column of tiles of at most 256 rows: 132 of them are one wave; a short sum is not worth cutting."""
    chip = gpu("topology.chip.hbm_bandwidth=1000 TB/s")
    full, more = (seconds(chip, matmul(256 * tiles, 256, 64)) for tiles in (132, 133))
    least = seconds(chip, matmul(256 * 131, 256, 64))
    assert least == pytest.approx(full, rel=1e-3)
    assert more > full * 1.2


def test_where_there_are_few_tiles_their_sums_are_cut():
    """A single tile of a long sum would keep one multiprocessor busy; cut in 32 its parts take a 32nd, and traffic."""
    chip = gpu("topology.chip.hbm_bandwidth=1000 TB/s")
    short, long = (seconds(chip, matmul(128, 128, inner)) for inner in (64, 64 * 256))
    assert long < 256 * short / 8


@pytest.mark.parametrize("field", ["rows", "columns", "inner", "products"])
def test_no_matmul_takes_less_time_than_a_smaller_one(field):
    chip, sizes = gpu(), {"rows": 100, "columns": 1000, "inner": 1000, "products": 1}
    times = [seconds(chip, matmul(**{**sizes, field: size})) for size in range(2, 1500, 7)]
    assert times == sorted(times)


def test_many_small_matmuls_fill_the_multiprocessors_that_one_leaves_idle():
    chip = gpu("topology.chip.hbm_bandwidth=1000 TB/s")
    one, many = (seconds(chip, matmul(128, 128, 128, products)) for products in (1, 132))
    assert many < 10 * one


def test_shares_of_a_chip_carry_to_one_of_other_rates():
    """Twice the peak and twice the bandwidth take half the time, whatever the shape."""
    chip = gpu()
    double = gpu("topology.chip.peak.bf16=1979 TFLOP/s", "topology.chip.hbm_bandwidth=6700 GB/s")
    ratio = double.peak_flops["bf16"] / chip.peak_flops["bf16"]
    for shape in ((300, 1000, 4000), (16, 8192, 8192), (4096, 4096, 4096)):
        one, two = (seconds(own, matmul(*shape)) for own in (chip, double))
        assert one / two == pytest.approx(ratio, rel=1e-3)


def test_a_row_alone_and_a_chip_without_multiprocessors_reach_one_rate():
    chip, tpu = gpu(), mesh_of(load.scenario("palm540b_decode_ws2d")).chip
    for own, shape in ((chip, (1, 8192, 8192)), (tpu, (1000, 3000, 77)), (tpu, (2, 2, 2))):
        assert flops_per_s(own, *shape) == pytest.approx(own.peak_flops["bf16"] * own.matmul_efficiency)


# --- grouped matmuls and fused attention -----------------------------------------------------------------------------


def test_grouped_matmuls_reach_a_share_of_the_peak_of_their_own():
    """Whole waves of large tiles, which multiply longer than they load; no rate of memory limits them."""
    settings = ("topology.chip.hbm_bandwidth=1000 TB/s", "stack.matmul_balance=1")
    chip = gpu(*settings, "stack.matmul_efficiency=0.8", "stack.grouped_efficiency=0.6")
    one = matmul(256 * 132, 256, 4096)
    each = Work(one.flops, one.bytes, rows=256, columns=256, each_rows=(256,) * 132)
    assert seconds(chip, each) / seconds(chip, one) == pytest.approx(0.8 / 0.6, rel=1e-3)


def attention(chip, queries, groups, positions):
    """Keys and values of 64 numbers each, in cost without its overhead, s, and the overhead, s."""
    attended = Attended(queries, groups, positions)
    work = Work(2.0 * 128 * queries * groups * positions, 1.0, attends=attended)
    found = cost(chip, work, "bf16")
    return found.compute_s, found.overhead_s


SPLIT = ("stack.attention_startup=100", "stack.attention_part=1 us", "stack.attention_overhead=7 us")


def test_attention_of_full_tiles_takes_the_time_of_some_positions_more():
    """132 tiles of 64 queries on 132 multiprocessors: one each, which starts and ends in the time of 100 positions."""
    chip = gpu(*SPLIT)
    compute_s, overhead_s = attention(chip, 64, 132, 1000)
    flops = 2 * 128 * 64 * 132 * (1000 + 100)
    assert compute_s == pytest.approx(flops / (chip.peak_flops["bf16"] * chip.attention_efficiency))
    assert overhead_s == pytest.approx(7e-6)


def test_positions_are_split_between_idle_multiprocessors_into_parts_no_shorter_than_the_start():
    """One tile: 6600 positions are 66 parts of 100, half of the multiprocessors; 132,000 are 132 parts of 1000."""
    chip = gpu(*SPLIT)
    position_s = attention(chip, 64, 132, 1000)[0] / 1100
    for positions, parts, longest in ((50, 1, 50), (6600, 66, 100), (132_000, 132, 1000)):
        compute_s, overhead_s = attention(chip, 64, 1, positions)
        assert compute_s == pytest.approx(position_s * (longest + 100))
        assert overhead_s == pytest.approx(7e-6 + (parts - 1) * 1e-6)


def test_a_tile_with_few_queries_takes_as_long_as_a_full_one():
    chip = gpu(*SPLIT)
    assert attention(chip, 1, 132, 1000)[0] == pytest.approx(attention(chip, 64, 132, 1000)[0])
    assert attention(chip, 65, 66, 1000)[0] == pytest.approx(attention(chip, 128, 66, 1000)[0])


def test_attention_without_a_start_reaches_one_rate():
    chip = gpu()
    for shape in ((1, 1, 50), (64, 132, 1000), (128, 4, 131_072)):
        flops = 2 * 128 * shape[0] * shape[1] * shape[2]
        assert attention(chip, *shape)[0] == pytest.approx(flops / (chip.peak_flops["bf16"] * chip.matmul_efficiency))


def test_attention_hides_a_share_of_the_shorter_time_of_its_own():
    chip = gpu("stack.attention_overlap=0.4", "stack.roofline_overlap=0.9")
    assert cost(chip, Work(1e12, 1e9, attends=Attended(64, 132, 1000)), "bf16").exposed_share == pytest.approx(0.6)
    assert cost(chip, Work(1e12, 1e9), "bf16").exposed_share == pytest.approx(0.1)
