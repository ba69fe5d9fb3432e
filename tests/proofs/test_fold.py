"""Folding: few chips stand for all, to the picosecond, and only where all those are alike."""

import tracemalloc

import numpy as np
import pytest
from msgspec.structs import replace
from support.covering import differences
from support.machines import switch, torus, twisted
from support.pipelines import scenario

from sim import topology
from sim.collectives import ON_NCCL, ON_ROUTES, ON_TORUS, schedule
from sim.collectives.emit import CollectiveCall, emit
from sim.collectives.fold import fold, reordered
from sim.collectives.loop import all_gather_loop, reduce_scatter_loop
from sim.collectives.schedule import Hop, Payload, ScheduleBuilder
from sim.engine import simulate
from sim.lowering.lower import lower
from sim.program import Kind, ProgramBuilder
from sim.simulate.forward_pass import lower_pass
from sim.simulate.run import run
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology.folding import NotFoldableError, folded

MESHES = [(2,), (3,), (8,), (2, 2), (4, 3), (2, 4, 2), (1, 4, 4), (4, 4, 4)]
ROOTED = ("broadcast", "reduce", "gather", "scatter")
ROUTED = [(collective, name) for collective, algorithms in ON_ROUTES.items() for name in algorithms]
ALGORITHMS = [(collective, name) for collective, algorithms in ON_TORUS.items() for name in algorithms]


def times(machine, plan, size=1e6):
    builder = ProgramBuilder([*map(str, range(machine.chips)), *(link.name for link in machine.links)])
    emit(builder, machine, CollectiveCall(plan, size, "collective"))
    return simulate(builder.build())


def assert_stands_for_all(folded, full):
    """Every chip's tasks, in order, have the times of the folded chip's tasks."""
    by_chip = np.argsort(full.program.chip, kind="stable").reshape(-1, len(folded.program))
    for field in ("ready", "start", "free", "end"):
        assert (full.times[field][by_chip] == folded.times[field]).all()


@pytest.mark.parametrize("sizes", MESHES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_folded_collective_has_the_times_of_the_whole(collective, algorithm, sizes):
    machine = torus(*sizes)
    axes = tuple(axis.name for axis in machine.axes)[: 1 if collective == "permute" else None]
    try:
        plan = schedule(folded(machine), collective, axes, algorithm)
    except NotFoldableError:
        # A root, ends, or a last message that goes farther: chips that differ.
        assert collective in (*ROOTED, "sendrecv") or algorithm == "line"
        return
    assert_stands_for_all(times(folded(machine), plan), times(machine, schedule(machine, collective, axes, algorithm)))


@pytest.mark.parametrize("chips", [2, 3, 4, 8])
@pytest.mark.parametrize(("collective", "algorithm"), ROUTED)
def test_folded_collective_has_the_times_of_the_whole_on_a_switch(collective, algorithm, chips):
    machine = switch(chips)
    if algorithm == "halving_doubling" and chips == 3:
        return
    whole = schedule(machine, collective, ("g",), algorithm)
    if collective in (*ROOTED, "permute") or algorithm == "tree":  # a root, or a first and a last
        with pytest.raises(NotFoldableError):
            fold(whole, folded(machine))
        return
    one = folded(machine)
    assert_stands_for_all(times(one, schedule(one, collective, ("g",), algorithm)), times(machine, whole))


@pytest.mark.parametrize("size", [1e3, 1e6, 1e8])
@pytest.mark.parametrize(("collective", "kernel"), [(c, name) for c, kernels in ON_NCCL.items() for name in kernels])
def test_folded_collective_has_the_times_of_the_whole_as_nccl_runs_it(collective, kernel, size):
    machine = topology.build(*load.machine("dgx_h100", []))
    plans = [machine, folded(machine)]
    if kernel == "nvls_tree":
        pytest.skip("over several boxes, which are not alike")
    if kernel.startswith("tree") or collective in ROOTED:  # chains with two ends, or a root
        with pytest.raises(NotFoldableError):
            schedule(plans[1], collective, ("g",), kernel, size)
        return
    full, one = (times(each, schedule(each, collective, ("g",), kernel, size), size) for each in plans)
    assert_stands_for_all(one, full)


@pytest.mark.parametrize("name", ["mi300x", "dgx1_v100", "a100_hybrid_cube_mesh"])
@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce"])
def test_rings_on_links_between_chips_fold(name, collective):
    machine = topology.build(*load.machine(name, []))
    one = folded(machine)
    full = times(machine, schedule(machine, collective, ("g",), "ring", 1e6))
    assert_stands_for_all(times(one, schedule(one, collective, ("g",), "ring", 1e6)), full)
    with pytest.raises(NotFoldableError):  # messages that leave the rings
        schedule(one, "all_reduce", ("g",), "tree", 1e6)


@pytest.mark.parametrize("form", ["one_way", "bidirectional_throughput", "bidirectional_latency"])
@pytest.mark.parametrize("loop", [all_gather_loop, reduce_scatter_loop])
def test_folded_loop_has_the_times_of_the_whole(loop, form):
    machine = torus(4, 3, 2)
    for axis in "xyz":
        one = folded(machine)
        assert_stands_for_all(times(one, loop(one, axis, form)), times(machine, loop(machine, axis, form)))


@pytest.mark.parametrize("settings", [[], ["layout.overlap=none"], ["layout.attention=heads"], ["layout.block=serial"]])
def test_folded_layers_have_the_times_of_the_whole(settings):
    scenario = load.scenario("palm540b_decode_ws2d_b512", ["engine.layers=2", *settings])
    machine = topology.build(scenario.topology, scenario.stack)
    one, full = (simulate(lower(scenario, m).program) for m in (folded(machine), machine))
    assert_stands_for_all(one, full)
    assert lower(scenario, folded(machine)).weights_bytes == lower(scenario, machine).weights_bytes


def test_a_mesh_does_not_fold():
    with pytest.raises(NotFoldableError, match="axis x, y closes no ring"):
        folded(torus(4, 4, wrap=False))


def test_a_schedule_in_which_one_chip_does_more_does_not_fold():
    machine = torus(4, 4)
    plan = schedule(machine, "broadcast", ("x", "y"))
    with pytest.raises(NotFoldableError, match="different numbers of messages"):
        fold(plan, folded(machine))


def ring_of_three(order, dst=None, deps=None):
    """Chip c sends to c + 1 and to c + 2 (or to `dst`) on a switch of three; the sends in `order` of (chip, which)."""
    machine, builder = switch(3), ScheduleBuilder("all_gather", ("g",), 1)
    made = {}
    for chip, which in order:
        to = (chip + 1 + which) % 3 if dst is None else dst
        before, sent = made.get((deps or {}).get((chip, which)), [-1]), np.array([-1])
        for port in (2 * chip, 2 * to + 1):
            sent = builder.add(
                Hop(*(np.array([value], dtype=np.int32) for value in (chip, to, port))),
                Payload(1 / 3, sent[0] < 0),
                which,
                follows=sent,
                deps=[np.array(before)] if sent[0] < 0 else [],
            )
        made[chip, which] = sent
    return builder.build(), folded(machine)


BY_STEP = [(chip, which) for which in range(2) for chip in range(3)]
BY_CHIP = sorted(BY_STEP)


def test_sends_that_reach_every_port_in_one_order_fold():
    assert len(fold(*ring_of_three(BY_STEP))) == 4  # two messages over two ports each


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        # Port 1 gets the first send of chip 0, then the second of chip 2; port 2 the second of chip 0 before the first
        # of chip 1. Where both are ready at once, that decides.
        (ring_of_three(BY_CHIP), "links carry messages in different orders"),
        (ring_of_three(BY_STEP, dst=0), "chips receive different messages"),
        (ring_of_three([*BY_STEP, (0, 3), (1, 3), (2, 4)]), "chips do different things"),
        (ring_of_three([*BY_STEP, (0, 3)]), "chips send different numbers of messages"),
        (
            ring_of_three([*BY_STEP, (0, 3), (1, 3), (2, 3)], deps={(0, 3): (0, 0), (1, 3): (1, 0), (2, 3): (2, 1)}),
            "chips wait for different messages",
        ),
    ],
)
def test_why_a_schedule_does_not_fold(plan, why):
    with pytest.raises(NotFoldableError, match=why):
        fold(*plan)


TP, PIPELINE = "llama3_70b_tp8_ladder", "energonai_pipeline"
POOL = {
    "offload_every": 2,
    "to": "host",
    "prefetch_layers": 1,
    "link": {"name": "link", "bandwidth": "9 GB/s", "latency": "0 s"},
}


CONTROLLER = {"kind": "multi", "rpc": "3 us", "poll": "7 us", "result_poll": "11 us"}
AXES = "topology.axes={x: {size: 4, wrap: true}, y: {size: 2, wrap: true}, z: {size: 8, wrap: true}}"


def split(mesh, *settings):
    return load.scenario("palm540b_decode_ws2d", [AXES, f"mesh={mesh}", "engine.layers=2", *settings])


PROGRAMS = {
    "tensor parallel": lambda: load.scenario(TP, ["engine.layers=3"]),
    "launched by the host": lambda: load.scenario(TP, ["engine.layers=3", "layout.graph_capture=false"]),
    "16 of 72": lambda: load.scenario(TP, ["engine.layers=3", "topology=gb200_nvl72", "layout.mesh.tensor=16"]),
    "summed in the switch": lambda: load.scenario(TP, ["engine.layers=3", "collectives={all_reduce: nvls}"]),
    "torus": lambda: load.scenario("palm540b_decode_ws2d", ["engine.layers=2"]),
    "torus with split axes": lambda: split("{x: x, y: y, out: {of: z, size: 2}, in: {of: z, size: 4}}"),
    "torus with split axes, looped": lambda: split(
        "{x: {of: x, size: 2}, y: y, out: {of: z, size: 4}, in: {of: z, size: 2}, last: {of: x, size: 2}}",
        "layout.overlap=collective_matmul",
    ),
    "torus with split axes, weights in a loop": lambda: split(
        "{x: x, y: y, out: {of: z, size: 2}, in: {of: z, size: 4}}",
        "layout={ffn: weight_gathered_xyz, overlap: collective_matmul}",
    ),
    "stages": lambda: load.scenario(PIPELINE, ["layout.pipeline.requests=3", "model.layers=4"]),
    "stages with a memory pool": lambda: scenario(
        layers=4, stages=[2, 2], schedule="blocking", tensor=2, phase="decode", more={"memory_pool": POOL}
    ),
    "stages that poll": lambda: scenario(
        stages=[2, 2, 2], schedule="non_blocking", requests=3, tensor=2, controller=CONTROLLER
    ),
    "stages with queues": lambda: scenario(
        stages=[3, 3], schedule="bounded_queue", requests=4, tensor=4, queue={"capacity": 1, "retry": "9 us"}
    ),
    "slabs": lambda: scenario(
        pipeline=4, torus=(4, 2, 2), layout="weight_stationary_2d", schedule="blocking", requests=2, phase="decode"
    ),
}


@pytest.mark.parametrize("made", PROGRAMS.values(), ids=PROGRAMS)
def test_every_task_of_the_whole_is_one_of_the_few(made):
    """The condition for which folding is exact, on the program of all chips, task by task."""
    found = made()
    few, lowered, _ = lower_pass(found)
    assert few.is_folded
    assert differences(lower(found, few.unfold()).program, lowered.program, few) == []


def sends(trace, chip):
    """What a chip sends: everything about each message."""
    program = trace.program
    own = np.flatnonzero((program.chip == chip) & (program.kind == Kind.SEND))
    names = ("peer", "bytes", "collective", "layer", "op", "busy_ps", "flight_ps")
    columns = [getattr(program, name)[own].tolist() for name in names]
    times = [trace.times[name][own].tolist() for name in ("ready", "start", "free", "end")]
    held = [program.resources[program.resource[task]] for task in own.tolist()]
    return list(zip(*columns, *times, held, strict=True))


@pytest.mark.parametrize("made", PROGRAMS.values(), ids=PROGRAMS)
def test_the_trace_of_all_chips_is_that_of_the_full_run(made):
    found = made()
    off = found.model_copy(update={"engine": found.engine.model_copy(update={"shortcuts": "layers"})})
    mine, full = (run(each).passes[0] for each in (found, off))
    whole, machine = mine.whole()
    assert machine.chips == full.topology.chips
    assert whole.times.tobytes() == full.trace.times.tobytes()
    assert whole.program.resources == full.trace.program.resources
    some, _ = mine.of_chips([1, machine.chips - 1])
    for chip in (1, machine.chips - 1):
        assert sends(some, chip) == sends(full.trace, chip)


def test_a_program_of_chips_that_differ_is_not_covered():
    """The check above finds a task of one chip that takes longer, waits for another, holds another's port."""
    found = load.scenario(TP, ["engine.layers=1"])
    few, lowered, _ = lower_pass(found)
    whole = lower(found, few.unfold()).program
    busy_ps = whole.busy_ps.copy()
    busy_ps[5] += 1
    assert differences(replace(whole, busy_ps=busy_ps), lowered.program, few) == ["busy_ps"]
    deps = whole.deps.copy()
    deps[-1] = 0
    assert "waits for" in differences(replace(whole, deps=deps), lowered.program, few)[0]
    resource = whole.resource.copy()
    resource[np.flatnonzero(resource == whole.resources.index("gpu0:ingress"))[-1]] = whole.resources.index(
        "gpu3:ingress"
    )
    assert "who holds gpu3:ingress" in differences(replace(whole, resource=resource), lowered.program, few)


def test_a_twisted_torus_folds_only_where_it_is_alike():
    machine = twisted()
    assert machine.is_vertex_transitive
    schedule(folded(machine), "all_gather", ("x", "y", "z"))
    with pytest.raises(NotFoldableError):  # the twist leaves the group, so its chips are lines
        schedule(folded(machine), "all_gather", ("x", "y"))


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all"])
def test_in_which_order_chips_are_listed_is_no_matter(collective):
    """Sends chip after chip, or those of some chips ahead of the others, fold to what sends kind after kind do."""
    machine = torus(4, 2)
    plan = schedule(machine, collective, ("x", "y"))
    usual = fold(plan, folded(machine))
    ahead = np.arange(len(plan)) - 100 * (plan.src % 3 == 1)
    for order in (np.argsort(plan.src, kind="stable"), np.argsort(ahead, kind="stable")):
        found = fold(reordered(plan, order), folded(machine))
        for name in ("link", "share", "step", "dep_counts", "deps", "origin", "target"):
            assert (getattr(found, name) == getattr(usual, name)).all()


@pytest.mark.slow
@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce"])
def test_one_chip_of_a_ring_of_thousands_plans_for_all(collective):
    """All 4,096 chips would send 33 million messages, several gigabytes."""
    ring = torus(4096)
    tracemalloc.start()
    try:
        time_s = bench.simulate_time_s(ring, CollectiveSpec(collective, ("x",), 2.0**30))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    passes = 2 if collective == "all_reduce" else 1
    assert time_s == pytest.approx(passes * (4095 / 4096 * 2**30 / (2 * 45e9) + 2048 * 1e-6), rel=0.01)
