"""Uses that no preset has compute what one device computes: replicas, gathers beside sums, tokens beside d_model."""

import itertools

import pytest
from support.forward_passes import DIFFERING, assert_equal, passes
from support.machines import meshed, switch, torus

from sim.layouts.residual import SCHEMES
from sim.specs.uses import Uses

AB = ("a", "b")
USES = {
    "replicas": Uses(batch=("a",), heads=("b",), d_ff=("b",)),
    "replicas of two dimensions": Uses(batch=("a",), d_model=("b",), heads=("c",), d_ff=("c",), stream=("c",)),
    "gathers beside sums": Uses(
        gather=("a",), heads=("b",), d_ff=("b",), stored_heads=("b", "a"), stored_d_ff=("b", "a")
    ),
    "gathers beside sums over a split stream": Uses(
        gather=("a",), heads=("b",), d_ff=("b",), stream=("b",), stored_heads=("b", "a"), stored_d_ff=("b", "a")
    ),
    "tokens beside d_model": Uses(d_model=("a",), heads=("b",), d_ff=("b",), tokens=("b",)),
    "attention over a part, the rest by sequences": Uses(heads=("a",), d_ff=AB, tokens=("b",)),
    "attention over a part, the rest repeats it": Uses(heads=("a",), d_ff=AB),
    "the FFN over a part": Uses(heads=AB, d_ff=("a",)),
    "d_model and tokens": Uses(heads=("c", "b", "a"), d_ff=("c", "b", "a"), stream=("a",), tokens=("b",)),
    "other orders": Uses(heads=AB, d_ff=("b", "a")),
}
MACHINES = {"switch": switch(8), "torus": torus(2, 2, 2)}


@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", USES)
def test_uses_of_ones_own_compute_the_same_or_are_refused(name: str, machine: str, attention: str) -> None:
    at = USES[name]
    used = {axis for axes in (at.d_model, at.heads, at.d_ff, at.gather, at.batch) for axis in axes}
    sizes = {"a": 2, "b": 2, "c": 2} if "c" in used else {"a": 2, "b": 4}
    topology = meshed(MACHINES[machine], **sizes)
    proven = 0
    for scheme, options in itertools.product(SCHEMES, ({}, {"form": "one_way"}, {"chunks": 2}, {"parts": 2})):
        if ("parts" in options and scheme != "standard") or ("chunks" in options and scheme == "parallel"):
            continue  # refused when a scenario is loaded
        if scheme in DIFFERING:
            continue  # whole streams alone, as in presets
        assert_equal(
            passes(
                at, topology, scheme=scheme, attention=attention, positions=(4, 1), batch=32, heads=16, kv=8, **options
            )
        )
        proven += 1
    assert proven == 12
