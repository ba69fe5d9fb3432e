"""Several jobs on one machine: apart they are as alone, on one link they share its time."""

from __future__ import annotations

import numpy as np
import pytest

from sim import topology as machines
from sim.collectives import schedule
from sim.collectives.emit import CollectiveCall, emit
from sim.engine import simulate
from sim.errors import InputError
from sim.program import Program, ProgramBuilder
from sim.program.together import join_programs
from sim.simulate.run import run
from sim.simulate.together import Job, TogetherRun, parse_chips, run_together
from sim.specs import Scenario, load
from sim.studies.bench.collective import resources
from sim.topology.graph import Topology
from sim.topology.group import Group, group_of

LADDER = ("llama3_70b_tp8_ladder", "layout.mesh.tensor=4")


def scenario(name: str, *settings: str) -> Scenario:
    return load.scenario(name, ["engine.layers=2", *settings])


def all_gather(machine: Topology, size_bytes: float) -> Program:
    builder = ProgramBuilder(resources(machine))
    plan = schedule(machine, "all_gather", tuple(axis.name for axis in machine.mesh), "ring", size_bytes)
    emit(builder, machine, CollectiveCall(plan, size_bytes, "all_gather"))
    return builder.build()


def ring(latency: str) -> Topology:
    """A ring of four chips, links of 1 GB/s."""
    settings = [
        "axes={x: {size: 4, wrap: true}}",
        "link.bandwidth=1 GB/s",
        "link.efficiency=1",
        f"link.latency={latency}",
    ]
    return machines.build(*load.machine("tpu_v5e_4x4", [*settings, "stack=ideal"]))


def ends_ps(machine: Topology, *jobs: tuple[Program, Group]) -> list[int]:
    program, places = join_programs(machine, {f"job {i}": job for i, job in enumerate(jobs)})
    times = simulate(program).times["end"]
    return [int(times[place].max()) for place in places]


def test_two_equal_all_gathers_over_one_ring_take_twice_the_time_where_links_are_always_busy():
    """Alone n - 1 = 3 hops of V/n bytes, one way: 3 t. Together a link carries 6 such messages, one after the other.

    With no latency none waits for anything but the link, so that the second job ends at 6 t, and the first, whose
    messages come first, one message earlier.
    """
    machine = ring("0 us")
    whole = group_of(machine, tuple(range(4)))
    program = all_gather(machine, 4e6)
    alone = simulate(program).makespan_ps
    first, second = ends_ps(machine, (program, whole), (program, whole))
    assert second == 2 * alone
    assert first == 2 * alone - int(program.busy_ps.max())


def test_where_messages_fly_the_jobs_fill_each_others_gaps():
    """Alone a hop is t + L; together, with L < t, the link is busy for 6 t and the last message then flies: 6 t + L."""
    machine = ring("100 us")
    whole = group_of(machine, tuple(range(4)))
    program = all_gather(machine, 4e6)
    busy_ps, flight_ps = int(program.busy_ps.max()), int(program.flight_ps[program.busy_ps > 0].max())
    assert flight_ps < busy_ps
    assert simulate(program).makespan_ps == 3 * (busy_ps + flight_ps)
    assert max(ends_ps(machine, (program, whole), (program, whole))) == 6 * busy_ps + flight_ps


@pytest.mark.parametrize("names", [(LADDER, LADDER), (LADDER, ("llama3_70b_tp8_standard", LADDER[1]))])
def test_jobs_that_share_no_link_are_each_as_alone_and_as_sim_run_has_them(names):
    result = run_together([Job(scenario(*each)) for each in names])
    for job, each, name in zip(result.jobs, result.report.jobs, names, strict=True):
        assert np.array_equal(job.together.times, job.alone.times)
        assert each.slow_down == 1.0
        part = run(scenario(*name)).passes[0]
        assert each.alone.time_s == part.makespan_ps / 1e12
    assert (result.report.shared_links, result.report.shared_chips) == ((), ())


def test_a_folded_torus_is_unfolded_and_alone_as_sim_run_has_it():
    pope = scenario("palm540b_decode_ws2d")
    result = run_together([Job(pope, tuple(range(64))), Job(pope, tuple(range(64)))])
    assert result.report.jobs[0].alone.time_s == run(pope).passes[0].makespan_ps / 1e12
    assert len(result.report.shared_links) == len(result.machine.links) == 384


def test_shared_chips_compute_for_one_job_at_a_time():
    """What both compute is the busy time of each shared chip, and no job ends before its own computation."""
    shared = Job(scenario(*LADDER), (0, 1, 2, 3))
    result = run_together([shared, shared])
    computed = [job.alone.compute_s for job in result.report.jobs]
    assert result.report.time_s >= sum(computed)
    assert result.report.shared_chips == (0, 1, 2, 3)
    one = result.report.jobs[0].memory.used_bytes
    assert result.report.memory.used_bytes == 2 * one


def test_a_shared_link_is_busy_for_the_messages_of_each_job():
    result = run_together([Job(scenario(*LADDER), (0, 1, 2, 3)), Job(scenario(*LADDER), (2, 3, 4, 5))])
    names = {link.name for link in result.report.shared_links}
    assert names == {f"gpu{gpu}:{way}" for gpu in (2, 3) for way in ("egress", "ingress")}
    for link in result.report.shared_links:
        busy = list(link.busy_s.values())
        assert busy[0] == busy[1]
        assert link.utilisation == pytest.approx(sum(busy) / result.report.time_s, rel=1e-12)


def test_passes_follow_each_other():
    """A pass begins on each chip when its tasks have ended, so that n passes of chips that are alike take n times."""
    one, three = (run_together([Job(scenario(*LADDER), passes=n), Job(scenario(*LADDER))]) for n in (1, 3))
    assert three.report.jobs[0].alone.time_s == pytest.approx(3 * one.report.jobs[0].alone.time_s, rel=1e-12)


def test_a_run_shows_itself_in_a_line():
    result = run_together([Job(scenario(*LADDER))] * 2)
    name = LADDER[0]
    assert repr(result) == (
        f"TogetherRun({name} 1.000 x its time alone, {name}-2 1.000 x its time alone; on dgx_h100, 8 chips)"
    )


def test_the_same_jobs_give_the_same_report():
    jobs = [Job(scenario(*LADDER), (0, 1, 2, 3)), Job(scenario(*LADDER), (2, 3, 4, 5))]
    assert run_together(jobs).report.to_dict() == run_together(jobs).report.to_dict()


def test_a_slice_of_a_larger_torus_has_lines_where_it_does_not_close():
    """Half of a 4x4x8 torus has the chips of a 4x4x4 one, which closes along z as well."""
    pope = scenario("palm540b_decode_ws2d")
    machine = load.topology_spec("tpu_v4_4x4x8")
    result: TogetherRun = run_together([Job(pope, parse_chips("z=0..3", machines.build(machine, pope.stack)))], machine)
    axes = {axis.name: axis.ring for axis in result.jobs[0].group.machine.axes}
    assert axes == {"x": True, "y": True, "z": False}


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (lambda: [Job(scenario(*LADDER))] * 3, "requires 4 more chips, and dgx_h100 has 0 left; share chips with --on"),
        (lambda: [Job(scenario(*LADDER), (0, 1, 2))], "--on: llama3_70b_tp8_ladder requires 4 different chips, got '3"),
        (lambda: [Job(scenario(*LADDER), (0, 1, 2, 8))], "--on: the machine has chips 0 to 7, got 8"),
        (
            lambda: [Job(scenario(*LADDER)), Job(scenario("palm540b_decode_ws2d"))],
            "palm540b_decode_ws2d: must run on the machine of llama3_70b_tp8_ladder, dgx_h100, got 'tpu_v4_4x4x4'",
        ),
        (
            lambda: [Job(scenario(*LADDER)), Job(scenario(*LADDER, "stack=vllm"))],
            "must have the software of llama3_70b_tp8_ladder, torch_compile, got 'vllm'",
        ),
        (
            lambda: [Job(scenario(*LADDER, "perturb={jitter: {ops: 2 %}}"))],
            "llama3_70b_tp8_ladder: perturb: is not supported with --together",
        ),
        (lambda: [Job(scenario("llama3_70b_tp8_generate"))], "requires one phase together with other jobs"),
    ],
)
def test_jobs_that_cannot_run_together_are_refused(jobs, message):
    with pytest.raises(InputError) as caught:
        run_together(jobs())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "chips"), [("0..2", (0, 1, 2)), ("0,2,5", (0, 2, 5)), ("x=1", (4, 5, 6, 7)), ("x=0..1,y=3", (3, 7))]
)
def test_chips_are_numbers_or_a_box_of_a_torus(text, chips):
    assert parse_chips(text, machines.build(*load.machine("tpu_v5e_4x4"))) == chips


@pytest.mark.parametrize("text", ["", "a", "3..1", "0..", "w=1", "x=a"])
def test_what_is_no_chips_is_refused(text):
    with pytest.raises(InputError, match="--on: must"):
        parse_chips(text, machines.build(*load.machine("tpu_v5e_4x4")))
