"""Direct all-to-all messages on tori share the load of all links, twisted, failed or not; one chip plans for all."""

import numpy as np
import pytest
from support.machines import torus, twisted

from sim.collectives import ON_TORUS, _plans_one_chip, algorithm_of, schedule
from sim.collectives.chunk_replay import replay
from sim.collectives.fold import fold
from sim.errors import InputError
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import build
from sim.topology.folding import folded
from sim.topology.lower_bound import lower_bound

SIZE = 2.0**26
TWISTED = [
    torus(4, 2, twist={"y": {"x": 2}}),
    torus(2, 2, 4, twist={"x": {"z": 2}, "y": {"z": 2}}),
    torus(2, 4, 4, twist={"x": {"y": 2, "z": 2}}),
]


def machine(name):
    return build(*load.machine(name))


def all_to_all_s(topology, size=SIZE, algorithm=None):
    algorithm = algorithm_of(topology, "all_to_all", algorithm, size)
    return bench.simulate_time_s(
        topology, CollectiveSpec("all_to_all", tuple(axis.name for axis in topology.axes), size, algorithm)
    )


def cut(topology, *cables):
    """Without these cables: a link and the one that leads back."""
    links = {link.name: link for link in topology.links}
    out = [links[name] for name in cables]
    back = [
        next(
            b
            for b in topology.links
            if (b.src, b.dst, b.axis) == (a.dst, a.src, a.axis) and b.direction == -a.direction
        )
        for a in out
    ]
    return topology.fail_links(frozenset(link.index for link in (*out, *back)))


@pytest.mark.parametrize(
    ("plain", "twisted", "gain", "measured"),
    [("tpu_v4_4x4x8", "tpu_v4_4x4x8_twisted", 1.73, 1.63), ("tpu_v4_4x8x8", "tpu_v4_4x8x8_twisted", 1.38, 1.31)],
)
def test_a_twist_shortens_an_all_to_all_as_the_mean_distance(plain, twisted, gain, measured):
    """Ideal gains are 1.745 and 1.391: load of the busiest axis over the mean number of hops. Measured ones, in steady
    state, are 7 and 6 % less (Jouppi et al. 2023, arXiv 2304.01433, figure 6)."""
    found = all_to_all_s(machine(plain)) / all_to_all_s(machine(twisted))
    assert found > gain
    assert found == pytest.approx(measured, rel=0.10)


def test_a_torus_without_a_link_left_is_cut():
    with pytest.raises(InputError, match="cut the machine: 0 cannot reach 1"):
        schedule(torus(2).fail_links(frozenset(range(len(torus(2).links)))), "all_to_all", ("x",), "dimension_ordered")


@pytest.mark.parametrize("name", load.shipped("topology"))
def test_the_default_is_close_to_the_bound_of_every_shipped_torus(name):
    """2 % are left to the latencies of three axes and to links that run dry between the first and last messages; beside
    them a chip starts a message for each other chip of an axis.

    Where an axis has faster links than the others the shortest ways are not those that use all links best: 11 %.
    """
    topology = machine(name)
    if topology.kind != "torus" or topology.chips > 512:
        pytest.skip("no torus, or one whose all-to-all differs in size only")
    axes = tuple(axis.name for axis in topology.axes)
    alike = len({link.bandwidth for link in topology.links}) == 1
    starts_s = sum(axis.size - 1 for axis in topology.axes) * topology.software.message_start_s
    bound_s = lower_bound(topology, "all_to_all", axes, SIZE)
    assert all_to_all_s(topology) < (1.02 if alike else 1.11) * bound_s + starts_s


def test_an_all_to_all_on_a_ring_takes_as_long_as_it_takes_to_start_all_its_messages():
    """Tiny messages on a ring of 8: seven start, of 1 s each; four of these starts are in the hops of the farthest."""
    base = load.machine("tpu_v4_8x8x8", ["stack.collective_step=1 s"])
    topology = build(*base)
    hops = 4 * topology.links[0].latency_s
    found = bench.run_collective(topology, CollectiveSpec("all_to_all", ("x",), 64, "multi_axis"))
    assert found.time_s == pytest.approx(hops + 3, rel=1e-6)
    assert found.closed_form_s == pytest.approx(found.time_s, rel=1e-9)


@pytest.mark.parametrize("cable", ["0:x+", "21:y+", "63:z+"])
def test_one_failed_cable_costs_little(cable):
    whole = machine("tpu_v4_4x4x4")
    left = cut(whole, cable)
    assert all_to_all_s(left) < 1.1 * all_to_all_s(whole)
    assert all_to_all_s(left, algorithm="multi_axis") > 1.9 * all_to_all_s(whole)


def test_pieces_use_all_directions_of_a_twisted_torus_alike():
    topology = twisted()
    plan = schedule(topology, "all_to_all", ("x", "y", "z"), "dimension_ordered")
    loads = np.bincount(plan.link, plan.share, minlength=len(topology.links))
    assert loads.sum() / topology.chips == pytest.approx(3.4375)
    piece = 1 / (128 * 6)
    assert loads.max() <= 3.4375 / 6 + piece * (1 + 1e-9)


@pytest.mark.parametrize("topology", TWISTED)
def test_every_message_arrives_on_twisted_tori(topology):
    axes = tuple(axis.name for axis in topology.axes)
    for group in (axes, axes[:1], axes[1:]):
        replay(schedule(topology, "all_to_all", group, "dimension_ordered"), topology)


@pytest.mark.parametrize("cables", [["0:x+"], ["0:x+", "5:y+"]])
@pytest.mark.parametrize("topology", [torus(3, 4), *TWISTED])
def test_every_message_arrives_where_cables_have_failed(topology, cables):
    left = cut(topology, *cables)
    axes = tuple(axis.name for axis in left.axes)
    plan = schedule(left, "all_to_all", axes, "dimension_ordered")
    assert not set(plan.link.tolist()) & left.failed
    replay(plan, left)


def test_more_sends_than_can_be_simulated_are_refused_at_once():
    with pytest.raises(InputError, match=r"must take at most 2,000,000 sends.*multi_axis"):
        schedule(torus(16, 16, 16), "all_to_all", ("x", "y", "z"), "dimension_ordered")


def waits(plan):
    """What each send waits for; in which order it is listed is no matter."""
    return [sorted(plan.dependencies(send).tolist()) for send in range(len(plan))]


COLUMNS = ("src", "dst", "link", "follows", "share", "step", "direction", "own", "dep_counts", "part", "half")


@pytest.mark.parametrize("topology", [torus(8), torus(3, 4), torus(2, 3, 4), torus(1, 4), twisted()])
def test_what_one_chip_plans_is_what_folding_all_chips_gives(topology):
    one, names, planned = folded(topology), [axis.name for axis in topology.axes], set()
    for collective, algorithms in ON_TORUS.items():
        for algorithm, make in algorithms.items():
            for axes in [(name,) for name in names] if collective == "permute" else [tuple(names), tuple(names[-1:])]:
                if not _plans_one_chip(one, collective, axes, algorithm, make):
                    continue
                planned.add((collective, algorithm))
                direct, by_folding = make(one, axes), fold(make(topology, axes), one)
                for column in COLUMNS:
                    assert np.array_equal(getattr(direct, column), getattr(by_folding, column)), column
                waits = [
                    [sorted(plan.dependencies(i).tolist()) for i in range(len(plan))] for plan in (direct, by_folding)
                ]
                assert waits[0] == waits[1]
    assert len(planned) == 12
