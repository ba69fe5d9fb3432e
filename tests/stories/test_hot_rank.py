"""A hot rank lengthens dispatch in proportion to what it receives, and balancing brings it back (DeepEP, issue 250)."""

import pytest

from sim.lowering.placement import mesh_of
from sim.report.present.text import overall_blocks
from sim.simulate.run import run
from sim.specs import load
from sim.units import format_seconds


def first_dispatch(*settings: str, chips: int = 8) -> tuple[float, float]:
    """Returns time, and bytes of the busiest chip, of the dispatch of the first layer with experts."""
    few = ("sweep=null", "figure=null", "engine.layers=4", f"mesh.rank={chips}", f"workload.batch={256 * chips}")
    experts = run(load.scenario("deepseek_v3_hot_rank", [*few, *settings])).report.experts
    assert experts
    return experts.exchanges[0].longest_s, experts.exchanges[0].most_bytes


@pytest.mark.parametrize("hot", [0.3, 0.5])
def test_a_hot_rank_lengthens_dispatch_in_proportion_to_what_it_receives(hot: float):
    """All chips enter it at once and the hot one's port is busy throughout: what it receives more takes its time there.

    Launch and latency of the links are the same; the even load is of expected rows, which are no whole ones."""
    given = load.scenario("deepseek_v3_hot_rank", ["sweep=null", "figure=null"])
    share = given.stack.exchange["one_sided"].dispatch.value.share["nvlink"]
    even_s, even_bytes = first_dispatch("workload.routing.load=uniform")
    hot_s, hot_bytes = first_dispatch(f"workload.routing.spread={hot}")
    assert hot_bytes > 1.3 * even_bytes
    assert (hot_s - even_s) * share * mesh_of(given).links[0].bandwidth == pytest.approx(
        hot_bytes - even_bytes, rel=1e-3
    )


def test_balanced_copies_bring_it_back():
    """Less than a tenth is left of what the hot rank adds. On 8 GPUs more would be: a token may use the experts of four
    groups, each of which is one GPU there until its experts are spread."""
    even_s, _ = first_dispatch("workload.routing.load=uniform", chips=32)
    hot_s, _ = first_dispatch("workload.routing.spread=0.3", chips=32)
    balanced = ("layout.experts.placement=balanced", "layout.experts.replicas=32")
    mended_s, _ = first_dispatch("workload.routing.spread=0.3", *balanced, chips=32)
    assert hot_s > 2 * even_s
    assert mended_s - even_s < 0.1 * (hot_s - even_s)


def test_the_first_table_says_for_how_long_chips_wait_for_the_hot_one():
    few = ("sweep=null", "figure=null", "engine.layers=4", "mesh.rank=8", "workload.batch=2048")
    hot, even = (
        run(load.scenario("deepseek_v3_hot_rank", [*few, *each])).report
        for each in ((), ("workload.routing.load=uniform",))
    )
    assert hot.waiting is not None
    (table, *_), *_ = overall_blocks(hot)
    row = next(row for row in table.groups[0] if row[0] == "waiting for late chips, mean of chips")
    waiting_s = hot.waiting.waiting_s  # of the one step
    assert row[1:] == (format_seconds(waiting_s), f"{waiting_s / hot.simulated.latency_s:.1%} of simulated")
    (table, *_), *_ = overall_blocks(even)
    assert not any(row[0].startswith("waiting") for row in table.groups[0])
