"""Collectives on twisted tori go around rings between sets of chips and use all links."""

import pytest
from support.machines import torus, twisted
from support.run_schedule import time_s

from sim.collectives import schedule
from sim.collectives.chunk_replay import replay
from sim.collectives.wiring import ring_grid
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import build
from sim.topology.folding import folded
from sim.topology.lower_bound import lower_bound

GATHERS = ("all_gather", "reduce_scatter", "all_reduce")
XYZ = ("x", "y", "z")


def lengths(topology, *order):
    return [axis.size for axis in ring_grid(topology, XYZ, order).axes]


def test_rings_of_twisted_tori_have_the_lengths_of_the_quotient_groups():
    wide = torus(4, 8, 8, twist={"x": {"y": 4, "z": 4}})
    for start in range(3):
        order = (*XYZ[start:], *XYZ[:start])
        assert lengths(twisted(), *order) == [8, 4, 4]
        assert lengths(wide, *order) == [8, 8, 4]
        assert lengths(torus(4, 4, 8), *order) == [{"x": 4, "y": 4, "z": 8}[name] for name in order]


@pytest.mark.parametrize("size", [2.0**13, 2.0**20, 2.0**26, 2.0**30])
@pytest.mark.parametrize("collective", GATHERS)
@pytest.mark.parametrize("plain", ["tpu_v4_4x4x8", "tpu_v4_4x8x8"])
def test_a_twist_costs_rings_nothing(plain, collective, size):
    times = [
        bench.simulate_time_s(build(*load.machine(name)), CollectiveSpec(collective, XYZ, size))
        for name in (plain, f"{plain}_twisted")
    ]
    assert times[1] <= 1.03 * times[0]


@pytest.mark.parametrize("collective", GATHERS)
@pytest.mark.parametrize("name", ["tpu_v4_4x4x8_twisted", "tpu_v4_4x8x8_twisted"])
def test_large_collectives_keep_all_links_of_a_twisted_torus_busy(name, collective):
    topology, size = build(*load.machine(name)), 2.0**32
    assert bench.simulate_time_s(topology, CollectiveSpec(collective, XYZ, size)) < 1.01 * lower_bound(
        topology, collective, XYZ, size
    )


@pytest.mark.parametrize("algorithm", ["multi_axis", "bidirectional_ring", "ring", "line"])
@pytest.mark.parametrize("collective", GATHERS)
@pytest.mark.parametrize(
    "twist", [{"x": {"z": 2}, "y": {"z": 2}}, {"x": {"z": 2}}, {"y": {"x": 1, "z": 3}}, {"z": {"x": 1}}]
)
def test_every_chunk_arrives_whatever_is_twisted(twist, collective, algorithm):
    topology = torus(2, 3, 4, twist=twist)
    for axes in (XYZ, ("x", "z"), ("z", "y"), ("x",), ("z",)):
        replay(schedule(topology, collective, axes, algorithm), topology)


@pytest.mark.parametrize("collective", GATHERS)
def test_one_chip_of_a_twisted_torus_has_the_times_of_all(collective):
    topology = twisted()
    one = folded(topology)
    times = [time_s(machine, schedule(machine, collective, XYZ), 2.0**24) for machine in (one, topology)]
    assert times[0] == times[1]
