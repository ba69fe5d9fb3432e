"""A run replaces the folder of a previous run as a whole, and names what this removes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.commands import call, tree
from support.files import write
from typer.testing import CliRunner

from sim.cli import app

WRITTEN = {"manifest.json", "report.json", "trace.json", "trace.npz"}
"""Files of a run without figures."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run with everything, an export and a file of the user's."""
    write(tmp_path)
    results = tmp_path / "out" / "tiny"
    assert run(tmp_path, "--critical-path", "--explain") == ""
    CliRunner().invoke(app, ["export", str(results), "kineto", "--chip", "0"], catch_exceptions=False)
    (results / "notes.txt").write_text("mine")
    return results


def run(place: Path, *options: str) -> str:
    """What `sim run` says on standard error."""
    arguments = ["run", str(place / "scenario.yaml"), "--out", str(place / "out"), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stderr


def test_a_run_replaces_the_folder_and_names_what_it_removes(folder: Path):
    assert {"report.html", "waterfall.png", "explain.json", "kineto", "notes.txt"} <= set(os.listdir(folder))
    removed = sorted(set(os.listdir(folder)) - WRITTEN)
    said = run(folder.parents[1], "--no-plots", "--quiet")
    assert said == f"{folder}: removed files of the previous run: {', '.join(removed)}\n"
    assert set(os.listdir(folder)) == WRITTEN
    assert "critical_path" not in json.loads((folder / "report.json").read_bytes())


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


def test_the_page_drawn_again_has_the_explanation_and_what_would_help(folder: Path):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    CliRunner().invoke(app, ["plot", str(folder)], catch_exceptions=False)
    assert (folder / "report.html").read_bytes() == before
