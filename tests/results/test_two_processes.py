"""Jobs run once each in one process or two, and what they raise is raised."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

JOBS = """
import os, sys, threading, time
from functools import partial
from pathlib import Path
from sim.results import two_processes

folder = Path(sys.argv[1])
os.sched_getaffinity = lambda process: {0, 1}

def job(number):
    with (folder / str(number)).open("a") as file:
        file.write(f"{os.getpid()} ")
    time.sleep(0.02)
"""


def run_program(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """The program, in a process that has one thread, as a command has."""
    return subprocess.run([sys.executable, "-c", JOBS + program, str(folder)], capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_copy_runs_jobs_and_this_process_what_is_left_of_them(tmp_path: Path):
    jobs = "[partial(job, i) for i in range(20)]"
    assert not run_program(tmp_path, f"two_processes.run_jobs({jobs}, partial(job, 'meanwhile'))").stderr
    processes = [(tmp_path / str(number)).read_text().split() for number in range(20)]
    assert all(len(each) == 1 for each in processes)
    here = (tmp_path / "meanwhile").read_text().split()
    assert len(here) == 1
    drew = {each[0] for each in processes}
    assert len(drew) == 2
    assert here[0] in drew


def test_beside_another_thread_no_process_is_forked(tmp_path: Path):
    program = """
threading.Thread(target=time.sleep, args=[1], daemon=True).start()
two_processes.run_jobs([partial(job, i) for i in range(5)], partial(job, 5))
"""
    assert not run_program(tmp_path, program).stderr
    assert len({(tmp_path / str(number)).read_text() for number in range(6)}) == 1


@pytest.mark.parametrize("number", [0, 4, 5])
def test_an_error_in_a_job_is_raised_whichever_process_ran_it(tmp_path: Path, number: int):
    program = f"""
def failing(number):
    job(number)
    if number == {number}:
        raise ValueError("no room")
two_processes.run_jobs([partial(failing, i) for i in range(5)], partial(failing, 5))
"""
    done = run_program(tmp_path, program)
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: no room\n")
