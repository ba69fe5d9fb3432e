"""Collectives over mesh axes on every kind of machine: all algorithms, over every subset of the axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace
from support.machines import meshed, switch, torus, two_boxes
from support.run_schedule import time_s
from support.selection import release_if

from sim.collectives import COLLECTIVES, ON_NCCL, ON_ROUTES, ON_TORUS, multimem, schedule
from sim.collectives.chunk_replay import ReplayError, replay
from sim.collectives.loop import all_gather_loop, closes, form_around, reduce_scatter_loop
from sim.errors import InputError, LayoutError
from sim.specs import LOOP_FORMS, LoopForm, load
from sim.topology import Topology, build
from sim.topology.group import groups_of
from sim.topology.lower_bound import lower_bound
from sim.topology.mesh import mesh_groups, mesh_of_pieces, mesh_positions, whole_lines

SIZE = 2.0**22


def merged_torus() -> Topology:
    """4x2x2 whose first two axes are one: `xy` has 8 positions."""
    machine = torus(4, 2, 2)
    return replace(machine, mesh=mesh_of_pieces(machine.axes, [("xy", [(4, 4), (2, 2)]), ("z", [(2, 1)])]))


MACHINES = {
    "torus 2x2x2": torus(2, 2, 2),
    "torus 2x4": torus(2, 4),
    "mesh 1x4x4": torus(1, 4, 4, wrap=False),
    "torus 4x2, x split": meshed(torus(4, 2), xo=2, xi=2, y=2),
    "mesh 4x2, x split": meshed(torus(4, 2, wrap=False), xo=2, xi=2, y=2),
    "torus 4x2x2, x and y merged": merged_torus(),
    "switch 8": switch(8),
    "switch 2x4": meshed(switch(8), data=2, tensor=4),
    "switch 2x2x2": meshed(switch(8), a=2, b=2, c=2),
    "two boxes 2x4": meshed(two_boxes(), box=2, gpu=4),
    "DGX-1 2x4": meshed(build(*load.machine("dgx1_v100")), a=2, b=4),
    "DGX H100 2x4": meshed(build(*load.machine("dgx_h100")), a=2, b=4),
    "two DGX A100 2x8": meshed(build(*load.machine("dgx_a100_x2")), box=2, gpu=8),
}


def subsets(machine: Topology) -> Iterator[tuple[str, ...]]:
    """Every subset of the mesh axes but the empty one."""
    names = [axis.name for axis in machine.mesh]
    return itertools.chain.from_iterable(itertools.combinations(names, count + 1) for count in range(len(names)))


def algorithms(machine: Topology, axes: tuple[str, ...], collective: str) -> list[str]:
    """Those that the machines of the groups have."""
    first = groups_of(machine, tuple(map(tuple, mesh_groups(machine, axes).tolist())))[0].machine
    own = (ON_TORUS if first.has_lines else ON_ROUTES)[collective]
    in_switch = () if first.has_lines else multimem.KERNELS.get(collective, ())
    return [*own, *(ON_NCCL.get(collective, {}) if first.software.nccl else ()), *in_switch]


@pytest.mark.parametrize("name", release_if(MACHINES, "two DGX A100 2x8", "DGX-1 2x4"))
def test_every_algorithm_carries_out_its_collective_over_every_subset_of_axes(name: str) -> None:
    """And none is faster than the links of all groups together allow."""
    machine, refused = MACHINES[name], []
    for axes in subsets(machine):
        for collective in COLLECTIVES:
            for algorithm in algorithms(machine, axes, collective):
                try:
                    plan = schedule(machine, collective, axes, algorithm, SIZE)
                except InputError as error:
                    refused.append((collective, algorithm, error.rule))
                    continue
                replay(plan, machine)
                assert time_s(machine, plan, SIZE) >= lower_bound(machine, collective, axes, SIZE) * (1 - 1e-9)
    for collective, algorithm, rule in refused:  # the only two reasons
        several_lines = collective == "permute" and rule == "a permute goes along one axis"
        needs_switch = "nvls" in algorithm or algorithm.startswith("multimem")
        assert several_lines or (needs_switch and rule.endswith("switch that reduces"))


MOVED = {"all_gather": 1, "reduce_scatter": 1, "all_reduce": 2}


@pytest.mark.parametrize("collective", MOVED)
@pytest.mark.parametrize("name", MACHINES)
def test_a_ring_sends_n_minus_one_nths_of_the_size_from_every_chip(name: str, collective: str) -> None:
    """Of all chips together 1/n per step: (n-1)/n from each, twice that for an all-reduce, whatever the groups."""
    machine = MACHINES[name]
    for axes in subsets(machine):
        n = mesh_groups(machine, axes).shape[1]
        ring = "ring_simple" if machine.software.nccl else "ring"
        plan = schedule(machine, collective, axes, ring, SIZE)
        first = plan.follows < 0
        sent = np.bincount(plan.src[first], plan.share[first], minlength=machine.chips)
        if whole_lines(machine, axes) is None or not machine.has_lines:
            assert sent == pytest.approx(MOVED[collective] * (n - 1) / n)
        assert sent.sum() == pytest.approx(machine.chips * MOVED[collective] * (n - 1) / n)


@pytest.mark.parametrize("name", MACHINES)
def test_groups_of_all_axes_but_some_are_where_the_chips_differ_along_these(name: str) -> None:
    machine = MACHINES[name]
    every = [axis.name for axis in machine.mesh]
    at = mesh_positions(machine, every)
    assert len(np.unique(at, axis=0)) == machine.chips
    for axes in subsets(machine):
        along = [every.index(axis) for axis in axes]
        rest = [i for i in range(len(every)) if i not in along]
        for group in mesh_groups(machine, axes).tolist():
            assert len(np.unique(at[group][:, rest], axis=0)) == 1
            assert at[group][:, along].tolist() == sorted(at[group][:, along].tolist())


def test_axes_that_are_whole_axes_of_the_wiring_are_its_lines() -> None:
    split, merged = MACHINES["torus 4x2, x split"], MACHINES["torus 4x2x2, x and y merged"]
    assert [axis.lines for axis in split.mesh] == [(), (), ("y",)]
    assert [axis.lines for axis in merged.mesh] == [("x", "y"), ("z",)]
    assert whole_lines(split, ("xo", "xi")) == ("x",)
    assert whole_lines(split, ("y", "xi", "xo")) == ("y", "x")
    assert whole_lines(split, ("xi", "y")) is None
    assert whole_lines(merged, ("z", "xy")) == ("z", "x", "y")
    for machine in (split, merged):
        every = tuple(axis.name for axis in machine.mesh)
        plain = schedule(replace(machine, mesh=()), "all_reduce", tuple(axis.name for axis in machine.axes))
        assert schedule(machine, "all_reduce", every) is not plain  # another machine object
        assert np.array_equal(schedule(machine, "all_reduce", every).link, plain.link)


def test_groups_over_all_chips_are_the_collective_of_the_machine() -> None:
    whole = switch(8)
    plan = schedule(whole, "all_gather", ("g",))
    for sizes in ({"a": 8}, {"a": 2, "b": 4}, {"a": 1, "b": 8}):
        machine = meshed(whole, **sizes)
        assert np.array_equal(schedule(machine, "all_gather", tuple(sizes)).link, plan.link)


def test_a_collective_of_a_group_of_one_chip_sends_nothing() -> None:
    for machine, axes in ((meshed(switch(8), p=1, t=8), ("p",)), (torus(1, 4), ("x",)), (switch(8), ())):
        assert len(schedule(machine, "all_reduce", axes)) == 0


def test_groups_share_the_links_that_they_have_in_common() -> None:
    """Four pairs across the one link of 5 GB/s between two boxes take four times as long as one pair."""
    machine = meshed(two_boxes(), box=2, gpu=4)
    pairs = schedule(machine, "sendrecv", ("box",), None, SIZE)
    assert time_s(machine, pairs, SIZE) == pytest.approx(4 * SIZE / 5e9, rel=1e-2)
    inside = schedule(machine, "sendrecv", ("gpu",), None, SIZE)
    assert time_s(machine, inside, SIZE) == pytest.approx(SIZE / 50e9, rel=5e-2)


def test_a_group_in_part_of_an_axis_uses_no_wraparound() -> None:
    """Halves of a ring of 4 are pairs with one link each way; the pairs across are two hops apart."""
    machine = MACHINES["torus 4x2, x split"]
    inner, outer = (schedule(machine, "all_gather", (axis,)) for axis in ("xi", "xo"))
    assert len(inner) == machine.chips
    assert len(outer) == 2 * machine.chips
    assert (outer.follows >= 0).sum() == machine.chips


def test_nccl_chooses_a_kernel_for_the_machine_of_each_group() -> None:
    """On a DGX-1 some pairs of chips have two links and others one: their kernels have other channels."""
    machine = MACHINES["DGX-1 2x4"]
    plan = schedule(machine, "all_reduce", ("a",), None, SIZE)
    assert len({each.plan.timing.channels for each in plan.groups if each.plan.timing}) > 1
    assert plan.timing is None
    slowest = max(time_s(each.group.machine, each.plan, SIZE) for each in plan.groups)
    assert time_s(machine, plan, SIZE) >= slowest * (1 - 1e-9)


@pytest.mark.parametrize("form", LOOP_FORMS)
@pytest.mark.parametrize("name", MACHINES)
def test_loops_go_around_every_mesh_axis_that_closes(name: str, form: LoopForm) -> None:
    """All but the axes of a torus that do not wrap; (n-1)/n of the size leaves every chip."""
    machine = MACHINES[name]
    for axis in machine.mesh:
        if axis.size == 1:
            continue
        open_line = machine.has_lines and len(axis.lines) == 1 and not machine.axis(axis.lines[0]).ring
        assert closes(machine, axis.name) == (not open_line or axis.size == 2)
        if not closes(machine, axis.name):
            with pytest.raises(LayoutError, match="does not wrap"):
                all_gather_loop(machine, axis.name, form)
            continue
        lines = whole_lines(machine, (axis.name,)) if machine.has_lines else None
        ring = len([line for line in lines or () if machine.axis(line).size > 1]) == 1 and not open_line
        if form == "direct" and ring:
            with pytest.raises(LayoutError, match="is a ring of links"):
                all_gather_loop(machine, axis.name, form)
            continue
        for loop in (all_gather_loop, reduce_scatter_loop):
            plan = loop(machine, axis.name, form_around(machine, axis.name, form))
            replay(plan, machine)
            sent = np.bincount(plan.src, plan.share * (plan.follows < 0), minlength=machine.chips)
            assert sent == pytest.approx((axis.size - 1) / axis.size)
        at = mesh_positions(machine, (axis.name,))[:, 0]
        plan = all_gather_loop(machine, axis.name, "one_way")
        if not open_line:
            assert ((at[plan.src] + 1) % axis.size == at[plan.dst]).all()
            assert (plan.origin[:, 0] == (at[plan.src] - plan.step) % axis.size).all()


def test_what_a_group_cannot_run_is_refused() -> None:
    with pytest.raises(InputError, match="'nvls' of all_reduce needs all chips on one switch that reduces"):
        schedule(MACHINES["two DGX A100 2x8"], "all_reduce", ("box",), "nvls", SIZE)
    with pytest.raises(InputError, match="'multi_axis' of all_gather does not run on a graph"):
        schedule(MACHINES["torus 4x2, x split"], "all_gather", ("xo",), "multi_axis")
    with pytest.raises(InputError, match="no axis of that name, got 'dat'"):
        schedule(MACHINES["switch 2x4"], "all_gather", ("dat",))
    with pytest.raises(InputError, match="names each axis once, got 'data,data'"):
        schedule(MACHINES["switch 2x4"], "all_gather", ("data", "data"))


def test_a_schedule_of_groups_that_mixes_them_is_found() -> None:
    machine = MACHINES["switch 2x4"]
    plan = schedule(machine, "all_gather", ("tensor",))
    replay(plan, machine)
    moved = plan.dst.copy()
    moved[plan.src == 0] = 5
    with pytest.raises(ReplayError):
        replay(replace(plan, dst=moved), machine)
