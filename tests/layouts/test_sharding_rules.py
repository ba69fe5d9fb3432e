"""Steps that the sharding algebra refuses, each by itself."""

from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from sim.errors import LayoutError
from sim.layouts import sharding
from sim.layouts.forward import part_sizes
from sim.specs import load

MESH = (("x", 2), ("y", 2))
SIZES = {"B": 4, "L": 4, "H": 8, "K": 2, "Q": 2}


def tensor(notation: str) -> sharding.Sharded:
    return sharding.from_notation(notation, SIZES, MESH, "bf16")


def test_attention_of_whole_tensors_is_allowed():
    q, k = tensor("B L H Q"), tensor("B L K Q")
    assert sharding.attention(q, k, k) == q


@pytest.mark.parametrize(
    ("q", "k", "rule"),
    [
        (replace(tensor("B L H Q"), partial=("x",)), tensor("B L K Q"), "partial sum must be reduced"),
        (tensor("B L H Q"), replace(tensor("B L K Q"), partial=("x",)), "partial sum must be reduced"),
        (tensor("B_x L H Q"), tensor("B L K Q"), "batch must be split alike"),
        (replace(tensor("B L H Q"), differs=("x",)), tensor("B L K Q"), "have different queries"),
        (tensor("B L H Q"), tensor("B L_x K Q"), "needs the keys of all earlier ones"),
        (tensor("B L H Q"), tensor("B L K_x Q"), "must be split like the query heads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attention_refuses(q, k, rule):
    with pytest.raises(LayoutError, match=rule):
        sharding.attention(q, k, k)


@pytest.mark.parametrize(
    ("prompt", "batch", "sizes"),
    [(4096, 1, [2048, 2048]), (1000, 1, [512, 488]), (1536, 1, [768, 768]), (300, 1, [150, 150]), (301, 4, [128, 173])],
)
def test_halves_of_prompts_are_whole_tiles(prompt: int, batch: int, sizes: list[int]):
    """256 rows of all sequences, where there are two tiles; odd prompts have halves too."""
    settings = [f"workload.prompt={prompt}", f"workload.batch={batch}", "layout.overlap=token_halves"]
    scenario = load.scenario("vllm_llama3_70b_tp8", settings)
    flow = SimpleNamespace(mesh=(("t", 8),))
    uses = scenario.uses({"t": 1})
    assert list(part_sizes(flow, scenario, uses, halves=True)) == sizes
