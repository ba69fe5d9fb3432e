"""The mesh of a scenario: on tori, on switches and graphs, and what is refused."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.machines import meshed, switch, torus

from sim.collectives import schedule
from sim.collectives.fold import fold
from sim.engine import simulate
from sim.errors import InputError
from sim.lowering.emitter import Emitter
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of, pool_link, used_chips
from sim.shortcuts import unfold
from sim.simulate.consistency import check
from sim.simulate.run import run
from sim.specs import load
from sim.studies.explain import explain
from sim.topology import Topology, build
from sim.topology.boxes import boxes, racks
from sim.topology.folding import NotFoldableError, folded
from sim.topology.mesh import mesh_of_pieces

TORUS, SWITCH, BOXES = "palm540b_decode_ws2d", "llama3_70b_tp8_standard", "llama31_405b_tp16_ladder"


def meshed_machine(name: str, mesh: str) -> Topology:
    settings = [f"mesh={mesh}", *(["layout.mesh={}"] if name != TORUS else [])]
    scenario = load.scenario(name, settings)
    assert used_chips(scenario) == mesh_of(scenario).chips
    return mesh_of(scenario)


@pytest.mark.parametrize(
    ("name", "mesh", "pieces"),
    [
        (TORUS, "{x: x, yz: [y, z]}", {"x": [(4, 16)], "yz": [(4, 4), (4, 1)]}),
        (TORUS, "{all: [z, y, x]}", {"all": [(4, 1), (4, 4), (4, 16)]}),
        (
            TORUS,
            "{outer: {of: x, size: 2}, y: y, inner: {of: x, size: 2}, z: z}",
            {"outer": [(2, 32)], "y": [(4, 4)], "inner": [(2, 16)], "z": [(4, 1)]},
        ),
        (SWITCH, "{data: 2, tensor: 4}", {"data": [(2, 4)], "tensor": [(4, 1)]}),
        (SWITCH, "{data: 2, tensor: 2}", {"data": [(2, 2)], "tensor": [(2, 1)]}),
        (BOXES, "{box: boxes, gpu: 8}", {"box": [(2, 8)], "gpu": [(8, 1)]}),
        (BOXES, "{pair: 4, gpu: 2, box: boxes}", {"pair": [(4, 2)], "gpu": [(2, 1)], "box": [(2, 8)]}),
        (TORUS, "{x: {of: x, size: 3}, yz: [y, z]}", {"x": [(3, 16)], "yz": [(4, 4), (4, 1)]}),
        (
            TORUS,
            "{x: {of: x, size: 1}, a: {of: y, size: 2}, z: z, b: {of: y, size: 1}}",
            {"x": [(1, 8)], "a": [(2, 4)], "z": [(4, 1)], "b": [(1, 4)]},
        ),
    ],
)
def test_a_mesh_deals_the_chips_of_the_machine(name: str, mesh: str, pieces: dict[str, list[tuple[int, int]]]) -> None:
    assert {axis.name: list(axis.pieces) for axis in meshed_machine(name, mesh).mesh} == pieces


@pytest.mark.parametrize(
    ("mesh", "pieces"),
    [
        ("{rack: racks, gpu: 16}", {"rack": [(2, 16)], "gpu": [(16, 1)]}),
        ("{rack: racks, box: boxes, gpu: 8}", {"rack": [(2, 16)], "box": [(2, 8)], "gpu": [(8, 1)]}),
        ("{gpu: 8, box: boxes, rack: racks}", {"gpu": [(8, 1)], "box": [(2, 8)], "rack": [(2, 16)]}),
        ("{box: boxes, gpu: 8}", {"box": [(4, 8)], "gpu": [(8, 1)]}),
    ],
)
def test_racks_are_boxes_on_the_same_leaf_switches(mesh: str, pieces: dict[str, list[tuple[int, int]]]) -> None:
    scenario = load.scenario(BOXES, ["topology=dgx_h100_x4_leaf_spine", f"mesh={mesh}", "layout.mesh={}"])
    assert {axis.name: list(axis.pieces) for axis in mesh_of(scenario).mesh} == pieces


def test_a_cable_from_box_to_box_joins_no_racks() -> None:
    boxes_of = (
        "{count: 4, of: dgx_h100, leaves: {link: infiniband_ndr, boxes: 2}, spines: {count: 2, link: infiniband_ndr}}"
    )
    cable = "[{between: [gpu3, gpu21], link: infiniband_ndr}]"
    machine = f"topology={{name: cabled, kind: graph, boxes: {boxes_of}, links: {cable}}}"
    scenario = load.scenario(BOXES, [machine, "mesh={rack: racks, box: boxes, gpu: 8}", "layout.mesh={}"])
    assert [axis.size for axis in mesh_of(scenario).mesh] == [2, 2, 8]


def test_a_report_says_how_long_the_axes_of_the_mesh_are() -> None:
    settings = ["layout.mesh={}", "mesh={box: boxes, gpu: 8}", "engine.layers=1", "reference=null"]
    notes = run(load.scenario(BOXES, settings)).report.notes
    assert notes[0] == "mesh: box 2 x gpu 8"


@pytest.mark.parametrize(
    ("machine", "racks_and_boxes"),
    [("dgx_h100_x4_leaf_spine", (2, 4)), ("dgx_h100_x4", (1, 4)), ("dgx_h100", (1, 1)), ("gb200_nvl72", (1, 1))],
)
def test_boxes_of_all_rails_are_in_one_rack(machine: str, racks_and_boxes: tuple[int, int]) -> None:
    built = build(*load.machine(machine))
    assert (len(racks(built)), len(boxes(built))) == racks_and_boxes


@pytest.mark.parametrize("layout", ["weight_stationary_2d", "weight_gathered_xy"])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_part_of_a_torus_is_the_torus_of_its_chips_without_wraparound(layout: str, length: int) -> None:
    settings = [f"layout.ffn={layout}", "engine.layers=2", "workload.batch=48", "reference=null"]
    whole = load.scenario(TORUS, [*settings, f"mesh={{x: {{of: x, size: {length}}}, y: y, z: z}}"])
    axes = (
        f"topology.axes={{x: {{size: {length}, wrap: false}}, y: {{size: 4, wrap: true}}, z: {{size: 4, wrap: true}}}}"
    )
    part, alone = run(whole), run(load.scenario(TORUS, [*settings, axes]))
    assert part.report.simulated.latency_s == alone.report.simulated.latency_s
    assert part.report.closed_form == alone.report.closed_form
    assert used_chips(whole) == 16 * length
    assert [(bar.name, bar.running_s) for each in explain(part) for bar in each.bars] == [
        (bar.name, bar.running_s) for each in explain(alone) for bar in each.bars
    ]


def test_chips_and_links_of_a_part_of_a_torus_are_numbered_by_themselves() -> None:
    mesh = "mesh={x: {of: x, size: 2}, y: {of: y, size: 2}, z: z}"
    part = mesh_of(load.scenario(TORUS, [mesh]))
    assert part.nodes == tuple(map(str, range(16)))
    assert part.links[0].name == "0:x+"
    failed = load.scenario(TORUS, [mesh, "perturb={failed_links: ['16:x+']}", "reference=null", "engine.layers=1"])
    with pytest.raises(InputError, match=r"no link of that name, got '16:x\+'"):
        run(failed)


def test_a_memory_pool_lies_on_a_chip_that_the_part_leaves_free() -> None:
    pool = "memory_pool={to: peer, offload_every: 59}"
    scenario = load.scenario(TORUS, ["mesh={x: x, y: {of: y, size: 3}, z: z}", pool])
    link = build(scenario.topology, scenario.stack).links[0]
    assert pool_link(scenario) == (link.bandwidth, link.latency_s)  # chip (0, 3, 0), behind the wraparound of y


def test_no_axis_of_a_part_of_a_twisted_torus_wraps_with_a_twist() -> None:
    part = ["topology=tpu_v4_4x4x8_twisted", "mesh={x: x, y: y, z: {of: z, size: 4}}", "reference=null"]
    alone = ["topology.axes={x: {size: 4, wrap: false}, y: {size: 4, wrap: false}, z: {size: 4, wrap: false}}"]
    settings = ["engine.layers=2"]
    assert run(load.scenario(TORUS, [*settings, *part])).report.simulated.latency_s == (
        run(load.scenario(TORUS, [*settings, *alone])).report.simulated.latency_s
    )


def test_without_a_mesh_the_axes_are_those_of_the_machine_or_the_layout() -> None:
    assert [axis.name for axis in mesh_of(load.scenario(TORUS)).mesh] == ["x", "y", "z"]
    assert [(axis.name, axis.size) for axis in mesh_of(load.scenario(BOXES)).mesh] == [("t", 8), ("r", 2)]


@pytest.mark.parametrize(
    ("name", "mesh", "message"),
    [
        (TORUS, "{x: x, y: y}", "must use every axis of the torus once, got 'x, y'; add z: z"),
        (TORUS, "{a: x, b: x, y: y, z: z}", "b: must use every axis of the torus once, got 'x'"),
        (TORUS, "{x: x, y: y, z: w}", "z: must be an axis of the torus, got 'w'; choose from x, y, z"),
        (TORUS, "{x: x, y: y, z: 4}", "z: must be an axis of the torus, a list of axes, or a part"),
        (
            TORUS,
            "{a: {of: x, size: 8}, y: y, z: z}",
            "a.size: parts a must have a product of at most axis 'x', 4, got 8",
        ),
        (TORUS, "{X: x, y: y, z: z}", "a mesh axis is named by lower-case letters"),
        (SWITCH, "{a: 3, b: 4}", "must have a product of at most the machine's 8 chips, got 12"),
        (SWITCH, "{a: x}", "a: must be a number of chips, 'boxes' or 'racks' on a switch, got 'x'"),
        (BOXES, "{a: boxes, b: boxes}", "must have 'boxes' along one axis, got 'a, b'"),
        (
            BOXES,
            "{rack: racks, gpu: 8}",
            "axes beside 'racks' must have the chips of a rack, 16, as their product, got 8",
        ),
        (BOXES, "{box: boxes, gpu: 4}", "axes beside 'boxes' must have the chips of a box, 8, as their product, got 4"),
    ],
)
def test_what_is_no_mesh_of_the_machine_is_refused(name: str, mesh: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        meshed_machine(name, mesh)
    assert message in str(refused.value)


def test_a_mesh_excludes_the_mesh_of_the_layout() -> None:
    with pytest.raises(InputError, match=r"mesh: must be left out where layout\.mesh is given"):
        load.scenario(SWITCH, ["mesh={t: 8}"])


def test_labels_name_axes_of_several_letters_apart_and_programs_keep_them() -> None:
    scenario = load.scenario(SWITCH)
    for axes, text in (
        ({"y": 2, "z": 4}, "yz"),
        ({"data": 2, "tensor": 4}, "data,tensor"),
        ({"a": 2, "bc": 4}, "a,bc"),
    ):
        to = Emitter(scenario, meshed(mesh_of(scenario), **axes))
        to.collective("all_reduce", tuple(reversed(axes)), 1e6, "residual", (), "bf16")
        assert dict(to.builder.build().axes) == {f"all_reduce({text}) residual": tuple(axes)}


def alike(name: str) -> Topology:
    """Machines whose 16 chips, along mesh axes x, y and z of 2, 2 and 4, are all alike."""
    if name == "switch":
        return meshed(switch(16), x=2, y=2, z=4)
    grid = torus(4, 2, 2)
    return replace(grid, mesh=mesh_of_pieces(grid.axes, [("x", [(2, 2)]), ("y", [(2, 1)]), ("z", [(4, 4)])]))


@pytest.mark.parametrize("overlap", ["none", "collective_matmul"])
@pytest.mark.parametrize("layout", ["weight_stationary_2d", "weight_gathered_x", "weight_gathered_xyz"])
@pytest.mark.parametrize("name", ["switch", "torus, other order"])
def test_one_chip_has_the_times_of_all_over_groups_of_a_mesh(name: str, layout: str, overlap: str) -> None:
    axes = "topology.axes={x: {size: 2, wrap: true}, y: {size: 2, wrap: true}, z: {size: 4, wrap: true}}"
    settings = [f"layout.ffn={layout}", f"layout.overlap={overlap}", "engine.layers=2", axes]
    scenario = load.scenario(TORUS, settings)
    whole = replace(alike(name), chip=build(scenario.topology, scenario.stack).chip)
    program = lower(scenario, whole).program
    trace = simulate(program, "compiled")
    check(trace, whole)
    one = simulate(lower(scenario, folded(whole)).program, "compiled")
    check(one, folded(whole))
    assert (unfold.expand_to_all_chips(one, folded(whole), program).times == trace.times).all()


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "sendrecv"])
@pytest.mark.parametrize("axis", ["data", "tensor"])
def test_groups_on_a_switch_fold_to_one_chip(collective: str, axis: str) -> None:
    whole = meshed(switch(8), data=2, tensor=4)
    plan, few = schedule(whole, collective, (axis,)), schedule(folded(whole), collective, (axis,))
    assert len(few) * whole.chips == len(plan)
    assert (few.share == fold(plan, folded(whole)).share).all()


def test_groups_that_are_not_alike_at_every_chip_do_not_fold() -> None:
    whole = meshed(torus(4, 4), x=2, y=2, z=4)  # the first of two halves of an axis sends forwards, the other back
    with pytest.raises(NotFoldableError, match=r"chips do different things|in different orders"):
        schedule(folded(whole), "all_gather", ("y",))
