"""Load of the links by kind: sums and means of the single links."""

import pytest

from sim.api import load, simulate
from sim.report.links import load_by_kind
from sim.report.metrics import measure


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("palm540b_decode_ws2d", ["x+", "x-", "y+", "y-", "z+", "z-"]),
        ("llama3_70b_tp8_standard", ["egress port", "ingress port"]),
    ],
)
def test_kinds_add_up_to_all_links_and_no_rate_beats_the_link(name: str, kinds: list[str]):
    (part,) = simulate(load(name, "engine.layers=1")).passes
    trace, topology, machine = part.trace, part.topology, part.topology.unfold()
    measures, links = measure(trace, topology), part.topology.representative_links
    busy, sent = measures.link_utilisation[links], measures.link_bytes[links]
    found = load_by_kind(machine, busy, sent, trace.makespan_ps / 1e12)
    assert [each.kind for each in found] == kinds
    assert sum(each.links for each in found) == len(machine.links)
    assert sum(each.bytes for each in found) == pytest.approx(sent.sum(), rel=1e-12)
    assert sum(each.utilisation * each.links for each in found) == pytest.approx(busy.sum(), rel=1e-12)
    assert max(each.busiest_utilisation for each in found) == busy.max()
    for each in found:
        # a message holds its link for a whole number of picoseconds, rounded up
        assert each.rate_bytes_per_s <= each.bandwidth_bytes_per_s * (1 + 1e-12)
        names = {link.name: link.index for link in machine.links}
        assert busy[names[each.busiest]] == each.busiest_utilisation
