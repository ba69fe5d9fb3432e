"""A machine is checked when it is built: what is wrong with its links is one line, before anything is simulated."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import call
from support.files import write
from support.selection import release_if
from support.shipped_machines import machine, one_of_each_wiring

from sim.collectives import COLLECTIVES, algorithm_names, algorithm_of, schedule
from sim.collectives.nccl.kernels import ON_NCCL
from sim.errors import InputError
from sim.specs import GraphSpec, load
from sim.topology import Topology, build
from sim.topology.rings import boxes

GRAPHS = [name for name in load.shipped("topology") if isinstance(load.topology_spec(name), GraphSpec)]
SUMMING = [name for name in GRAPHS if machine(name).reduction.enabled]


def without_link(spec: GraphSpec, number: int) -> GraphSpec:
    return spec.model_copy(update={"links": [edge for i, edge in enumerate(spec.links) if i != number]})


def every_collective(topology: Topology) -> None:
    """Schedule every collective by every algorithm: an algorithm that the machine has not is bad input."""
    for collective in COLLECTIVES:
        for wanted in (
            None,
            *algorithm_names(collective),
            *(ON_NCCL[collective] if topology.software.nccl and collective in ON_NCCL else ()),
        ):
            try:
                chosen = algorithm_of(topology, collective, wanted, 2**20)
                schedule(topology, collective, ("g",), chosen, 2**20)
            except InputError:
                pass


@pytest.mark.parametrize("name", one_of_each_wiring(GRAPHS, less=["dgx_h100_x4_leaf_spine"]))
def test_a_machine_that_lacks_any_of_its_links_runs_every_collective_or_is_bad_input(name: str):
    spec = load.topology_spec(name)
    for number in {0, len(spec.links) // 2, len(spec.links) - 1}:
        try:
            topology = build(without_link(spec, number))
        except InputError:
            continue
        every_collective(topology)


@pytest.mark.parametrize("name", SUMMING)
def test_a_switch_that_adds_up_must_have_a_link_to_every_chip_of_its_box(name: str):
    spec = load.topology_spec(name).keep_first_chips(8)
    whole = build(spec)
    links = [i for i, edge in enumerate(spec.links) if whole.nodes[whole.reduction.node] in edge.between]
    assert len(links) == 8
    for number in links:
        lacking = without_link(spec, number)
        if name == "dgx_h100_x4_leaf_spine":  # the leaf reaches the chip: a box by itself; a leaf does not add up
            assert sorted(len(box) for box in boxes(build(lacking))) == [1, 7]
            assert build(lacking).reduction.node is None
            continue
        with pytest.raises(InputError, match=r"must have a link to every chip|there must be a path from"):
            build(lacking)


@pytest.mark.parametrize("name", SUMMING)
def test_a_part_of_a_machine_adds_up_in_its_switch_where_one_box_has_all_of_it(name: str):
    spec = load.topology_spec(name)
    whole = build(spec)
    part = build(spec.keep_first_chips(4))
    assert part.nodes[part.reduction.node] in whole.nodes
    assert part.reduction.node >= part.chips


@pytest.mark.parametrize("chips", release_if(range(1, 17), *range(3, 8), *range(9, 12), 13, 14))
def test_boxes_need_not_have_equally_many_chips_in_use(chips: int):
    """Of two boxes of eight, twelve chips are eight and four."""
    every_collective(build(load.topology_spec("dgx_h100_x2").keep_first_chips(chips)))


def test_chips_that_share_no_switch_cannot_add_up_in_one():
    direct = load.topology_spec("mi300x").model_copy(update={"reduces": True})
    with pytest.raises(InputError, match="'reduces' requires a switch in every box; leave 'reduces' out"):
        build(direct)


MACHINE = {
    "name": "g",
    "kind": "graph",
    "chip": "chip.yaml",
    "nccl": "hopper",
    "nodes": {"a": "chip", "b": "chip", "c": "chip", "host": "socket", "nv": "multicast"},
    "link_types": {"wire": "link.yaml"},
    "links": [{"between": [chip, "host"], "link": "wire"} for chip in "abc"]
    + [{"between": [chip, "nv"], "link": "wire"} for chip in "abc"],
}


def commands(place: Path) -> list[tuple[object, ...]]:
    machine = place / "topology.yaml"
    return [
        ("topology", machine, "--no-plots"),
        ("collective", "all_reduce", "--topology", machine, "--size", "1KiB"),
        ("run", place / "scenario.yaml", "--out", place / "out", "--no-plots"),
        ("search", "--model", place / "model.yaml", "--topology", machine, "--phase", "decode", "--batch", "4"),
    ]


LAYOUT = {"ffn": "tensor_parallel", "attention": "heads"}
FAST = {"model.heads": 12, "model.kv_heads": 12, "model.d_ff": 48, "model.vocabulary": 96, "link.bandwidth": "100 GB/s"}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"links": [*MACHINE["links"][:-1], MACHINE["links"][-2]]}, "nv must have a link to every chip"),
        ({"links": MACHINE["links"][1:]}, "there must be a path from a to b"),
        ({"nodes": MACHINE["nodes"] | {"nv2": "multicast"}}, "must have at most one 'multicast' node"),
        ({"nodes": MACHINE["nodes"] | {"d": "chip"}}, "there must be a path from a to d"),
        ({"links": [{**edge, "count": 10**9} for edge in MACHINE["links"]]}, "must have at most 1048576 links"),
        ({"nodes": {"host": "socket", "s": "switch"}, "links": []}, "must have 1 to 65536 chips, got 0"),
    ],
)
def test_every_command_refuses_a_machine_that_cannot_be_wired(tmp_path: Path, change: dict[str, object], rule: str):
    write(tmp_path, {"scenario.layout": LAYOUT, "topology": MACHINE | change, **FAST})
    for command in commands(tmp_path):
        code, text = call(*command)
        assert code == 2, (command, text)
        assert rule in text
        assert "\n" not in text


def test_the_machine_itself_is_accepted_by_every_command(tmp_path: Path):
    write(tmp_path, {"scenario.layout": LAYOUT, "topology": MACHINE, **FAST})
    for command in commands(tmp_path):
        code, text = call(*command)
        assert code == 0, (command, text)
