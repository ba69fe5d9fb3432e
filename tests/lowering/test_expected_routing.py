"""Expected rows of a uniform load beside tokens that are drawn by the model's own rule, and beside rows of copies."""

import numpy as np
import pytest

from sim.lowering.routing import Split, draw_choices, miss_probability, route
from sim.specs.expert_choice import share_of_counts
from sim.specs.experts import ExpertsLayout, ExpertsSpec, RoutingSpec

DEEPSEEK = ExpertsSpec(count=256, top_k=8, d_ff=8, groups=8, top_groups=4)
BOX = tuple(chip // 8 for chip in range(32))
TOKENS = 2048
EVEN = RoutingSpec(load="zipf", spread=0)


def routed(spec: RoutingSpec, **layout: object):
    return route(DEEPSEEK, spec, ExpertsLayout.model_validate(layout), Split(32, 32, TOKENS, BOX))


def test_expected_boxes_and_chips_are_those_of_an_even_drawn_load():
    """A token is in 1 to 4 boxes and 2 to 8 chips: standard deviations of at most 1.5 and 3, over the root of 65,536
    tokens; four of these, and as many of the 32,768 that the expectation is drawn from."""
    expected, drawn = routed(RoutingSpec()), routed(EVEN)
    for name, deviation in (("boxed", 1.5), ("tokens", 3.0)):
        mean, sample = (getattr(each, name).sum() / (32 * TOKENS) for each in (expected, drawn))
        assert abs(mean - sample) < 4 * deviation * np.sqrt(1 / (32 * TOKENS) + 1 / 2**15)
    assert 3.11 < expected.boxed.sum() / (32 * TOKENS) < 3.15  # 2.93 where the four groups are any of the eight
    assert expected.even


@pytest.mark.parametrize("experts", [DEEPSEEK, ExpertsSpec(count=24, top_k=3, d_ff=8, groups=6, top_groups=2)])
def test_any_set_of_experts_is_missed_as_often_as_by_drawn_tokens(experts: ExpertsSpec):
    """Of N drawn tokens a share p misses a set, with a standard deviation of sqrt(p (1 - p) / N), on both sides."""
    tokens, size = 2**15, experts.count // experts.groups
    drawn = draw_choices(np.zeros(experts.count), tokens, experts, np.random.default_rng(2))
    for held in ((1,), (size,), (size, size), (size, 1), (3, 2, 1), (1,) * experts.groups):
        of_set = np.concatenate([group * size + np.arange(number) for group, number in enumerate(held)])
        missed, sample = miss_probability(experts, held), 1 - np.isin(drawn, of_set).any(axis=1).mean()
        assert abs(missed - sample) < 4 * np.sqrt(missed * (1 - missed) * 2 / tokens)


def test_shares_of_counts_add_up():
    """Eight experts in at most four groups; of all experts alike, each is chosen by 8 / 256 of the tokens."""
    shares = share_of_counts(DEEPSEEK)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(sum(counts) == 8 and len(counts) <= 4 for counts in shares)
    assert miss_probability(DEEPSEEK, (1,)) == pytest.approx(1 - 8 / 256)
    assert share_of_counts(DEEPSEEK.model_copy(update={"top_groups": 8})) == {(8,): 1.0}


@pytest.mark.parametrize(("placement", "boxes"), [("balanced", 3.62), ("hierarchical", 3.13), (None, 3.13)])
def test_copies_share_the_rows_of_their_expert(placement: str | None, boxes: float):
    """Of N tokens an expert has N k/X = N/32, one of two copies half of that. 64 copies are two on each chip, beside
    seven experts without: N/32 (2/2 + 7) rows, as many as without copies. Where the groups of experts are torn
    apart tokens are in more boxes, and by default they are not."""
    routing, rows = routed(RoutingSpec(), placement=placement, replicas=32), 32 * TOKENS / 32
    assert np.sort(routing.rows, axis=1).tolist() == [[rows / 2] * 2 + [rows] * 7] * 32
    assert routing.pairs.sum(axis=0) == pytest.approx(np.full(32, 8 * rows))
    assert routing.boxed.sum() / (32 * TOKENS) == pytest.approx(boxes, abs=0.01)


def test_copies_that_cannot_be_dealt_evenly_leave_chips_unlike():
    """288 places on 144 chips, two each: 64 chips have one of two copies and a whole expert, 80 two whole ones."""
    routing = route(DEEPSEEK, RoutingSpec(), ExpertsLayout(replicas=32), Split(144, 144, 144))
    assert np.unique(routing.rows.sum(axis=1), return_counts=True)[1].tolist() == [64, 80]
    assert routing.balance == pytest.approx((256 / 144) / 2)
    assert not routing.even
