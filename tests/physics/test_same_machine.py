"""One machine drawn in several ways takes the same time: names, numbers and the count of cables decide nothing."""

from __future__ import annotations

import copy
import functools
import itertools
import random
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter
from support.selection import release_if
from support.shipped_machines import one_of_each_wiring, wired_differently

from sim import units
from sim.collectives import COLLECTIVES, ON_NCCL, ON_ROUTES, algorithm_of, schedule
from sim.errors import InputError
from sim.specs import TopologySpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import Topology, build

Data = dict[str, Any]
ADAPTER: TypeAdapter[TopologySpec] = TypeAdapter(TopologySpec)
KINDS = {name: load.topology_spec(name).kind for name in load.shipped("topology")}
SHIPPED_GRAPHS = wired_differently([name for name in KINDS if KINDS[name] == "graph"])
SEVERAL_WAYS = ["four_adapters", "four_pcie_switches", "square"]
GRAPHS = [*SHIPPED_GRAPHS, *SEVERAL_WAYS]
LARGE = ("dgx_h100_x2", "dgx_h100_x4_leaf_spine", "a100_pcie_bridges", "hgx_h800_x18")
DEFAULT = [*one_of_each_wiring(SHIPPED_GRAPHS, less=LARGE), *release_if(SEVERAL_WAYS, "four_pcie_switches")]
SHIPPED = load.shipped("topology")
SWITCHES = wired_differently([name for name in KINDS if KINDS[name] == "switch"])
SIZES = (8.0, 2.0**16, 2.0**24)
NUMBERED = ("permute", "sendrecv", "broadcast", "reduce", "gather", "scatter")
"""A permute and a sendrecv go to the next number, the others come from chip 0 or go to it."""
RENUMBERED = [name for name in COLLECTIVES if name not in NUMBERED]


def data(name: str) -> Data:
    return load.topology_spec(name).model_dump(mode="json", exclude_none=True) if name in SHIPPED else drawn(name)


def drawn(name: str) -> Data:
    """Machines with several equally good ways that do not merge into one.

    Two boxes of eight with an adapter at every second GPU, or at PCIe switches of two GPUs, each on a rail of its own;
    and four GPUs in a square.
    """
    pci = {"name": "pci", "bandwidth": "50 GB/s", "latency": "0.7 us", "medium": "pci"}
    result = data("dgx_h100_x2") | {"name": name, "links": []}
    nvlink, net = (
        next(kind for kind, link in result["link_types"].items() if (link["medium"] == "net") == network)
        for network in (False, True)
    )
    result["link_types"]["pci"], links = pci, []
    for gpu in range(16):
        box, pair = gpu // 8, gpu % 8 // 2
        links.append((f"gpu{gpu}", f"nvswitch{box}", nvlink))
        if name == "four_pcie_switches":
            links.append((f"gpu{gpu}", f"plx{box}_{pair}", "pci"))
        if gpu % 2 == 0:
            links.append((f"gpu{gpu}" if name == "four_adapters" else f"plx{box}_{pair}", f"rail{pair}", net))
    if name == "square":
        links = [(f"gpu{gpu}", f"gpu{(gpu + 1) % 4}", nvlink) for gpu in range(4)]
        result["reduces"] = False
    nodes = dict.fromkeys(node for *ends, _ in links for node in ends)
    result["nodes"] = {node: "chip" if node.startswith("gpu") else "switch" for node in nodes}
    result["links"] = [{"between": ends, "link": link} for *ends, link in links]
    return dict(ADAPTER.validate_python(result).model_dump(mode="json", exclude_none=True))


def machine(drawn: Data) -> Topology:
    return build(ADAPTER.validate_python(drawn))


def wires(topology: Topology) -> list[tuple[int, int, float, float, str]]:
    return [(link.src, link.dst, link.bandwidth, link.latency_s, link.medium) for link in topology.links]


@functools.cache
def time_s(topology: Topology, collective: str, algorithm: str, size: float) -> float | str:
    """Simulated time, or why there is none."""
    try:
        return bench.simulate_time_s(topology, CollectiveSpec(collective, ("g",), size, algorithm), kernel="compiled")
    except InputError as error:
        return error.rule


@functools.cache
def shipped(name: str) -> Topology:
    return machine(data(name))


def differences(name: str, other: Topology, collectives: list[str]) -> list[tuple[str, str, float]]:
    """Collectives, algorithms and sizes that take another time on the other machine."""
    topology = shipped(name)
    rows = [
        (collective, algorithm, size)
        for collective in collectives
        for algorithm in (
            *ON_ROUTES[collective],
            *(("auto", *ON_NCCL.get(collective, ())) if topology.software.nccl else ()),
        )
        for size in SIZES
    ]
    return [row for row in rows if time_s(topology, *row) != time_s(other, *row)]


@pytest.mark.parametrize("name", DEFAULT)
def test_names_of_nodes_decide_no_time(name: str) -> None:
    drawn, draw = data(name), random.Random(name)
    names = dict(zip(drawn["nodes"], (f"{draw.choice('az')}{i}" for i in draw.sample(range(1000), 1000)), strict=False))
    drawn["nodes"] = {names[node]: kind for node, kind in drawn["nodes"].items()}
    for link in drawn["links"]:
        link["between"] = [names[node] for node in link["between"]]
    assert differences(name, machine(drawn), list(COLLECTIVES)) == []


@pytest.mark.parametrize("seed", release_if([1, 2], 2))
@pytest.mark.parametrize("name", DEFAULT)
def test_numbers_of_chips_and_the_order_of_links_decide_no_time(name: str, seed: int) -> None:
    drawn, draw = data(name), random.Random(seed)
    nodes = list(drawn["nodes"].items())
    draw.shuffle(nodes)
    draw.shuffle(drawn["links"])
    drawn["nodes"] = dict(nodes)
    for link in drawn["links"]:
        draw.shuffle(link["between"])
    assert differences(name, machine(drawn), RENUMBERED) == []


@pytest.mark.parametrize("name", SEVERAL_WAYS)
def test_equally_good_ways_carry_as_much_of_a_message_each(name: str) -> None:
    topology = shipped(name)
    plan = schedule(topology, "all_to_all", ("g",), "one_shot")
    firsts = np.flatnonzero(plan.follows < 0)
    several = 0
    for src, dst in itertools.permutations(range(topology.chips), 2):
        ways = topology.ways(src, dst)
        rows = firsts[(plan.src[firsts] == src) & (plan.dst[firsts] == dst)]
        carried = np.zeros(len(topology.links))  # by the first link of a way, all pieces of the message together
        np.add.at(carried, plan.link[rows], plan.share[rows])
        expected = np.zeros(len(topology.links))
        np.add.at(expected, [way[0] for way in ways], 1 / topology.chips / len(ways))
        assert carried == pytest.approx(expected, abs=1e-15)
        several += len(ways) > 1
    assert several


def widened(kinds: Data, link: str, factor: float) -> str:
    """Adds a kind of link of `factor` times the bandwidth of another and returns its name."""
    wide = copy.deepcopy(kinds[link])
    bandwidth = units.parse(wide["bandwidth"]["value"], "B/s")
    wide["bandwidth"]["value"] = units.text(bandwidth * factor, "B/s")
    kinds[f"{link}_{factor:g}"] = wide
    return f"{link}_{factor:g}"


@pytest.mark.parametrize("name", GRAPHS)
def test_cables_side_by_side_are_one_link_as_wide_as_all(name: str) -> None:
    one, many = data(name), data(name)
    for link in one["links"]:
        link["link"] = widened(one["link_types"], link["link"], link.pop("count", 1))
    for link in many["links"]:
        link["link"], link["count"] = widened(many["link_types"], link["link"], 0.25), 4 * link.get("count", 1)
    assert wires(machine(one)) == wires(shipped(name)) == wires(machine(many))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_a_switch_or_socket_drawn_twice_at_half_the_bandwidth_is_one(name: str) -> None:
    for relay in (node for node, kind in data(name)["nodes"].items() if kind in ("switch", "socket")):
        drawn = data(name)
        drawn["nodes"]["twin"] = drawn["nodes"][relay]
        for link in [link for link in drawn["links"] if relay in link["between"]]:
            link["link"] = widened(drawn["link_types"], link["link"], 0.5)
            drawn["links"].append({**link, "between": ["twin" if node == relay else node for node in link["between"]]})
        assert wires(machine(drawn)) == wires(shipped(name))


@pytest.mark.parametrize("name", one_of_each_wiring(SWITCHES))
def test_a_switch_drawn_as_a_node_is_a_switch(name: str) -> None:
    """Half of the latency is on each side of the node."""
    drawn = data(name)
    chips, port = drawn.pop("chips"), drawn.pop("link")
    port["latency"]["value"] = units.text(units.parse(port["latency"]["value"], "s") / 2, "s")
    gpus = [f"gpu{chip}" for chip in range(chips)]
    drawn |= {"kind": "graph", "nodes": dict.fromkeys(gpus, "chip") | {"crossbar": "switch"}}
    drawn |= {"link_types": {"port": port}, "links": [{"between": [gpu, "crossbar"], "link": "port"} for gpu in gpus]}
    graph, switch = machine(drawn), build(*load.machine(name))
    for collective in ON_NCCL:
        for size in SIZES:
            assert algorithm_of(graph, collective, "auto", size) == algorithm_of(switch, collective, "auto", size)
    assert differences(name, graph, list(COLLECTIVES)) == []


@pytest.mark.parametrize("spines", [1, 2])
def test_hosts_of_one_chip_on_leaves_are_numbered_by_their_links(spines: int) -> None:
    """Four hosts on two leaves: halving and doubling pair those of a leaf first, whatever their numbers."""
    base = data("dgx_h100_x2")
    kind = next(name for name, link in base["link_types"].items() if link.get("medium") == "net")
    base |= {"name": "leaves", "link_types": {"net": base["link_types"][kind]}, "reduces": False}
    base.pop("nccl", None)

    def drawn(hosts: list[int]) -> Topology:
        nodes = {f"gpu{host}": "chip" for host in hosts} | {"leaf0": "switch", "leaf1": "switch"}
        links = [{"between": [f"gpu{host}", f"leaf{host // 2}"], "link": "net"} for host in range(4)]
        links += [{"between": [f"leaf{i}", f"spine{s}"], "link": "net"} for i in range(2) for s in range(spines)]
        return machine({**base, "nodes": nodes | {f"spine{s}": "switch" for s in range(spines)}, "links": links})

    for size in SIZES:
        times = {time_s(drawn(order), "all_gather", "halving_doubling", size) for order in ([0, 1, 2, 3], [3, 1, 0, 2])}
        assert len(times) == 1
