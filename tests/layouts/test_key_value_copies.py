"""A mesh that keeps key-value heads whole says so, and what would split them."""

from __future__ import annotations

import json

import pytest

from sim.simulate.run import run
from sim.specs import load


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
