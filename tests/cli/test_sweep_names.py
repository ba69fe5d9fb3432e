"""`sim sweep --name`, and a sweep that a setting takes away."""

from pathlib import Path

import pytest
from support.commands import call

from sim.specs import load

SWEEP = ("sweep", "overlap_tpu_decode", "--set", "sweep={workload.batch: [1, 4]}", "--set", "engine.layers=2")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_name_is_that_of_the_folder():
    code, said = call(*SWEEP, "--set", "figure=null", "--no-plots", "--name", "mine")
    assert code == 0, said
    assert Path("out/mine/sweep.csv").exists()


def test_a_name_that_is_no_name_is_refused():
    code, said = call(*SWEEP, "--set", "figure=null", "--name", "a/b")
    assert code == 2
    assert "--name: must" in said


@pytest.mark.parametrize("name", [name for name in load.shipped("scenario") if load.scenario(name).sweep])
def test_without_its_sweep_a_scenario_has_no_figure(name: str):
    assert load.scenario(name, ["sweep=null"]).figure is None
