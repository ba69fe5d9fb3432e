"""A mesh that keeps key-value heads whole says so, and what would split them."""

from __future__ import annotations

import json
from itertools import accumulate, permutations, takewhile
from operator import mul

import pytest

from sim.simulate.run import run
from sim.specs import load
from sim.specs.uses import PRESETS


def notes(mesh: dict[str, int]) -> tuple[list[str], float]:
    """Notes on key-value heads, and bytes of the cache of a chip, of Llama-3 70B with 8 of them."""
    axes = list(mesh)
    layout = {"uses": {"heads": axes, "d_ff": axes}}
    settings = [f"mesh={json.dumps(mesh)}", f"layout={json.dumps(layout)}", "topology=gb200_nvl72", "model.layers=2"]
    report = run(load.scenario("llama3_70b_tp8_standard", [*settings, "stack=torch_compile"])).report
    return [note for note in report.notes if "key-value" in note], report.memory.kv_cache_bytes


@pytest.mark.parametrize(
    ("mesh", "held", "said"),
    [
        ({"a": 8}, 1, []),
        ({"a": 8, "b": 2}, 1, []),
        ({"a": 16}, 8, ["whole along a: 16 chips along a do not divide them; axes of 8 and 2 chips would"]),
        ({"a": 4, "b": 4}, 2, ["whole along b: 4 chips along b do not divide them; axes of 2 and 2 chips would"]),
    ],
)
def test_heads_that_stay_whole_are_named(mesh: dict[str, int], held: int, said: list[str]):
    found, size = notes(mesh)
    assert found == [f"a chip holds {held} of 8 key-value heads, {text}" for text in said]
    assert size == held * notes({"a": 8})[1]


@pytest.mark.parametrize("preset", [name for name, uses in PRESETS.items() if uses(("x", "y")).plain])
@pytest.mark.parametrize(
    "mesh", [{"box": 2, "gpu": 8}, {"gpu": 8, "box": 2}, {"a": 2, "b": 2, "c": 4}, {"a": 3, "b": 8}]
)
def test_presets_split_as_many_heads_as_some_order_of_their_axes_does(preset: str, mesh: dict[str, int]):
    """8 key-value heads, over the axes that a preset deals to heads: the outermost that divide them split them."""
    settings = ["topology=gb200_nvl72", "stack=torch_compile", f"mesh={json.dumps(mesh)}"]
    scenario = load.scenario("llama3_70b_tp8_standard", [*settings, f'layout={{"ffn": "{preset}"}}'])
    at = scenario.uses(mesh)

    def split(order: tuple[str, ...]) -> int:
        ways = accumulate((mesh[axis] for axis in order), mul, initial=1)
        return max(takewhile(lambda count: 8 % count == 0, ways))

    assert split(at.heads) == max(split(order) for order in permutations(at.heads))
    assert set(at.heads) == set(PRESETS[preset](tuple(mesh)).heads)
