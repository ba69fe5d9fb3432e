"""Formats that a chip's matrix units multiply, on all shipped chips, and those in which norms and sums compute."""

import pytest

from sim.errors import InputError
from sim.specs import load

SCALED = ("mxfp8", "mxfp4", "nvfp4")
"""Formats with a scale for each block of 16 or 32 numbers (OCP Microscaling Formats 1.0; NVIDIA)."""


def test_only_units_that_read_scales_of_blocks_multiply_them():
    """Of the shipped ones Blackwell's, which have a rate of nvfp4."""
    chips = {spec.chip.name: spec.chip for spec in map(load.topology_spec, load.shipped("topology"))}
    for chip in chips.values():
        scaled = set(SCALED) if chip.name in ("b200_sxm", "gb200", "gb300") else set()
        assert {kind for kind in SCALED if chip.multiplies(kind)} == scaled, chip.name
        assert all(map(chip.multiplies, chip.peak))


@pytest.mark.parametrize(
    ("topology", "setting", "message"),
    [
        ("hgx_h200", "workload.operands=mxfp8", "workload.operands: must be a type that chip 'h200_sxm' multiplies"),
        ("gb200_nvl72", "workload.activations=nvfp4", "workload.activations: must have more bits"),
    ],
)
def test_other_formats_are_refused_with_what_to_set(topology: str, setting: str, message: str):
    with pytest.raises(InputError, match=message):
        load.scenario("llama3_70b_tp8_standard", [f"topology={topology}", "stack=ideal", setting])
