"""Rings and chains that the search finds: all links used, each adapter as often as it is there."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import TypeAdapter

from sim.collectives import ON_NCCL, ON_ROUTES, algorithm_of, schedule
from sim.specs import TopologySpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import Topology, build
from sim.topology.rails import ring_of_boxes
from sim.topology.rings import find, own_chains

ADAPTER: TypeAdapter[TopologySpec] = TypeAdapter(TopologySpec)
CHIP = {"name": "c", "peak": {"bf16": "1 TFLOP/s"}, "hbm_bandwidth": "1 GB/s", "hbm_capacity": "1 GiB"}
KINDS = {
    "nvlink": {"name": "nvlink", "bandwidth": "370 GB/s", "latency": "0.3 us"},
    "bridge": {"name": "bridge", "bandwidth": "240 GB/s", "latency": "0.6 us"},
    "single": {"name": "single", "bandwidth": "20 GB/s", "latency": "0.6 us"},
    "pcie": {"name": "pcie", "medium": "pci", "bandwidth": "24 GB/s", "latency": "0.5 us"},
    "gen3": {"name": "gen3", "medium": "pci", "bandwidth": "12 GB/s", "latency": "0.5 us"},
    "slow": {"name": "slow", "medium": "pci", "bandwidth": "3 GB/s", "latency": "0.5 us"},
    "net": {"name": "net", "medium": "net", "bandwidth": "47 GB/s", "latency": "1.35 us"},
}


def graph(links: list[tuple[str, str, str]]) -> Topology:
    """A machine whose nodes are chips where their names are numbers."""
    nodes = dict.fromkeys(node for link in links for node in link[:2])
    data: dict[str, Any] = {"kind": "graph", "name": "g", "chip": CHIP, "link_types": KINDS}
    data["nodes"] = {node: "chip" if node.isdigit() else "switch" for node in nodes}
    data["links"] = [{"between": [a, b], "link": kind} for a, b, kind in links]
    return build(ADAPTER.validate_python(data).model_copy(update={"nccl": load.topology_spec("dgx_h100").nccl}))


def cluster(sizes: list[int], every: int = 1, rails: bool = True) -> Topology:
    """Boxes of so many chips on an NVSwitch; every `every`-th chip has an adapter, on its rail or all on one switch."""
    links = []
    for box, size in enumerate(sizes):
        first = sum(sizes[:box])
        links += [(str(first + chip), f"nvswitch{box}", "nvlink") for chip in range(size)]
        leaves = ((chip, f"rail{chip}" if rails else "leaf") for chip in range(0, size, every))
        links += [(str(first + chip), leaf, "net") for chip, leaf in leaves]
    return graph(links)


def check(topology: Topology) -> None:
    """Each ring passes every chip once over links that follow each other, and no link carries more than it can."""
    found = find(topology)
    crossings = Counter(link for ring in found.rings for way in ring.ways for link in way)
    for ring in found.rings:
        assert sorted(ring.order) == list(range(topology.chips))
        for src, dst, way in zip(ring.order, (*ring.order[1:], ring.order[0]), ring.ways, strict=True):
            ends = [(topology.links[link].src, topology.links[link].dst) for link in way]
            assert [end for end, _ in ends] == [src, *(end for _, end in ends[:-1])]
            assert ends[-1][1] == dst
    for link, rings in crossings.items():
        assert rings * found.bandwidth <= topology.links[link].bandwidth * (1 + 1e-9)


@pytest.mark.parametrize("boxes", [2, 3, 4, 5])
def test_any_number_of_boxes_has_a_ring_per_adapter(boxes: int) -> None:
    topology = cluster([8] * boxes)
    check(topology)
    found = find(topology)
    assert (found.count, found.bandwidth) == (8, pytest.approx(47e9))
    adapters = Counter(
        link for ring in found.rings for way in ring.ways for link in way if topology.links[link].medium == "net"
    )
    assert set(adapters.values()) == {1}
    assert len(adapters) == 2 * 8 * boxes  # out of each and into each


@pytest.mark.parametrize("rails", [True, False])
@pytest.mark.parametrize(
    ("sizes", "every", "total"),
    [([8, 8], 2, 4), ([8, 8, 8], 2, 4), ([8, 4], 1, 4), ([6, 6], 1, 6), ([4, 8, 6], 1, 4), ([8, 8], 8, 1)],
)
def test_rings_have_the_bandwidth_of_the_adapters_of_the_box_that_has_fewest(
    sizes: list[int], every: int, total: int, rails: bool
) -> None:
    topology = cluster(sizes, every, rails)
    check(topology)
    found = find(topology)
    assert found.count * found.bandwidth == pytest.approx(total * 47e9)
    for collective in ON_NCCL:
        assert algorithm_of(topology, collective, "auto", 2.0**20) in ON_NCCL[collective]


def test_a_cable_between_two_boxes_makes_them_no_neighbours_in_a_ring() -> None:
    """Four boxes under leaf and spine switches, and a cable between a chip of the first and one of the last."""
    spec = load.topology_spec("dgx_h100_x4_leaf_spine")
    data = spec.model_dump(mode="json", exclude_none=True)
    data["links"].append({"between": ["gpu3", "gpu31"], "link": "infiniband_ndr"})
    cabled = build(type(spec).model_validate(data))
    assert [len(way) for way in cabled.ways(3, 31)] == [1]
    assert ring_of_boxes(cabled) == ring_of_boxes(build(spec))


def test_chips_that_share_an_adapter_enter_and_leave_by_it_in_turn() -> None:
    """Two boxes of four; two chips each below a PCIe switch with an adapter: no chip forwards."""
    links = [(str(chip), f"nvswitch{chip // 4}", "nvlink") for chip in range(8)]
    links += [(str(chip), f"plx{chip // 2}", "pcie") for chip in range(8)]
    links += [(f"plx{pair}", f"rail{pair % 2}", "net") for pair in range(4)]
    topology = graph(links)
    check(topology)
    found = find(topology)
    assert found.count * found.bandwidth == pytest.approx(2 * 24e9)
    assert all(
        topology.links[link].dst >= topology.chips for ring in found.rings for way in ring.ways for link in way[:-1]
    )


@pytest.mark.parametrize("pairs", [("01", "23"), ("02", "13"), ("03", "12")])
def test_an_uplink_is_crossed_once_however_the_cards_are_numbered(pairs: tuple[str, str]) -> None:
    links = [(*pair, "bridge") for pair in pairs]
    links += [(chip, f"pcie{number}", "pcie") for number, pair in enumerate(pairs) for chip in pair]
    topology = graph([*links, ("pcie0", "cpu", "pcie"), ("pcie1", "cpu", "pcie")])  # type: ignore[list-item]
    check(topology)
    assert (find(topology).count, find(topology).bandwidth) == (1, pytest.approx(24e9))


def test_trees_go_over_nvlinks_where_only_a_chain_of_them_reaches_all_chips() -> None:
    """Three chips joined all round and a fourth with one NVLink: rings need the slow PCIe switch, a chain does not."""
    links = [("0", "1", "single"), ("0", "2", "single"), ("1", "2", "single"), ("2", "3", "single")]
    topology = graph([*links, *((str(chip), "pcie", "slow") for chip in range(4))])
    check(topology)
    chained = own_chains(topology)
    assert find(topology).medium == "pci"
    assert chained is not None
    assert (chained.count, chained.bandwidth, chained.medium) == (1, pytest.approx(20e9), "nvlink")
    assert 3 in (chained.rings[0].order[0], chained.rings[0].order[-1])
    assert algorithm_of(topology, "all_reduce", "auto", 2.0**30) == "tree_simple"


@pytest.mark.parametrize("chips", [9, 11, 12])
def test_a_group_that_is_no_multiple_of_a_box_runs_every_algorithm(chips: int) -> None:
    topology = build(load.topology_spec("dgx_h100_x2").keep_first_chips(chips))
    for collective in ON_NCCL:
        for algorithm in ("auto", *ON_NCCL[collective]):
            if not algorithm.startswith("nvls"):
                assert bench.simulate_time_s(topology, CollectiveSpec(collective, ("g",), 2.0**20, algorithm)) > 0
    for collective, algorithms in ON_ROUTES.items():
        for algorithm in set(algorithms) - {"halving_doubling", "hierarchical"}:
            assert len(schedule(topology, collective, ("g",), algorithm, 2.0**20)) > 0


FIVE = [("0", "1"), ("0", "2"), *2 * [("0", "3")], *2 * [("1", "2")], ("1", "3"), *2 * [("2", "3")], ("3", "7")]
"""NVLinks among GPUs 0, 1, 2, 3 and 7 of a DGX-1: no ring of them passes all five."""
BRIDGES = {"0": "pcie0", "1": "pcie0", "2": "pcie1", "3": "pcie1", "7": "pcie3"}


def test_rings_are_those_of_the_links_whatever_the_numbers_of_chips():
    """Several pairs of rings are as wide and as long there; times differ between them."""
    upper = [(*ends, "gen3") for ends in (("pcie0", "cpu0"), ("pcie1", "cpu0"), ("pcie3", "cpu1"), ("cpu0", "cpu1"))]
    nvlinks = [(one, other, "single") for one, other in FIVE]
    found, times = [], []
    for order in ("01237", "12307", "23170", "73201", "31720"):
        topology = graph([*((chip, BRIDGES[chip], "gen3") for chip in order), *upper, *nvlinks])
        found.append([[order[chip] for chip in ring.order] for ring in find(topology).rings])
        times.append(
            [
                bench.simulate_time_s(topology, CollectiveSpec("all_reduce", ("g",), 2.0**16, each))
                for each in ("ring", "ring_simple")
            ]
        )
    assert len(found[0]) > 1
    assert all(rings == found[0] for rings in found)
    assert all(each == pytest.approx(times[0], rel=1e-9) for each in times)
