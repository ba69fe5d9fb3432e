"""The heat map of links and time: shares are of the links' own busy times, equal links have one row."""

from __future__ import annotations

import numpy as np
import pytest
from support.handmade import two_chips
from support.shipped import phases

from sim.plots import links_over_time
from sim.plots.links_over_time import bin_edges, group_equal_links, link_shares
from sim.report import spans as sp
from sim.report.metrics import measure


@pytest.mark.parametrize("name", ["palm540b_decode_ws2d", "llama31_405b_tp16_ladder"])
def test_shares_add_up_to_the_busy_time_of_each_link(name: str) -> None:
    ((_, part, _),) = phases((name,))
    edges = bin_edges(0, part.trace.makespan_ps)
    shares = link_shares(sp.link_spans(part.trace, part.topology), edges, len(part.topology.links))
    busy = (shares * np.diff(edges)).sum(axis=1) / part.trace.makespan_ps
    assert busy == pytest.approx(measure(part.trace, part.topology).link_utilisation, abs=1e-12)


def test_links_that_are_busy_at_the_same_times_have_one_row() -> None:
    same, other = np.array([[0.5, 0.0]]), np.array([[0.0, 0.5]])
    groups = group_equal_links([np.concatenate([same, other, same]), np.zeros((3, 1))])
    assert [group.tolist() for group in groups] == [[0, 2], [1]]
    apart = group_equal_links([np.concatenate([same, other, same]), np.array([[0.0], [0.0], [1.0]])])
    assert [group.tolist() for group in apart] == [[0], [1], [2]]


def test_rows_are_named_with_the_number_of_links_and_idle_links_are_told() -> None:
    # Both chips send over x+ alone, at the same times.
    made = links_over_time.draw(*two_chips(slower_us=0), title="by hand")
    assert [label.get_text() for label in made.axes[0].get_yticklabels()] == ["x+ (2)"]
    assert made.get_suptitle() == "by hand: 2 links idle"
