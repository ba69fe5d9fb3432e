"""Folding and periodicity are exact: every figure of the report is that of the full run, over random scenarios."""

import math
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import fields
from support.reports import FULL, both

from sim.engine import simulate
from sim.errors import InputError, LayoutError
from sim.lowering.lower import lower
from sim.program import Ints, Kind, Occupancy, Program, ProgramBuilder, Waits
from sim.program.trace import Trace
from sim.report import lanes
from sim.report import spans as sp
from sim.report.metrics import Measures, measure
from sim.report.waiting import measure_waiting
from sim.results import folder as outputs
from sim.shortcuts import periodic
from sim.simulate.forward_pass import lower_pass, simulate_pass
from sim.simulate.run import run
from sim.specs import load
from sim.units import PS_PER_S


@st.composite
def on_a_torus(draw: st.DrawFn) -> list[str]:
    sizes = draw(st.tuples(*(st.sampled_from([1, 2, 4]),) * 3).filter(lambda sizes: 1 < math.prod(sizes) <= 64))
    wraps = draw(st.tuples(*(st.sampled_from(["true", "true", "true", "true", "false"]),) * 3))
    layout = draw(st.sampled_from(["stationary_1d", "stationary_2d", "gathered_x", "gathered_xy", "gathered_xyz"]))
    algorithm = draw(st.sampled_from(["multi_axis", "bidirectional_ring", "ring", "line"]))
    phase = draw(
        st.sampled_from(
            ["{phase: decode, batch: 64, context: 100, generate: 8, weights: int8}"] * 2
            + [
                "{phase: prefill, batch: 64, prompt: 128, weights: bf16}",
                "{phase: generate, batch: 64, prompt: 128, generate: 3, weights: bf16}",
            ]
        )
    )
    return [
        *(
            f"topology.axes.{axis}={{size: {size}, wrap: {wrap}}}"
            for axis, size, wrap in zip("xyz", sizes, wraps, strict=True)
        ),
        f"layout.ffn=weight_{layout}",
        f"layout.attention={draw(st.sampled_from(['heads', 'batch']))}",
        f"layout.overlap={draw(st.sampled_from(['none', 'collective_matmul']))}",
        f"layout.block={draw(st.sampled_from(['serial', 'parallel']))}",
        f"collectives={{all_gather: {algorithm}, reduce_scatter: {algorithm}}}",
        f"workload={phase}",
        f"engine.layers={draw(st.sampled_from([3, 9, 20]))}",
    ]


@given(on_a_torus())
def test_folded_and_periodic_is_the_full_run_on_a_torus(chosen: list[str]):
    try:
        mine, full = both("palm540b_decode_ws2d", chosen)
    except LayoutError:
        return
    assert mine == full


@pytest.mark.parametrize("residual", ["standard", "parallel", "ladder", "desync2", "desync4", "no_communication"])
@pytest.mark.parametrize("more", [[], ["layout.overlap=chunked_matmul"], ["layout.overlap=micro_batches"]])
def test_folded_and_periodic_is_the_full_run_on_a_switch(residual, more):
    chosen = [f"layout.residual={residual}", "engine.layers=24", "sweep=null", "figure=null", *more]
    try:
        mine, full = both("llama3_70b_tp8_ladder", chosen)
    except InputError:
        return
    assert mine == full


@pytest.mark.parametrize("hybrid", [4, 10, 20])
def test_layers_of_two_kinds_repeat_each(hybrid):
    chosen = ["layout.residual=hybrid", f"layout.hybrid={{ladder_layers: {hybrid}}}", "engine.layers=24"]
    mine, full = both("llama3_70b_tp8_ladder", chosen)
    assert mine == full


def test_what_is_left_out_comes_back_as_it_was():
    scenario = load.scenario("palm540b_decode_ws2d", ["engine.layers=30"])
    topology, _, _ = lower_pass(scenario)
    full, part = lower(scenario, topology).program, lower(scenario, topology, keep=3).program
    assert len(part) < len(full) / 4
    for field in fields(Program):
        mine, other = getattr(part.unroll(), field.name), getattr(full, field.name)
        assert (
            np.array_equal(mine, other) and mine.dtype == other.dtype
            if isinstance(other, np.ndarray)
            else mine == other
        )


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ([], ["simulated 1 representative chip of 64", "simulated 6 of 118 layers"]),
        ([*FULL, "engine.layers=7"], ["engine.shortcuts is off", "engine.shortcuts is off"]),
        (["topology.axes.z.wrap=false", "layout.overlap=none"], ["axis z closes no ring", "6 of 118 layers"]),
        (["engine.layers=2"], ["simulated 1 representative chip", "too few layers"]),
    ],
)
def test_the_report_says_what_was_used_or_why_not(chosen, said):
    found = simulate_pass(load.scenario("palm540b_decode_ws2d", chosen)).shortcuts
    assert all(text in shortcut for text, shortcut in zip(said, found, strict=True)), found


def chain(copies: int, keep: int | None, busy_ps: int = 5, root: bool = False) -> Program:
    """Blocks of two tasks on r0 and r1; the second of each takes the longer. Without end: r1 falls ever further behind.

    root: the second waits for nothing, so all of them are ready at 0.
    """
    builder = ProgramBuilder(["r0", "r1"])
    before = np.array([-1])
    for layer in range(2):
        builder.layer = layer
        start = len(builder)
        before = builder.add("a", Kind.COMPUTE, 0, Occupancy(0, busy_ps=3), Waits([before]))
        builder.add("b", Kind.COMPUTE, 0, Occupancy(1, busy_ps=busy_ps), Waits([] if root else [before]))
    before = before + builder.repeat(start, copies - 2, keep=keep)
    builder.add("end", Kind.COMPUTE, 0, Occupancy(0, busy_ps=1), Waits([before]))
    return builder.build()


def test_a_backlog_that_grows_never_settles():
    """r1 takes 5 of every 3 ps: copy c of b starts 5 after the one before, copy c of a 3, so none is another, later."""
    assert periodic.detect_periods(simulate(chain(40, keep=10))) is None


def test_copies_that_are_ready_from_the_beginning_do_not_settle():
    assert periodic.detect_periods(simulate(chain(40, keep=10, root=True))) is None


def test_a_pipeline_of_two_resources_settles():
    """r1 takes 2 of every 3 ps, while r0 goes on with the next copy: period 3, and the last b ends at 122."""
    part, full = simulate(chain(40, keep=6, busy_ps=2)), simulate(chain(40, keep=None, busy_ps=2))
    found = periodic.detect_periods(part)
    assert found
    assert found[0][1] == 3
    assert periodic.makespan_ps(part, found) == full.makespan_ps == 122
    assert (periodic.unroll(part, found).times == full.times).all()


BlockRow = tuple[int, int, int, list[int], bool]
"""Of a task: (busy, flight, resource, how far back dependencies reach, whether it follows the one before instead)."""


@st.composite
def blocks(draw: st.DrawFn) -> list[BlockRow]:
    size = draw(st.integers(1, 5))
    return [
        (
            draw(st.integers(0, 6)),
            draw(st.integers(0, 6)),
            draw(st.integers(-1, 2)),
            draw(st.lists(st.integers(1, i + size), min_size=1, max_size=3, unique=True)),
            i > 0 and draw(st.booleans()),
        )
        for i in range(size)
    ]


def repeated(rows: list[BlockRow], copies: int, keep: int | None) -> Program:
    builder = ProgramBuilder(["r0", "r1", "r2"])

    def add(row: BlockRow) -> None:
        busy, flight, held, back, follows = row
        here = len(builder)
        builder.add(
            "t",
            Kind.COMPUTE,
            0,
            Occupancy(held, busy_ps=busy, flight_ps=flight),
            Waits(
                [] if follows else [np.array([here - d if here >= d else -1]) for d in back],
                follows=here - 1 if follows else -1,
            ),
        )

    for _ in range(3):
        start = len(builder)
        for row in rows:
            add(row)
    builder.repeat(start, copies, keep=keep)
    busy, flight, held, back, _ = rows[-1]
    add((busy, flight, held, [min(d, len(rows)) for d in back], False))  # it waits for the last copy only
    return builder.build()


@given(blocks())
def test_whatever_settles_is_the_full_run(rows):
    """Random blocks, in which copies overlap, queue behind each other, tie or drift apart."""
    part, full = simulate(repeated(rows, 40, keep=12)), simulate(repeated(rows, 40, keep=None))
    if found := periodic.detect_periods(part):
        assert (periodic.unroll(part, found).times == full.times).all()
        assert periodic.makespan_ps(part, found) == full.makespan_ps
        assert periodic.count_tasks(part.program) == len(full.program)
        several = [covered(each) for each in periodic.extrapolate(part, found)]
        assert (periodic.sum_over_copies(part.program, several) == covered(full)).all()


def covered(trace: Trace) -> Ints:
    """Tasks, the sum of their times, the time covered by those that are busy and by those that are there, the end."""
    busy, times = sp.compute_spans(trace), trace.times
    there = sp.Spans(busy.task, busy.lane, times["ready"], times["end"])
    covers = [int(sp.lengths(sp.union(spans), 1)[0]) for spans in (busy, there)]
    return np.array([len(busy), (times["end"] - times["ready"]).sum(), *covers, times["end"].max()])


LATE = "perturb={stragglers: [{chips: [1], factor: 1.5}]}"


@given(on_a_torus(), st.sampled_from(["engine.shortcuts=layers", "engine.shortcuts=auto", LATE]))
def test_figures_without_the_trace_of_all_layers_are_those_with_it(chosen: list[str], more: str):
    """Of every chip and link, not only of the critical and busiest ones that the report names."""
    try:
        phase = load.scenario("palm540b_decode_ws2d", [*chosen, more]).phases[-1]
        found = simulate_pass(phase)
    except (LayoutError, InputError):
        return
    trace, chips = periodic.unroll(found.trace, found.periods), found.topology.chips
    mine, full = measure(found.trace, found.topology, periods=found.periods), measure(trace, found.topology)
    for field in fields(Measures):
        assert np.array_equal(getattr(mine, field.name), getattr(full, field.name)), field.name
    assert measure_waiting(found.trace, chips, found.periods) == measure_waiting(trace, chips)


@pytest.mark.parametrize(
    ("name", "chosen", "no_layers"),
    [
        ("palm540b_decode_ws2d", ["engine.shortcuts=layers", "engine.layers=20"], "off"),
        ("palm540b_decode_ws2d", ["engine.layers=20"], "chips"),
        ("llama3_70b_tp8_ladder", ["layout.residual=hybrid", "layout.hybrid={ladder_layers: 20}"], "chips"),
    ],
)
def test_a_run_holds_the_layers_simulated_until_all_are_asked_for(tmp_path, name, chosen, no_layers):
    done = run(load.scenario(name, chosen))
    (part,) = done.passes
    assert len(part.part.program) < len(lower(part.scenario, part.topology).program) == done.report.tasks
    assert "trace" not in vars(part)
    outputs.write(done, tmp_path, figure_form=None)
    again = outputs.read(tmp_path)
    assert again.report == done.report
    assert len(np.load(tmp_path / "trace.npz")["ready"]) == len(part.part.program) == again.tasks
    full = run(load.scenario(name, [*chosen, f"engine.shortcuts={no_layers}"])).passes[0].trace
    for each in (part, again.passes[0]):
        assert each.trace.times.tobytes() == full.times.tobytes()


OF_SOME = {
    "torus": ("palm540b_decode_ws2d", ["engine.shortcuts=layers"]),
    "torus with a failed link": (
        "palm540b_decode_ws2d",
        ["engine.shortcuts=layers", "perturb={failed_links: ['5:x+']}", "layout.attention=batch"],
    ),
    "switch, folded": ("llama3_70b_tp8_standard", []),
    "boxes": ("deepseek_v3_decode_ep144", ["topology=hgx_h800_x2", "workload.batch=64", "layout.experts.replicas=0"]),
}
SMALL_TORUS = [f"topology.axes.{axis}={{size: 4, wrap: true}}" for axis in "xy"] + ["topology.axes.z.size=1"]


@pytest.mark.parametrize("case", OF_SOME)
def test_the_trace_of_some_chips_is_theirs_in_that_of_all(case):
    """With every message on their links."""
    shipped, chosen = OF_SOME[case]
    small = SMALL_TORUS if case.startswith("torus") else []
    (part,) = run(load.scenario(shipped, ["engine.layers=20", *small, *chosen])).passes
    chips = [2, 5]
    some, topology = part.of_chips(chips)
    assert "trace" not in vars(part)
    whole, _ = part.whole()
    theirs, among_all = (lanes.build_lanes(trace, topology, chips) for trace in (some, whole))
    for chip in chips:
        for lane, full in zip(theirs[chip], among_all[chip], strict=True):
            assert (lane.kind, lane.label, len(lane.spans)) == (full.kind, full.label, len(full.spans))
            for name in ("op", "layer", "chip", "peer", "bytes", "collective"):
                column = getattr(some.program, name)[lane.spans.task]
                assert (column == getattr(whole.program, name)[full.spans.task]).all()
            for spans, others in ((lane.spans, full.spans), (lane.exposed, full.exposed)):
                assert (spans.start == others.start).all()
                assert (spans.end == others.end).all()


SLOW = ["topology.chip.hbm_bandwidth=2 kB/s", "topology.link.bandwidth=1 kB/s"]


@pytest.mark.parametrize("more", [[], ["engine.shortcuts=layers", "engine.layers=5"], ["engine.shortcuts=chips"]])
def test_figures_of_a_step_that_takes_weeks_add_up(more):
    """Sums beyond 2**53 ps stay whole picoseconds: no chip has been idle for a negative time."""
    measures = _measures(load.scenario("palm540b_decode_ws2d", [*SLOW, *more]))
    parts = measures.compute_s + measures.exposed_communication_s + measures.idle_s
    assert measures.makespan_s > 2**53 / PS_PER_S
    assert (measures.idle_s >= 0).all()
    assert (measures.exposed_communication_s >= 0).all()
    np.testing.assert_allclose(parts, measures.makespan_s, rtol=4e-16 * 4)


def test_layers_left_out_that_take_the_step_past_the_clock_are_refused():
    """A few layers fit the clock's 106 days, all 118 do not."""
    slow = ["topology.chip.hbm_bandwidth=197 B/s"]
    assert simulate_pass(load.scenario("palm540b_decode_ws2d", [*slow, "engine.layers=6"])).makespan_ps > 0
    with pytest.raises(OverflowError):
        simulate_pass(load.scenario("palm540b_decode_ws2d", slow))


def test_a_slower_memory_never_makes_a_step_shorter_or_is_refused():
    times = []
    with suppress(OverflowError):
        for rate in (10**6, 10**5, 10**4, 3000, 1500, 1200, 1100, 1000, 300, 100):
            times.append(
                simulate_pass(load.scenario("palm540b_decode_ws2d", [f"topology.chip.hbm_bandwidth={rate} B/s"]))
            )
    ends = [found.makespan_ps for found in times]
    assert len(ends) > 2
    assert ends == sorted(ends)


def _measures(scenario):
    found = simulate_pass(scenario)
    return measure(found.trace, found.topology, found.lowered.batches, found.periods)


def test_copies_that_never_give_back_what_they_take_do_not_settle():
    """Each copy takes 1 % of r1, which only the last task holds: the more copies, the slower it is."""

    def program(keep: int | None) -> Program:
        builder = ProgramBuilder(["r0", "r1"])
        before = np.array([-1])
        for _ in range(2):
            start = len(builder)
            before = builder.add(
                "a", Kind.COMPUTE, 0, Occupancy(0, busy_ps=3, slows=1, slow_ppm=10_000), Waits([before])
            )
        before = before + builder.repeat(start, 38, layers=0, keep=keep)
        builder.add("end", Kind.COMPUTE, 0, Occupancy(1, busy_ps=1000), Waits([before]))
        return builder.build()

    part, full = simulate(program(6)), simulate(program(None))
    assert full.makespan_ps - 120 == -(-1000 * 100 // 60)  # 40 copies take 40 %
    assert periodic.detect_periods(part) is None
