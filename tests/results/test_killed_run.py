"""What a killed run leaves is gone after the next one, and what a live one is writing is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run
from support.files import write

from sim.results import scratch

WRITER = """
import sys, time
from pathlib import Path
from sim.results import scratch
with scratch.{writer}(Path(sys.argv[1])) as fresh:
    print(fresh, flush=True)
    time.sleep(600)
"""


def started(path: Path, writer: str = "replacing") -> tuple[subprocess.Popen[str], Path]:
    """A process that is writing results, and where."""
    program = [sys.executable, "-c", WRITER.format(writer=writer), str(path)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("writer", ["replacing", "replacing_file"])
def test_a_killed_process_leaves_a_folder_that_the_next_run_removes(tmp_path: Path, writer: str):
    process, fresh = started(tmp_path / "out/killed", writer)
    kill(process)
    assert fresh.exists() or fresh.parent.exists()
    write(tmp_path)
    assert run(tmp_path) == (0, "")
    assert os.listdir(tmp_path / "out") == ["tiny"]


def test_the_folder_of_a_live_run_of_the_same_scenario_stays(tmp_path: Path):
    process, fresh = started(tmp_path / "out/tiny")
    try:
        write(tmp_path)
        assert run(tmp_path) == (0, "")
        assert fresh.is_dir()
    finally:
        kill(process)


@pytest.mark.parametrize("before", [1, 2])
def test_killed_between_two_renames_the_earlier_results_are_found_again(tmp_path: Path, before: int):
    """Killed before the second rename, the earlier results are under another name; after it, the new ones are there."""
    program = f"""
import os, signal
from pathlib import Path
from sim.results import scratch
folder, rename, calls = Path({str(tmp_path / "out/tiny")!r}), Path.rename, []
def killed(path, target):
    calls.append(path)
    if len(calls) == 2 and {before} == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(path, target)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
with scratch.replacing(folder) as fresh:
    (fresh / "report").write_text("old")
Path.rename = killed
with scratch.replacing(folder) as fresh:
    (fresh / "report").write_text("new")
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert (tmp_path / "out/tiny").exists() == (before == 2)
    with scratch.replacing(tmp_path / "out/other") as fresh:
        (fresh / "report").write_text("other")
    assert sorted(os.listdir(tmp_path / "out")) == ["other", "tiny"]
    assert (tmp_path / "out/tiny/report").read_text() == ("old" if before == 1 else "new")


def test_hidden_folders_of_others_stay(tmp_path: Path):
    names = [".config.abcdefgh", ".tiny.abcdefgh", ".git", ".tiny.writing", "tiny.abcdefgh.writing"]
    for name in names:
        (tmp_path / "out" / name).mkdir(parents=True)
    write(tmp_path)
    assert run(tmp_path) == (0, "")
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*names, "tiny"])
