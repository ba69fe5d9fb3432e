"""NCCL's kernels: what they carry out, what they cost, and which one is chosen."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest
from msgspec.structs import replace
from support.machines import graph
from support.run_schedule import rounding_s, run, time_s
from support.shipped_machines import WIRED_DIFFERENTLY, machine, one_of_each_wiring

from sim.closed_form.collectives import busbw
from sim.collectives import ON_NCCL, Schedule, algorithm_of, schedule
from sim.collectives.chunk_replay import ReplayError, replay
from sim.collectives.graph import trees
from sim.collectives.graph.routes import Messages
from sim.collectives.nccl import kernels as library
from sim.collectives.nccl import nvls as in_switch
from sim.collectives.nccl import tuner
from sim.collectives.schedule import Payload
from sim.errors import InputError
from sim.program import Kind
from sim.specs import MEDIA, PROTOCOLS, LinkSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import Topology, build
from sim.topology.boxes import boxes
from sim.topology.lower_bound import lower_bound
from sim.topology.rings import find
from sim.units import to_ps

KIB, MIB, GIB = 2**10, 2**20, 2**30
KERNELS = [(collective, name) for collective, kernels in ON_NCCL.items() for name in kernels]
SMALL = [name for name in WIRED_DIFFERENTLY if machine(name).chips <= 16]
US = 1e-6


def part_of(name: str, chips: int) -> Topology:
    """The first chips of a box."""
    return build(*load.machine(name, [f"chips={chips}"]))


def runs(collective: str, kernel: str, topology: Topology) -> bool:
    """Whether the machine offers the kernel."""
    one_switch = topology.kind == "switch" or bool(topology.reduction.multicast_nodes)
    needed = {
        "nvls": topology.reduction.enabled and one_switch,
        "nvls_tree": topology.reduction.enabled and not one_switch,
    }
    return needed.get(kernel, True)


@pytest.mark.parametrize("chips", [2, 3, 5, 8])
@pytest.mark.parametrize("loops", [1, 3])
@pytest.mark.parametrize(("collective", "kernel"), KERNELS)
def test_every_kernel_carries_out_its_collective(collective: str, kernel: str, loops: int, chips: int) -> None:
    topology = part_of("dgx_h100", chips)
    if runs(collective, kernel, topology):
        replay(ON_NCCL[collective][kernel].run(topology, ("g",), loops), topology)


@pytest.mark.parametrize("loops", [1, 3, 9])
@pytest.mark.parametrize("name", ["dgx_h100_x2", "dgx_h100_x4"])
def test_sums_in_the_switches_of_several_boxes_add_up_all_chips(name: str, loops: int) -> None:
    topology = machine(name)
    replay(ON_NCCL["all_reduce"]["nvls_tree"].run(topology, ("g",), loops), topology)


@pytest.mark.parametrize("name", one_of_each_wiring(WIRED_DIFFERENTLY))
@pytest.mark.parametrize(("collective", "kernel"), KERNELS)
def test_every_kernel_runs_on_every_machine_that_has_it(collective: str, kernel: str, name: str) -> None:
    topology = machine(name)
    if runs(collective, kernel, topology):
        replay(schedule(topology, collective, ("g",), kernel, 64 * KIB), topology)
        assert len(schedule(topology, collective, (), kernel, 64 * KIB)) == 0
    else:
        with pytest.raises(InputError, match=r"needs (all chips on one|several boxes of .* on a) switch that reduces"):
            schedule(topology, collective, ("g",), kernel, 64 * KIB)


def test_a_switch_that_does_not_reduce_cannot_join_messages() -> None:
    plan = schedule(machine("dgx_h100"), "all_reduce", ("g",), "nvls", 2 * MIB)
    with pytest.raises(ReplayError):
        replay(plan, machine("dgx_a100"))


def time_us(topology: Topology, collective: str, size: float, kernel: str | None = None) -> float:
    return time_s(topology, schedule(topology, collective, ("g",), kernel, size), size) / US


# --- times as formulas -----------------------------------------------------------------------------------------------

H100, A100 = 450e9 * 0.824, 300e9 * 0.80


def near(plan: Schedule, topology: Topology, expected_s: float) -> object:
    return pytest.approx(expected_s / US, rel=0, abs=rounding_s(topology, plan) / US)


def step_s(topology: Topology, protocol: str) -> float:
    """A step of a ring over NVLinks of the latency that the protocol's constants include."""
    return topology.software.nccl.measured.of(protocol).step["nvlink"]


@pytest.mark.parametrize(("collective", "steps"), [("all_gather", 7), ("reduce_scatter", 7), ("all_reduce", 14)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_ring_pays_its_steps_once_however_large_the_array(collective: str, steps: int, protocol: str) -> None:
    # base + steps x step + bytes over the protocol's share of the port, 400 MiB.
    topology, size = machine("dgx_a100"), 400 * MIB
    times = topology.software.nccl.measured.of(protocol)
    plan = schedule(topology, collective, ("g",), f"ring_{protocol}", size)
    expected = times.base + steps * times.step["nvlink"] + steps * size / 8 / (A100 * times.share["nvlink"])
    assert time_us(topology, collective, size, f"ring_{protocol}") == near(plan, topology, expected)


@pytest.mark.parametrize("collective", ["broadcast", "reduce"])
@pytest.mark.parametrize(("protocol", "loops"), [("ll", 64), ("ll128", 64), ("simple", 34)])
def test_a_broadcast_is_a_pipeline_along_the_ring(collective: str, protocol: str, loops: int) -> None:
    # (L + n - 2) chunks of the array over L, and 7 steps. With Simple chunks of 512 KiB on 24 channels, 400 MiB.
    topology, size = machine("dgx_a100"), 400 * MIB
    times = topology.software.nccl.measured.of(protocol)
    plan = schedule(topology, collective, ("g",), f"ring_{protocol}", size)
    bytes_s = (loops + 6) / loops * size / (A100 * times.share["nvlink"])
    expected = times.base + 7 * times.step["nvlink"] + bytes_s
    assert plan.parts == loops
    assert time_us(topology, collective, size, f"ring_{protocol}") == near(plan, topology, expected)


def test_a_sendrecv_pays_for_one_peer_and_an_all_to_all_for_all() -> None:
    topology, size = machine("hgx_b200"), 64 * MIB
    peers = topology.software.nccl.measured.point_to_point.many
    one, all_ = (schedule(topology, each, ("g",), None, size).timing for each in ("sendrecv", "all_to_all"))
    assert one.overhead_s == pytest.approx(peers.base + peers.per_peer)
    assert all_.overhead_s == pytest.approx(peers.base + 8 * peers.per_peer)
    assert one.share == all_.share


def test_steps_are_shorter_while_there_is_less_than_a_line_per_gpu() -> None:
    topology = machine("dgx_h100")
    times = topology.software.nccl.measured.ll
    for size, share in ((63, times.empty_step), (64, 1.0)):
        plan = schedule(topology, "all_reduce", ("g",), "ring_ll", size)
        rate = H100 * times.share["nvlink"]
        # A port's own latency, 0.6 us, stays; what the protocol adds to it shrinks with the step.
        step = max(0.6e-6, share * times.step["nvlink"])
        expected = times.base + 14 * (step + size / 8 / rate)
        assert time_us(topology, "all_reduce", size, "ring_ll") == near(plan, topology, expected)


@functools.cache
def with_latency(name: str, latency_s: float) -> Topology:
    topology = machine(name)
    return replace(topology, links=tuple(replace(link, latency_s=latency_s) for link in topology.links))


@pytest.mark.parametrize("name", one_of_each_wiring(WIRED_DIFFERENTLY, less=["dgx_h100_x4_leaf_spine"]))
@pytest.mark.parametrize(("collective", "kernel"), KERNELS)
def test_links_with_a_longer_latency_make_every_kernel_slower(collective: str, kernel: str, name: str) -> None:
    """50 us more on every link is 50 us more of a kernel at least, and no time is below the bound of such links."""
    slow = with_latency(name, 50e-6)
    if not runs(collective, kernel, slow):
        return
    for size in (8.0, float(MIB)):
        before_s, after_s = (
            bench.simulate_time_s(each, CollectiveSpec(collective, ("g",), size, kernel), kernel="compiled")
            for each in (machine(name), slow)
        )
        assert after_s >= before_s + 45e-6
        assert after_s >= lower_bound(slow, collective, ("g",), size)


@pytest.mark.parametrize("n", [2, 5, 8])
def test_nvls_carries_n_plus_1_parts_of_the_array_through_every_port(n: int) -> None:
    topology = part_of("dgx_h100", n)
    plan = schedule(topology, "all_reduce", ("g",), "nvls", GIB)
    for link in range(2 * n):
        assert plan.share[plan.link == link].sum() == pytest.approx((n + 1) / n)


def test_the_rounds_of_nvls() -> None:
    # 16 channels, 8 parts: a round of 128 KiB chunks is 16 MiB. Below 64 of them (1 GiB) chunks of 64 KiB, below 8 of
    # those (64 MiB) of 32 KiB, below 2 of those (8 MiB) of 16 KiB, of which a round is 2 MiB.
    spec = machine("dgx_h100").software.nccl.nvls
    rounds = {GIB: 64, GIB - 1: 128, 64 * MIB: 8, 64 * MIB - 1: 16, 8 * MIB: 2, 8 * MIB - 1: 4, 2 * MIB: 1, 1: 1}
    assert {size: in_switch.cut(spec, 8, size).rounds for size in rounds} == rounds


def test_nvls_of_a_rack_has_32_heads() -> None:
    spec = machine("gb200_nvl72").software.nccl.nvls
    assert in_switch.cut(spec, 72, GIB) == in_switch.cut(spec, 32, GIB)


def test_a_chunk_of_nvls_takes_its_bytes_and_a_synchronisation() -> None:
    # One chunk on its channel: c / r + a, of which c / r is the share of the rate that is left.
    spec = machine("dgx_h100").software.nccl
    times, chunk = spec.measured.nvls, 64 * KIB
    rate = times.share * H100 * 8 / 9 / spec.nvls.channels
    reached = in_switch.rate_share(spec.nvls, times, 8, chunk, H100) / times.share
    assert reached == pytest.approx((chunk / rate) / (chunk / rate + times.chunk))


@pytest.mark.parametrize(("name", "kernel"), [("dgx_h100", "nvls"), ("dgx_h100_x2", "nvls_tree")])
def test_more_rounds_than_are_simulated_take_as_long_as_fewer_and_larger_ones(name: str, kernel: str) -> None:
    """The rate per byte of 64 GiB is that of 1 TiB: only the fill of the pipeline, one round, is cut coarser."""
    topology = machine(name)
    small, large = (time_us(topology, "all_reduce", size, kernel) for size in (64 * GIB, 1024 * GIB))
    assert large / small == pytest.approx(16, rel=0.01)


@pytest.mark.parametrize("name", one_of_each_wiring(["dgx_h100", "dgx_h100_x2", "gb200_nvl72"]))
@pytest.mark.parametrize("collective", ON_NCCL)
def test_the_number_of_sends_does_not_grow_with_the_bytes(name: str, collective: str) -> None:
    topology = machine(name)
    for kernel in ON_NCCL[collective]:
        if runs(collective, kernel, topology):
            sends = [len(schedule(topology, collective, ("g",), kernel, size)) for size in (64 * GIB, 1024 * GIB)]
            assert sends[0] == sends[1]


# --- the choice ------------------------------------------------------------------------------------------------------


def chosen(topology: Topology, collective: str, size: float, wanted: str | None = None) -> str:
    return algorithm_of(topology, collective, wanted, size)


def test_the_onset_of_nvls_by_number_of_gpus() -> None:
    # Measured on an HGX H200 at 8 GiB: a ring up to four GPUs, NVLS from five on.
    found = {n: chosen(part_of("hgx_h200", n), "all_reduce", 8 * GIB) for n in range(2, 9)}
    assert found == {n: "ring_simple" if n < 5 else "nvls" for n in range(2, 9)}


def test_the_onset_of_nvls_by_size() -> None:
    # Measured on an HGX H200: LL up to 1 MiB, NVLS from 2 MiB on.
    found = {size: chosen(machine("hgx_h200"), "all_reduce", size) for size in (8, 64 * KIB, MIB, 2 * MIB, 16 * GIB)}
    assert list(found.values()) == ["ring_ll", "ring_ll", "ring_ll", "nvls", "nvls"]


def test_a_switch_that_does_not_reduce_goes_through_all_protocols() -> None:
    found = [chosen(machine("dgx_a100"), "all_reduce", size) for size in (MIB, 8 * MIB, GIB)]
    assert found == ["ring_ll", "ring_ll128", "ring_simple"]


def test_an_algorithm_without_protocol_is_its_best_one() -> None:
    assert chosen(machine("dgx_h100"), "all_reduce", 8 * GIB, "ring") == "ring_simple"
    assert chosen(machine("dgx_h100"), "all_reduce", 8, "ring") == "ring_ll"
    assert chosen(machine("dgx_h100"), "all_reduce", 8, "one_shot") == "one_shot"


@pytest.mark.parametrize("collective", ON_NCCL)
def test_one_gpu_has_nobody_to_talk_to(collective: str) -> None:
    assert len(schedule(part_of("dgx_h100", 1), collective, ("g",), None, MIB)) == 0


def test_the_choice_needs_the_size() -> None:
    with pytest.raises(ValueError, match="NCCL chooses by the size"):
        schedule(machine("dgx_h100"), "all_reduce", ("g",))


def test_the_tuner_by_hand() -> None:
    # 8 GPUs, 1 MiB: LL 6.6 + 14 x 0.6 + S 14/8 / 141 GB/s; NVLS 25 + S 14/8 / (8 x 40 x 0.85 x 7/8 x 2 GB/s).
    found = library.predictions(machine("dgx_h100"), "all_reduce", MIB)
    assert found["ring_ll"] == pytest.approx(15e-6 + MIB * 14 / 8 / 141e9)
    assert found["nvls"] == pytest.approx(25e-6 + MIB * 14 / 8 / 476e9)
    assert found["ring_simple"] == pytest.approx(56e-6 + MIB * 14 / 8 / 360e9)


def test_a_rack_has_no_more_nvls_channels_than_nccl() -> None:
    # 32 of them, at 33 x 20 of 721.8 GB/s; a channel for each of 72 GPUs would fit none of the speeds.
    found = library.fabric(machine("gb200_nvl72")).nvls
    assert (found.count, found.speed) == (32, 20e9)
    assert chosen(machine("gb200_nvl72"), "all_reduce", GIB) == "nvls"


@pytest.mark.parametrize(
    ("name", "channels"),
    [("dgx_a100", (12, 20e9)), ("dgx_h100", (12, 30e9)), ("hgx_h200", (12, 30e9)), ("hgx_b200", (16, 45e9))],
)
def test_the_channels_that_the_search_finds(name: str, channels: tuple[int, float]) -> None:
    found = library.fabric(machine(name)).ring
    assert (found.count, found.speed) == channels


# --- rings -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "count", "speed"), [("dgx1_v100", 6, 20e9), ("mi300x", 7, 48e9)])
def test_rings_use_all_of_every_link(name: str, count: int, speed: float) -> None:
    topology = machine(name)
    found = find(topology)
    used = [link for ring in found.rings for way in ring.ways for link in way]
    between_chips = [
        index
        for index, link in enumerate(topology.links)
        if max(link.src, link.dst) < topology.chips
        for _ in range(round(link.bandwidth / speed))
    ]
    assert (found.count, found.bandwidth) == (count, pytest.approx(speed))
    assert sorted(used) == sorted(between_chips)
    for ring in found.rings:
        assert sorted(ring.order) == list(range(8))
        ends = [(topology.links[link].src, topology.links[link].dst) for (link,) in ring.ways]
        assert ends == list(zip(ring.order, (*ring.order[1:], ring.order[0]), strict=True))


def test_a_dgx1_reaches_the_bandwidth_of_its_six_rings() -> None:
    time = time_us(machine("dgx1_v100"), "all_reduce", 8 * GIB, "ring_simple") * US
    assert busbw("all_reduce", 8, 8 * GIB, time) == pytest.approx(120e9, rel=0.04)


@pytest.mark.parametrize("name", ["pcie_only", "a100_pcie_bridges"])
def test_a_ring_without_nvlinks_all_around_is_as_slow_as_the_sockets(name: str) -> None:
    found = find(machine(name))
    assert (found.count, found.medium) == (1, "pci")
    time = time_us(machine(name), "all_reduce", GIB) * US
    assert busbw("all_reduce", 8, GIB, time) == pytest.approx(10e9, rel=0.01)


@pytest.mark.parametrize("name", ["dgx_h100_x2", "dgx_h100_x4"])
def test_rings_through_boxes_share_ports_and_adapters_evenly(name: str) -> None:
    topology = machine(name)
    found = find(topology)
    crossings = Counter(link for ring in found.rings for way in ring.ways for link in way)
    network = {link.index for link in topology.links if link.medium == "net"}
    assert [len(box) for box in boxes(topology)] == [8] * (topology.chips // 8)
    assert found.count == 8
    assert {crossings[link] for link in network} == {1}
    assert max(crossings.values()) == 7  # a GPU is the last of its box on one of the eight rings
    assert found.bandwidth == pytest.approx(47e9)  # of an adapter, less than a seventh of a port


def test_a_message_through_a_graph_holds_each_link_of_its_way_for_its_own_time() -> None:
    # 0 -> 9 of two boxes: NVLink to its neighbour of rail 1, then InfiniBand, the slowest.
    topology = machine("dgx_h100_x2")
    to = Messages(topology, "permute", ("g",))
    one, nine = np.array([0], dtype=np.int32), np.array([9], dtype=np.int32)
    to.send(one, nine, Payload(1.0, True, origin=one, target=nine), 0)
    held = run(topology, to.build(), 47e6)
    sends = np.flatnonzero(held.program.kind == Kind.SEND)
    way = [topology.links[link] for link in topology.route(0, 9)]
    assert [held.program.resources[r] for r in held.program.resource[sends]] == [link.name for link in way]
    assert held.program.busy_ps[sends].tolist() == [link.busy_ps(47e6) for link in way]
    assert held.makespan_ps == 10**9 + sum(link.latency_ps for link in way) + to_ps(
        topology.software.collective_overhead_s
    )


# --- trees and hierarchies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 17))
def test_both_trees_join_all_boxes_and_are_as_high_as_a_binary_tree(n: int) -> None:
    for tree in (0, 1):
        up = trees.parents(n, tree)
        assert up.count(-1) == 1
        assert max(Counter(parent for parent in up if parent >= 0).values(), default=0) <= 2
        for rank in range(n):
            hops = 0
            while up[rank] >= 0:
                rank, hops = up[rank], hops + 1
            assert hops <= n.bit_length()


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_a_leaf_of_one_tree_is_an_inner_node_of_the_other(n: int) -> None:
    # The root of each tree has one child, so that with both every rank has at most three neighbours to send to.
    inner = [set(trees.parents(n, tree)) - {-1} for tree in (0, 1)]
    assert inner[0] | inner[1] == set(range(n))
    assert not inner[0] & inner[1] - {trees.parents(n, 0).index(-1), trees.parents(n, 1).index(-1)}


def test_a_tree_in_one_box_is_a_chain_there_and_back() -> None:
    # LL, 1 KiB: 14 steps of an eighth of the array on every chain; a port has a chunk of each of 8 chains.
    topology = machine("dgx_h100")
    times = topology.software.nccl.measured.ll
    plan = schedule(topology, "all_reduce", ("g",), "tree_ll", KIB)
    expected = times.base + 14 * times.step["nvlink"]
    assert time_us(topology, "all_reduce", KIB, "tree_ll") * US == pytest.approx(expected, rel=0.01)
    assert plan.parts == 8


def test_few_bytes_over_two_boxes_take_a_tree_and_many_the_switches() -> None:
    topology = machine("dgx_h100_x2")
    assert chosen(topology, "all_reduce", 16 * KIB) == "tree_ll"
    assert chosen(topology, "all_reduce", GIB) == "nvls_tree"
    assert chosen(topology, "all_gather", GIB) == "ring_simple"
    assert time_us(topology, "all_reduce", 16 * KIB) < time_us(topology, "all_reduce", 16 * KIB, "ring_ll")


@pytest.mark.parametrize(("name", "count"), [("dgx_h100", 1), ("dgx_h100_x2", 2), ("dgx_h100_x4", 4)])
def test_the_hierarchy_reduces_inside_exchanges_between_and_gathers_inside(name: str, count: int) -> None:
    # 2 (7/8 V/w + t) inside, log2(boxes) (V/8 over an adapter, and two hops of its latency) between.
    topology, size = machine(name), 64 * MIB
    plan = schedule(topology, "all_reduce", ("g",), "hierarchical", size)
    replay(plan, topology)
    between = (count.bit_length() - 1) * (size / 8 / 47e9 + 2.7e-6)
    expected = 5e-6 + 2 * (7 / 8 * size / H100 + 0.6e-6) + between
    assert time_us(topology, "all_reduce", size, "hierarchical") == near(plan, topology, expected)


def test_boxes_that_do_not_pair_up_have_no_hierarchy() -> None:
    three = graph("0a", "1b", "2c", "ax", "bx", "cx", chips=3, switches="abcx")
    slow = replace(
        three, links=tuple(replace(link, medium="net") if "x" in link.name else link for link in three.links)
    )
    with pytest.raises(InputError, match="a power of two of them, got '1 1 1'"):
        schedule(slow, "all_reduce", ("g",), "hierarchical")


def test_two_gpus_without_peer_to_peer_access_use_host_memory_at_every_size():
    """Four and eight sum large arrays in the switch, two never do: their groups have no multicast."""
    spec = load.topology_spec("dgx_h100_p2p_disabled")
    for chips, expected in ((2, "ring_simple"), (4, "nvls"), (8, "nvls")):
        topology = build(spec.keep_first_chips(chips))
        assert algorithm_of(topology, "all_reduce", None, 64 * 2**20) == expected
    with pytest.raises(InputError, match="needs all chips on one switch that reduces"):
        algorithm_of(build(spec.keep_first_chips(2)), "all_reduce", "nvls", 64 * 2**20)


def _at_bandwidth(name: str, bandwidth: float) -> Topology:
    """A shipped machine whose links all have this bandwidth."""
    spec = load.topology_spec(name)

    def at(link: LinkSpec) -> LinkSpec:
        return link.model_copy(update={"bandwidth": link.bandwidth.model_copy(update={"value": bandwidth})})

    links = {"link": at(spec.link)} if hasattr(spec, "link") else {}
    types = {"link_types": {name: at(link) for name, link in getattr(spec, "link_types", {}).items()}}
    return build(spec.model_copy(update=links or types))


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_wiring(SMALL, less=["dgx_h100_x2", "dgx1_v100", "a100_pcie_bridges"]))
def test_time_falls_with_the_bandwidth_however_slow_or_fast_links_are(name: str) -> None:
    """From 1 kB/s to 10 TB/s. A slow link leaves nothing but size / bandwidth: a tenth of it takes ten times as long.

    1 MiB is enough for all channels to work; few bytes would use few of the many that the search finds on fast links.
    Which kernel NCCL chooses follows its tuner, which may choose a slower one for faster links.
    """
    machines = [_at_bandwidth(name, 10.0**power) for power in (3, 4, 7, 9, 11, 13)]
    for collective, kernels in ON_NCCL.items():
        for kernel in ("auto", *kernels):
            if kernel != "auto" and not runs(collective, kernel, machines[0]):
                continue
            axes = tuple(axis.name for axis in machines[0].axes)
            rows = [(each, algorithm_of(each, collective, kernel, MIB)) for each in machines]
            times = [
                bench.simulate_time_s(each, CollectiveSpec(collective, axes, MIB, chosen), kernel="compiled")
                for each, chosen in rows
            ]
            assert times[0] / times[1] == pytest.approx(10, rel=1e-3)
            assert kernel == "auto" or times == sorted(times, reverse=True)
            predicted = [bench.closed_form_s(each, collective, chosen, axes, MIB) for each, chosen in rows]
            assert all(each is None or each > 0 for each in predicted)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hop_between_boxes_takes_what_the_network_takes(protocol: str) -> None:
    topology = machine("dgx_h100_x2")
    ring, tree = (schedule(topology, "all_reduce", ("g",), f"{kind}_{protocol}", 1024.0) for kind in ("ring", "tree"))
    network = next(link.network for link in topology.links if link.network is not None)
    wire = topology.software.nccl.measured.wire["net"]
    net, counted = MEDIA.index("net"), topology.software.nccl.counted.step["net"]
    assert tree.timing.added_s[net] == pytest.approx(network.hop[protocol] - wire)
    on_ring = network.hop[protocol] * counted["ring"][protocol] / counted["tree"][protocol]
    assert ring.timing.added_s[net] == pytest.approx(on_ring - wire)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_messages_to_all_peers_begin_and_flow_as_the_network_lets_them(count: int) -> None:
    """Four boxes are one doubling of two, eight are two; the rest of the kernel's time is that on InfiniBand."""
    boxes_of = [f"boxes.count={count}"]
    efa = build(*load.machine("dgx_h100_x4", [*boxes_of, "boxes.rails.link=efa_400g"]))
    plain = build(*load.machine("dgx_h100_x4", boxes_of))
    network = next(link.network for link in efa.links if link.network is not None)
    found, usual = (schedule(each, "all_to_all", ("g",), "send_recv", GIB).timing for each in (efa, plain))
    assert found.share[MEDIA.index("net")] == pytest.approx(network.peers_share ** {2: 0, 4: 1, 8: 2}[count])
    assert found.overhead_s - usual.overhead_s == pytest.approx(network.peers_start)
    assert usual.share[MEDIA.index("net")] == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_tree_cuts_the_array_into_its_own_chunks(protocol: str) -> None:
    topology, size = machine("dgx_h100"), 2.0**23
    plan = schedule(topology, "all_reduce", ("g",), f"tree_{protocol}", size)
    chunk = topology.software.nccl.measured.of(protocol).chunk
    assert plan.parts == topology.chips * min(16, -(-size // (topology.chips * chunk)))


def test_channels_of_nvls_take_one_speed_more_than_there_are_gpus() -> None:
    """8 channels, one per GPU, each twice at its own GPU and once at every other: 9 speeds of the budget."""
    spec = machine("dgx_h100").software.nccl
    fastest, second = sorted(spec.counted.intra_speeds, reverse=True)[:2]
    assert tuner.nvls_channels(spec, 8, 9 * fastest) == tuner.Channels(8, fastest)
    assert tuner.nvls_channels(spec, 8, 9 * fastest - 1) == tuner.Channels(8, second)
    assert tuner.nvls_channels(spec, 8, 9 * min(spec.counted.intra_speeds) - 1) is None


def test_channels_between_boxes_have_the_speeds_of_the_network() -> None:
    spec = machine("dgx_h100_x2").software.nccl
    assert set(spec.counted.inter_speeds) != set(spec.counted.intra_speeds)
    for between_boxes, speeds in ((True, spec.counted.inter_speeds), (False, spec.counted.intra_speeds)):
        for budget in speeds:
            found = tuner.search(spec, budget, between_boxes=between_boxes, most=16)
            assert found.bandwidth == max(min(int(budget / speed * (1 + 1e-9)), 16) * speed for speed in speeds)


@pytest.mark.parametrize(("generation", "factor"), [("hopper", 1.4), ("volta", 1.9)])
def test_the_tuner_lengthens_the_steps_of_large_sums_between_boxes(generation: str, factor: float) -> None:
    """From 64 B per channel and chip on. The time is a latency and a time per byte, which two sizes tell apart."""
    topology = machine("dgx_h100_x2")
    spec = topology.software.nccl.model_copy(update={"generation": generation})
    box = library.fabric(topology)
    line = box.ring.count * box.chips * 64.0

    def latency_s(size: float) -> float:
        one, two = (tuner.predict(spec, box, "all_reduce", "ring", "simple", each) for each in (size, size / 2))
        assert one is not None
        assert two is not None
        return 2 * two - one

    assert latency_s(line * 2**10) / latency_s(line / 2) == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(("boxes_", "share"), [(1, 7 / 9), (2, 120 / 128)])
def test_trees_of_ll128_carry_their_share_of_the_ring(boxes_: int, share: float) -> None:
    """A ring of 10 GB/s, below every ceiling: 0.92 of it for Simple, and of that 7/9 in a box, 120/128 between.

    An array goes up and down: half of it is the rate of an all-reduce."""
    topology, rate, size = machine("dgx_h100_x2"), 10e9, 2.0**36
    box = tuner.Fabric(16, boxes_, "nvlink", tuner.Channels(1, rate), tuner.Tree("nvlink", tuner.Channels(1, rate)))
    times = [
        tuner.predict(topology.software.nccl, box, "all_reduce", "tree", "ll128", each) for each in (size, size / 2)
    ]
    assert size / 2 / (times[0] - times[1]) == pytest.approx(0.92 * rate * share / 2, rel=1e-6)


def test_ceilings_of_ll_are_those_of_one_two_and_more_boxes() -> None:
    """On a ring of boundless bandwidth LL has its ceiling; a time per byte is one over it, times 2 (n-1)/n."""
    spec, size = machine("dgx_h100_x2").software.nccl, 2.0**36
    for boxes_ in (1, 2, 3, 4):
        box = tuner.Fabric(16, boxes_, "nvlink", tuner.Channels(1, 1e18), tuner.Tree("nvlink", tuner.Channels(1, 1e18)))
        times = [tuner.predict(spec, box, "all_reduce", "ring", "ll", each) for each in (size, size / 2)]
        rate = spec.counted.ll_ceiling[min(boxes_, 3) - 1] / (2 * 15 / 16)
        assert size / 2 / (times[0] - times[1]) == pytest.approx(rate, rel=1e-6)
