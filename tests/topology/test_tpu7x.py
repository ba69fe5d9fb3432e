"""TPU7x: two devices a chip on an axis with a link of its own."""

from __future__ import annotations

import pytest
from support.machines import CHIP

from sim.collectives import schedule
from sim.specs import TorusSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.studies.search.machines import list_machines
from sim.topology import build
from sim.topology.metrics import bisection

MACHINES = [name for name in load.shipped("topology") if name.startswith("tpu7x")]


@pytest.mark.parametrize("name", MACHINES)
def test_the_devices_of_a_chip_have_a_link_of_their_own(name: str):
    built = build(*load.machine(name))
    rates = {axis.name: {link.bandwidth for link in built.links if link.axis == axis.name} for axis in built.axes}
    assert [*rates["x"], *rates["y"]] == pytest.approx([45e9, 45e9])
    assert [*rates["d"]] == pytest.approx([540e9])
    assert built.axis("d").size == 2


def test_the_narrowest_cut_counts_each_links_own_bandwidth():
    """Across z of 2x2x4 x 2 devices: eight links of 45 GB/s. Across d: sixteen of 540."""
    found = bisection(build(*load.machine("tpu7x_2x2x4")))
    assert (found.links, found.exact) == (8, False)
    assert found.bandwidth == pytest.approx(8 * 45e9)


def unequal(fast: float) -> TorusSpec:
    link = {"name": "slow", "bandwidth": "10 GB/s", "latency": "1 us"}
    axes = {
        "x": {"size": 4, "wrap": True},
        "d": {"size": 2, "wrap": False, "link": {**link, "bandwidth": f"{fast} GB/s"}},
    }
    return TorusSpec.model_validate({"name": "t", "kind": "torus", "chip": CHIP, "link": link, "axes": axes})


def test_a_collective_along_one_axis_takes_the_links_of_that_axis():
    built = build(unequal(100))
    size = 1e9
    # One message of half of the array, over one link; around the ring three quarters of it, over two links.
    assert bench.simulate_time_s(built, CollectiveSpec("all_gather", ("d",), size)) == pytest.approx(
        size / 2 / 100e9 + 1e-6, rel=1e-6
    )
    assert bench.simulate_time_s(built, CollectiveSpec("all_gather", ("x",), size)) == pytest.approx(
        0.75 * size / 20e9 + 2e-6, rel=1e-6
    )


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce"])
def test_the_fastest_axis_carries_most(collective: str):
    """The slow axis sees 1/2 of the array, 3/4 of which each chip must receive over two links of 10 GB/s; the fast axis
    takes half of the array once. A reduction runs backwards, an all-reduce both ways."""
    size = 1e9
    once = 0.75 * size / 2 / 20e9 + size / 2 / 1000e9 + 3e-6
    time = bench.simulate_time_s(build(unequal(1000)), CollectiveSpec(collective, ("x", "d"), size, "multi_axis"))
    assert time == pytest.approx(once * (2 if collective == "all_reduce" else 1), rel=1e-6)


def test_unequal_links_have_no_closed_form_and_a_bound_that_holds():
    built = build(unequal(100))
    for collective in ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast"):
        measured = bench.run_collective(built, CollectiveSpec(collective, ("x", "d"), 1e8))
        assert measured.closed_form_s is None
        assert 0 < measured.bound_s <= measured.time_s


def test_equal_links_given_per_axis_are_the_machine_without():
    own, plain = unequal(10), unequal(10)
    plain = plain.model_copy(update={"axes": {n: a.model_copy(update={"link": None}) for n, a in plain.axes.items()}})
    assert build(own).links == build(plain).links
    assert len(schedule(build(own), "all_to_all", ("x", "d"))) == len(schedule(build(plain), "all_to_all", ("x", "d")))


def test_a_search_over_orders_of_the_axes_keeps_their_links():
    (found,) = list_machines(["tpu7x_2x2x4"])
    assert len(found.meshes) > 1
    for mesh in found.meshes:
        assert sum("d2d_7x" in part for parts in mesh.axes.values() for part in parts) == 1
