"""Reduce, gather, scatter and sendrecv on every shipped machine: what they move, how long it takes, its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from support.machines import switch, torus
from support.shipped_machines import one_of_each_wiring

from sim.collectives import ON_NCCL, ON_ROUTES, ON_TORUS, Schedule, schedule
from sim.collectives.chunk_replay import replay
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import Topology, build
from sim.topology.lower_bound import lower_bound

COLLECTIVES = ("reduce", "gather", "scatter", "sendrecv")
MACHINES = one_of_each_wiring(load.shipped("topology"))
MOST_REPLAYED, MOST_MOVED = 32, 512
"""Chips: some seconds for all machines."""


def plans(name: str, collective: str) -> list[tuple[Topology, Schedule]]:
    topology = build(*load.machine(name))
    axes = tuple(axis.name for axis in topology.axes)
    algorithms = list((ON_TORUS if topology.kind == "torus" else ON_ROUTES)[collective])
    if topology.chips > MOST_MOVED:
        return []
    size = None
    if topology.software.nccl is not None:  # whose schedules depend on the size
        algorithms, size = list(dict.fromkeys([*ON_NCCL[collective], *algorithms])), 1e6
    return [(topology, schedule(topology, collective, axes, algorithm, size)) for algorithm in algorithms]


def link_shares(topology: Topology, plan: Schedule) -> np.ndarray:
    """[links] bytes over the size of the collective."""
    shares = np.zeros(len(topology.links))
    np.add.at(shares, plan.link, plan.share)
    return shares


def into(topology: Topology, shares: np.ndarray, chip: int) -> float:
    return sum(shares[link.index] for link in topology.links if link.dst == chip)


def out_of(topology: Topology, shares: np.ndarray, chip: int) -> float:
    return sum(shares[link.index] for link in topology.links if link.src == chip)


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("name", MACHINES)
def test_every_algorithm_carries_out_its_collective(name: str, collective: str):
    for topology, plan in plans(name, collective):
        if topology.chips <= MOST_REPLAYED:
            replay(plan, topology)


@pytest.mark.parametrize("name", MACHINES)
def test_the_root_receives_or_sends_what_is_not_its_own_and_no_more(name: str):
    """Forwarding chips aside: into the root of a gather and out of that of a scatter go (n-1)/n of the array."""
    for topology, plan in plans(name, "gather"):
        assert into(topology, link_shares(topology, plan), 0) == pytest.approx(1 - 1 / topology.chips)
    for topology, plan in plans(name, "scatter"):
        assert out_of(topology, link_shares(topology, plan), 0) == pytest.approx(1 - 1 / topology.chips)


@pytest.mark.parametrize("name", MACHINES)
def test_every_chip_starts_one_message_of_a_sendrecv_and_all_it_adds_to_a_reduce(name: str):
    for topology, plan in plans(name, "sendrecv"):
        own = np.bincount(plan.src[plan.own], plan.share[plan.own], minlength=topology.chips)
        assert own == pytest.approx(np.ones(topology.chips))
    for topology, plan in plans(name, "reduce"):
        own = np.bincount(plan.src[plan.own], plan.share[plan.own], minlength=topology.chips)
        assert own == pytest.approx([0.0, *np.ones(topology.chips - 1)])


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("shape", [(4,), (5,), (4, 3), (2, 2, 2), (4, 4, 2)], ids=str)
@pytest.mark.parametrize("wrap", [True, False])
def test_a_torus_takes_the_closed_form(collective: str, shape: tuple[int, ...], wrap: bool):
    machine = torus(*shape, wrap=wrap)
    axes = tuple(axis.name for axis in machine.axes)
    for size in (64.0, 1e5, 1e9):
        measured = bench.run_collective(machine, CollectiveSpec(collective, axes, size))
        if collective == "sendrecv" and len(shape) > 1:
            assert measured.closed_form_s is None
            continue
        # Whole picoseconds: a half in each of the messages that follow each other.
        assert measured.time_s == pytest.approx(measured.closed_form_s, abs=1e-12 * 32 * np.prod(shape))


@pytest.mark.parametrize("shape", [(8,), (4, 4), (4, 4, 4)], ids=str)
@pytest.mark.parametrize("collective", ["gather", "scatter"])
def test_large_arrays_keep_all_links_of_the_root_busy(collective: str, shape: tuple[int, ...]):
    """(n-1)/n V/(2 A w); latency is a hundredth of a percent of it."""
    machine, size = torus(*shape, latency_s=0), 1e9
    axes = tuple(axis.name for axis in machine.axes)
    n, A = np.prod(shape), len(shape)
    busy = (1 - 1 / n) * size / (2 * A * 45e9)
    # The last message goes on down a tree of at most sum(K - 1) + 1 hops, a part of a chunk each.
    tail = sum(shape) * size / (2 * A * n) / 45e9
    time, rounding = bench.run_collective(machine, CollectiveSpec(collective, axes, size)).time_s, 1e-12 * n
    assert busy - rounding <= time <= busy + tail


@pytest.mark.parametrize("collective", COLLECTIVES)
@pytest.mark.parametrize("chips", [2, 4, 8, 16])
def test_a_switch_takes_the_closed_form(collective: str, chips: int):
    machine = switch(chips)
    for algorithm in ON_ROUTES[collective]:
        measured = bench.run_collective(machine, CollectiveSpec(collective, ("g",), 1e8, algorithm))
        assert measured.time_s == pytest.approx(measured.closed_form_s, abs=1e-12 * 32 * chips)
        assert measured.bound_s <= measured.time_s + 1e-12 * 32 * chips


def test_a_reduce_takes_as_long_as_the_broadcast_that_it_reverses():
    for machine, axes in ((torus(4, 4), ("x", "y")), (torus(3, 4, wrap=False), ("x", "y")), (switch(8), ("g",))):
        for algorithm in (ON_TORUS if machine.kind == "torus" else ON_ROUTES)["reduce"]:
            times = [
                bench.run_collective(machine, CollectiveSpec(each, axes, 1e7, algorithm)).time_s
                for each in ("reduce", "broadcast")
            ]
            assert times[0] == pytest.approx(times[1], rel=1e-6)


def test_groups_over_some_axes_have_a_root_each():
    machine = torus(4, 2, 3)
    for collective in COLLECTIVES:
        replay(schedule(machine, collective, ("z", "x")), machine)


@pytest.mark.parametrize("name", ["dgx_h100_x2", "dgx_a100_x4"])
def test_a_gather_over_rails_uses_the_adapters_of_all_chips(name: str):
    """Chunks of other boxes come by the rails of their senders: the root's ports are the limit, not its adapter."""
    topology, size = build(*load.machine(name)), 2.0**30
    bound_s = lower_bound(topology, "gather", ("g",), size)
    assert (
        bench.simulate_time_s(topology, CollectiveSpec("gather", ("g",), size, "one_shot"), kernel="compiled")
        < 1.1 * bound_s
    )
