"""Simulated times of collectives against closed forms, bytes per link, and bounds that nothing may beat."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.algorithms import ALGORITHMS, FORMS, ON_ANY_ROUTE, fits
from support.machines import full_mesh, graph, switch, torus, twisted, two_sockets
from support.run_schedule import rounding_s, time_s
from support.selection import pairwise

from sim.closed_form.collectives import algbw, busbw, on_switch, predict
from sim.collectives import Schedule, schedule
from sim.collectives.loop import LoopForm, all_gather_loop, reduce_scatter_loop
from sim.errors import InputError
from sim.topology import Topology
from sim.topology.lower_bound import lower_bound

MIB = 2**20
SIZES = (1.0, 1_000_003.0, 64.0 * MIB)
GATHERS = ("all_gather", "reduce_scatter", "all_reduce")


def shape(topology: Topology, axes: str) -> list[tuple[int, bool]]:
    return [(axis.size, axis.ring) for axis in topology.axes if axis.name in axes]


def simulated(topology: Topology, collective: str, axes: str, size: float, algorithm: str | None = None) -> float:
    return time_s(topology, schedule(topology, collective, tuple(axes), algorithm), size)


def link_shares(topology: Topology, plan: Schedule) -> set[float]:
    """Shares of the size that cross the links of the collective's axes, each value once."""
    shares: Counter[int] = Counter()
    for link, share in zip(plan.link.tolist(), plan.share.tolist(), strict=True):
        shares[link] += share
    return {round(shares[link.index], 12) for link in topology.links if link.axis in plan.axes}


# --- bytes per link --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4, 5, 8])
def test_bytes_per_link_of_a_ring(k: int) -> None:
    topology = torus(k, 2)
    expected = {
        # Both directions share the K-1 chunks that every chip must receive.
        ("all_gather", "bidirectional_ring"): {(k - 1) / (2 * k)},
        ("reduce_scatter", "multi_axis"): {(k - 1) / (2 * k)},
        ("all_reduce", "multi_axis"): {(k - 1) / k},
        # One direction carries them all, the other nothing.
        ("all_gather", "ring"): {(k - 1) / k, 0},
        # Sum of the distances both ways, K^2/4 or (K^2-1)/4 messages of 1/K, over two links per chip.
        ("all_to_all", "multi_axis"): {(k * k - k % 2) / (8 * k)},
        ("all_to_all", "dimension_ordered"): {(k * k - k % 2) / (8 * k)},
        ("permute", "neighbour"): {1, 0},
        # A half goes each way; it stops before it would come back to the root.
        ("broadcast", "spanning_trees"): {0.5, 0},
    }
    for (collective, algorithm), shares in expected.items():
        plan = schedule(topology, collective, ("x",), algorithm)
        assert link_shares(topology, plan) == {round(share, 12) for share in shares}, (collective, algorithm)


@pytest.mark.parametrize("k", [2, 3, 5])
def test_bytes_per_link_of_a_line_grow_towards_its_ends(k: int) -> None:
    # The link from position i to i + 1 carries the chunks of positions 0 .. i.
    topology = torus(k, wrap=False)
    plan = schedule(topology, "all_gather", ("x",), "line")
    assert link_shares(topology, plan) == {round((i + 1) / k, 12) for i in range(k - 1)}


@pytest.mark.parametrize("sizes", [(4, 4), (3, 3, 3), (4, 4, 4)])
def test_equal_axes_load_every_link_alike(sizes: tuple[int, ...]) -> None:
    topology, n, links = torus(*sizes), math.prod(sizes), 2 * len(sizes)
    gathered = round((n - 1) / n / links, 12)
    scattered = round((sizes[0] ** 2 - sizes[0] % 2) / (8 * sizes[0]), 12)
    axes = tuple("xyz"[: len(sizes)])
    assert link_shares(topology, schedule(topology, "all_gather", axes)) == {gathered}
    assert link_shares(topology, schedule(topology, "reduce_scatter", axes)) == {gathered}
    assert link_shares(topology, schedule(topology, "all_to_all", axes)) == {scattered}
    assert link_shares(topology, schedule(topology, "all_to_all", axes, "dimension_ordered")) == {scattered}
    assert max(link_shares(topology, schedule(topology, "broadcast", axes))) == round(1 / links, 12)


# --- closed forms ----------------------------------------------------------------------------------------------------

MESHES = {
    **{f"ring{k}": (torus(k, bandwidth=48.318382080e9), "x") for k in (1, 2, 3, 4, 5, 8)},
    **{f"line{k}": (torus(k, wrap=False), "x") for k in (2, 3, 4, 5)},
    "4x4": (torus(4, 4), "xy"),
    "5x5": (torus(5, 5), "xy"),
    "3x4 mixed": (torus(3, 4, wrap=[True, False]), "xy"),
    "4x3x2 mesh": (torus(4, 3, 2, wrap=False), "xyz"),
    "2x2x2 mesh": (torus(2, 2, 2, wrap=False), "xyz"),
    "2x2x2": (torus(2, 2, 2), "xyz"),
    "4x4x4": (torus(4, 4, 4), "xyz"),
    "4x4x4 over yz": (torus(4, 4, 4), "yz"),
    "4x4x8 twisted, over z": (twisted(), "z"),
}


@pytest.mark.parametrize(
    ("collective", "algorithm", "mesh", "size"),
    pairwise((*algorithm, mesh, size) for algorithm in ALGORITHMS for mesh in MESHES for size in SIZES),
)
def test_time_equals_the_closed_form_where_nothing_contends(
    collective: str, algorithm: str, mesh: str, size: float
) -> None:
    topology, axes = MESHES[mesh]
    if collective == "permute":
        axes = axes[-1]
    link = topology.links[0] if topology.links else None
    bandwidth, latency_s = (link.bandwidth, link.latency_s) if link else (1.0, 0.0)
    expected = predict(collective, algorithm, shape(topology, axes), size, bandwidth, latency_s)
    if expected is None:
        pytest.skip("no exact form")
    plan = schedule(topology, collective, tuple(axes), algorithm)
    assert time_s(topology, plan, size) == pytest.approx(expected, rel=0, abs=rounding_s(topology, plan))


def test_every_algorithm_has_a_closed_form_on_a_ring() -> None:
    for collective, algorithm in ALGORITHMS:
        assert predict(collective, algorithm, [(4, True)], 1e6, 45e9, 1e-6) is not None
    assert predict("all_gather", "unheard_of", [(4, True)], 1e6, 45e9, 1e-6) is None
    assert predict("all_gather", "multi_axis", [(4, True), (2, True)], 1e6, 45e9, 1e-6) is None


def test_a_group_of_one_chip_takes_no_time() -> None:
    assert predict("all_reduce", "ring", [(1, True)], 1e6, 45e9, 1e-6) == 0


def test_one_way_ring_of_eight() -> None:
    # Seven hops of 1 MiB at 48.318382080 GB/s, 21.701389 us each, and of 1 us.
    topology = torus(8, bandwidth=48.318382080e9)
    time = simulated(topology, "all_gather", "x", 8 * MIB, "ring")
    assert time == pytest.approx(7 * (MIB / 48.318382080e9 + 1e-6), rel=0, abs=7e-12)
    assert time * 1e6 == pytest.approx(158.910, abs=5e-4)


def test_an_all_gather_uses_all_links_of_a_cube() -> None:
    # 63/64 of the array over six links, and two hops per axis.
    size, topology = 64 * MIB, torus(4, 4, 4)
    times = {axes: simulated(topology, "all_gather", axes, size) for axes in ("x", "xy", "xyz")}
    least = lower_bound(topology, "all_gather", ("x", "y", "z"), size)
    assert least == pytest.approx(63 / 64 * size / (6 * 45e9) + 1e-6)
    assert least <= times["xyz"] <= 1.1 * least
    # Without the hops, bandwidth as the chips received grows with the number of axes.
    received = {axes: 4 ** len(axes) - 1 for axes in times}
    hops = {axes: 2 * len(axes) * 1e-6 for axes in times}
    rate = {a: received[a] / 4 ** len(a) * size / (times[a] - hops[a]) for a in times}
    assert rate["x"] / rate["xyz"] == pytest.approx(1 / 3, rel=1e-6)
    assert rate["xy"] / rate["xyz"] == pytest.approx(2 / 3, rel=1e-6)


def test_worked_examples_of_the_scaling_book() -> None:
    # 256 bytes over one axis of four: two hops. 34 MB over a line of four at 45 GB/s: three hops of 8.5 MB.
    assert simulated(torus(4), "all_gather", "x", 256) == pytest.approx(2e-6, rel=0.01)
    line = simulated(torus(4, wrap=False), "all_gather", "x", 34e6)
    assert line == pytest.approx(3 * 34e6 / 4 / 45e9, rel=0.01)
    assert line == pytest.approx(560e-6, rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_loops_take_their_hops_in_a_row(form: LoopForm) -> None:
    # K = 6: five hops of V/6, five of V/12, three of V/6.
    topology, size = torus(6), 6e6
    hops, chunk = {
        "one_way": (5, size / 6),
        "bidirectional_throughput": (5, size / 12),
        "bidirectional_latency": (3, size / 6),
    }[form]
    for plan in (all_gather_loop(topology, "x", form), reduce_scatter_loop(topology, "x", form)):
        assert time_s(topology, plan, size) == pytest.approx(hops * (chunk / 45e9 + 1e-6), rel=0, abs=hops * 1e-12)


# --- scaling laws and bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_time_scales_with_size_over_bandwidth(collective: str, algorithm: str) -> None:
    # All durations twice as long: twice the time, contention or not.
    slow, fast = (
        torus(2, 4, wrap=[False, True], latency_s=0),
        torus(2, 4, wrap=[False, True], latency_s=0, bandwidth=90e9),
    )
    axes = ("y",) if collective == "permute" else ("x", "y")
    plan, other = (schedule(topology, collective, axes, algorithm) for topology in (slow, fast))
    tolerance = rounding_s(slow, plan)
    assert time_s(slow, plan, 9e6) == pytest.approx(2 * time_s(fast, other, 9e6), abs=2 * tolerance)
    assert time_s(slow, plan, 18e6) == pytest.approx(2 * time_s(slow, plan, 9e6), abs=2 * tolerance)


def cut_bound(topology: Topology, collective: str, axes: str, size: float) -> float:
    """Most bytes that must enter a set of chips, over the links into it: single chips and halves of every axis."""
    names = [axis.name for axis in topology.axes]
    at = {chip: dict(zip(names, topology.coordinates(chip), strict=True)) for chip in range(topology.chips)}
    group = {chip for chip, x in at.items() if all(x[name] == 0 for name in names if name not in axes)}
    sets = [{chip} for chip in group]
    for name in axes:
        k = topology.axis(name).size
        sets += [{chip for chip in group if at[chip][name] < h} for h in range(1, k)]
        sets += [{chip for chip in group if at[chip][name] >= h} for h in range(1, k)]
    worst, n = 0.0, len(group)
    root, in_order = min(group), sorted(group)
    next_to = [*zip(in_order, [*in_order[1:], root], strict=True)]
    for inside in sets:
        m = len(inside)
        links = [link for link in topology.links if link.dst in inside and link.src in group - inside]
        if collective == "permute":
            if m > 1 or not topology.axis(axes).ring:
                continue
            needed = size
        else:
            needed = (
                size
                * {
                    "all_gather": (n - m) / n,
                    "reduce_scatter": m / n,
                    "all_reduce": 1.0,
                    "all_to_all": m * (n - m) / n,
                    "broadcast": float(root not in inside),
                    "reduce": float(root in inside),
                    "gather": (n - m) / n * (root in inside),
                    "scatter": m / n * (root not in inside),
                    "sendrecv": float(sum(after in inside and before not in inside for before, after in next_to)),
                }[collective]
            )
        if links:
            worst = max(worst, needed / (len(links) * links[0].bandwidth))
    return worst


@given(st.data())
def test_nothing_is_faster_than_a_cut(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    topology = torus(
        *sizes, wrap=[data.draw(st.booleans()) for _ in sizes], latency_s=data.draw(st.sampled_from([0, 1e-6]))
    )
    collective, algorithm = data.draw(st.sampled_from(ALGORITHMS))
    names = [axis.name for axis in topology.axes]
    axes = data.draw(st.sampled_from(names)) if collective == "permute" else "".join(names)
    size = data.draw(st.sampled_from([100.0, 1e5, 1e8]))
    plan = schedule(topology, collective, tuple(axes), algorithm)
    if not len(plan):
        return
    time, tolerance = time_s(topology, plan, size), rounding_s(topology, plan)
    latency_s = topology.links[0].latency_s
    assert time >= cut_bound(topology, collective, axes, size) + latency_s - tolerance
    assert time >= lower_bound(topology, collective, tuple(axes), size) - tolerance


@pytest.mark.parametrize("wrap", list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast"])
def test_the_bound_is_at_least_that_of_the_cuts(collective: str, wrap: tuple[bool, bool]) -> None:
    topology = torus(4, 3, wrap=wrap)
    least = lower_bound(topology, collective, ("x", "y"), 1e9)
    assert least >= cut_bound(topology, collective, "xy", 1e9) * (1 - 1e-12)


# --- over routes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("collective", "algorithm", "chips", "size"),
    pairwise(
        (*algorithm, chips, size) for algorithm in ON_ANY_ROUTE for chips in (1, 2, 3, 4, 5, 6, 8, 16) for size in SIZES
    ),
)
def test_time_on_a_switch_equals_the_closed_form(collective: str, algorithm: str, chips: int, size: float) -> None:
    expected = on_switch(collective, algorithm, chips, size, 450e9, 1e-6)
    if expected is None:
        assert not fits("halving_doubling", chips)
        return
    topology = switch(chips)
    plan = schedule(topology, collective, ("g",), algorithm)
    assert time_s(topology, plan, size) == pytest.approx(expected, rel=0, abs=rounding_s(topology, plan))


@pytest.mark.parametrize(("collective", "algorithm"), ON_ANY_ROUTE)
def test_every_algorithm_has_a_closed_form_on_a_switch(collective: str, algorithm: str) -> None:
    assert on_switch(collective, algorithm, 8, 1e6, 450e9, 1e-6) is not None
    assert on_switch(collective, "unheard_of", 8, 1e6, 450e9, 1e-6) is None
    assert on_switch(collective, algorithm, 1, 1e6, 450e9, 1e-6) == 0


@pytest.mark.parametrize("n", [2, 3, 8])
def test_bytes_per_port_of_a_switch(n: int) -> None:
    topology = switch(n)
    gathered = (n - 1) / n
    expected = {
        ("all_gather", "ring"): gathered,
        ("all_gather", "one_shot"): gathered,
        ("reduce_scatter", "one_shot"): gathered,
        ("all_to_all", "one_shot"): gathered,
        ("all_reduce", "ring"): 2 * gathered,
        ("all_reduce", "two_shot"): 2 * gathered,
        ("all_reduce", "one_shot"): n - 1,
    }
    for (collective, algorithm), share in expected.items():
        plan = schedule(topology, collective, ("g",), algorithm)
        for ingress in (False, True):
            ports = np.flatnonzero((plan.follows >= 0) == ingress)
            loads = Counter[int]()
            for port, part in zip(plan.link[ports].tolist(), plan.share[ports].tolist(), strict=True):
                loads[port] += part
            assert len(loads) == n
            assert list(loads.values()) == pytest.approx([share] * n), (collective, algorithm)


def test_messages_to_one_chip_queue_for_its_ingress() -> None:
    # Trees of 6 chips: chips 2 and 4 have the sum of two and are ready at the same time. Each waits its turn.
    topology, size = switch(6), 45e6
    time = simulated(topology, "all_reduce", "g", size, "tree")
    alone = 2 * (3 * 100e-6 + 2 * 1e-6)
    assert time == pytest.approx(alone, rel=1e-3)


def test_algorithms_cross_over_where_their_closed_forms_say() -> None:
    # One-shot saves 1 us of two_shot, and sends (n-1) V (1 - 2/n) more: V = 1 us w / ((n-1) (1 - 2/n)) = 85.7 kB.
    topology, even = switch(8), 1e-6 * 450e9 / (7 * (1 - 2 / 8))
    for size, best in ((0.9 * even, "one_shot"), (1.1 * even, "two_shot")):
        times = {name: simulated(topology, "all_reduce", "g", size, name) for name in ("one_shot", "two_shot", "ring")}
        assert min(times, key=lambda name: times[name]) == best


def test_a_full_mesh_sends_to_all_chips_at_once() -> None:
    # c/w + t: one chunk on each link.
    topology = full_mesh(5)
    assert simulated(topology, "all_gather", "g", 5e6, "one_shot") == pytest.approx(1e6 / 50e9 + 1e-6, rel=1e-9)
    assert simulated(topology, "all_reduce", "g", 5e6, "two_shot") == pytest.approx(2 * (1e6 / 50e9 + 1e-6), rel=1e-9)


def test_a_message_cuts_through_at_the_rate_of_its_slowest_link() -> None:
    # Chip 1 to chip 2 crosses two links of 50 GB/s and between them one of 5 GB/s: 200 us, and 1 us for each link.
    topology = two_sockets()
    assert simulated(topology, "permute", "g", 1e6) == pytest.approx(203e-6, rel=1e-9)
    # All-to-all: 4 of the 12 messages cross the slow link in either direction, 250 kB each, one behind the other.
    assert simulated(topology, "all_to_all", "g", 1e6) >= 4 * 250e3 / 5e9


@given(st.data())
def test_nothing_is_faster_than_the_links_of_a_graph(data: st.DataObject) -> None:
    latency_s = data.draw(st.sampled_from([0, 1e-6]))
    chips = data.draw(st.integers(2, 9))
    topology = data.draw(
        st.sampled_from(
            [
                switch(chips, latency_s=latency_s),
                full_mesh(min(chips, 5)),
                two_sockets(),
                graph(*(f"{i}{i + 1}" for i in range(chips - 1)), chips=chips, latency_s=latency_s, slow="12 34"),
            ]
        )
    )
    collective, algorithm = data.draw(st.sampled_from(ON_ANY_ROUTE))
    if not fits(algorithm, topology.chips):
        return
    size = data.draw(st.sampled_from([100.0, 1e5, 1e8]))
    plan = schedule(topology, collective, ("g",), algorithm)
    least = lower_bound(topology, collective, ("g",), size)
    assert time_s(topology, plan, size) >= least - rounding_s(topology, plan)


def test_the_bound_is_reached_by_a_long_ring() -> None:
    topology = switch(8)
    for collective in GATHERS:
        least = lower_bound(topology, collective, ("g",), 2**34)
        assert least <= simulated(topology, collective, "g", 2**34, "ring") <= 1.001 * least


# --- conventions -----------------------------------------------------------------------------------------------------


def test_nccl_bandwidths() -> None:
    assert algbw(1e9, 0.1) == pytest.approx(1e10)
    assert busbw("all_reduce", 8, 1e9, 0.1) == pytest.approx(1.75e10)
    assert busbw("all_to_all", 8, 1e9, 0.1) == busbw("all_gather", 8, 1e9, 0.1) == pytest.approx(0.875e10)
    assert busbw("broadcast", 8, 1e9, 0.1) == algbw(1e9, 0.1)
    with pytest.raises(InputError, match="did you mean 'all_reduce'"):
        busbw("allreduce", 8, 1e9, 0.1)


def test_bus_bandwidth_of_a_long_ring_collective_is_that_of_its_links() -> None:
    topology = torus(8)
    for collective in GATHERS:
        time = simulated(topology, collective, "x", 2**34)
        assert busbw(collective, 8, 2**34, time) == pytest.approx(2 * 45e9, rel=1e-3)
