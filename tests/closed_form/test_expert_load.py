"""Expected rows of the fullest expert beside those of drawn loads."""

from pathlib import Path

import numpy as np
import pytest

from sim.closed_form.expert_load import describe_omission, expect_fullest_rows
from sim.closed_form.expert_operations import reached
from sim.lowering.routing import Split, route
from sim.specs.experts import LOADS, ExpertsLayout, ExpertsSpec, RoutingSpec

CHIPS, TOKENS, DRAWS = 8, 64, 12
EXPERTS = ExpertsSpec(count=64, top_k=4, d_ff=8)


@pytest.mark.parametrize("load", [load for load in LOADS if load != "uniform"])
def test_the_form_is_near_the_median_of_drawn_loads(load):
    """The median of 12 draws is within the spread of the draws over sqrt(12), times 1.25 for a median; three of these,
    and one in twenty for the choice without replacement, which the form takes as a clock."""
    spec = [RoutingSpec(load=load, seed=seed) for seed in range(DRAWS)]
    drawn = [route(EXPERTS, each, ExpertsLayout(), Split(CHIPS, CHIPS, TOKENS)).rows.max() for each in spec]
    expected = expect_fullest_rows(EXPERTS, spec[0], CHIPS, CHIPS * TOKENS)
    noise = 3 * 1.25 * np.std(drawn) / np.sqrt(DRAWS)
    assert abs(expected - np.median(drawn)) <= noise + 0.05 * expected


def test_many_tokens_fill_experts_by_popularity():
    """A uniform choice of N tokens: N k/X rows each, and the fullest some standard deviations more, sqrt(N q (1 - q)),
    as many whatever N."""
    q = EXPERTS.top_k / EXPERTS.count

    def deviations(tokens):
        rows = expect_fullest_rows(EXPERTS, RoutingSpec(), CHIPS, tokens)
        return (rows - tokens * q) / np.sqrt(tokens * q * (1 - q))

    assert deviations(1e3) == pytest.approx(deviations(1e6), rel=1e-6)
    assert 2 < deviations(1e3) < 3  # the median of the largest of 64 normal numbers is 2.30


def test_a_trace_has_no_expectation():
    assert expect_fullest_rows(EXPERTS, RoutingSpec(trace="trace.csv"), CHIPS, 100) is None


@pytest.mark.parametrize("groups", [(1, 1), (8, 1), (8, 4), (8, 8)])
@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16, 64])
def test_expected_destinations_are_those_of_the_simulation(parts, groups):
    experts = ExpertsSpec(count=64, top_k=4, d_ff=8, groups=groups[0], top_groups=groups[1])
    routing = route(experts, RoutingSpec(), ExpertsLayout(), Split(1, parts, 1))
    assert routing.tokens == pytest.approx(np.full((1, parts), reached(experts, parts)), rel=1e-9)


def test_distinct_destinations_of_deepseek_v3():
    """X(R) = R (1 - C(E - E/R, k) / C(E, k)): 5.3, 6.5, 7.3 and 7.7 of 8 experts for 8 to 64 chips."""
    experts = ExpertsSpec(count=256, top_k=8, d_ff=2048)
    assert [round(parts * reached(experts, parts), 1) for parts in (8, 16, 32, 64)] == [5.3, 6.5, 7.3, 7.7]


@pytest.mark.parametrize("load", ["zipf", "log_normal", "hot_rank", "hot_experts", "spread_hot", "burst"])
def test_a_choice_limited_to_groups_is_said_to_be_left_out(load):
    limited = ExpertsSpec(count=64, top_k=4, d_ff=8, groups=8, top_groups=2)
    spec = RoutingSpec(load=load)
    assert describe_omission(limited, spec) == "leaves out that a token uses 2 of 8 groups of experts"
    assert describe_omission(EXPERTS, spec) == ""
    assert describe_omission(limited, RoutingSpec()) == ""  # all experts are as likely, whatever the groups


def test_the_rows_that_this_leaves_out_are_at_most_an_eighth_on_deepseek_v3():
    """The worst of all loads: experts of one group that are hot together, which raises the group's two best scores."""
    experts, tokens = ExpertsSpec(count=256, top_k=8, d_ff=8, groups=8, top_groups=4), 16 * 512
    for load in ("hot_rank", "hot_experts", "zipf"):
        spec = [RoutingSpec(load=load, seed=seed) for seed in range(3)]
        drawn = np.median([route(experts, each, ExpertsLayout(), Split(16, 16, 512)).rows.max() for each in spec])
        assert abs(expect_fullest_rows(experts, spec[0], 16, tokens) / drawn - 1) < 0.125


def test_the_table_of_loads_names_each_of_them_with_its_default():
    text = (
        (Path(__file__).parents[2] / "scenarios/README.md").read_text(encoding="utf-8").split("### Loads of experts")[1]
    )
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")][1 : len(LOADS) + 1]
    assert {cells[0].strip(" `") for cells in rows} == set(LOADS)
    for load, _, spread in rows:
        spec = RoutingSpec.model_validate({"load": load.strip(" `")})
        assert spread.strip().endswith(f"{spec.resolved_spread:g}" if spec.reads_spread else "")
        assert bool(spread.strip()) == spec.reads_spread
