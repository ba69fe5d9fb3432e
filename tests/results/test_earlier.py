"""What an earlier run left in its folder: it stays while it is of the same results, and never goes unsaid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import tree
from support.files import write
from typer.testing import CliRunner

from sim.cli import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run with everything, an export and a file of the user's."""
    write(tmp_path)
    found = tmp_path / "out" / "tiny"
    assert run(tmp_path, "--critical-path", "--explain") == ""
    CliRunner().invoke(app, ["export", str(found), "kineto", "--chip", "0"], catch_exceptions=False)
    (found / "notes.txt").write_text("mine")
    return found


def run(place: Path, *options: str) -> str:
    """What `sim run` says on standard error."""
    arguments = ["run", str(place / "scenario.yaml"), "--out", str(place / "out"), *options]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stderr


@pytest.mark.parametrize("options", [(), ("--no-plots",), ("--no-plots", "--quiet")])
def test_the_same_scenario_again_costs_nothing_of_what_was_there(folder: Path, options: tuple[str, ...]):
    before = tree(folder)
    assert {"report.html", "waterfall.png", "explain.json", "kineto/rank0.json", "notes.txt"} <= set(before)
    assert run(folder.parents[1], *options) == ""
    assert tree(folder) == before


def test_figures_of_other_results_do_not_stand_beside_new_ones_and_it_is_said(folder: Path):
    before = tree(folder)
    write(folder.parents[1], {"scenario.workload.batch": 8})
    said = run(folder.parents[1], "--no-plots", "--quiet")
    after = tree(folder)
    gone = {name.partition("/")[0] for name in set(before) - set(after)}
    assert said == f"{folder}: of an earlier run with other results, now removed: {', '.join(sorted(gone))}\n"
    assert {"report.html", "timeline.png", "waterfall.png", "explain.json", "kineto"} <= gone
    assert set(after) == {"manifest.json", "notes.txt", "report.json", "trace.json", "trace.npz"}
    assert "critical_path" not in json.loads(after["report.json"])


def test_the_page_drawn_again_has_the_explanation_and_what_would_help(folder: Path):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    CliRunner().invoke(app, ["plot", str(folder)], catch_exceptions=False)
    assert (folder / "report.html").read_bytes() == before


def test_what_a_run_without_figures_adds_stands_beside_the_earlier_page(tmp_path: Path):
    """--explain of results that were drawn without: the page is of the same results and stays."""
    write(tmp_path)
    assert run(tmp_path) == ""
    page = (tmp_path / "out/tiny/report.html").read_bytes()
    assert run(tmp_path, "--explain", "--no-plots") == ""
    assert (tmp_path / "out/tiny/report.html").read_bytes() == page
    assert (tmp_path / "out/tiny/explain.json").is_file()
