"""Machines drawn as boxes that are all alike: a few lines give the nodes and links that dozens gave."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from sim.errors import InputError
from sim.specs import GraphSpec, load
from sim.topology import Topology, build, describe
from sim.topology.rings import boxes

CLUSTER = {"name": "m", "kind": "graph", "boxes": {"count": 2, "of": "dgx_h100", "rails": {"link": "infiniband_ndr"}}}
SHIPPED = [name for name, path in load.shipped("topology").items() if "boxes" in yaml.safe_load(path.read_text())]


def changed(**changes: object) -> dict[str, object]:
    """The cluster with fields set, `boxes__count=3`; None removes a field."""
    machine = yaml.safe_load(yaml.safe_dump(CLUSTER))
    for key, value in changes.items():
        *path, last = key.split("__")
        holder = machine
        for part in path:
            holder = holder.setdefault(part, {})
        holder.pop(last, None)
        if value is not None:
            holder[last] = value
    return machine


@pytest.fixture
def spec(tmp_path: Path):
    """Loads a machine from what a file would hold, with settings."""

    def loaded(machine: dict[str, object], *settings: str) -> GraphSpec:
        path = tmp_path / "m.yaml"
        path.write_text(yaml.safe_dump(machine))
        return load.topology_spec(str(path), settings)

    return loaded


def cables(topology: Topology) -> list[str]:
    """Names of the links, those in one direction."""
    return [link.name for link in topology.links[::2]]


def test_rails_are_the_machine_that_was_drawn_link_by_link():
    built = build(*load.machine("dgx_h100_x2"))
    assert built.nodes[:16] == tuple(f"gpu{i}" for i in range(16))
    assert built.nodes[16:] == ("nvswitch0", "nvswitch1", *(f"rail{i}" for i in range(8)))
    assert cables(built) == [
        *(f"gpu{i}->nvswitch{i // 8}#0" for i in range(16)),
        *(f"gpu{i}->rail{i % 8}#0" for i in range(16)),
    ]
    nvlink, network = built.links[0], built.links[-1]
    # Half of the 0.6 us from chip to chip: the way has two links.
    assert (nvlink.latency_ps, nvlink.medium, network.medium) == (300_000, "nvlink", "net")
    assert (nvlink.bandwidth, network.bandwidth) == pytest.approx((450e9 * 0.824, 50e9 * 0.94))


def test_leaves_and_spines(spec):
    machine = changed(
        boxes__count=4,
        boxes__rails=None,
        boxes__leaves={"link": "infiniband_ndr", "boxes": 2},
        boxes__spines={"count": 2, "link": "infiniband_ndr", "links": 3},
    )
    assert len(yaml.safe_dump(machine).splitlines()) < 15
    built = build(spec(machine))
    assert cables(built)[32:] == [
        *(f"gpu{i}->leaf{i // 16}#0" for i in range(32)),
        *(f"leaf{leaf}->spine0#0" for leaf in range(2)),  # two spines that no chip can tell apart are one
    ]
    assert [link.cables for link in built.links[-4:]] == [6] * 4


def test_spines_join_rails_too(spec):
    built = build(spec(changed(boxes__spines={"count": 1, "link": "infiniband_ndr"})))
    assert cables(built)[32:] == [f"rail{i}->spine0#0" for i in range(8)]
    assert len(built.route(0, 9)) == 4


def test_adapters_may_be_fewer_and_hang_on_any_node(spec):
    at = ["gpu0", "gpu2", "gpu2", "nvswitch"]
    built = build(spec(changed(boxes__rails__at=at)))
    rails = (("gpu0", 0), ("gpu2", 1), ("nvswitch0", 3), ("gpu8", 0), ("gpu10", 1), ("nvswitch1", 3))
    assert cables(built)[16:] == [f"{node}->rail{i}#0" for node, i in rails]  # rails 1 and 2 are one
    assert [link.cables for link in built.links[32::2]] == [1, 2, 1, 1, 2, 1]


def test_a_box_may_be_a_graph_and_written_out(spec):
    assert build(spec(changed(boxes__of="dgx1_v100"))).chips == 16
    box = {
        "name": "b",
        "kind": "graph",
        "chip": "a100_pcie_80",
        "nodes": {"gpu0..3": "chip", "plx0..1": "switch"},
        "link_types": {"pcie": "pcie_gen4_x16"},
        "links": [{"between": [f"gpu{2 * i}..{2 * i + 1}", f"plx{i}"], "link": "pcie"} for i in range(2)]
        + [{"between": ["plx0", "plx1"], "link": "pcie"}],
    }
    built = build(spec(changed(boxes__of=box, boxes__count=3, boxes__rails__at=["plx0", "plx1"])))
    assert built.nodes == (*(f"gpu{i}" for i in range(12)), *(f"plx{i}" for i in range(6)), "rail0", "rail1")
    assert cables(built)[-6:] == [f"plx{i}->rail{i % 2}#0" for i in range(6)]


def test_the_file_may_add_nodes_and_links(spec):
    more = {"nodes": {"store": "switch"}, "links": [{"between": ["rail0..7", "store"], "link": "infiniband_ndr"}]}
    assert cables(build(spec(changed() | more)))[32:] == [f"rail{i}->store#0" for i in range(8)]


def test_a_range_of_nodes_stands_for_all_of_them():
    built = build(*load.machine("mi300x"))
    assert cables(built) == [f"gpu{a}->gpu{b}#0" for a in range(8) for b in range(a + 1, 8)]


def test_what_the_file_leaves_out_is_that_of_its_box(spec):
    box, machine = load.topology_spec("hgx_b200"), spec(changed(boxes__of="hgx_b200"))
    for field in ("chip", "nccl", "reduces", "default_stack"):
        assert getattr(machine, field) == getattr(box, field)
    own = spec(changed(boxes__of="hgx_b200") | {"reduces": False, "chip": "h100_sxm"})
    assert (own.reduces, own.chip.name, own.nccl) == (False, "h100_sxm", box.nccl)


def test_settings_reach_the_box_and_what_comes_from_it(spec):
    assert spec(changed(), "boxes.count=3").chip_count == 24
    assert spec(changed(), "boxes.of=hgx_b200").chip.name == "b200_sxm"
    assert spec(changed(), "chip.hbm_capacity=9 GB").chip.hbm_capacity.value == pytest.approx(9e9)
    link = build(spec(changed(), "boxes.rails.link.bandwidth=12 GB/s")).links[-1]
    assert link.bandwidth == pytest.approx(12e9 * 0.94)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"boxes__count": 0}, "boxes.count: must be greater than 0, got 0"),
        ({"boxes__count": 10**6}, "boxes.count: must have at most 65536 chips, got 8000000"),
        ({"boxes__of": "dgx_h10"}, "boxes.of: no such topology, got 'dgx_h10'; did you mean 'dgx_h100'?"),
        ({"boxes__of": "tpu_v4_2x2x1"}, "kind: must be one of switch, graph, got 'torus'"),
        ({"boxes__of": "m.yaml"}, "boxes.of: must be another topology than the one it stands in, got 'm.yaml'"),
        ({"boxes__rails": None}, "boxes.rails: boxes require either 'rails' or 'leaves'"),
        ({"boxes__leaves": {"link": "infiniband_ndr", "boxes": 1}}, "boxes require either 'rails' or 'leaves'"),
        ({"boxes__rails__at": ["gpu9"]}, "boxes.rails.at[0]: must be a node of a box, got 'gpu9'"),
        ({"boxes__rails__at": []}, "boxes.rails.at: must have 1 or more entries"),
        ({"boxes__rails__lnk": 3}, "boxes.rails: unknown key 'lnk'; did you mean 'link'?"),
        (
            {"boxes__spines": {"count": 10**9, "link": "infiniband_ndr"}},
            "boxes.spines: must have at most 1048576 nodes and links, got 8000000050",
        ),
        ({"nodes": {"gpu0..3": "chip"}}, "nodes.gpu0..3: must name new nodes, got 'gpu0'"),
        ({"nodes": {"x5..2": "chip"}}, "nodes.x5..2: must count up"),
        ({"link_types": {"infiniband_ndr": "infiniband_hdr"}}, "must be a name that the boxes do not use"),
        ({"links": [{"between": ["gpu0", "gpu99"], "link": "nvlink4_port"}]}, "links[0].between: must name two of"),
        ({"boxes": None}, "'chip' is required of a topology"),
        (
            {"boxes__of": {"name": "b", "kind": "switch", "chips": 4, "link": "nvlink4_port"}},
            "boxes.of: 'chip' is required of a topology",
        ),
    ],
)
def test_a_wrong_box_is_one_line_that_names_the_field(spec, changes, error):
    with pytest.raises(InputError) as caught:
        spec(changed(**changes))
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_boxes_are_short_and_described(name):
    built = build(*load.machine(name))
    data = yaml.safe_load(load.shipped("topology")[name].read_text())
    found = boxes(built)
    assert [len(box) for box in found] == [built.chips // data["boxes"]["count"]] * data["boxes"]["count"]
    shown = dict(describe.lines(describe.facts(built)))
    assert shown["boxes"].startswith(f"{len(found)} of {len(found[0])} chip")
