"""The product of layouts, residual schemes, attention, overlaps and machines: each computes what one device computes,
or is refused in one line by a rule."""

import re
from collections import Counter
from itertools import product

import pytest
from support.forward_passes import DIFFERING, assert_equal, passes
from support.machines import meshed, switch, torus, two_boxes
from support.selection import Choice, covering

from sim.errors import LayoutError
from sim.layouts.residual import SCHEMES
from sim.specs import load
from sim.specs.uses import PRESETS
from sim.topology import build

MACHINES = {
    "torus 2x2x2": torus(2, 2, 2),
    "torus 2x4": torus(2, 4),
    "1x4x4 without wrap": torus(1, 4, 4, wrap=False),
    "switch 8": meshed(switch(8), g=8),
    "switch 2x4": meshed(switch(8), box=2, gpu=4),
    "switch 2x2x2": meshed(switch(8), a=2, b=2, c=2),
    "two boxes 2x4": meshed(two_boxes(), box=2, gpu=4),
    "DGX-1 2x4": meshed(build(*load.machine("dgx1_v100")), box=2, gpu=4),
}
OVERLAPS = {
    "none": {},
    "loops": {"form": "one_way"},
    "loops both ways": {"form": "bidirectional_throughput"},
    "chunks": {"chunks": 2},
    "parts": {"parts": 2},
}
RULES = {
    "desync": r"residual streams that differ between chips must not be split",
    "loops": r"closes no ring",
}
"""By which a combination may be refused."""


OPTIONS = {
    "machine": tuple(MACHINES),
    "attention": ("heads", "batch"),
    "scheme": tuple(SCHEMES),
    "overlap": tuple(OVERLAPS),
}


def loads(choice: Choice) -> bool:
    """False for what is refused when a scenario is loaded."""
    scheme, overlap = choice["scheme"], choice["overlap"]
    return not ((overlap == "parts" and scheme != "standard") or (overlap == "chunks" and scheme == "parallel"))


def outcome(preset: str, machine: str, attention: str, scheme: str, overlap: str) -> str:
    """`proven`, or the rule that refuses the combination."""
    topology = MACHINES[machine]
    try:
        assert_equal(
            passes(
                PRESETS[preset](tuple(axis.name for axis in topology.mesh)),
                topology,
                scheme=scheme,
                attention=attention,
                positions=(2, 1),
                batch=32,
                heads=16,
                kv=8,
                ffn="mlp",
                head=scheme not in DIFFERING,
                **OVERLAPS[overlap],
            )
        )
    except LayoutError as error:
        return next((name for name, text in RULES.items() if re.search(text, str(error))), str(error))
    return "proven"


PAIRS = covering({"preset": tuple(PRESETS), **OPTIONS}, loads)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_pair_of_options_computes_the_same_or_is_refused(preset):
    outcomes = Counter(outcome(**choice) for choice in PAIRS if choice["preset"] == preset)
    assert set(outcomes) <= {"proven", *RULES}
    assert outcomes["proven"] >= 0.4 * outcomes.total()


@pytest.mark.slow
@pytest.mark.every_case
@pytest.mark.parametrize("attention", OPTIONS["attention"])
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_combination_computes_the_same_or_is_refused(machine, preset, attention):
    combinations = [dict(zip(("scheme", "overlap"), both, strict=True)) for both in product(SCHEMES, OVERLAPS)]
    outcomes = Counter(outcome(preset, machine, attention, **choice) for choice in combinations if loads(choice))
    assert set(outcomes) <= {"proven", *RULES}
    assert outcomes["proven"] >= 12
