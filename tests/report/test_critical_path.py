"""The critical path: by hand on a timeline that can be drawn on paper, then by its rules on random programs."""

import pytest
from hypothesis import given
from msgspec.structs import replace
from support.handmade import US, ring, two_chips
from support.programs import interfering, program, programs

from sim.engine import simulate
from sim.program import Program
from sim.report.critical_path import (
    COMPUTE,
    LATENCY,
    LAUNCH,
    QUEUEING,
    START,
    TRANSFER,
    attribute_step,
    find_critical_path,
)
from sim.report.what_if import run_what_ifs
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.run import run as simulate_run
from sim.specs import load


def test_of_one_layer_on_two_chips_the_path_is_what_the_drawing_says():
    # q_wi 0-10, then the reduce-scatter's launch 10-11, message 11-15, flight 15-16; attention ends at 20, but wo
    # waits for the all-reduce: launch 16-17, message 17-25, flight 25-26; wo of chip 1 26-32.
    trace, topology = two_chips()
    found = attribute_step(trace, topology)
    us = {share.name: share.time_ps / US for share in found.causes}
    assert us == {COMPUTE: 16, TRANSFER: 12, LATENCY: 2, LAUNCH: 2}
    ops = {share.name: share.time_ps / US for share in found.ops}
    assert ops == {"q_wi": 10, "reduce_scatter(x) q_wi": 6, "all_reduce(x) out": 10, "wo": 6}
    assert {share.name: share.time_ps / US for share in found.links} == {"x+": 14}
    # wo of chip 1 waits for what chip 0 sends, 10, which waits for what chip 1 sent, 6; and that for its q_wi, 10
    assert {share.name: share.time_ps / US for share in found.chips} == {"chip 0": 10, "chip 1": 10 + 6 + 6}
    assert {share.name: share.chips for share in found.ops}["wo"] == (1,)


def test_what_saves_most_is_found_by_simulating_it():
    # Without the all-reduce wo waits for attention, which ends at 20: 26 - 20 = 6 of 32 us are saved, not its 10.
    trace, topology = two_chips()
    results = {each.name: each.saved_s * 1e6 for each in run_what_ifs(trace, topology, attribute_step(trace, topology))}
    assert results["all_reduce(x) out free"] == pytest.approx(6)
    # q_wi free: the reduce-scatter begins at once, but its link carries the all-gather 1-5 and its message 5-9 flies
    # till 10: 6 us instead of 16.
    assert results["q_wi free"] == pytest.approx(6)
    assert "attention free" not in results


def test_waiting_for_a_link_is_an_edge_of_the_path():
    # Task 0 holds r0 for 10; task 2, ready at 1, waits for it and takes 4. The path is 0 then 2, not 1 then 2.
    trace = simulate(program([(10, 0, [0], []), (1, 0, [1], []), (4, 0, [0], [1])]))
    path = find_critical_path(trace)
    assert path.task.tolist() == [0, 2]
    assert path.holds_up.tolist() == [True, False]


def test_a_link_held_by_another_collective_is_queueing():
    # As above with q_wi free: the reduce-scatter's message waits for the all-gather's until 5.
    trace, topology = two_chips()
    free = trace.program.busy_ps.copy()
    free[trace.program.op == trace.program.op_names.index("q_wi")] = 0
    queued = attribute_step(simulate(replace(trace.program, busy_ps=free)), topology)
    assert {share.name: share.time_ps / US for share in queued.causes}[QUEUEING] == 4


def _holds(p: Program) -> None:
    trace = simulate(p)
    path = find_critical_path(trace)
    times = trace.times
    # Each segment begins where the one before ends, from 0 to the makespan, so the parts are the whole.
    if trace.makespan_ps:
        assert path.start[0] == 0
        assert path.end[-1] == trace.makespan_ps
    assert (path.start[1:] == path.end[:-1]).all()
    assert path.length.sum() == trace.makespan_ps
    for i, task in enumerate(path.task.tolist()):
        part, segment = ("free", "end") if path.flies[i] else ("start", "free"), (path.start[i], path.end[i])
        if segment != tuple(times[name][task] for name in part):  # the head of a message flies on, or its last byte
            head, last = times["ready"][p.followers()[task]], times["end"][task]
            assert path.flies[i]
            assert segment in ((times["start"][task], head), (last - p.flight_ps[task], last))
    found = attribute_step(trace, ring(2))
    assert sum(share.time_ps for share in found.causes) == trace.makespan_ps
    assert sum(share.time_ps for share in found.ops) == trace.makespan_ps


@given(programs())
def test_the_path_is_as_long_as_the_step(p: Program):
    _holds(p)


@given(interfering())
def test_the_path_is_as_long_as_the_step_where_tasks_slow_each_other(p: Program):
    _holds(p)


def test_a_trace_that_no_engine_made_is_refused():
    trace = simulate(program([(10, 0, [0], []), (4, 0, [0], [])]))
    trace.times["start"][1] = 12
    trace.times["free"][1] = trace.times["end"][1] = 16
    with pytest.raises(ValueError, match="waited for a resource that nothing held"):
        find_critical_path(trace)


def test_what_software_takes_to_start_a_message_is_no_latency_of_the_link():
    """A ring of 4 on the stack of TPU v4: every hop of the path flies 1 us on the wire and 3.245 us for its start.

    Started at once, and without latency, the step is shorter by just that, as nothing else takes the same time.
    """
    scenario = load.scenario("palm540b_decode_ws2d", ["engine.layers=2"])
    part = simulate_pass(scenario)
    own = attribute_step(part.trace, part.topology)
    causes = {share.name: share for share in own.causes}
    assert causes[START].time_ps / causes[LATENCY].time_ps == pytest.approx(3.245, rel=1e-6)
    assert causes[START].segments == causes[LATENCY].segments
    free = {found.name: found for found in run_what_ifs(part.trace, part.topology, own)}
    for name, cause in (("messages started at once", START), ("no link latency", LATENCY)):
        assert free[name].saved_s == pytest.approx(causes[cause].time_ps / 1e12, rel=1e-6)


def test_the_path_of_a_straggler_and_of_a_stage_names_them():
    perturb = "perturb={stragglers: [{chips: [5], factor: 1.5}]}"
    slow = simulate_run(load.scenario("palm540b_decode_ws2d", ["engine.layers=1", perturb])).passes[0].attribute_step()
    assert slow.chips[0].name == "chip 5, straggler"
    stages = simulate_run(load.scenario("energonai_pipeline_queue", ["layout.pipeline.requests=2"])).passes[0]
    names = {share.name for share in stages.attribute_step().chips}
    assert names == {f"chip {2 * stage}, stage {stage} rank 0" for stage in range(4)}
    for shares in (slow, stages.attribute_step()):
        assert sum(share.time_ps for share in shares.chips) == shares.step_ps
        assert {chip for share in shares.ops for chip in share.chips} == {share.chips[0] for share in shares.chips}
