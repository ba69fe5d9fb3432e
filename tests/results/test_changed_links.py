"""A run with a failed or slow link of any kind is drawn and written: roles are of chips, whatever ends the link has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim import topology as machines
from sim.errors import InputError
from sim.results import folder as outputs
from sim.results.figures import FigureForm
from sim.simulate.run import run
from sim.specs import load

MACHINES = (
    "dgx_h100",
    "dgx_h100_x2",
    "dgx_a100_x2",
    "hgx_h200_x2_800g",
    "dgx_h100_x4_leaf_spine",
    "dgx1_v100",
    "mi300x",
)


def kinds(name: str) -> list[str]:
    """The first link of each kind: from chip or switch to chip or switch, by medium."""
    machine = machines.build(*load.machine(name))
    ends = {}
    for link in machine.links:
        ends.setdefault((link.src < machine.chips, link.dst < machine.chips, link.medium), link.name)
    return list(ends.values())


CUTS = {
    ("dgx_h100", "gpu0:egress"),
    ("dgx_h100", "gpu0:ingress"),
    ("dgx_h100_x4_leaf_spine", "leaf0->spine0#0"),
}
"""Links without which a chip has no way to another."""
CASES = [(name, link) for name in MACHINES for link in kinds(name)]


@pytest.mark.parametrize("change", ["failed_links", "slow_links"])
@pytest.mark.parametrize(("name", "link"), CASES)
def test_a_run_with_a_changed_link_is_written(name: str, link: str, change: str, tmp_path: Path):
    changed = [link] if change == "failed_links" else [{"links": [link], "factor": 2}]
    perturb = json.dumps({change: changed})
    settings = [f"topology={name}", "stack=ideal", "model.layers=1", f"perturb={perturb}", "layout.mesh.tensor=null"]
    scenario = load.scenario("llama3_70b_tp8_standard", settings)
    if change == "failed_links" and (name, link) in CUTS:
        with pytest.raises(InputError, match="cut the machine"):
            run(scenario)
        return
    result = run(scenario, remedies=False)
    (part,) = result.passes
    assert set(part.every_role) <= set(range(part.topology.total_chips))
    outputs.write(result, tmp_path, figure_form=FigureForm() if link == kinds(name)[-1] else None)
    assert (tmp_path / "trace.json").exists()
