"""Experts and their copies on chips: EPLB's published example, its global policy, and what cannot be placed."""

import numpy as np
import pytest

from sim.errors import InputError
from sim.lowering.expert_placement import place_experts
from sim.lowering.routing import Split, route
from sim.specs.experts import ExpertsLayout, ExpertsSpec, RoutingSpec

LOADS = ([90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86], [20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27])
PUBLISHED = (
    [5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1],
    [7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1],
)
"""Experts in the order of their places, printed by the example of github.com/deepseek-ai/EPLB, README.md."""
TWO_BOXES = (0,) * 4 + (1,) * 4


def placed(load: list[int], placement: str, box: tuple[int, ...] | None, groups: int = 4, copies: int = 4) -> list[int]:
    """The expert at each place of 8 chips."""
    experts = ExpertsSpec(count=len(load), top_k=1, d_ff=1, groups=groups)
    layout = ExpertsLayout.model_validate({"replicas": copies, "placement": placement})
    found = place_experts(np.array(load, dtype=float), experts, layout, 8, box)
    result = np.full(len(load) + copies, -1)
    result[found.places] = np.repeat(np.arange(len(load)), found.copies)
    return [int(each) for each in result]


@pytest.mark.parametrize(("load", "expected"), [*zip(LOADS, PUBLISHED, strict=True)])
def test_the_published_example_is_placed_as_published(load: list[int], expected: list[int]):
    assert placed(load, "hierarchical", TWO_BOXES) == expected


def test_boxes_may_be_numbered_in_any_order():
    """Every other chip is in the second box: its places are those of the example, in the same order."""
    order = placed(LOADS[0], "hierarchical", (0, 1) * 4)
    of_chips = [order[2 * chip : 2 * chip + 2] for chip in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert [expert for chip in of_chips for expert in chip] == PUBLISHED[0]


def test_in_one_box_with_one_group_both_policies_are_one():
    assert placed(LOADS[0], "hierarchical", None, groups=1) == placed(LOADS[0], "balanced", TWO_BOXES)


def test_the_global_policy_packs_by_falling_load():
    """Load 8 is the largest and has the copy: 4, 4, 5, 3, 2, 1 and four of 0.5 on five chips of two. In turn 5,
    4, 4, 3, 2 go to chips 0 to 4, 1 to the least loaded, chip 4, and the rest to chips 3, 1, 2, 0."""
    experts = ExpertsSpec(count=9, top_k=1, d_ff=1)
    layout = ExpertsLayout(replicas=1, placement="balanced")
    load = np.array([8, 5, 3, 2, 1, 0.5, 0.5, 0.5, 0.5])
    found = place_experts(load, experts, layout, 5, None)
    assert found.copies.tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert found.places.tolist() == [2, 4, 0, 6, 8, 9, 7, 3, 5, 1]


def test_in_order_copies_follow_their_expert():
    assert placed([1, 5, 1, 1], "in_order", None, groups=1) == [0, 1, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("box", [(0,) * 3 + (1,) * 5, (0, 0, 1, 1, 2, 2, 3, 3)])
def test_boxes_that_do_not_fit_are_refused_in_one_line(box: tuple[int, ...]):
    """Three and five chips; four boxes, which do not divide six groups."""
    with pytest.raises(InputError, match=r"^layout.experts.placement: hierarchical requires boxes of equally many"):
        placed([1] * 12, "hierarchical", box, groups=6)


def test_groups_in_one_box_keep_tokens_out_of_the_others():
    """Tokens of DeepSeek-V3 use experts of 4 of 8 groups, two of which are in each of 4 boxes. C(6,4) of C(8,4) choices
    leave a box out: a token is in 4 (1 - 15/70) = 3.14 boxes, of which it crosses to three quarters. Where groups are
    spread over all boxes it is in 3.6."""
    experts = ExpertsSpec(count=256, top_k=8, d_ff=8, groups=8, top_groups=4)
    spec, box = RoutingSpec(load="log_normal"), tuple(chip // 8 for chip in range(32))
    boxes = {}
    for placement in ("balanced", "hierarchical"):
        layout = ExpertsLayout(replicas=32, placement=placement)
        routing = route(experts, spec, layout, Split(32, 32, 256, box))
        assert routing.boxed is not None
        assert routing.balance > 0.9
        boxes[placement] = routing.boxed.sum() / (32 * 256)
    assert boxes["hierarchical"] == pytest.approx(4 * (1 - 15 / 70), rel=0.01)
    assert boxes["balanced"] > 1.1 * boxes["hierarchical"]
