"""Links onto which messages would crowd are left out of a machine, others are used."""

from __future__ import annotations

from itertools import permutations

import pytest
from support.shipped import scenario
from support.shipped_machines import machine

from sim.simulate.run import run
from sim.specs import GraphSpec, Scenario, load
from sim.topology import Topology, build, describe, odd_links

GRAPHS = [name for name in load.shipped("topology") if load.topology_spec(name).kind == "graph"]


def with_links(name: str, *links: dict[str, object], first: bool = False) -> GraphSpec:
    data = load.topology_spec(name).model_dump(mode="json", exclude_none=True)
    data["links"] = [*links, *data["links"]] if first else [*data["links"], *links]
    return GraphSpec.model_validate(data)


def cable(one: str, other: str, link: str) -> dict[str, object]:
    return {"between": [one, other], "link": link}


def routes(topology: Topology) -> list[list[list[str]]]:
    """Names of the links on all paths between all chips."""
    pairs = permutations(range(topology.chips), 2)
    return [[[topology.links[link].name for link in way] for way in topology.ways(*pair)] for pair in pairs]


SHORTCUT = cable("gpu0", "gpu15", "infiniband_ndr")


@pytest.mark.parametrize("name", GRAPHS)
def test_no_shipped_machine_has_odd_links(name: str):
    """So none of their routes is another than without this module."""
    spec = load.topology_spec(name)
    assert isinstance(spec, GraphSpec)
    assert not odd_links.odd_links(spec)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_part_of_a_shipped_machine_uses_all_its_links(name: str):
    """Down to a single chip, which sends nothing."""
    spec = load.topology_spec(name)
    parts = [spec.keep_first_chips(count) for count in range(1, spec.chip_count)]
    odd = [part for part in parts if isinstance(part, GraphSpec) and odd_links.odd_links(part)]
    assert [part.chip_count for part in odd if build(part).unused] == []


@pytest.mark.parametrize(
    "links",
    [
        pytest.param([SHORTCUT], id="a cable between two boxes"),
        pytest.param([SHORTCUT, cable("gpu1", "gpu14", "infiniband_ndr")], id="two cables between two boxes"),
        pytest.param([cable("gpu0", "rail3", "infiniband_ndr")], id="an adapter on the rail of another"),
        pytest.param([cable("gpu9", "rail6", "nvlink4_port")], id="a wider link to the rail of another"),
        pytest.param([cable("rail0", "rail7", "infiniband_ndr")], id="a cable between two rails"),
        pytest.param([cable("gpu7", "nvswitch1", "infiniband_ndr")], id="a way into the switch of the other box"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_messages_keep_to_rails_where_they_would_crowd_onto_a_link(links: list[dict[str, object]], first: bool):
    built = build(with_links("dgx_h100_x2", *links, first=first))
    assert set(built.unused) == {"-".join(each["between"]) for each in links}
    assert routes(built) == routes(machine("dgx_h100_x2"))


def test_a_link_between_two_boxes_of_many_is_left_out():
    """It carries fewer messages than a rail does, but all between its two boxes."""
    link = cable("gpu0", "gpu15", "infiniband_ndr")
    assert build(with_links("dgx_h100_x4", link)).unused == ("gpu0-gpu15",)


def test_a_link_that_only_its_ends_use_is_used():
    built = build(with_links("pcie_only", {"between": ["gpu0", "gpu1"], "link": "pcie"}))
    assert not built.unused
    assert [len(way) for way in built.ways(0, 1)] == [1]


def test_a_harmless_link_is_used_beside_one_that_is_left_out():
    built = build(with_links("dgx_h100_x2", SHORTCUT, cable("gpu1", "gpu2", "nvlink4_port")))
    assert built.unused == ("gpu0-gpu15",)
    assert [len(way) for way in built.ways(1, 2)] == [1]


def test_an_odd_link_without_which_chips_are_cut_off_is_used():
    """Two rings of three chips, and the one link between them."""
    built = build(_two_rings())
    assert odd_links.odd_links(_two_rings()) == {6}
    assert not built.unused
    assert built.can_reach(0, 5)


def test_with_too_many_messages_no_odd_link_is_used(monkeypatch: pytest.MonkeyPatch):
    link = cable("gpu0", "gpu1", "pcie")
    monkeypatch.setattr(odd_links, "MOST_ROUTED", 63)
    spec = with_links("pcie_only", link).model_copy(update={"name": "unrouted"})
    assert build(spec).unused == ("gpu0-gpu1",)


def test_links_that_are_left_out_are_described():
    shown = dict(describe.lines(describe.facts(build(with_links("dgx_h100_x2", SHORTCUT)))))
    assert shown["unused links"] == "gpu0-gpu15: messages would crowd onto them"
    assert "unused links" not in dict(describe.lines(describe.facts(machine("dgx_h100_x2"))))


def test_a_run_says_which_links_are_left_out():
    data = scenario("llama3_70b_h100_x2_prefill", "engine.layers=2").model_dump(mode="json", exclude_none=True)
    data["topology"]["links"].append(SHORTCUT)
    notes = run(Scenario.model_validate(data)).report.notes
    assert "leaves links out, onto which messages would crowd: gpu0-gpu15" in notes


def _two_rings() -> GraphSpec:
    data = load.topology_spec("mi300x").model_dump(mode="json", exclude_none=True)
    ends = ["01", "12", "20", "34", "45", "53", "25"]
    links = [cable(f"gpu{one}", f"gpu{other}", "xgmi") for one, other in ends]
    return GraphSpec.model_validate(data | {"nodes": {f"gpu{i}": "chip" for i in range(6)}, "links": links})
