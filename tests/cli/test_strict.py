"""A run that does not fit in memory says so on standard error, and with --strict by its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.commands import call
from support.files import write

SMALL = {"chip.hbm_capacity": "1 KiB"}


@pytest.mark.parametrize("options", [("--quiet",), ("--json",), ()])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("change", [{}, SMALL])
def test_what_does_not_fit_is_a_warning_and_with_strict_exit_code_3(
    tmp_path: Path, change: dict[str, object], strict: bool, options: tuple[str, ...]
):
    scenario = write(tmp_path, change)
    code, said = call(
        "run", scenario, "--out", tmp_path / "out", "--no-plots", *options, *(["--strict"] if strict else [])
    )
    assert code == (3 if change and strict else 0)
    assert said.startswith(f"warning: {scenario}: exceeds memory: a chip needs ") == bool(change)
    assert said.count("\n") == (1 if change else 0)
    report = json.loads((tmp_path / "out/tiny/report.json").read_text())  # is written all the same
    assert report["memory"]["fits"] is not bool(change)


def test_one_that_does_not_fit_keeps_none_from_being_run(tmp_path: Path):
    big = write(tmp_path / "big", SMALL)
    small = write(tmp_path / "small", {"scenario.name": "small"})
    code, _ = call("run", big, small, "--out", tmp_path / "out", "--no-plots", "--quiet", "--strict")
    assert code == 3
    assert (tmp_path / "out/small/report.json").is_file()
