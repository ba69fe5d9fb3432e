"""Stragglers, slow and failed links, jitter: what takes how much longer, and that the shortcuts step aside."""

import io

import numpy as np
import pytest
from rich.console import Console
from support.machines import switch, two_sockets

from sim import topology as machines
from sim.collectives import schedule
from sim.collectives.emit import ChipMessage, CollectiveCall, emit, emit_message
from sim.engine import simulate
from sim.errors import InputError
from sim.program import Kind, Occupancy, ProgramBuilder
from sim.program.perturb import apply_perturbations
from sim.report.present.render import render
from sim.report.waiting import measure_waiting
from sim.results import folder as outputs
from sim.shortcuts import periodic
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.run import run
from sim.specs import PerturbSpec, load

SMALL = ["topology.axes={x: {size: 4, wrap: true}, y: {size: 1, wrap: false}, z: {size: 1, wrap: false}}"]


def found(perturb: str, *chosen: str):
    scenario = load.scenario("palm540b_decode_ws2d", ["engine.layers=12", *SMALL, *chosen, f"perturb={perturb}"])
    return simulate_pass(scenario)


def test_nothing_perturbed_is_the_plain_run():
    plain = simulate_pass(load.scenario("palm540b_decode_ws2d", ["engine.layers=12", *SMALL]))
    assert plain.topology.is_folded
    same = found("{}")
    assert same.step_s == plain.step_s
    assert not same.topology.is_folded
    assert "perturb makes chips differ" in same.shortcuts[0]


def test_a_straggler_takes_its_factor_and_delay_and_the_others_wait():
    """Chip 1 takes 2 x + 1 us for every operation; no other does, and all wait for it in every layer."""
    slow, plain = found("{stragglers: [{chips: [1], factor: 2, delay: 1 us}]}"), found("{}")
    mine, before = slow.trace.program.unroll(), plain.trace.program.unroll()
    compute, at = mine.kind == Kind.COMPUTE, mine.chip == 1
    assert (mine.busy_ps[compute & at] == 2 * before.busy_ps[compute & at] + 10**6).all()
    assert (mine.busy_ps[~(compute & at)] == before.busy_ps[~(compute & at)]).all()
    least_ps = (mine.busy_ps - before.busy_ps)[compute & at].sum()
    assert slow.step_s > plain.step_s
    assert slow.step_s <= plain.step_s + least_ps / 1e12  # no more than its operations took longer


def test_a_straggler_everywhere_leaves_layers_alike_and_one_in_some_does_not():
    every, some = (
        found("{stragglers: [{chips: [1], factor: 2}]}"),
        found("{stragglers: [{chips: [1], factor: 2, layers: [3]}]}"),
    )
    assert "layers (the others" in every.shortcuts[1]
    assert every.step_s == found("{stragglers: [{chips: [1], factor: 2}]}", "engine.shortcuts=chips").step_s
    assert "perturb makes layers differ" in some.shortcuts[1]
    late = some.lowered.program.layer == 3
    assert (some.lowered.program.busy_ps != found("{}", "engine.shortcuts=chips").lowered.program.busy_ps)[
        ~late
    ].sum() == 0
    assert found("{}").step_s < some.step_s < every.step_s


def test_a_slow_link_carries_its_messages_more_slowly():
    slow, plain = (found(p, "engine.shortcuts=chips") for p in ("{slow_links: [{links: ['0:x+'], factor: 3}]}", "{}"))
    mine, before = slow.lowered.program, plain.lowered.program
    resource = mine.resources.index("0:x+")
    over = mine.resource == resource
    assert over.any()
    assert (mine.busy_ps[over] == 3 * before.busy_ps[over]).all()
    assert (mine.busy_ps[~over] == before.busy_ps[~over]).all()


def test_jitter_is_the_seeds_and_only_lengthens():
    one, again, other = (found(f"{{seed: {seed}, jitter: {{ops: 5 %, links: 20 %}}}}") for seed in (1, 1, 2))
    plain = found("{}", "engine.shortcuts=chips").lowered.program
    assert one.trace.times.tobytes() == again.trace.times.tobytes()
    assert one.trace.times.tobytes() != other.trace.times.tobytes()
    longer = one.lowered.program.busy_ps / np.maximum(plain.busy_ps, 1)
    for kind, most in ((Kind.COMPUTE, 1.05), (Kind.SEND, 1.2)):
        own = plain.kind == kind
        assert 1 <= longer[own].min() < longer[own].max() < most


def test_every_decode_step_has_draws_of_its_own():
    """Steps that differ by a token in the cache take alike without jitter, and with it are late by different tasks."""
    jitter = "{jitter: {ops: 5 %}}"
    lengths = ("workload.context=2048", "workload.context=2049")
    plain, late = (
        [found(p, "engine.shortcuts=chips", n).lowered.program.busy_ps for n in lengths] for p in ("{}", jitter)
    )
    compute = found("{}", "engine.shortcuts=chips").lowered.program.kind == Kind.COMPUTE
    one, other = (late[i][compute] / plain[i][compute] - 1 for i in range(2))
    assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(compute.sum())  # five deviations of independent draws


@pytest.mark.parametrize(
    ("perturb", "said"),
    [
        (
            "{failed_links: ['0:x+', '2:x+']}",
            "reduce_scatter\\(x\\) by multi_axis: .* failed links 0:x\\+, 2:x\\+ cut .* along x .* behind chip 0",
        ),
        ("{failed_links: ['0:y+']}", "no link of that name"),
        ("{slow_links: [{links: ['0:w+'], factor: 2}]}", "no link of that name"),
        ("{stragglers: [{chips: [4], factor: 2}]}", "0 to 3"),
        ("{stragglers: [{chips: [1], factor: 2, layers: [12]}]}", "no layer of that number: the scenario has 0 to 11"),
    ],
)
def test_what_is_not_there_is_one_clear_line(perturb, said):
    with pytest.raises(InputError, match=said):
        found(perturb)


def test_repeats_are_the_runs_of_the_seeds_that_follow_and_report_median_and_spread(tmp_path):
    """Runs of seeds 7, 8, 9: lowest, middle and highest; a quartile lies halfway to the middle."""
    jitter = "jitter: {ops: 5 %, links: 20 %}"
    alone = sorted(found(f"{{seed: {seed}, {jitter}}}").step_s for seed in (7, 8, 9))
    scenario = load.scenario(
        "palm540b_decode_ws2d", ["engine.layers=12", *SMALL, f"perturb={{seed: 7, repeats: 3, {jitter}}}"]
    )
    result = run(scenario)
    report, steps = result.report, scenario.workload.steps
    spread = report.spread
    assert spread.runs == 3
    assert [spread.lowest_s, spread.median_s, spread.highest_s] == pytest.approx([steps * s for s in alone], rel=1e-12)
    assert spread.lower_quartile_s == pytest.approx(steps * (alone[0] + alone[1]) / 2, rel=1e-12)
    assert spread.upper_quartile_s == pytest.approx(steps * (alone[1] + alone[2]) / 2, rel=1e-12)
    assert report.simulated.latency_s == steps * found(f"{{seed: 7, {jitter}}}").step_s
    assert report.to_dict()["spread"]["median_s"] == spread.median_s
    outputs.write(result, tmp_path, figure_form=None)
    assert outputs.read(tmp_path).report.spread == spread
    shown = io.StringIO()
    render(report, Console(file=shown, width=200))
    assert "3 runs with jitter: median latency" in shown.getvalue()
    assert "waiting for a late peer" in shown.getvalue()


def test_repeats_without_jitter_are_refused():
    with pytest.raises(InputError, match="must be 1 without jitter"):
        found("{repeats: 3}")


def late_gather(axes: str, late: int, delay_ps: int):
    """An all-gather of 1 MiB on a 4x4x1 torus that one chip enters `delay_ps` after the others."""
    size = {"x": 4, "y": 4, "z": 1}
    parts = ", ".join(f"{name}: {{size: {n}, wrap: {str(n > 1).lower()}}}" for name, n in size.items())
    topology = machines.build(*load.machine("tpu_v4_4x4x4", [f"axes={{{parts}}}"]))
    builder = ProgramBuilder([*(f"{c}:compute" for c in range(16)), *(link.name for link in topology.links)])
    chips = np.arange(16, dtype=np.int32)
    busy_ps = np.where(chips == late, delay_ps, 0)
    before = builder.add("before", Kind.COMPUTE, chips, Occupancy(chips, busy_ps=busy_ps))
    plan = schedule(topology, "all_gather", tuple(axes), "ring")
    emit(builder, topology, CollectiveCall(plan, 2.0**20, f"all_gather({axes})"), [before])
    return simulate(builder.build())


@pytest.mark.parametrize(("axes", "group"), [("xy", 16), ("x", 4), ("y", 4)])
def test_the_peers_of_a_late_chip_wait_for_it_and_no_others(axes, group):
    """D = 1 s late: each of the group - 1 others waits D, transferring is what the collective takes with nobody late.

    1 s is long after every message that does not depend on chip 5 has arrived, so once it enters, only its data and
    what is behind it moves: never longer than the whole all-gather.
    """
    delay_ps = 10**12
    late, plain = measure_waiting(late_gather(axes, 5, delay_ps), 16), measure_waiting(late_gather(axes, 5, 0), 16)
    assert plain.waiting_s == 0
    assert plain.transferring_s == late_gather(axes, 5, 0).makespan_ps / 1e12
    assert late.waiting_s == (group - 1) / 16
    assert late.most_s == 1
    assert late.least_s == 0
    assert 0 < late.transferring_s <= plain.transferring_s
    assert late.ops[0].waiting_s + late.ops[0].transferring_s == late.waiting_s + late.transferring_s


def test_waiting_and_transferring_are_the_time_in_collectives():
    """Of every chip the time from BEGIN to END of each collective, whoever is late; a straggler waits least."""
    slow = found("{stragglers: [{chips: [1], factor: 2}]}")
    parts, trace = measure_waiting(slow.trace, 4, slow.periods), periodic.unroll(slow.trace, slow.periods)
    assert parts == measure_waiting(trace, 4)
    kind, times = trace.program.kind, trace.times
    inside_ps = times["end"][kind == Kind.END].sum() - times["start"][kind == Kind.BEGIN].sum()
    assert parts.waiting_s + parts.transferring_s == pytest.approx(inside_ps / 1e12 / 4, rel=1e-12)
    assert parts.least_chip == 1
    assert parts.most_s > parts.least_s
    plain = found("{}")
    assert measure_waiting(plain.trace, 4, plain.periods).waiting_s == 0


def test_a_line_does_without_a_failed_wraparound():
    """Lines of 4 chips use no link from chip 3 to chip 0; the report is as if nothing had failed."""
    line = "collectives={all_gather: line, reduce_scatter: line, all_reduce: line, all_to_all: multi_axis}"
    chosen = ["engine.layers=12", *SMALL, line, "layout.overlap=none", "layout.attention=heads"]
    scenario = load.scenario("palm540b_decode_ws2d", [*chosen, "perturb={failed_links: ['3:x+', '0:x-']}"])
    whole = load.scenario("palm540b_decode_ws2d", chosen)
    assert run(scenario).report.simulated.latency_s == run(whole).report.simulated.latency_s


def test_a_scenario_goes_around_and_its_report_says_so():
    around = found("{failed_links: ['0:x+']}")
    used = np.unique(around.lowered.program.resource)
    assert around.lowered.program.resources.index("0:x+") not in used
    assert around.step_s > found("{}").step_s
    assert any("along x go over lines" in note for note in around.lowered.notes)


@pytest.mark.parametrize(
    ("slow", "slowest"),
    [({"0->a#0": 4}, 10), ({"0->a#0": 20}, 20), ({"a->b#0": 3}, 30), ({"0->a#0": 40, "a->b#0": 3}, 40)],
)
def test_a_message_over_several_links_goes_at_the_rate_of_the_slowest(slow, slowest):
    """0->a carries 50 GB/s and a->b 5 GB/s: at a quarter, 12.5 GB/s, the first is still the faster; at a 20th not.

    Times are of 1 us at 50 GB/s, 50 kB.
    """
    topology = two_sockets()
    builder = ProgramBuilder([*(f"{c}:compute" for c in range(4)), *(link.name for link in topology.links)])
    begin = builder.add("send", Kind.BEGIN, [0])
    emit_message(builder, topology, ChipMessage(0, 2, 50e3, "send"), begin)
    spec = PerturbSpec(slow_links=[{"links": [name], "factor": each} for name, each in slow.items()])
    trace = simulate(apply_perturbations(builder.build(), topology, spec))
    latency_ps = sum(topology.links[link].latency_ps for link in topology.route(0, 2))
    assert trace.makespan_ps == latency_ps + slowest * 10**6


@pytest.mark.parametrize(
    ("ports", "factor", "latency_s"),
    [
        ([f"gpu{c}:{way}" for c in range(8) for way in ("egress", "ingress")], 4 / 3, 1e-6),
        (["gpu2:egress", "gpu2:ingress"], 18 / 16, 0.0),
    ],
)
def test_lost_nvlinks_are_slow_ports(ports, factor, latency_s):
    """A lost NVSwitch of four leaves every GPU 3/4 of its links; GPU 2 may have lost 2 of 18 alone.

    A ring all-gather of c = V/8 takes (n - 1) (f c/w + t): of slow ports of one GPU, too, with t = 0, as every chunk
    but one goes through each of them, one behind the other.
    """
    topology, size = switch(8, latency_s=latency_s), 2.0**23
    builder = ProgramBuilder([*(f"{c}:compute" for c in range(8)), *(link.name for link in topology.links)])
    emit(builder, topology, CollectiveCall(schedule(topology, "all_gather", ("g",), "ring"), size, "all_gather(g)"))
    slow = apply_perturbations(builder.build(), topology, PerturbSpec(slow_links=[{"links": ports, "factor": factor}]))
    expected = topology.software.collective_overhead_s + 7 * (factor * size / 8 / 450e9 + latency_s)
    assert simulate(slow).makespan_ps / 1e12 == pytest.approx(expected, abs=7e-12)


def late_layers(overlap: str, residual: str, *late: tuple[int, int, int]) -> int:
    """Time of eight layers of Llama-3 70B on a DGX H100, ps; `late`: chip, layer, delay of each operation in s."""
    rows = ", ".join(f"{{chips: [{chip}], layers: [{layer}], delay: {delay} s}}" for chip, layer, delay in late)
    layout = f"layout.residual={residual}", f"layout.overlap={overlap}"
    quiet = "stack.compute_interference=0", "stack.memory_interference=0"
    chosen = "engine.layers=8", "workload.batch=2", "topology=dgx_h100", f"perturb={{stragglers: [{rows}]}}"
    scenario = load.scenario("llama3_70b_tp8_ladder", [*chosen, *layout, *quiet])
    return simulate_pass(scenario).trace.makespan_ps


@pytest.mark.parametrize(
    ("residual", "overlap", "attention", "mlp", "parts", "hidden"),
    [
        ("standard", "none", 7, 4, 1, 0),
        ("ladder", "none", 8, 5, 1, 5),
        ("standard", "micro_batches", 7, 4, 2, 4),
    ],
)
def test_what_two_late_chips_cost_depends_on_what_waits_for_them(residual, overlap, attention, mlp, parts, hidden):
    """Chip 1 is late by D in each operation of layer 3, chip 2 in those of layer 4: a and m operations in the halves.

    D = 1 s is more than all else together, so the time grows by a whole number of them: of chip 1 alone by parts x
    (a + m), as all need its sums. In the standard residual chip 2 cannot begin its attention before chip 1 is done
    with its FFN, and both delays add up. In ladder the attention reads the stream one half earlier, and with two
    micro-batches it is of the other one: then min(a, m) of chip 2's delays lie under those of chip 1.
    """
    one = [late_layers(overlap, residual, (1, 3, d)) for d in (1, 2)]
    two = [late_layers(overlap, residual, (1, 3, d), (2, 4, d)) for d in (1, 2)]
    assert hidden in (0, min(attention, mlp))
    assert one[1] - one[0] == parts * (attention + mlp) * 10**12
    assert two[1] - two[0] == (2 * parts * (attention + mlp) - hidden) * 10**12


def layer_copies_ps(perturb: str) -> set[int]:
    """Times that a copy of a layer takes between an A100 and the peer that keeps it, of eight on NVSwitches."""
    chosen = "workload.batch=8", "model.layers=4", "memory_pool.offload_every=4", "model.nominal_parameters=7.248e+9"
    program = simulate_pass(load.scenario("pmep_gpt3_peer", [*chosen, f"perturb={perturb}"])).lowered.program
    return set(program.busy_ps[program.kind == Kind.COPY].tolist())


@pytest.mark.parametrize("port", ["gpu0:ingress", "gpu0:egress"])
def test_layers_come_more_slowly_through_a_slow_port(port):
    (plain,), (slow,) = layer_copies_ps("{}"), layer_copies_ps(f"{{slow_links: [{{links: ['{port}'], factor: 3}}]}}")
    assert abs(slow - 3 * plain) <= 2  # both are rounded


def test_layers_live_on_a_peer_that_is_reached():
    """With the next GPU's port gone another keeps them, as fast; without a port of its own a GPU has no peer."""
    assert layer_copies_ps("{failed_links: ['gpu1:egress']}") == layer_copies_ps("{}")
    with pytest.raises(InputError, match="gpu0:ingress cut the machine: gpu1 cannot reach gpu0 without gpu0:ingress"):
        layer_copies_ps("{failed_links: ['gpu0:ingress']}")


def test_links_of_chips_that_are_not_in_use_make_no_difference():
    chosen = "engine.layers=4", "topology=dgx_h100", "layout.mesh.tensor=4"

    def found(perturb: str) -> int:
        return simulate_pass(load.scenario("llama3_8b_tp8_ladder", [*chosen, f"perturb={perturb}"])).trace.makespan_ps

    unused = "{failed_links: ['gpu7:egress'], slow_links: [{links: ['gpu6:ingress', 'gpu5:egress'], factor: 2}]}"
    assert found(unused) == found("{}")
    with pytest.raises(
        InputError, match=r"perturb\.stragglers: no chip of that number is in use: those are 0 to 3, got 7"
    ):
        found("{stragglers: [{chips: [7], factor: 2}]}")
