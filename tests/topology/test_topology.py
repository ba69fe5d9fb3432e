"""Machines are wired as the files say, and their hop counts and cuts are the known ones."""

from __future__ import annotations

from collections import Counter, deque

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pydantic import TypeAdapter

from sim.errors import InputError
from sim.plots import node_link
from sim.plots.drawing import describe_link
from sim.plots.style import save
from sim.plots.topology import draw
from sim.specs import TopologySpec, load
from sim.topology import Link, Topology, build
from sim.topology.metrics import Hops, bisection, hops

ADAPTER: TypeAdapter[TopologySpec] = TypeAdapter(TopologySpec)
CHIP = {"name": "c", "peak": {"bf16": "1 TFLOP/s"}, "hbm_bandwidth": "1 GB/s", "hbm_capacity": "1 GiB"}
LINK = {"name": "l", "bandwidth": "50 GB/s", "efficiency": 0.9, "latency": "1 us"}
SLOW = {"name": "slow", "bandwidth": "10 GB/s", "latency": "2 us"}


def torus(*sizes: int, wrap: bool = True, twist: dict[str, dict[str, int]] | None = None) -> Topology:
    axes = {
        name: {"size": size, "wrap": wrap, "twist": (twist or {}).get(name, {})}
        for name, size in zip("xyzw"[: len(sizes)], sizes, strict=True)
    }
    return build(ADAPTER.validate_python({"kind": "torus", "name": "t", "chip": CHIP, "link": LINK, "axes": axes}))


def switch(chips: int) -> Topology:
    spec = {"kind": "switch", "name": "s", "chip": CHIP, "chips": chips, "link": LINK}
    return build(ADAPTER.validate_python(spec))


def graph(nodes: dict[str, str], links: list[tuple[str, str, str, int]]) -> Topology:
    edges = [{"between": [a, b], "link": kind, "count": count} for a, b, kind, count in links]
    kinds = {"fast": LINK, "slow": SLOW}
    spec = {"kind": "graph", "name": "g", "chip": CHIP, "nodes": nodes, "link_types": kinds, "links": edges}
    return build(ADAPTER.validate_python(spec))


def paired_gpus() -> Topology:
    """Two sockets, two GPUs below each, and a fast bridge that joins gpu1 and gpu2 across the sockets."""
    return graph(
        {"cpu0": "socket", "gpu0": "chip", "gpu1": "chip", "gpu2": "chip", "gpu3": "chip", "cpu1": "socket"},
        [
            ("gpu0", "cpu0", "slow", 1),
            ("gpu1", "cpu0", "slow", 1),
            ("gpu2", "cpu1", "slow", 1),
            ("gpu3", "cpu1", "slow", 1),
            ("cpu0", "cpu1", "slow", 1),
            ("gpu1", "gpu2", "fast", 2),
        ],
    )


def names(topology: Topology, src: int, dst: int) -> list[str]:
    return [topology.links[link].name for link in topology.route(src, dst)]


def distances(topology: Topology, src: int) -> dict[int, int]:
    """Hops from `src` to every node, by a search that shares nothing with the package."""
    found, queue = {src: 0}, deque([src])
    while queue:
        node = queue.popleft()
        for link in topology.links:
            if link.src == node and link.dst not in found:
                found[link.dst] = found[node] + 1
                queue.append(link.dst)
    return found


# --- torus -----------------------------------------------------------------------------------------------------------


def test_links_come_by_chip_then_axis_then_plus_before_minus():
    t = torus(2, 3, wrap=False)
    # Chips are row-major: chip 0 is (0, 0), 1 is (0, 1), 2 is (0, 2), 3 is (1, 0). Ends of a mesh have no outer link.
    assert [link.name for link in t.links[:6]] == ["0:x+", "0:y+", "1:x+", "1:y+", "1:y-", "2:x+"]
    assert [link.index for link in t.links] == list(range(len(t.links)))
    assert t.neighbour(0, "x", 1) == (3, 0)
    assert t.neighbour(0, "x", -1) is None
    assert t.nodes == ("0", "1", "2", "3", "4", "5")


def test_link_rate_is_bandwidth_times_efficiency():
    link = torus(4).links[0]
    assert link.bandwidth == 45e9  # 50 GB/s x 0.9
    assert link.latency_s == 1e-6
    assert link.busy_ps(45_000) == 1_000_000  # 45 kB at 45 GB/s: 1 us


def test_wrapped_axis_of_two_has_two_parallel_links():
    t = torus(2)
    assert [(link.name, link.src, link.dst) for link in t.links] == [
        ("0:x+", 0, 1),
        ("0:x-", 0, 1),
        ("1:x+", 1, 0),
        ("1:x-", 1, 0),
    ]


def test_axis_of_one_has_no_links():
    t = torus(4, 1)
    assert {link.axis for link in t.links} == {"x"}
    assert t.neighbour(0, "y", 1) is None


def test_twisted_wraparound_shifts_the_other_axis():
    t = torus(4, 8, twist={"x": {"y": 3}})
    # Forwards over the wraparound (3, 1) -> (0, 1 + 3); backwards (0, 1) -> (3, 1 - 3 mod 8). Chip (x, y) is 8 x + y.
    assert t.neighbour(25, "x", 1) == (4, t.links[4 * 25].index)
    there = t.neighbour(1, "x", -1)
    assert there is not None
    assert t.coordinates(there[0]) == (3, 6)
    assert [axis.ring for axis in t.axes] == [False, True]


def test_mesh_and_twisted_axes_are_no_rings():
    assert [axis.ring for axis in torus(4, 4, wrap=False).axes] == [False, False]
    assert [axis.ring for axis in torus(4, 4).axes] == [True, True]


def test_dimension_ordered_route_takes_plus_on_a_tie():
    t = torus(4, 5)
    # x: 0 -> 2 is two hops either way, so +; then y: 0 -> 4 is one hop down over the wraparound. Chip (2, 4) is 14.
    assert names(t, 0, 14) == ["0:x+", "5:x+", "10:y-"]


def test_mesh_route_never_wraps():
    t = torus(4, wrap=False)
    assert names(t, 3, 0) == ["3:x-", "2:x-", "1:x-"]


def test_vertex_transitive_only_when_every_axis_wraps_and_twists_are_independent():
    assert torus(4, 4, 8, twist={"x": {"z": 4}, "y": {"z": 4}}).is_vertex_transitive
    assert torus(2, 1, 3).is_vertex_transitive
    assert not torus(4, 4, wrap=False).is_vertex_transitive
    assert not torus(4, 4, 4, twist={"x": {"y": 2}, "y": {"z": 2}}).is_vertex_transitive


def test_twist_of_an_axis_of_one_is_refused():
    with pytest.raises(InputError, match=r"t: axes\.x: an axis of size 1 has no links and takes no twist"):
        torus(1, 4, twist={"x": {"y": 2}})


axis_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)


@st.composite
def tori(draw: st.DrawFn) -> Topology:
    """Any torus or mesh of up to three axes, each wrapped or not and perhaps twisted."""
    sizes = draw(axis_sizes)
    axes: dict[str, dict[str, object]] = {}
    for name, size in zip("xyz", sizes, strict=False):
        wrap = draw(st.booleans())
        others = {n: s for n, s in zip("xyz", sizes, strict=False) if n != name and s > 1}
        twisted = wrap and size > 1 and others and draw(st.booleans())
        twist = {n: draw(st.integers(1, s - 1)) for n, s in others.items()} if twisted else {}
        axes[name] = {"size": size, "wrap": wrap, "twist": twist}
    return build(ADAPTER.validate_python({"kind": "torus", "name": "t", "chip": CHIP, "link": LINK, "axes": axes}))


@given(tori())
def test_every_link_has_a_reverse_and_neighbours_lead_back(t: Topology):
    ends = Counter((link.src, link.dst) for link in t.links)
    assert all(ends[dst, src] == count for (src, dst), count in ends.items())
    for link in t.links:
        assert t.neighbour(link.src, link.axis, link.direction) == (link.dst, link.index)
        back = t.neighbour(link.dst, link.axis, -link.direction)
        assert back is not None
        assert back[0] == link.src


@given(tori())
def test_every_chip_has_two_links_per_wrapped_axis(t: Topology):
    degree = Counter(link.src for link in t.links)
    assert t.chips == len(t.nodes)
    for chip in range(t.chips):
        # An unwrapped axis lacks one link at each end, an axis of size 1 both.
        expected = 0
        for axis, position in zip(t.axes, t.coordinates(chip), strict=True):
            wrapped = axis.size > 1 and t.neighbour(0, axis.name, -1) is not None
            expected += 2 if wrapped else (position > 0) + (position < axis.size - 1)
        assert degree[chip] == expected


@given(tori(), st.data())
def test_a_route_is_connected_and_shortest(t: Topology, data: st.DataObject):
    chips = st.integers(0, t.chips - 1)
    src, dst = data.draw(chips), data.draw(chips)
    here = src
    for link in t.route(src, dst):
        assert t.links[link].src == here
        here = t.links[link].dst
    assert here == dst
    assert len(t.route(src, dst)) == distances(t, src)[dst]


@given(tori())
def test_hop_counts_equal_those_of_a_plain_search(t: Topology):
    lengths = [distance for chip in range(t.chips) for distance in distances(t, chip).values()]
    assert hops(t).average == pytest.approx(sum(lengths) / t.chips**2, rel=1e-12)
    assert hops(t).diameter == max(lengths)


@given(tori())
def test_a_vertex_transitive_torus_looks_the_same_from_every_chip(t: Topology):
    if t.is_vertex_transitive:
        views = {tuple(sorted(distances(t, chip).values())) for chip in range(t.chips)}
        assert len(views) == 1


# Average over all destinations including the chip itself, and diameter. Regular: an axis of even size n averages n/4
# and contributes n/2. The twisted rows are the k x k x 2k torus of Camarero, Martinez and Beivide and two candidates
# for k x 2k x 2k.
@pytest.mark.parametrize(
    ("sizes", "twist", "average", "diameter"),
    [
        ((4, 4, 8), {}, 4.0, 8),
        ((4, 4, 8), {"x": {"z": 4}, "y": {"z": 4}}, 3.4375, 6),
        ((4, 8, 8), {}, 5.0, 10),
        ((4, 8, 8), {"x": {"z": 4}, "y": {"z": 4}}, 4.53125, 8),
        ((4, 8, 8), {"x": {"y": 4, "z": 4}}, 4.3125, 6),
        ((16, 16, 16), {}, 12.0, 24),
    ],
)
def test_hops_of_regular_and_twisted_tori(sizes, twist, average, diameter):
    found = hops(torus(*sizes, twist=twist))
    assert (found.average, found.diameter) == (average, diameter)


# A cut across an axis of n chips leaves chips/n lines, each cut once, or twice where the axis wraps.
@pytest.mark.parametrize(
    ("sizes", "wrap", "links"),
    [
        ((16, 16, 16), True, 2 * 16 * 16),
        ((16, 16), True, 2 * 16),
        ((4, 4, 8), True, 2 * 4 * 4),
        ((4, 4), False, 4),
        ((2, 2, 1), False, 2),
        ((2,), True, 2),
    ],
)
def test_bisection_of_grids(sizes, wrap, links):
    cut = bisection(torus(*sizes, wrap=wrap))
    assert (cut.links, cut.bandwidth, cut.exact) == (links, pytest.approx(links * 45e9), True)


def test_bisection_of_odd_and_twisted_tori_is_an_upper_bound():
    # 3 x 3 mesh, halves of 4 and 5 chips: one column of 3 and one chip of the next, which cuts 2 + 1 + 1 links.
    odd = bisection(torus(3, 3, wrap=False))
    assert (odd.links, odd.exact) == (4, False)
    # 4x4x8 with twisted x and y. Across x: two lines' ends for each of 4 x 8 lines, 64. Across z: 2 x 16 straight links
    # and one wraparound of x and of y per line, each a pair from half to half, 32 + 32 + 32.
    twisted = bisection(torus(4, 4, 8, twist={"x": {"z": 4}, "y": {"z": 4}}))
    assert (twisted.links, twisted.exact) == (64, False)


def test_one_chip_has_nothing_to_cut():
    assert bisection(torus(1)).links == 0
    assert hops(torus(1)).diameter == 0


# --- switch ----------------------------------------------------------------------------------------------------------


def test_a_switch_route_is_the_senders_egress_and_the_receivers_ingress():
    s = switch(4)
    assert s.nodes == ("gpu0", "gpu1", "gpu2", "gpu3", "switch")
    assert names(s, 1, 3) == ["gpu1:egress", "gpu3:ingress"]
    assert s.route(2, 2) == ()
    first, second = (s.links[link] for link in s.route(1, 3))
    assert (first.src, first.dst, second.src, second.dst) == (1, 4, 4, 3)
    assert first.latency_s + second.latency_s == 1e-6  # the file's, once per message
    assert s.axes[0].size == s.chips == 4
    assert s.neighbour(0, "g", 1) is None


def test_a_switch_is_cut_at_the_ports_of_half_its_chips():
    cut = bisection(switch(8))
    assert (cut.links, cut.bandwidth, cut.exact) == (4, 4 * 45e9, True)
    assert hops(switch(8)).average == 2 * 7 / 8


# --- graph -----------------------------------------------------------------------------------------------------------


def test_graph_nodes_are_chips_first_and_links_are_numbered():
    g = paired_gpus()
    assert g.nodes == ("gpu0", "gpu1", "gpu2", "gpu3", "cpu0", "cpu1")
    assert g.chips == 4
    assert [link.name for link in g.links[-2:]] == ["gpu1->gpu2#0", "gpu2->gpu1#0"]


def test_cables_side_by_side_are_one_link_of_their_summed_bandwidth():
    kinds = [("a", "b", "fast", 2), ("b", "a", "fast", 1), ("a", "b", "slow", 1)]
    links = graph({"a": "chip", "b": "chip"}, kinds).links
    assert [(link.name, link.cables) for link in links if link.src == 0] == [("a->b#0", 3), ("a->b#1", 1)]
    assert links[0].bandwidth == 3 * build_link("fast").bandwidth
    assert links[2].bandwidth == build_link("slow").bandwidth


def build_link(kind: str) -> Link:
    return graph({"a": "chip", "b": "chip"}, [("a", "b", kind, 1)]).links[0]


def test_switches_that_no_chip_can_tell_apart_are_one():
    """Two leaves with two spines and a spare one; a spine that only one leaf reaches twice stays by itself."""
    leaves = [("a", "l0", "fast", 1), ("b", "l1", "fast", 1)]
    spines = [(leaf, spine, "slow", count) for spine, count in (("s0", 1), ("s1", 3)) for leaf in ("l0", "l1")]
    nodes = {"a": "chip", "b": "chip"} | dict.fromkeys(("l0", "l1", "s0", "s1", "s2"), "switch")
    other = [("l0", "s2", "slow", 2), ("l1", "s2", "slow", 1)]
    joined = graph(nodes, [*leaves, *spines, *other])
    assert joined.nodes == ("a", "b", "l0", "l1", "s0", "s2")
    width = build_link("slow").bandwidth
    of_spine = [link for link in joined.links if joined.nodes[link.dst] == "s0"]
    assert [(link.bandwidth, link.cables) for link in of_spine] == [(4 * width, 4), (4 * width, 4)]


def test_a_chip_forwards_nothing_where_switches_and_sockets_lead_there():
    # Three hops over the sockets; gpu0 -> cpu0 -> gpu1 -> gpu2 has three as well, but leads through a GPU.
    assert names(paired_gpus(), 0, 2) == ["gpu0->cpu0#0", "cpu0->cpu1#0", "cpu1->gpu2#0"]
    bridged = graph(
        {"gpu0": "chip", "gpu1": "chip", "gpu2": "chip", "sw0": "switch", "sw1": "switch"},
        [
            ("gpu0", "gpu1", "fast", 1),
            ("gpu1", "gpu2", "fast", 1),
            ("gpu0", "sw0", "slow", 1),
            ("sw0", "sw1", "slow", 1),
            ("sw1", "gpu2", "slow", 1),
        ],
    )
    assert len(bridged.route(0, 2)) == 3  # two hops would lead through gpu1
    chips_only = graph(
        {f"gpu{i}": "chip" for i in range(3)}, [("gpu0", "gpu1", "fast", 1), ("gpu1", "gpu2", "fast", 1)]
    )
    assert names(chips_only, 0, 2) == ["gpu0->gpu1#0", "gpu1->gpu2#0"]


def test_a_way_inside_a_box_takes_no_network():
    """Over three switches and a slow link, though the network is faster and shorter; between boxes over the network."""
    nodes = {"a": "chip", "b": "chip", "c": "chip"} | dict.fromkeys(("s0", "s1", "s2", "leaf"), "switch")
    inside = [("a", "s0", "slow"), ("s0", "s1", "slow"), ("s1", "s2", "slow"), ("s2", "b", "slow")]
    edges = [{"between": [x, y], "link": kind} for x, y, kind in inside]
    edges += [{"between": [x, "leaf"], "link": "net"} for x in "abc"]
    kinds = {"slow": SLOW, "net": {**LINK, "medium": "net"}}
    spec = {"kind": "graph", "name": "g", "chip": CHIP, "nodes": nodes, "link_types": kinds, "links": edges}
    machine = build(ADAPTER.validate_python(spec))
    assert names(machine, 0, 1) == ["a->s0#0", "s0->s1#0", "s1->s2#0", "s2->b#0"]
    assert names(machine, 0, 2) == ["a->leaf#0", "leaf->c#0"]


def test_of_two_paths_the_one_whose_slowest_link_is_faster_is_taken():
    nodes = {"a": "chip", "b": "chip"} | dict.fromkeys(("s0", "s1", "s2"), "switch")
    short = [("a", "s0", "fast", 1), ("s0", "b", "slow", 1)]
    wide = [("a", "s1", "fast", 1), ("s1", "s2", "fast", 1), ("s2", "b", "fast", 1)]
    assert names(graph(nodes, short + wide), 0, 1) == ["a->s1#0", "s1->s2#0", "s2->b#0"]


def test_a_graph_in_two_pieces_is_refused():
    with pytest.raises(InputError, match="g: links: there must be a path from a to c"):
        graph({"a": "chip", "b": "chip", "c": "chip"}, [("a", "b", "fast", 1)])


def test_graph_bisection_puts_relays_where_they_cut_least():
    # {gpu0, gpu1} | {gpu2, gpu3}: the bridge (2 x 45 GB/s) and the socket link (10). {gpu0, gpu3} | {gpu1, gpu2}: the
    # sockets side with the outer or the inner GPUs: two links of 10 GB/s. {gpu0, gpu2} | ... cuts the bridge again.
    cut = bisection(paired_gpus())
    assert (cut.links, cut.bandwidth, cut.exact) == (2, 20e9, True)


def test_a_large_graph_is_cut_into_blocks_as_an_upper_bound():
    count = 12
    ring = graph(
        {f"gpu{i}": "chip" for i in range(count)},
        [(f"gpu{i}", f"gpu{(i + 1) % count}", "fast", 1) for i in range(count)],
    )
    cut = bisection(ring)
    assert (cut.links, cut.exact) == (2, False)


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "machine",
    [switch(1), switch(40), paired_gpus(), torus(1), torus(5), torus(2, 2, 2, 3), torus(8, 8, 8)],
    ids=["one_gpu", "large_switch", "paired_gpus", "one_chip", "ring", "four_axes", "faces_only"],
)
def test_every_kind_of_machine_draws(tmp_path, machine):
    save(draw(machine), tmp_path / "machine.svg")
    text = (tmp_path / "machine.svg").read_text(encoding="utf-8")
    assert f">{machine.chips} chips; hops" in text
    partly = (machine.kind == "switch" and machine.chips > 16) or machine.chips > 256
    assert ("shown: " in text) == partly


# --- the largest machines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "diameter"),
    [
        pytest.param(
            "tpu_v4_8x8x8",
            ["axes={x: {size: 64, wrap: true}, y: {size: 32, wrap: true}, z: {size: 32, wrap: true}}"],
            64,
            marks=pytest.mark.release,
        ),
        ("tpu_v4_8x8x8", ["axes={x: {size: 65536, wrap: true}}"], 32768),
        ("dgx_h100", ["chips=65536"], 2),
    ],
)
def test_65536_chips_are_described_and_drawn_at_once(tmp_path, name: str, settings: list[str], diameter: int):
    machine = build(*load.machine(name, settings))
    assert hops(machine).diameter == diameter
    save(draw(machine), tmp_path / "machine.png")


@pytest.mark.parametrize("sizes", [(4,), (5, 2), (3, 4, 2), (1, 6)])
@pytest.mark.parametrize("wrap", [True, False])
def test_hops_along_the_axes_add_up(sizes: tuple[int, ...], wrap: bool):
    """Against all routes one by one, which are shortest."""
    machine = torus(*sizes, wrap=wrap)
    lengths = [len(machine.route(a, b)) for a in range(machine.chips) for b in range(machine.chips)]
    assert hops(machine) == Hops(sum(lengths) / len(lengths), max(lengths))


def test_one_chip_is_enough_where_a_twist_leaves_all_chips_alike():
    axes = "axes={x: {size: 256, wrap: true, twist: {y: 128}}, y: {size: 256, wrap: true}}"
    assert hops(build(*load.machine("tpu_v4_8x8x8", [axes]))).diameter == 192


def test_what_would_take_minutes_is_refused_in_one_line():
    axes = "axes={x: {size: 256, wrap: false}, y: {size: 256, wrap: true, twist: {x: 3}}}"
    with pytest.raises(InputError, match="hops are counted on up to 16,384 chips where a twist makes chips differ"):
        hops(build(*load.machine("tpu_v4_8x8x8", [axes])))
    with pytest.raises(InputError, match=r"links: must have at most 1048576 links, got 1000000000000"):
        load.topology_spec("mi300x", [_MANY])


_MANY = "links=[{between: [gpu0, gpu1], link: xgmi, count: 1000000000000}, {between: [gpu1, gpu2], link: xgmi}]"


def test_a_drawing_says_of_how_many_cables_a_link_is():
    built = build(*load.machine("dgx1_v100"))
    assert {describe_link(link) for link in built.links if link.medium == "nvlink"} == {
        "20 GB/s each way (25 nominal), 600 ns",
        "40 GB/s each way (50 nominal) in 2 cables, 600 ns",
    }


@pytest.mark.parametrize(
    "name", [name for name in load.shipped("topology") if load.topology_spec(name).kind != "torus"]
)
def test_names_in_a_drawing_are_within_their_nodes(name: str) -> None:
    """In the narrowest figure, where one unit is this many inches."""
    drawn = node_link.drawing(build(*load.machine(name)))
    (left, bottom), (right, top) = drawn.corners()
    scale = min(1.3, 6.3 / (right - left), 6.0 / (top - bottom))
    for node in drawn.list_named(scale):
        room = 2 * (node.half_width or node.size) * scale * 72
        assert len(node.label) * 0.6 * max(4.5, 7 * scale) <= room
