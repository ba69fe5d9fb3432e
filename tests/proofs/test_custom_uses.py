"""Uses that no preset has compute what one device computes: replicas, gathers beside sums, tokens beside d_model."""

import itertools
from typing import Any

import pytest
from support.forward_passes import DIFFERING, assert_equal, passes
from support.machines import meshed, switch, torus
from support.selection import pairwise

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


OVERLAPS: dict[str, dict[str, Any]] = {
    "none": {},
    "loops": {"form": "one_way"},
    "chunks": {"chunks": 2},
    "parts": {"parts": 2},
}
WHOLE = [scheme for scheme in SCHEMES if scheme not in DIFFERING]
"""Schemes whose residual stream is one; the others need it whole on every chip, as presets have it."""
CASES = [
    (name, machine, attention, scheme, overlap)
    for name, machine, attention, scheme, overlap in itertools.product(
        USES, MACHINES, ("heads", "batch"), WHOLE, OVERLAPS
    )
    # Refused when a scenario is loaded.
    if not (overlap == "parts" and scheme != "standard") and not (overlap == "chunks" and scheme == "parallel")
]


@pytest.mark.parametrize(("name", "machine", "attention", "scheme", "overlap"), pairwise(CASES))
def test_uses_of_ones_own_compute_the_same(name: str, machine: str, attention: str, scheme: str, overlap: str) -> None:
    uses = USES[name]
    used = {axis for axes in (uses.d_model, uses.heads, uses.d_ff, uses.gather, uses.batch) for axis in axes}
    topology = meshed(MACHINES[machine], **({"a": 2, "b": 2, "c": 2} if "c" in used else {"a": 2, "b": 4}))
    options = {"scheme": scheme, "attention": attention, **OVERLAPS[overlap]}
    assert_equal(passes(uses, topology, positions=(4, 1), batch=32, heads=16, kv=8, **options))
