"""Nothing that is shipped is faster than what the links carry, and the bound is what a hand computes."""

import itertools

import pytest
from support.machines import graph, switch, torus, twisted
from support.shipped_machines import machine, one_of_each_wiring

from sim.collectives import COLLECTIVES, algorithm_names, algorithm_of
from sim.errors import InputError
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology.lower_bound import lower_bound

MOST_CHIPS = 256
"""Larger machines are folded or refused; they take minutes and no other path."""
SIZES = (8.0, 2.0**13, 2.0**20, 2.0**30)
MACHINES = {name: machine(name) for name in load.shipped("topology")}
W, T = 45e9, 1e-6
"""Bandwidth, bytes/s, and latency, s, of a link of `torus`."""


def groups(topology, collective):
    """Axes of a group: all, and each alone."""
    names = [axis.name for axis in topology.axes if axis.size > 1]
    alone = [(name,) for name in names]
    return alone if collective == "permute" else [tuple(names), *alone]


def runs(topology):
    """(collective, algorithm, axes, size) that the machine carries out within a second or so."""
    for collective in COLLECTIVES:
        for algorithm, axes in itertools.product(algorithm_names(collective), groups(topology, collective)):
            for size in SIZES:
                if "_ll" in algorithm and size > 2**20:
                    continue  # a line per 64 or 128 bytes: a million sends
                try:
                    chosen = algorithm_of(topology, collective, algorithm, size)
                except InputError:
                    break
                if chosen == algorithm:
                    yield collective, algorithm, axes, size


@pytest.mark.parametrize(
    "name",
    one_of_each_wiring(
        (name for name in MACHINES if MACHINES[name].chips <= MOST_CHIPS),
        less=["a100_pcie_bridges", "dgx_h100_x4_leaf_spine"],
    ),
)
def test_no_shipped_algorithm_is_faster_than_the_links_of_a_shipped_machine(name):
    topology, seen, below = MACHINES[name], set(), []
    for collective, algorithm, axes, size in runs(topology):
        try:
            time_s = bench.simulate_time_s(
                topology, CollectiveSpec(collective, axes, size, algorithm), kernel="compiled"
            )
        except InputError:
            continue  # the algorithm says that it does not suit the machine
        seen.add(collective)
        # A message takes whole picoseconds, to the nearest, and a path has at most some thousands of messages.
        if time_s < lower_bound(topology, collective, axes, size) - 1e-9:
            below.append((collective, algorithm, axes, size))
    assert not below
    assert seen == set(COLLECTIVES)


COLLECTIVE_NAMES = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast")


@pytest.mark.parametrize(
    ("collective", "size_over_bandwidth"),
    [
        ("all_gather", 15 / 16 / 4),
        ("reduce_scatter", 15 / 16 / 4),
        ("all_reduce", 2 * 15 / 16 / 4),
        ("all_to_all", 4 / 8),
        ("broadcast", 1 / 4),
    ],
)
def test_the_bound_of_a_torus_is_that_of_its_cuts(collective, size_over_bandwidth):
    found = lower_bound(torus(4, 4), collective, ("x", "y"), 1e9)
    assert found == pytest.approx(size_over_bandwidth * 1e9 / W + T, rel=1e-9)


@pytest.mark.parametrize("collective", COLLECTIVE_NAMES)
def test_small_collectives_take_the_latency_between_the_chips_farthest_apart(collective):
    assert lower_bound(torus(4, 4), collective, ("x", "y"), 1.0) == pytest.approx(4 * T)
    assert lower_bound(torus(4, 4, wrap=False), collective, ("x", "y"), 1.0) == pytest.approx(6 * T)


def test_an_all_to_all_on_a_twisted_torus_is_bounded_by_its_mean_distance():
    """4x4x8, x and y shift z by 4: the mean distance is 3.4375 (sim.topology.metrics), and a chip has six links."""
    found = lower_bound(twisted(), "all_to_all", ("x", "y", "z"), 1e9)
    assert found == pytest.approx(3.4375 * 1e9 / (6 * W) + T, rel=1e-9)


def test_groups_along_one_axis_are_bounded_by_the_links_of_that_axis():
    for collective in COLLECTIVE_NAMES:
        alone, side_by_side = torus(8), torus(4, 8)
        assert lower_bound(side_by_side, collective, ("y",), 1e9) == pytest.approx(
            lower_bound(alone, collective, ("x",), 1e9)
        )


def test_a_failed_cable_leaves_a_chip_fewer_links():
    topology = torus(4, 4)
    failed = topology.fail_links(frozenset({0}))
    assert lower_bound(failed, "broadcast", ("x", "y"), 1e9) == pytest.approx(1e9 / (3 * W) + T)
    assert lower_bound(topology, "broadcast", ("x", "y"), 1e9) == pytest.approx(1e9 / (4 * W) + T)


def test_two_pairs_of_chips_are_bounded_by_the_narrow_link_between_them():
    topology = graph("01", "23", "12", chips=4, slow="12")
    slow = min(link.bandwidth for link in topology.links)
    for collective, share in (("all_gather", 2 / 4), ("all_reduce", 1.0), ("all_to_all", 2 * 2 / 4), ("broadcast", 1)):
        least = share * 1e9 / slow
        assert least <= lower_bound(topology, collective, ("g",), 1e9) <= least * (1 + 1e-3)


def test_parallel_links_and_one_link_as_wide_have_one_bound():
    for collective in COLLECTIVE_NAMES:
        two = graph("01", "01", "12", "12", "20", "20", chips=3)
        one = graph("01", "12", "20", chips=3)
        assert lower_bound(two, collective, ("g",), 2e9) == pytest.approx(
            lower_bound(one, collective, ("g",), 1e9), rel=1e-9
        )


def test_a_switch_that_adds_up_saves_half_of_an_all_reduce():
    topology = switch(8)
    (port,) = {link.bandwidth for link in topology.links}
    found = lower_bound(topology, "all_reduce", ("g",), 1e9)
    assert found == pytest.approx(2 * 7 / 8 * 1e9 / port, rel=1e-3)
    adds_up = MACHINES["dgx_h100"]
    (port,) = {link.bandwidth for link in adds_up.links}
    assert lower_bound(adds_up, "all_reduce", ("g",), 1e9) == pytest.approx(1e9 / port, rel=1e-2)


def test_one_chip_needs_nothing_and_an_unknown_collective_is_named():
    assert lower_bound(torus(1, 4), "all_gather", ("x",), 1e9) == 0
    with pytest.raises(InputError, match="did you mean 'all_reduce'"):
        lower_bound(torus(4), "allreduce", ("x",), 1e9)
