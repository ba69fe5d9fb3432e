"""The folder of several jobs on one machine, and the options that place them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import call, tree
from support.files import write

TOGETHER = ("--together", "--on", "0..3", "--on", "0..3")


def run(place: Path, *options: object) -> tuple[int, str]:
    scenario = place / "scenario.yaml"
    return call("run", scenario, scenario, *TOGETHER, "--out", place / "out", *options)


def test_results_have_a_section_per_job_and_are_the_same_bytes_again(tmp_path: Path):
    write(tmp_path)
    assert run(tmp_path, "--name", "both") == (0, "")
    folder = tmp_path / "out/both"
    before = tree(folder)
    report = json.loads(before["report.json"])
    assert [job["name"] for job in report["jobs"]] == ["tiny", "tiny-2"]
    assert report["jobs"][1]["together"]["time_s"] == report["time_s"]
    assert report["shared_chips"] == [0, 1, 2, 3]
    assert {"links.png", "timeline.png", "manifest.json", "report.json"} <= set(before)
    (folder / "notes.txt").write_text("mine")
    assert run(tmp_path, "--name", "both") == (0, "")
    assert tree(folder) == before | {"notes.txt": b"mine"}


def test_results_of_several_jobs_are_not_drawn_again(tmp_path: Path):
    write(tmp_path)
    run(tmp_path, "--no-plots", "--quiet")
    code, said = call("plot", tmp_path / "out/tiny+tiny-2")
    assert (code, said.partition(": ")[2].partition(";")[0]) == (2, "is not supported with results of several jobs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--explain"], "--explain: is not supported with --together; leave one out"),
        (["--on", "0..3"], "--on: must be given once for each scenario, got '3 times'"),
        (["--passes", "2"], "--passes: must be given once for each scenario, got '1 times'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, options: list[str], message: str):
    write(tmp_path)
    assert run(tmp_path, *options) == (2, message)
    assert not (tmp_path / "out").exists()


def test_options_of_jobs_require_together(tmp_path: Path):
    scenario = write(tmp_path)
    assert call("run", scenario, "--passes", "2") == (2, "--passes: requires --together, got [2]")
