"""Two scenario files of one name never replace each other's results in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import call, tree
from support.files import write


def run(out: Path, *scenarios: Path, options: tuple[str, ...] = ()) -> tuple[int, str]:
    return call("run", *scenarios, "--out", out, "--no-plots", "--quiet", *options)


def test_another_file_of_the_same_name_is_refused_and_the_results_stay(tmp_path: Path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other", {"scenario.workload.batch": 8})
    out = tmp_path / "out"
    assert run(out, one) == (0, "")
    before = tree(out)
    code, said = run(out, other)
    assert code == 2
    assert said == (
        f"{out / 'tiny'}: must not hold the results of another scenario file; they are of {one}; "
        "choose another folder with --out, or rename the scenario"
    )
    assert tree(out) == before
    assert run(tmp_path / "out2", other) == (0, "")


def test_two_files_of_one_name_in_one_command_are_refused_before_either_runs(tmp_path: Path):
    one, other = write(tmp_path / "one"), write(tmp_path / "other", {"scenario.workload.batch": 8})
    code, said = run(tmp_path / "out", one, other)
    assert code == 2
    assert "must not hold the results of another scenario file" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [{}, {"scenario.workload.batch": 8}, {"model.layers": 3}])
def test_the_same_file_again_changed_or_not_replaces_its_own_results(tmp_path: Path, change: dict[str, object]):
    out = tmp_path / "out"
    assert run(out, write(tmp_path)) == (0, "")
    assert run(out, write(tmp_path, change)) == (0, "")


def test_a_copy_of_a_scenario_replaces_the_results_it_would_write_anyway(tmp_path: Path):
    out = tmp_path / "out"
    assert run(out, write(tmp_path / "one")) == (0, "")
    before = (out / "tiny/trace.npz").read_bytes()
    assert run(out, write(tmp_path / "copy")) == (0, "")
    assert (out / "tiny/trace.npz").read_bytes() == before


def test_settings_that_share_a_folder_name_do_not_share_a_folder(tmp_path: Path):
    """What file names had better not have becomes `_`, so two settings may have one name."""
    scenario, out = write(tmp_path), tmp_path / "out"
    assert run(out, scenario, options=("--set", "description=a/b"))[0] == 0
    assert run(out, scenario, options=("--set", "description=a/b"))[0] == 0
    code, said = run(out, scenario, options=("--set", "description=a?b"))
    assert code == 2
    assert "must not hold the results of another scenario file" in said


def test_another_sweep_of_the_same_name_is_refused_and_its_rows_stay(tmp_path: Path):
    one = write(tmp_path / "one", {"scenario.sweep": {"workload.batch": [4, 8]}})
    other = write(tmp_path / "other", {"scenario.sweep": {"workload.batch": [4, 16]}})
    out = tmp_path / "out"
    assert call("sweep", one, "--out", out, "--no-plots") == (0, "")
    before = tree(out)
    code, said = call("sweep", other, "--out", out, "--no-plots")
    assert code == 2
    assert f"they are of {one}; choose another folder with --out" in said
    assert tree(out) == before
    write(tmp_path / "one", {"scenario.sweep": {"workload.batch": [4]}})
    assert call("sweep", one, "--out", out, "--no-plots") == (0, "")
