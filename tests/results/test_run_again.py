"""A run replaces all that commands wrote into the folder of a previous run, and keeps files of the user."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.commands import call, tree
from support.files import write
from typer.testing import CliRunner

from sim.cli import build_app

WRITTEN = {"manifest.json", "report.json", "trace.json", "trace.npz"}
"""Files of a run without figures."""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Place of a run with everything, an export, and files of the user's."""
    place = tmp_path_factory.mktemp("drawn")
    write(place)
    results = place / "out" / "tiny"
    assert run(place, "--critical-path", "--explain") == ""
    CliRunner().invoke(build_app(()), ["export", str(results), "kineto", "--chip", "0"], catch_exceptions=False)
    CliRunner().invoke(build_app(()), ["plot", str(results), "links", "--format", "svg"], catch_exceptions=False)
    (results / "notes.txt").write_text("mine")
    (results / "more").mkdir()
    (results / "more/data.csv").write_text("a,b")
    return place


@pytest.fixture
def folder(drawn: Path, tmp_path: Path) -> Path:
    """A copy of that run's folder."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out" / "tiny"


def run(place: Path, *options: str) -> str:
    """What `sim run` says on standard error."""
    arguments = ["run", str(place / "scenario.yaml"), "--out", str(place / "out"), *options]
    done = CliRunner().invoke(build_app(()), arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stderr


def test_a_run_replaces_what_commands_wrote_and_names_what_it_removes(folder: Path):
    assert {"report.html", "waterfall.png", "explain.json", "kineto", "links.svg"} <= set(os.listdir(folder))
    removed = sorted(set(os.listdir(folder)) - WRITTEN - {"notes.txt", "more"})
    said = run(folder.parents[1], "--no-plots", "--quiet")
    assert said == f"{folder}: removed files of the previous run: {', '.join(removed)}\n"
    assert set(os.listdir(folder)) == WRITTEN | {"notes.txt", "more"}
    assert "critical_path" not in json.loads((folder / "report.json").read_bytes())


def test_files_that_no_command_wrote_stay_run_after_run(folder: Path):
    for _ in range(2):
        run(folder.parents[1], "--no-plots")
        assert (folder / "notes.txt").read_text() == "mine"
        assert (folder / "more/data.csv").read_text() == "a,b"


def test_a_file_of_the_user_that_a_new_one_replaces_is_named(tmp_path: Path):
    write(tmp_path)
    run(tmp_path, "--no-plots")
    (tmp_path / "out/tiny/links.png").write_text("mine")
    assert run(tmp_path, "--quiet") == f"{tmp_path / 'out/tiny'}: replaced files that no run wrote: links.png\n"


@pytest.mark.slow
def test_the_same_run_again_removes_nothing(tmp_path: Path):
    write(tmp_path)
    assert run(tmp_path, "--explain") == ""
    before = tree(tmp_path / "out")
    assert run(tmp_path, "--explain") == ""
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("name", ["notes.txt", "report.json"])
def test_a_folder_without_a_manifest_is_refused_and_stays(tmp_path: Path, name: str):
    write(tmp_path)
    folder = tmp_path / "out/tiny"
    folder.mkdir(parents=True)
    assert call("run", tmp_path / "scenario.yaml", "--out", tmp_path / "out", "--no-plots", "--quiet") == (0, "")
    (folder / "manifest.json").unlink()
    (folder / name).write_text("mine")
    code, said = call("run", tmp_path / "scenario.yaml", "--out", tmp_path / "out", "--no-plots")
    assert code == 2
    assert said.startswith(f"{folder}: must be empty or hold the results of a run; choose another folder with --out")
    assert (folder / name).read_text() == "mine"


@pytest.mark.slow
def test_the_page_drawn_again_has_the_explanation_and_what_would_help(folder: Path):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    CliRunner().invoke(build_app(()), ["plot", str(folder)], catch_exceptions=False)
    assert (folder / "report.html").read_bytes() == before


@pytest.mark.slow
def test_chosen_chips_are_kept_for_figures_drawn_again_and_may_be_replaced(tmp_path: Path):
    write(tmp_path)
    folder = tmp_path / "out/tiny"
    run(tmp_path, "--chip", "2")
    before = (folder / "report.html").read_bytes()
    CliRunner().invoke(build_app(()), ["plot", str(folder)], catch_exceptions=False)
    assert (folder / "report.html").read_bytes() == before
    CliRunner().invoke(build_app(()), ["plot", str(folder), "--chip", "1"], catch_exceptions=False)
    assert (folder / "report.html").read_bytes() != before
    assert call("plot", folder, "--chip", "4") == (2, "--chip: the machine has chips 0 to 3, got 4")


def test_a_named_run_has_the_name_in_its_report_and_its_folder_whatever_is_set(tmp_path: Path):
    scenario = write(tmp_path)
    assert run(tmp_path, "--no-plots", "--name", "mine", "--set", "workload.batch=8") == ""
    assert json.loads((tmp_path / "out/mine/report.json").read_bytes())["scenario"] == "mine"
    code, said = call("run", scenario, "--name", "../mine")
    assert (code, said.partition(", with")[0]) == (2, "--name: must be letters, digits, '_', '-' and '.'")
    assert call("run", scenario, tmp_path / "other.yaml", "--name", "mine")[0] == 2
