"""A run's folder changes as a whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.commands import tree

from sim.errors import InputError
from sim.results import folder as outputs
from sim.results import scratch
from sim.specs import load


def put(folder: Path, **files: str) -> None:
    with scratch.replacing(folder) as fresh:
        for name, text in files.items():
            (fresh / name).write_text(text, encoding="utf-8")


def test_new_results_take_the_place_of_all_old_ones(tmp_path):
    put(tmp_path / "out" / "run", report="old", timeline="old")
    put(tmp_path / "out" / "run", report="new")
    assert tree(tmp_path) == {"out/run/report": b"new"}
    assert (tmp_path / "out" / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_run_that_fails_half_way_leaves_the_earlier_results(tmp_path, failure):
    put(tmp_path / "run", report="old")

    def fail() -> None:
        with scratch.replacing(tmp_path / "run") as fresh:
            (fresh / "report").write_text("new", encoding="utf-8")
            raise failure

    with pytest.raises((ValueError, KeyboardInterrupt, InputError)):
        fail()
    assert tree(tmp_path) == {"run/report": b"old"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("count", [1, 2])
def test_stopped_while_swapping_folders_one_of_them_is_whole(tmp_path, monkeypatch, count):
    # The swap is two renames; stop at the first, then at the second.
    put(tmp_path / "run", report="old")
    rename, calls = Path.rename, []

    def interrupted(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == count:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path / "run", report="new")
    assert tree(tmp_path) == {"run/report": b"old"}


def test_a_single_file_is_replaced_in_the_same_way(tmp_path):
    path = tmp_path / "deep" / "a.png"
    for text in ("old", "new"):
        with scratch.replacing_file(path) as fresh:
            assert fresh.suffix == ".png"
            fresh.write_text(text, encoding="utf-8")

    def interrupted() -> None:
        with scratch.replacing_file(path) as fresh:
            fresh.write_text("newer", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert tree(tmp_path) == {"deep/a.png": b"new"}
    assert len(list(path.parent.iterdir())) == 1


def error(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        put(path, report="new")
    return str(caught.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / "file" / "deeper" / "run"):
        assert error(path).startswith(f"--out: must be a folder, got '{tmp_path}/file")
    assert error(tmp_path / ("a" * 300) / "run").startswith("--out: cannot be written: File name too long, got '")
    assert tree(tmp_path) == {"file": b"mine"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_file_system_that_takes_no_files_is_an_error():
    assert error(Path("/proc/out/run")).startswith("--out: cannot be written: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(tmp_path):
    tmp_path.chmod(0o555)
    assert error(tmp_path / "run").startswith("--out: cannot be written: Permission denied")


def test_a_run_with_settings_has_a_folder_of_its_own(tmp_path):
    from support.files import write

    from sim.specs import load

    scenario = load.scenario(str(write(tmp_path)))
    assert outputs.folder_name(scenario, []) == "tiny"
    assert outputs.folder_name(scenario, ["layout.overlap=none"]) == "tiny,layout.overlap=none"
    assert "/" not in outputs.folder_name(scenario, ["topology=../x.yaml", "topology.link.bandwidth=1 GB/s"])
    long = [outputs.folder_name(scenario, ["description=" + "long " * 100 + end]) for end in "ab"]
    assert len(long[0]) == len(long[1]) == 200
    assert long[0] != long[1]  # what a file name has no room for stands in it as a hash


@pytest.mark.parametrize(("name", "chips"), [("bert_6b_tp2", 2), ("palm540b_decode_ws2d", 64)])
def test_the_chips_that_a_scenario_uses_can_be_traced_and_no_others(name, chips):
    """Two of the eight GPUs of a box; all chips of a torus."""
    scenario = load.scenario(name)
    outputs.check_chips(scenario, [0, chips - 1], "--chip")
    with pytest.raises(InputError, match=f"--chip: the machine has chips 0 to {chips - 1}, got {chips}"):
        outputs.check_chips(scenario, [chips], "--chip")
