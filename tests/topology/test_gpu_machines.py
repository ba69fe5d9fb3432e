"""The GPU machines: link counts, bandwidth per GPU, rings and cuts, from the published wiring."""

from __future__ import annotations

from collections import Counter

import pytest
from support.shipped_machines import machine

from sim.plots import node_link
from sim.specs import LinkSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import Topology, build
from sim.topology.metrics import bisection, hops

SWITCHED = {  # machine: GPUs, NVLinks per GPU, nominal and NCCL's effective GB/s per NVLink, one direction
    "dgx_a100": (8, 12, 25, 20.0),
    "dgx_h100": (8, 18, 25, 20.6),
    "hgx_h200": (8, 18, 25, 20.6),
    "hgx_h20": (8, 18, 25, 20.6),
    "hgx_h800": (8, 8, 25, 20.6),
    "hgx_b200": (8, 18, 50, 40.1),
    "gb200_nvl72": (72, 18, 50, 40.1),
    "gb300_nvl72": (72, 18, 50, 40.1),
    "dgx2": (16, 6, 25, 20.0),
}
PCIE_BOXES = {
    "a100_pcie_bridges": (24, 10),
    "h100_pcie_bridges": (48, 22),
    "pcie_only": (24, 10),
}
"""NCCL's GB/s of PCI Express x16 and between the sockets."""
CLUSTERS = {  # machine: boxes, NCCL's effective GB/s of all NVLinks of a GPU, nominal GB/s of an adapter
    **{f"{box}_x{boxes}": (boxes, 18 * 20.6, 50) for box in ("dgx_h100", "hgx_h200") for boxes in (2, 4)},
    **{f"hgx_h200_x{boxes}_800g": (boxes, 18 * 20.6, 100) for boxes in (2, 4)},
    **{f"hgx_h800_x{boxes}": (boxes, 8 * 20.6, 50) for boxes in (2, 4, 8, 18)},
    **{f"hgx_b200_x{boxes}": (boxes, 18 * 40.1, 50) for boxes in (2, 4)},
    **{f"hgx_b200_x{boxes}_800g": (boxes, 18 * 40.1, 100) for boxes in (2, 4)},
    **{f"dgx_a100_x{boxes}": (boxes, 12 * 20, 25) for boxes in (2, 4)},
}
OVERSUBSCRIBED = "dgx_h100_x4_leaf_spine"
FULL_MESHES = {"mi300x": 64, "mi355x": 76.5}
"""Nominal GB/s of a link."""
P2P_OFF = ["dgx_h100_p2p_disabled", "dgx_h100_x2_p2p_disabled"]
GRAPHS = ["a100_hybrid_cube_mesh", "dgx1_v100", *P2P_OFF, *FULL_MESHES, *PCIE_BOXES, *CLUSTERS, OVERSUBSCRIBED]

NVLINK2, PCIE3, QPI = 20e9, 12e9, 6e9


def near(expected: float | list[float]) -> object:
    """The files round efficiencies to three digits: half of the last digit of 0.481 is 0.1 %."""
    return pytest.approx(expected, rel=1.1e-3)


def nodes_of(topology: Topology, src: int, dst: int) -> list[str]:
    """Names of the nodes on a route."""
    route = topology.route(src, dst)
    return [topology.nodes[src], *(topology.nodes[topology.links[link].dst] for link in route)]


def pairs(topology: Topology, bandwidth: float) -> Counter[tuple[int, int]]:
    """How many cables of that rate lead from the lower to the higher node of each pair."""
    return Counter(
        {
            (link.src, link.dst): link.cables
            for link in topology.links
            if link.src < link.dst and link.bandwidth == near(link.cables * bandwidth)
        }
    )


def test_an_all_reduce_of_the_cube_mesh_takes_two_messages_over_links_of_its_own():
    """16 KiB over two NVLinks, 40 GB/s and 0.6 us, to the others of a quad, the quad's sum to the other quad's partner.

    A quad is joined throughout: one message. One-shot of all eight goes through other chips, 3.6 times as long.
    """
    (whole, stack), message_s = load.machine("a100_hybrid_cube_mesh"), 16384 / 40e9 + 0.6e-6
    for chips, messages in ((4, 1), (8, 2)):
        topology = build(whole.keep_first_chips(chips), stack)
        axes = tuple(axis.name for axis in topology.axes)
        time_s = bench.run_collective(topology, CollectiveSpec("all_reduce", axes, 16384, "cube_mesh")).time_s
        assert time_s == pytest.approx(5.75e-6 + messages * message_s, rel=1e-6)
    assert bench.run_collective(topology, CollectiveSpec("all_reduce", axes, 16384, "one_shot")).time_s > 3 * time_s


def ring_from(edges: set[tuple[int, int]]) -> list[int]:
    """Walk the edges from GPU 0 until no unused one leads on."""
    left, walk = set(edges), [0]
    while step := next((edge for edge in sorted(left) if walk[-1] in edge), None):
        left.remove(step)
        walk.append(sum(step) - walk[-1])
    assert not left
    return walk


def test_every_gpu_machine_is_covered_here():
    gpus = {name for name in load.shipped("topology") if not name.startswith("tpu")}
    assert gpus == {*SWITCHED, *GRAPHS}


@pytest.mark.parametrize("name", [*SWITCHED, *GRAPHS])
def test_chips_are_gpu0_onwards(name):
    topology = machine(name)
    assert topology.nodes[: topology.chips] == tuple(f"gpu{chip}" for chip in range(topology.chips))


@pytest.mark.parametrize("name", GRAPHS)
def test_every_link_of_a_graph_is_nominal_times_efficiency_both_stated(name):
    for link in load.topology_spec(name).link_types.values():
        assert isinstance(link, LinkSpec)
        assert link.efficiency.value < 1
        assert link.efficiency.source


def test_a_v100_has_no_bf16_and_the_others_have_all_formats():
    names = {load.topology_spec(name).chip.name: load.topology_spec(name).chip for name in [*SWITCHED, *GRAPHS]}
    assert set(names.pop("v100_sxm").peak) == {"fp16"}
    for chip in names.values():
        assert set(chip.peak) >= {"bf16", "fp16", "int8"}
        assert chip.peak["int8"].value == pytest.approx(2 * chip.peak["bf16"].value, rel=0.01)


# --- NVSwitch boxes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SWITCHED)
def test_a_port_carries_all_nvlinks_of_a_gpu(name):
    gpus, nvlinks, nominal, effective = SWITCHED[name]
    spec, topology = load.topology_spec(name), machine(name)
    assert topology.chips == gpus
    assert len(topology.links) == 2 * gpus  # an egress and an ingress each
    assert spec.link.bandwidth.value == nvlinks * nominal * 1e9
    assert [link.bandwidth for link in topology.links] == near([nvlinks * effective * 1e9] * 2 * gpus)


@pytest.mark.parametrize("name", SWITCHED)
def test_half_of_the_ports_are_the_bisection_of_a_box(name):
    gpus, nvlinks, _, effective = SWITCHED[name]
    cut = bisection(machine(name))
    assert (cut.links, cut.exact) == (gpus // 2, True)
    assert cut.bandwidth == near(gpus / 2 * nvlinks * effective * 1e9)


# --- DGX-1 -----------------------------------------------------------------------------------------------------------


def test_every_gpu_of_a_dgx1_has_six_nvlinks():
    # Four neighbours, two of them over double links: 2 x 1 + 2 x 2 = 6, of 25 GB/s nominal: 150 GB/s per GPU.
    topology = machine("dgx1_v100")
    count = pairs(topology, NVLINK2)
    for gpu in range(8):
        assert sorted(n for pair, n in count.items() if gpu in pair) == [1, 1, 2, 2]
    egress = [link.bandwidth for link in topology.links if link.src == 0 and link.medium == "nvlink"]
    assert sum(egress) == near(6 * NVLINK2)


def test_the_nvlinks_of_a_dgx1_are_three_rings_of_all_gpus():
    # The double edges close to one ring of the 8 GPUs (used twice) and the single edges to another.
    count = pairs(machine("dgx1_v100"), NVLINK2)
    double, single = ({pair for pair, n in count.items() if n == links} for links in (2, 1))
    for edges in (double, single):
        ring = ring_from(edges)
        assert ring[0] == ring[-1]
        assert sorted(ring[1:]) == list(range(8))
    assert ring_from(double) in ([0, 3, 2, 1, 5, 6, 7, 4, 0], [0, 4, 7, 6, 5, 1, 2, 3, 0])


def test_the_quads_of_a_dgx1_are_complete_and_joined_by_six_links():
    count = pairs(machine("dgx1_v100"), NVLINK2)
    for quad in (range(4), range(4, 8)):
        assert all(count[a, b] for a in quad for b in quad if a < b)
    across = {pair: n for pair, n in count.items() if pair[0] < 4 <= pair[1]}
    assert across == {(0, 4): 2, (1, 5): 2, (2, 6): 1, (3, 7): 1}


def test_a_dgx1_is_cut_between_its_quads():
    # Three rings cross any cut at least twice each, so no halving cuts fewer than 6 NVLinks; the quads cut 6, and the
    # only other link between them joins the sockets.
    cut = bisection(machine("dgx1_v100"))
    assert (cut.links, cut.exact) == (7, True)
    assert cut.bandwidth == near(6 * NVLINK2 + QPI)


def test_gpus_of_a_dgx1_without_an_nvlink_between_them_meet_over_pcie():
    topology = machine("dgx1_v100")
    assert nodes_of(topology, 0, 4) == ["gpu0", "gpu4"]
    assert nodes_of(topology, 0, 5) == ["gpu0", "pcie0", "cpu0", "cpu1", "pcie2", "gpu5"]
    assert topology.links[topology.route(0, 5)[0]].bandwidth == near(PCIE3)


# --- PCI Express boxes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PCIE_BOXES)
def test_paths_of_a_pcie_box_by_distance(name):
    topology = machine(name)
    bridged = name != "pcie_only"
    pair = ["gpu2", "gpu3"] if bridged else ["gpu2", "pcie1", "gpu3"]
    assert nodes_of(topology, 2, 3) == pair
    assert nodes_of(topology, 2, 1) == ["gpu2", "pcie1", "cpu0", "pcie0", "gpu1"]  # a bridge is no way to a third GPU
    assert nodes_of(topology, 2, 7) == ["gpu2", "pcie1", "cpu0", "cpu1", "pcie3", "gpu7"]
    assert hops(topology).diameter == 5


@pytest.mark.parametrize("name", PCIE_BOXES)
def test_a_pcie_box_is_cut_between_its_sockets(name):
    pcie, sockets = PCIE_BOXES[name]
    topology = machine(name)
    assert sum(pairs(topology, pcie * 1e9).values()) == 8 + 4  # each GPU to its switch, each switch to its socket
    cut = bisection(topology)
    assert cut.links == 1
    assert cut.bandwidth == near(sockets * 1e9)


@pytest.mark.parametrize(("name", "effective"), [("a100_pcie_bridges", 12 * 20.0), ("h100_pcie_bridges", 12 * 20.6)])
def test_bridges_join_the_gpus_two_by_two(name, effective):
    bridges = pairs(machine(name), effective * 1e9)
    assert bridges == {(gpu, gpu + 1): 1 for gpu in range(0, 8, 2)}


# --- several boxes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLUSTERS)
def test_adapter_i_of_every_box_is_on_rail_i(name):
    (boxes, nvlink, adapter), topology = CLUSTERS[name], machine(name)
    assert topology.chips == 8 * boxes
    rails = [node for node in topology.nodes if node.startswith("rail")]
    assert rails == [f"rail{i}" for i in range(8)]
    for gpu in range(topology.chips):
        ends = {topology.nodes[link.dst]: link.bandwidth for link in topology.links if link.src == gpu}
        assert ends == {f"nvswitch{gpu // 8}": near(nvlink * 1e9), f"rail{gpu % 8}": near(0.94 * adapter * 1e9)}


@pytest.mark.parametrize("name", CLUSTERS)
def test_boxes_are_cut_at_the_adapters_of_half_of_them(name):
    # Halves of whole boxes: the switch of each rail joins the side it is cheaper on, here either; each of the 8 rails
    # then crosses once per box of one half.
    boxes, _, adapter = CLUSTERS[name]
    cut = bisection(machine(name))
    assert cut.links == 8 * boxes // 2
    assert cut.bandwidth == near(cut.links * 0.94 * adapter * 1e9)


def test_an_oversubscribed_leaf_is_cut_at_its_links_to_the_spines():
    # Two boxes on a leaf: 16 adapters below it, 4 links to each of 2 spines above.
    cut = bisection(machine(OVERSUBSCRIBED))
    assert cut.links == 8
    assert cut.bandwidth == near(8 * 0.94 * 50e9)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_message_to_another_rail_goes_over_nvlink_first(name):
    topology = machine(name)
    assert nodes_of(topology, 0, 1) == ["gpu0", "nvswitch0", "gpu1"]
    assert nodes_of(topology, 0, 8) == ["gpu0", "rail0", "gpu8"]
    assert nodes_of(topology, 0, 9) == ["gpu0", "nvswitch0", "gpu1", "rail1", "gpu9"]


def test_a_path_over_nvswitch_takes_as_long_in_one_box_as_in_two():
    # One box is a switch, whose port carries the whole latency; in a graph each of the two hops carries half.
    for name in ("dgx_h100", *CLUSTERS):
        topology = machine(name)
        assert sum(topology.links[link].latency_s for link in topology.route(0, 7)) == pytest.approx(0.6e-6)


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_drawing_has_boxes_above_the_row_of_gpus_and_rails_below(name):
    drawn = node_link.drawing(machine(name)).nodes
    heights = {node.label: node.at[1] for node in drawn if node.half_width is not None}
    assert {label: height > 0 for label, height in heights.items()} == {
        **{f"nvswitch{box}": True for box in range(CLUSTERS[name][0])},
        **{f"rail{rail}": False for rail in range(8)},
    }
    chips = [node for node in drawn if node.half_width is None]
    assert {node.at[1] for node in chips} == {0}
    # Names of 5 letters of 0.6 x 4.5 points are 13.5 points wide; a chip of 16 in a row has 0.9 x 0.52 of 6.3 / 16
    # inches for them, 13.3 points, and one of 32 half of that.
    assert (chips[8].name, chips[8].label) == ("gpu8", "8")


# --- Full meshes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL_MESHES)
def test_a_full_mesh_has_a_link_between_any_two(name):
    # Each GPU has 7 links, 448 or 535.5 GB/s nominal in all; 4 x 4 pairs lie across any halving.
    spec, topology = load.topology_spec(name), machine(name)
    assert spec.link_types["xgmi"].bandwidth.value == FULL_MESHES[name] * 1e9
    assert Counter(link.src for link in topology.links) == dict.fromkeys(range(8), 7)
    assert hops(topology).diameter == 1
    assert bisection(topology).links == 16
