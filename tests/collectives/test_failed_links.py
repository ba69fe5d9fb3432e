"""Collectives around failed links: every chunk still arrives, over none of them; by hand, and over random failures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.machines import full_mesh, graph, switch, torus
from support.run_schedule import time_s

from sim.collectives import ON_NCCL, ON_ROUTES, ON_TORUS, algorithm_of, schedule
from sim.collectives.chunk_replay import replay
from sim.collectives.emit import CollectiveCall, emit
from sim.errors import InputError
from sim.program import ProgramBuilder
from sim.program.perturb import apply_perturbations
from sim.specs import PerturbSpec, load
from sim.topology import build
from sim.topology.rings import find


def failing(topology, *names):
    return topology.fail_links(frozenset(link.index for link in topology.links if link.name in names))


AROUND = [(c, a) for c in ON_TORUS for a in ON_TORUS[c]]


@pytest.mark.parametrize(("collective", "algorithm"), AROUND)
@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ((4,), ("1:x+",)),
        ((4,), ("1:x-",)),
        ((4,), ("3:x+", "0:x-")),
        ((5,), ("1:x+", "2:x-")),
        ((2, 3), ("0:x+",)),
        ((4, 3, 2), ("5:y-", "0:z+")),
        ((4, 3), ("0:x+", "4:x+")),
    ],
)
def test_collectives_on_a_torus_go_around_failed_links(collective, algorithm, sizes, names):
    """Every chunk arrives, none over a failed link; lines of one axis may be open at different places."""
    topology = failing(torus(*sizes), *names)
    axes = tuple(axis.name for axis in topology.axes if axis.size > 1)
    axes = axes[:1] if collective == "permute" else axes
    plan = schedule(topology, collective, axes, algorithm)
    assert not set(plan.link.tolist()) & topology.failed
    replay(plan, topology)


@pytest.mark.parametrize("name", ["1:x+", "2:x-", "3:x+"])
@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter"])
def test_a_ring_with_a_failed_link_takes_the_time_of_a_line(name, collective):
    """K = 4 chips: the chip at an end gets all over one link, (K-1) (V/(K w) + t), wherever the ring is open."""
    topology, size = failing(torus(4), name), 2.0**20
    link = topology.links[0]
    expected = topology.software.collective_overhead_s + 3 * (size / 4 / link.bandwidth + link.latency_s)
    assert time_s(topology, schedule(topology, collective, ("x",)), size) == pytest.approx(expected, abs=4e-12)


@pytest.mark.parametrize(("collective", "algorithm"), [(c, a) for c in ON_ROUTES for a in ON_ROUTES[c]])
@pytest.mark.parametrize("names", [("1->0#0",), ("1->0#0", "1->2#0")])
def test_collectives_on_a_graph_go_around_failed_links(collective, algorithm, names):
    """A link fails with the one that leads back; other chips pass messages on where no link is left."""
    topology = failing(full_mesh(4), *names)
    assert {topology.links[i].name for i in topology.failed} == {
        *names,
        *("->".join([n[3], n[0]]) + "#0" for n in names),
    }
    plan = schedule(topology, collective, ("g",), algorithm)
    assert not set(plan.link.tolist()) & topology.failed
    replay(plan, topology)


def test_what_has_no_way_around_names_link_collective_and_cut():
    with pytest.raises(InputError) as refused:
        schedule(failing(torus(4, wrap=False), "1:x+"), "all_gather", ("x",), "line")
    assert str(refused.value) == (
        "all_gather(x) by line: perturb.failed_links: failed links 1:x+ cut the machine: "
        "its line along x falls apart behind chip 1"
    )
    cut = failing(full_mesh(3), "0->1#0", "0->2#0")
    with pytest.raises(
        InputError, match=r"broadcast\(g\) by tree: .* 0->1#0, .*0->2#0.* cut the machine: 0 cannot reach 1"
    ):
        schedule(cut, "broadcast", ("g",), "tree")
    for collective in ("broadcast", "permute"):
        with pytest.raises(InputError, match=rf"{collective}\(x\) by .* cut the machine: 0 cannot reach 1"):
            schedule(failing(torus(4), "0:x+", "2:x-"), collective, ("x",))


def test_a_port_of_a_switch_has_no_way_around():
    topology = switch(4)
    builder = ProgramBuilder([*(f"{c}:compute" for c in range(4)), *(link.name for link in topology.links)])
    emit(builder, topology, CollectiveCall(schedule(topology, "all_gather", ("g",)), 2.0**20, "all_gather(g)"))
    with pytest.raises(InputError, match=r"'all_gather\(g\)' needs the failed link.* got 'gpu2:egress'"):
        apply_perturbations(builder.build(), topology, PerturbSpec(failed_links=["gpu2:egress"]))


def test_a_message_to_the_neighbour_goes_the_other_way_round():
    """1 -> 2 in 32 chunks over three hops in the - direction, where nothing else is: 34 V/(32 w) + 3 t."""
    topology, size = failing(torus(4), "1:x+"), 2.0**20
    link = topology.links[0]
    plan = schedule(topology, "permute", ("x",))
    expected = topology.software.collective_overhead_s + 34 / 32 * size / link.bandwidth + 3 * link.latency_s
    assert time_s(topology, plan, size) == pytest.approx(expected, abs=34e-12)
    replay(plan, topology)


def test_a_failed_link_costs_a_broadcast_one_of_its_trees():
    """4x4: three trees of depth 7 in place of four, c = V/(3 x 32): 31 c/w + 7 (c/w + t)."""
    topology, size = failing(torus(4, 4), "5:x+"), 2.0**20
    link, chunk = topology.links[0], size / 96
    plan = schedule(topology, "broadcast", ("x", "y"))
    expected = topology.software.collective_overhead_s + 38 * chunk / link.bandwidth + 7 * link.latency_s
    assert plan.parts == 96
    assert time_s(topology, plan, size) == pytest.approx(expected, abs=40e-12)


@pytest.mark.parametrize(
    ("names", "depth"), [(("1:x+",), 3), (("1:x+", "2:x-"), 2), (("0:x+", "1:x-"), 3), (("3:x+", "0:x-"), 3)]
)
def test_a_broadcast_on_a_ring_with_a_failed_link_goes_down_the_tree_that_is_left(names, depth):
    """One direction left: three hops. A whole cable lost: both ways from chip 0, the longer one `depth` hops."""
    topology, size = failing(torus(4), *names), 2.0**20
    link, chunk = topology.links[0], size / 32
    expected = topology.software.collective_overhead_s + (31 + depth) * chunk / link.bandwidth + depth * link.latency_s
    assert time_s(topology, schedule(topology, "broadcast", ("x",)), size) == pytest.approx(expected, abs=40e-12)


@given(st.data())
def test_on_a_torus_whatever_fails_the_collective_is_done_or_refused(data):
    """Any links of any small torus, mesh or twisted torus: every chunk is in its place, or the error names the cut."""
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: 1 < np.prod(s) <= 24))
    wraps = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    twists = torus(2, 4, twist={"x": {"y": 2}}), torus(3, 2, 4, twist={"x": {"z": 2}})
    topology = data.draw(st.sampled_from([torus(*sizes, wrap=wraps)] * 3 + [*twists]))
    failed = data.draw(st.sets(st.integers(0, len(topology.links) - 1), min_size=1, max_size=3))
    topology = topology.fail_links(frozenset(failed))
    collective, algorithm = data.draw(st.sampled_from(AROUND))
    longer = [axis.name for axis in topology.axes if axis.size > 1]
    most = 1 if collective == "permute" else len(longer)
    axes = tuple(data.draw(st.lists(st.sampled_from(longer), min_size=1, max_size=most, unique=True)))
    try:
        plan = schedule(topology, collective, axes, algorithm)
    except InputError as error:
        assert "cut the machine" in str(error)  # noqa: PT017
        return
    assert not set(plan.link.tolist()) & topology.failed
    replay(plan, topology)


GRAPHS = {
    "mesh": full_mesh(4),
    "pairs on switches": graph("01", "23", "0a", "1a", "2b", "3b", "ab", chips=4, switches="ab"),
    "two planes": graph(*(f"{c}{plane}" for c in range(4) for plane in "ab"), chips=4, switches="ab"),
    "ring": graph("01", "12", "23", "30", chips=4),
    "boxes": graph("0a", "1a", "2b", "3b", "02", "13", chips=4, switches="ab", slow="02 13", net=True),
}


@given(st.data())
def test_on_a_graph_whatever_fails_the_collective_is_done_or_refused(data):
    topology = GRAPHS[data.draw(st.sampled_from(sorted(GRAPHS)))]
    failed = data.draw(st.sets(st.integers(0, len(topology.links) - 1), min_size=1, max_size=3))
    topology = topology.fail_links(frozenset(failed))
    collective = data.draw(st.sampled_from(sorted(ON_ROUTES)))
    algorithm = data.draw(st.sampled_from(sorted(ON_ROUTES[collective])))
    try:
        plan = schedule(topology, collective, ("g",), algorithm)
    except InputError as error:
        assert "cut the machine" in str(error)  # noqa: PT017
        return
    assert not set(plan.link.tolist()) & topology.failed
    replay(plan, topology)


BOXES = graph(
    *["0a", "1a", "2a", "3b", "4b", "5b", "03", "14", "25"], chips=6, switches="ab", slow="03 14 25", net=True
)
"""Two boxes of three chips with a network adapter each, 50 GB/s inside and 5 GB/s between them."""


@pytest.mark.parametrize(("names", "rings"), [((), 3), (("2->5#0",), 2), (("0->3#0",), 2)])
def test_rings_between_boxes_take_the_network_adapters_that_are_left(names, rings):
    """All-gather of V by r rings of n = 6 chips: each passes 5 chunks of c = V/(6 r) over each of its adapters.

    Inside a box a chunk is there long before the adapter has sent the one before, so T = 5 c/w' + t; with two of three
    adapters 3/2 of the time of the bytes.
    """
    topology, size = failing(BOXES, *names), 6.0 * 2**20
    found = find(topology)
    assert found.count == rings
    plan = schedule(topology, "all_gather", ("g",), "ring")
    between = [link.index for link in topology.links if link.medium == "net" and link.index not in topology.failed]
    assert np.bincount(plan.link)[between].tolist() == [5] * len(between)
    expected = topology.software.collective_overhead_s + 5 * size / (6 * rings) / 5e9 + 1e-6
    assert time_s(topology, plan, size) == pytest.approx(expected, abs=5e-12)
    replay(plan, topology)


def test_one_adapter_that_is_left_takes_one_ring():
    """It leaves a box by another chip's adapter, over the box's switch: 5 chunks of V/6 each way."""
    topology = failing(BOXES, "0->3#0", "2->5#0")
    assert find(topology).count == 1
    plan = schedule(topology, "all_gather", ("g",), "ring")
    between = [link.index for link in topology.links if link.name in ("1->4#0", "4->1#0")]
    assert np.bincount(plan.link)[between].tolist() == [5, 5]
    replay(plan, topology)


DGX = {name: build(*load.machine(name)) for name in ("dgx_h100_x2", "dgx_h100_p2p_disabled", "dgx1_v100")}


def test_nccl_leaves_a_failed_adapter_out_of_its_rings_and_trees():
    """Two DGX H100 without adapter 3: seven rings and seven pairs of trees over the other rails, nothing forwarded."""
    topology = failing(DGX["dgx_h100_x2"], "gpu3->rail3#0")
    for algorithm in ("ring_simple", "tree_simple"):
        plan = schedule(topology, "all_reduce", ("g",), algorithm, 2.0**20)
        rails = {topology.links[i].name for i in plan.link.tolist() if topology.links[i].medium == "net"}
        own = [i for i in range(16) if i % 8 != 3]
        assert rails == {f"gpu{i}->rail{i % 8}#0" for i in own} | {f"rail{i % 8}->gpu{i}#0" for i in own}
        assert not np.isin(plan.follows, np.flatnonzero(plan.follows >= 0)).any()  # a message takes two links
        replay(plan, topology)


def test_nccl_does_without_multicast_where_a_chip_does_not_reach_it():
    """The links to the switch carry nothing else, so the time is that of the same algorithm with them."""
    whole = DGX["dgx_h100_p2p_disabled"]
    topology = failing(whole, "gpu3->nvswitch#0")
    size = 2.0**24
    assert algorithm_of(whole, "all_reduce", "auto", size) == "nvls"
    chosen = algorithm_of(topology, "all_reduce", "auto", size)
    assert chosen != "nvls"
    times = [time_s(at, schedule(at, "all_reduce", ("g",), chosen, size), size) for at in (whole, topology)]
    assert times[0] == times[1]
    with pytest.raises(
        InputError,
        match=r"all_reduce by nvls: .*gpu3->nvswitch#0.* cut the machine: not all chips reach the switch that",
    ):
        schedule(topology, "all_reduce", ("g",), "nvls", size)


@given(st.data())
def test_whatever_fails_nccl_does_its_collective_or_refuses(data):
    topology = DGX[data.draw(st.sampled_from(sorted(DGX)))]
    failed = data.draw(st.sets(st.integers(0, len(topology.links) - 1), min_size=1, max_size=3))
    topology = topology.fail_links(frozenset(failed))
    collective = data.draw(st.sampled_from(sorted(ON_NCCL)))
    name = data.draw(st.sampled_from(["auto", *sorted(ON_NCCL[collective])]))
    try:
        plan = schedule(topology, collective, ("g",), name, data.draw(st.sampled_from([2.0**10, 2.0**20])))
    except InputError as error:
        assert "cut the machine" in str(error) or "switch that reduces" in str(error)  # noqa: PT017
        return
    assert not set(plan.link.tolist()) & topology.failed
    replay(plan, topology)
