"""A machine of one's own is measured against as its file says: also a torus that lost its wraparound."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.published import write_rows

from sim.simulate.latency import latency_s
from sim.specs import TorusSpec, load
from sim.studies.validate.calibrate import fit
from sim.studies.validate.cases import read
from sim.studies.validate.validate import validate

TORI = [name for name in load.shipped("topology") if isinstance(load.topology_spec(name), TorusSpec)]
CHIPS = {name: prod(axis.size for axis in load.topology_spec(name).axes.values()) for name in TORI}
SMALL = [name for name in TORI if CHIPS[name] <= 64]
QUICK = [pytest.param(name, marks=pytest.mark.release if CHIPS[name] > 16 else ()) for name in SMALL]
MODEL = {"layers": 1, "heads": 128, "kv_heads": 1, "d_head": 64, "d_model": 8192, "d_ff": 16384, "vocabulary": 16384}


def own_suite(folder: Path, name: str, **fields: Any) -> tuple[Path, str]:
    """Writes a shipped torus without wraparound, a scenario and a suite on it; returns the suite and its mesh."""
    machine = yaml.safe_load(load.path("topology", name).read_text(encoding="utf-8"))
    for axis in machine["axes"].values():
        axis["wrap"] = False
        axis.pop("twist", None)
    scenario = {
        "name": "own",
        "topology": "own_machine.yaml",
        "model": {"name": "own", "ffn": "swiglu", "block": "parallel", **MODEL},
        "workload": {"phase": "decode", "batch": 4096, "context": 64, "generate": 1, "weights": "bf16"},
        "layout": {"ffn": "weight_stationary_2d", "attention": "batch"},
    }
    suite = {
        "name": "own_suite",
        "rows": "rows.csv",
        "base": "own_scenario.yaml",
        "tolerance": {"median": "1 %", "nine_in_ten": "1 %", "worst": "1 %"},
        "models": {"*": {}},
        **fields,
    }
    for kind, data in (("machine", machine), ("scenario", scenario), ("suite", suite)):
        (folder / f"own_{kind}.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return folder / "own_suite.yaml", "x".join(str(axis["size"]) for axis in machine["axes"].values())


def row(mesh: str, **fields: Any) -> dict[str, Any]:
    """A row of a decode step on a mesh of chips."""
    chips = prod(map(int, mesh.split("x")))
    return {"chips": chips, "mesh": mesh, "batch": 4096, "context_tokens": 64} | fields


@pytest.mark.parametrize("name", TORI)
def test_a_row_of_the_own_machines_mesh_runs_on_that_machine(tmp_path: Path, name: str) -> None:
    suite, mesh = own_suite(tmp_path, name)
    write_rows(tmp_path / "rows.csv", [row(mesh)])
    (case,) = read(str(suite))[1]
    assert case.run.scenario().topology == load.topology_spec(str(tmp_path / "own_machine.yaml"))
    assert not any(axis.wrap for axis in case.run.scenario().topology.axes.values())


@pytest.mark.parametrize("name", SMALL)
def test_an_own_machine_validates_on_its_own_times(tmp_path: Path, name: str) -> None:
    suite, mesh = own_suite(tmp_path, name)
    own_s = latency_s(load.scenario(str(tmp_path / "own_scenario.yaml")))
    write_rows(tmp_path / "rows.csv", [row(mesh, value=repr(own_s))])
    (outcome,) = validate(str(suite)).outcomes
    assert outcome.simulated == own_s


@pytest.mark.parametrize("name", QUICK)
def test_an_own_machine_is_calibrated_on_its_own_times(tmp_path: Path, name: str) -> None:
    """Its memory is 0.8 times as fast as the file says; rows of the machine and of half of it find that."""
    nominal = load.topology_spec(name).chip.hbm_bandwidth.value / 1e9
    constant = {"fields": ["topology.chip.hbm_bandwidth"], "unit": "GB/s", "low": nominal / 2, "high": nominal * 2}
    suite, mesh = own_suite(tmp_path, name, calibration={"constants": {"memory": constant}})
    first, *rest = mesh.split("x")
    half = "x".join([str(int(first) // 2), *rest])
    rows = [row(each, case_id=f"{each}-{batch}", batch=batch) for each in (mesh, half) for batch in (1024, 4096)]
    write_rows(tmp_path / "rows.csv", rows)
    slower = f"topology.chip.hbm_bandwidth={0.8 * nominal} GB/s"
    own_s = [latency_s(case.run.scenario(slower)) for case in read(str(suite))[1]]
    write_rows(
        tmp_path / "rows.csv", [each | {"value": repr(time_s)} for each, time_s in zip(rows, own_s, strict=True)]
    )
    found = fit(str(suite), cross_validate=False)
    assert found.values["memory"] == pytest.approx(0.8 * nominal, rel=1e-3)
    assert found.in_sample.worst < 1e-3


def test_a_part_of_a_machine_has_the_wraparound_of_whole_axes_only(tmp_path: Path) -> None:
    """An axis cut short has lost the links round its end."""
    suite, _ = own_suite(tmp_path, "tpu_v5e_16x16")
    machine = yaml.safe_load((tmp_path / "own_machine.yaml").read_text())
    machine["axes"]["x"]["wrap"] = True
    (tmp_path / "own_machine.yaml").write_text(yaml.safe_dump(machine))
    write_rows(tmp_path / "rows.csv", [row("16x4"), row("8x16")])
    wraps = [[axis.wrap for axis in case.run.scenario().topology.axes.values()] for case in read(str(suite))[1]]
    assert wraps == [[True, False], [False, False]]
