"""Stragglers, slow and failed links, jitter: what takes how much longer, and that the shortcuts step aside."""

import numpy as np
import pytest

from sim import load
from sim.errors import InputError
from sim.passes import simulate_pass
from sim.program import Kind
from sim.run import run

SMALL = ["topology.axes={x: {size: 4, wrap: true}, y: {size: 1, wrap: false}, z: {size: 1, wrap: false}}"]


def found(perturb: str, *chosen: str):
    scenario = load.scenario("palm540b_decode_ws2d", ["engine.layers=12", *SMALL, *chosen, f"perturb={perturb}"])
    return simulate_pass(scenario)


def test_nothing_perturbed_is_the_plain_run():
    plain = simulate_pass(load.scenario("palm540b_decode_ws2d", ["engine.layers=12", *SMALL]))
    assert plain.topology.unfolded
    same = found("{}")
    assert same.step_s == plain.step_s
    assert same.topology.unfolded is None
    assert "perturb makes some unlike" in same.shortcuts[0]


def test_a_straggler_takes_its_factor_and_delay_and_the_others_wait():
    """Chip 1 takes 2 x + 1 us for every operation; no other does, and all wait for it in every layer."""
    slow, plain = found("{stragglers: [{chips: [1], factor: 2, delay: 1 us}]}"), found("{}")
    mine, before = slow.whole().program, plain.whole().program
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
    assert "layers are simulated, the others" in every.shortcuts[1]
    assert every.step_s == found("{stragglers: [{chips: [1], factor: 2}]}", "engine.periodic=off").step_s
    assert "perturb makes them unlike" in some.shortcuts[1]
    late = some.lowered.program.layer == 3
    assert (some.lowered.program.busy_ps != found("{}", "engine.periodic=off").lowered.program.busy_ps)[
        ~late
    ].sum() == 0
    assert found("{}").step_s < some.step_s < every.step_s


def test_a_slow_link_carries_its_messages_more_slowly():
    slow, plain = (found(p, "engine.periodic=off") for p in ("{slow_links: [{links: ['0:x+'], factor: 3}]}", "{}"))
    mine, before = slow.lowered.program, plain.lowered.program
    resource = mine.resources.index("0:x+")
    over = np.array([resource in mine.resources_of(task) for task in range(len(mine))])
    assert over.any()
    assert (mine.busy_ps[over] == 3 * before.busy_ps[over]).all()
    assert (mine.busy_ps[~over] == before.busy_ps[~over]).all()


def test_jitter_is_the_seeds_and_only_lengthens():
    one, again, other = (found(f"{{seed: {seed}, jitter: {{ops: 5 %, links: 20 %}}}}") for seed in (1, 1, 2))
    plain = found("{}", "engine.periodic=off").lowered.program
    assert one.trace.times.tobytes() == again.trace.times.tobytes()
    assert one.trace.times.tobytes() != other.trace.times.tobytes()
    longer = one.lowered.program.busy_ps / np.maximum(plain.busy_ps, 1)
    for kind, most in ((Kind.COMPUTE, 1.05), (Kind.SEND, 1.2)):
        own = plain.kind == kind
        assert 1 <= longer[own].min() < longer[own].max() < most


@pytest.mark.parametrize(
    ("perturb", "said"),
    [
        ("{failed_links: ['0:x+']}", "needs the failed link.*got '0:x\\+'"),
        ("{failed_links: ['0:y+']}", "no link of that name"),
        ("{slow_links: [{links: ['0:w+'], factor: 2}]}", "no link of that name"),
        ("{stragglers: [{chips: [4], factor: 2}]}", "0 to 3"),
    ],
)
def test_what_is_not_there_is_one_clear_line(perturb, said):
    with pytest.raises(InputError, match=said):
        found(perturb)


def test_a_line_does_without_a_failed_wraparound():
    """Lines of 4 chips use no link from chip 3 to chip 0; the report is as if nothing had failed."""
    line = "collectives={all_gather: line, reduce_scatter: line, all_reduce: line, all_to_all: multi_axis}"
    chosen = ["engine.layers=12", *SMALL, line, "layout.overlap=none", "layout.attention=heads"]
    scenario = load.scenario("palm540b_decode_ws2d", [*chosen, "perturb={failed_links: ['3:x+', '0:x-']}"])
    whole = load.scenario("palm540b_decode_ws2d", chosen)
    assert run(scenario).report.simulated.latency_s == run(whole).report.simulated.latency_s
