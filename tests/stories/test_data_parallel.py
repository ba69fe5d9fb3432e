"""Groups that share a batch and nothing else take as long as one of them with its part."""

from __future__ import annotations

import json

import pytest

from sim.simulate.run import run
from sim.specs import load


def step_s(topology: str, mesh: dict[str, int | str], sequences: int, phase: list[str], **uses: list[str]) -> float:
    layout = {"uses": {"heads": ["t"], "d_ff": ["t"], **uses}}
    settings = [f"topology={topology}", "stack=torch_compile", "model.layers=2", f"workload.batch={sequences}", *phase]
    scenario = load.scenario(
        "llama3_70b_tp8_standard", [*settings, f"mesh={json.dumps(mesh)}", f"layout={json.dumps(layout)}"]
    )
    return run(scenario, remedies=False).report.simulated.step_s


DECODE: list[str] = []
PREFILL = ["workload.phase=prefill", "workload.context=null", "workload.prompt=512", "workload.generate=null"]


@pytest.mark.parametrize("phase", [DECODE, ["workload.static_cache=null", *PREFILL]], ids=["decode", "prefill"])
@pytest.mark.parametrize(
    ("topology", "mesh", "alone", "parts"),
    [
        ("dgx_h100_x2", {"d": "boxes", "t": 8}, "dgx_h100", 2),
        ("hgx_b200_x4", {"d": "boxes", "t": 8}, "hgx_b200", 4),
        ("dgx_h100", {"d": 2, "t": 4}, "dgx_h100", 2),
        ("gb200_nvl72", {"d": 4, "t": 8}, "gb200_nvl72", 4),
    ],
)
def test_a_dealt_batch_takes_the_time_of_one_part(topology, mesh, alone, parts, phase):
    shared = step_s(topology, mesh, 4 * parts, phase, batch=["d"])
    assert shared == pytest.approx(step_s(alone, {"t": mesh["t"]}, 4, phase), rel=1e-9)
