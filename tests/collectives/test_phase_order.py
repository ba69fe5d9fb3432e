"""Links of a torus carry the phases of a collective in order, so a small delay has a small effect."""

import pytest
from support.machines import torus
from support.shipped_machines import machine, one_of_each_wiring

from sim.collectives import COLLECTIVES, ON_TORUS, schedule
from sim.collectives.chunk_replay import replay
from sim.collectives.torus.phase_order import needs_order
from sim.specs import PerturbSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology.lower_bound import lower_bound

SIZES = (2.0**16, 2.0**20, 2.0**26, 2.0**30)
TORI = {name: machine(name) for name in load.shipped("topology")}
TORI = {name: topology for name, topology in TORI.items() if topology.kind == "torus"}


def late(delay, chip=3):
    return PerturbSpec.model_validate({"stragglers": [{"chips": [chip], "delay": delay}]})


def times_us(topology, collective, size, delay, algorithm=None):
    """Without and with a late chip."""
    names = [axis.name for axis in topology.axes if axis.size > 1]
    axes = tuple(names[:1] if collective == "permute" else names)
    spec = CollectiveSpec(collective, axes, size, algorithm)
    after_s = bench.simulate_perturbed_times_s(topology, spec, late(delay))[0]
    return bench.simulate_time_s(topology, spec) * 1e6, after_s * 1e6


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("name", one_of_each_wiring(name for name, topology in TORI.items() if topology.chips <= 32))
def test_a_nanosecond_changes_no_collective_by_much(name, collective):
    for algorithm in ON_TORUS[collective]:
        for size in SIZES:
            on_time, after = times_us(TORI[name], collective, size, "1 ns", algorithm)
            assert abs(after - on_time) <= max(2.0, 0.02 * on_time), (algorithm, size)


@pytest.mark.parametrize("sizes", [(2, 4, 4), (4, 6), (4, 4, 4)])
def test_a_late_chip_costs_an_all_gather_its_delay(sizes):
    on_time, after = times_us(torus(*sizes), "all_gather", 2.0**28, "50 us")
    assert after - on_time <= 50.1


def test_an_all_reduce_on_unequal_axes_takes_a_reduce_scatter_and_an_all_gather():
    topology, axes = torus(2, 3, 4), ("x", "y", "z")
    scatter, gather, both = (
        bench.simulate_time_s(topology, CollectiveSpec(name, axes, 2.0**26))
        for name in ("reduce_scatter", "all_gather", "all_reduce")
    )
    assert scatter == pytest.approx(gather, rel=1e-6)
    assert both == pytest.approx(scatter + gather, rel=1e-6)
    assert both < 1.4 * lower_bound(topology, "all_reduce", axes, 2.0**26)


def test_small_collectives_on_very_unequal_rings_need_no_order():
    """4x4x8: three parts one after the other on z take 3 + 3 + 4 hops, a part alone 2 + 2 + 4."""
    topology, axes = torus(4, 4, 8), ("x", "y", "z")
    plan = schedule(topology, "all_gather", axes, size=2.0**16)
    assert not needs_order(plan, topology, 2.0**16)
    assert needs_order(plan, topology, 2.0**26)
    assert needs_order(plan, topology, None)
    assert bench.simulate_time_s(topology, CollectiveSpec("all_gather", axes, 2.0**10)) == pytest.approx(8e-6, rel=0.01)
    cube = torus(4, 4, 4)
    assert needs_order(schedule(cube, "all_gather", axes), cube, 1.0)


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all"])
def test_in_order_every_chunk_arrives(collective):
    for topology in (torus(2, 3, 4), torus(3, 4, wrap=False), torus(2, 2, 4, twist={"x": {"z": 2}, "y": {"z": 2}})):
        axes = tuple(axis.name for axis in topology.axes)
        replay(schedule(topology, collective, axes, "multi_axis", 2.0**30), topology)
