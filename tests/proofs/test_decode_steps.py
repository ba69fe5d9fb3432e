"""Steps of a generation that follow from one that was simulated are, to the picosecond, what simulating each gives."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields, replace
from support.programs import interfering, program, programs
from support.selection import release_if

from sim.engine import simulate
from sim.program import Program
from sim.program.trace import Trace
from sim.shortcuts.task_order import TaskOrder
from sim.simulate.decode_steps import simulate_steps, with_cache
from sim.simulate.forward_pass import lower_pass, simulate_pass
from sim.simulate.run import run
from sim.specs import Scenario, load

TORUS, SWITCH = "palm540b_decode_ws2d", "llama3_70b_tp8_ladder"
DECODE = "workload={phase: decode, batch: 16, context: 100, generate: 8, weights: int8}"
QUIET = "topology=a100_pcie_bridges"
CASES = {
    "folded": (TORUS, []),
    "heads": (TORUS, ["layout.attention=heads", "layout.overlap=none"]),
    "all chips": (TORUS, ["engine.shortcuts=layers"]),
    "multi-head": (TORUS, ["model.kv_heads=48", "layout.ffn=weight_gathered_xy"]),
    "straggler": (TORUS, ["perturb={stragglers: [{chips: [5], factor: 1.5}]}"]),
    "jitter": (TORUS, ["perturb={jitter: {ops: 5 %, links: 5 %}, seed: 3}"]),
    "switch": (SWITCH, [QUIET]),
    "some chips": (SWITCH, ["topology=dgx_h100", "layout.mesh.tensor=4", "perturb={failed_links: ['gpu7:egress']}"]),
    "micro-batches": (SWITCH, [QUIET, "layout.residual=standard", "layout.overlap=micro_batches"]),
    "interference": (SWITCH, []),
    "host launches": (SWITCH, ["layout.graph_capture=false", "stack.launch=4 us"]),
    "host launches on a torus": (TORUS, ["layout.graph_capture=false", "stack.launch=4 us"]),
    "host launches, straggler": (
        SWITCH,
        [
            "layout.graph_capture=false",
            "stack.launch=9 us",
            "perturb={stragglers: [{chips: [5], factor: 1.5}]}",
        ],
    ),
    "three kernels": ("energonai_gpt3_tp2", ["padding=null", "workload.weights=fp16", "topology=dgx_a100"]),
}


def decoding(case: str, *lengths: int) -> list[Scenario]:
    """One step per length of the cache."""
    name, chosen = CASES[case]
    more = ["engine.layers=9"] if name == TORUS else ["engine.layers=9", "sweep=null", "figure=null"]
    scenario = load.scenario(name, [*more, DECODE, *chosen])
    return [
        scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"context": n, "generate": 1})})
        for n in lengths
    ]


def assert_equal(mine: Program, full: Program) -> None:
    for field in fields(Program):
        one, other = getattr(mine, field.name), getattr(full, field.name)
        if isinstance(other, np.ndarray):
            assert one.dtype == other.dtype, field.name
            assert one.tobytes() == other.tobytes(), field.name
        else:
            assert one == other, field.name


@pytest.mark.parametrize("case", [case for case in CASES if case != "jitter"])
def test_a_program_with_another_cache_is_what_lowering_that_step_gives(case):
    short, long, longer = decoding(case, 100, 2003, 60_000)
    found = simulate_pass(short)
    keep = found.lowered.program.skipped[0].kept if found.lowered.program.skipped else None
    for step in (short, long, longer):
        changed = with_cache(found, step.workload.mean_cache_length)
        assert_equal(changed, lower_pass(step, keep)[1].program)
        assert (changed.busy_ps == found.lowered.program.busy_ps).all() == (step is short)


@pytest.mark.parametrize("case", release_if(CASES, "jitter", "micro-batches", "host launches, straggler", "all chips"))
def test_every_step_takes_the_time_it_takes_by_itself(case):
    lengths = (*range(100, 140, 7), 1000, 3000, 3001, 9000, 40_000, 40_001, 300_000)
    steps = decoding(case, *lengths)
    found = simulate_steps(steps)
    assert found.times_s == tuple(simulate_pass(step).step_s for step in steps)
    assert found.latency_s == pytest.approx(sum(found.times_s), rel=1e-15)


@pytest.mark.parametrize(
    ("case", "simulated"),
    [("folded", 1), ("all chips", 1), ("switch", 1), ("micro-batches", 1)],
)
def test_steps_of_chips_that_are_alike_follow_from_the_first(case, simulated):
    steps = decoding(case, *range(100, 140))
    one = simulate_pass(steps[0])
    found = simulate_steps(steps)
    assert found.tasks == simulated * len(one.trace.program)
    said = f"simulated {simulated} of 40 steps (the others run the same tasks in the same order with longer caches)"
    assert found.shortcuts == (said,)


def test_without_periodicity_every_step_is_simulated():
    steps = [
        step.model_copy(update={"engine": step.engine.model_copy(update={"shortcuts": "chips"})})
        for step in decoding("folded", 100, 101, 102)
    ]
    found = simulate_steps(steps)
    assert found.tasks == 3 * len(simulate_pass(steps[0]).trace.program)
    assert found.shortcuts == ()


def test_with_jitter_every_step_is_simulated_with_draws_of_its_own():
    steps = decoding("jitter", 100, 101, 102)
    found = simulate_steps(steps)
    assert found.tasks == 3 * len(simulate_pass(steps[0]).trace.program)
    assert len(set(found.times_s)) == 3


def test_progress_counts_steps():
    seen: list[tuple[int, int]] = []
    simulate_steps(decoding("folded", *range(100, 140)), lambda done, total: seen.append((done, total)))
    assert seen == [(0, 40), (17, 40), (40, 40)]  # one simulated and 16 that follow it, then the rest


def test_the_report_of_a_generation_says_how_many_steps_were_simulated():
    generate = "workload={phase: generate, batch: 64, prompt: 128, generate: 2048, weights: int8}"
    report = run(load.scenario(TORUS, [generate, "engine.layers=9"])).report
    assert not any("steps" in said for said in report.phases[0].shortcuts)
    assert report.phases[1].shortcuts[2].startswith("simulated 1 of 2048 steps")


# --- times from an order ---------------------------------------------------------------------------------------------


def under(p: Program, busy_ps: np.ndarray) -> Trace:
    return simulate(replace(p, busy_ps=busy_ps))


def served(trace: Trace) -> list[list[int]]:
    """Tasks of each resource in the order in which it served them."""
    p = trace.program
    lines = [np.flatnonzero(p.resource == r) for r in range(len(p.resources))]
    times = trace.times
    return [sorted(line.tolist(), key=lambda t: (times["start"][t], times["ready"][t], t)) for line in lines]


def test_a_task_that_takes_longer_moves_those_behind_it():
    # r0: task 0, then 1. Task 2 on r1 waits for task 1. With 4 more for task 0: 1 starts at 14, 2 at 17.
    p = program([(10, 0, [0], []), (3, 0, [0], []), (1, 2, [1], [1])])
    order = TaskOrder.from_trace(simulate(p))
    assert order
    times, kept = order.retime(np.array([[10, 14], [3, 3], [1, 1]]))
    assert kept.all()
    assert times[:, 2].tolist() == [[13, 17], [13, 17], [14, 18], [16, 20]]


def test_an_order_that_changes_is_noticed():
    # Tasks 2 and 3 queue at r2 when 0 and 1 end, at 10 and 11. From 12 for task 0 on it is 3 that goes first.
    p = program([(10, 0, [0], []), (11, 0, [1], []), (5, 0, [2], [0]), (5, 0, [2], [1])])
    order = TaskOrder.from_trace(simulate(p))
    assert order
    _, kept = order.retime(np.array([[9, 10, 11, 12], [11] * 4, [5] * 4, [5] * 4]))
    assert kept.tolist() == [True, True, True, False]


@given(st.data())
def test_an_order_is_kept_exactly_if_the_engine_keeps_it_and_then_has_its_times(data):
    p = data.draw(st.one_of(programs(longest=20), interfering()))
    first = simulate(p)
    order = TaskOrder.from_trace(first)
    if order is None:
        assert p.poll_ps.any()
        return
    changes = data.draw(st.lists(st.integers(-2, 3), min_size=len(p), max_size=len(p)))
    columns = np.stack([p.busy_ps, np.maximum(p.busy_ps + changes, 0)], axis=1)
    times, kept = order.retime(columns)
    for column in range(2):
        trace = under(p, columns[:, column])
        if kept[column]:
            for i, name in enumerate(("ready", "start", "free", "end")):
                assert times[i, :, column].tolist() == trace.times[name].tolist()
        later = np.flatnonzero(p.follows >= 0)
        lasts = ((columns[:, column] + p.flight_ps > 0) | (p.resource < 0)).all()
        if lasts and (p.flight_ps[p.follows[later]] > 0).all():
            if not p.slow_ppm.any():
                assert kept[column] == (served(trace) == served(first))
            elif column == 0:
                assert kept[column]


def slowed(busy: tuple[int, ...], twice: bool) -> Program:
    """Task 3 works on r0 once task 2 is done. From the end of task 0 until that of task 1, if later, r0 yields half as
    much again as the 2/5 that are taken, and runs at 2/5.

    busy: of tasks 0 to 3.
    twice: r0 is slowed again from the end of task 1, and both until task 3 is done.
    """
    rows = [(ps, 0, [held], []) for ps, held in zip(busy, (1, 2, 3, 0), strict=True)]
    rows[3] = (busy[3], 0, [0], [2])
    waits = ([0], [1], [3], [3]) if twice else ([0], [1, 4])
    p = program([*rows, *((0, 0, [], deps) for deps in waits)])
    taken = [400_000, 200_000, -400_000, -200_000] if twice else [400_000, -400_000]
    slows, ppm = np.full(len(p), -1, dtype=np.int32), np.zeros(len(p), dtype=np.int32)
    slows[4:], ppm[4:] = 0, taken
    yields = np.full(len(p), 1_500_000, dtype=np.int32)
    return replace(p, slows=slows, slow_ppm=ppm, yields_ppm=yields)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("busy", [(1, 2, 3, 4), (1, 4, 3, 4), (1, 9, 3, 4), (4, 5, 3, 4), (4, 9, 3, 4), (9, 9, 3, 4)])
def test_times_under_changes_of_a_rate_are_the_engines_or_the_order_is_not_kept(busy, twice):
    """The rate changes before, during and after task 3, in whatever order the other tasks make of it."""
    order = TaskOrder.from_trace(simulate(slowed(busy, twice)))
    assert order
    others = list(itertools.product(range(1, 11), range(1, 11), (1, 3, 5), (1, 4, 5)))
    idle = [0] * (len(order.program) - 4)
    times, kept = order.retime(np.array([[*other, *idle] for other in others]).T)
    for column, other in enumerate(others):
        if kept[column]:
            assert times[2, :, column].tolist() == simulate(slowed(other, twice)).times["free"].tolist(), other
    assert kept[others.index(busy)]
    assert 0 < kept.sum() < len(others)
