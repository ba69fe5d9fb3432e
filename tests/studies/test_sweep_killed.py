"""A layout sweep on 64 chips, killed half-way and started again, on two processes and on a Dask cluster of two workers.

All run with `pytest -m "slow or release" tests/studies/test_sweep_killed.py`.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sim.specs import load
from sim.studies.sweep import points

PRESETS = (
    "layout.ffn: [weight_stationary_1d, weight_stationary_2d, weight_gathered_x, weight_gathered_xy,"
    " weight_gathered_xyz], layout.attention: [heads, batch], layout.overlap: [none, collective_matmul]"
)
LARGE = (
    "workload.batch: [16, 32, 64, 96, 128, 192, 256, 384, 512, 1024], workload.context: [256, 512, 1024, 2048, 4096]"
)
LARGE_S = 60.0
"""CPU time of all processes together, killed half-way and all: a computer with nothing else to do takes no longer."""

SMALL = "workload.batch: [32, 64]"
SWEEPS = [
    pytest.param(
        ["engine.layers=2", f"sweep={{{PRESETS}, {SMALL}}}"], 40, "1", None, id="40 points", marks=[pytest.mark.slow]
    ),
    pytest.param([f"sweep={{{PRESETS}, {LARGE}}}"], 1000, "2", LARGE_S, id="1,000 points", marks=[pytest.mark.release]),
]


def command(settings: list[str], out: Path, *options: str) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    start = [sys.executable, "-m", "sim", "sweep", "palm540b_decode_ws2d", *sets]
    return [*start, "--no-plots", "--out", str(out), *options]


def rows(out: Path) -> list[dict[str, str]]:
    (path,) = out.rglob("sweep.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def written(out: Path) -> int:
    """Rows in the file, the head not counted."""
    return sum(max(path.read_bytes().count(b"\n") - 1, 0) for path in out.rglob("sweep.csv"))


def kill_half_way(arguments: list[str], out: Path, count: int) -> tuple[int, float]:
    """Kill the process and those it started once half of the rows are written: how many there are, CPU time in s."""
    import psutil

    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and written(out) < count // 2:
        time.sleep(0.005)
    assert process.poll() is None, "it was done before it could be killed"
    own = psutil.Process(process.pid)
    used_s = sum(sum(each.cpu_times()[:2]) for each in (own, *own.children(recursive=True)))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return written(out), used_s


def of_children_s() -> float:
    """CPU time of the processes that this one started and that have ended."""
    return sum(os.times()[2:4])


@pytest.fixture(scope="module")
def cluster():
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as started:
        yield started.scheduler_address


@pytest.mark.parametrize(("settings", "count", "jobs", "most_s"), SWEEPS)
def test_a_killed_sweep_ends_with_every_row_once_and_a_cluster_gives_the_same(
    tmp_path: Path, cluster: str, settings: list[str], count: int, jobs: str, most_s: float | None
):
    base = load.scenario("palm540b_decode_ws2d", settings)
    planned = [tuple(point.choices.values()) for point in points.list_points(base, settings)]
    assert len(planned) == len(set(planned)) == count

    once = command(settings, tmp_path / "here", "--jobs", jobs, "--format", "parquet")
    there, used_s = kill_half_way(once, tmp_path / "here", count)
    before_s = of_children_s()
    again = subprocess.run(once, capture_output=True, text=True, check=True)
    used_s += of_children_s() - before_s
    assert f"resuming: {there} of {count}" in again.stderr
    found = rows(tmp_path / "here")
    assert [tuple(row[axis] for axis in base.sweep) for row in found] == planned
    if most_s:
        assert used_s < most_s

    import pyarrow.parquet

    (path,) = (tmp_path / "here").rglob("sweep.parquet")
    table = pyarrow.parquet.read_table(path).to_pylist()
    assert [row["latency_s"] for row in table] == [
        float(row["latency_s"]) if row["latency_s"] else None for row in found
    ]
    assert [row["workload.batch"] for row in table] == [int(row["workload.batch"]) for row in found]

    on_dask = command(settings, tmp_path / "dask", "--backend", "dask", "--scheduler", cluster)
    subprocess.run(on_dask, capture_output=True, check=True)
    assert rows(tmp_path / "dask") == found


def test_what_is_there_is_printed_and_kept_on_ctrl_c(tmp_path: Path):
    settings = [f"sweep={{{PRESETS}, {LARGE}}}", "engine.layers=1"]
    process = subprocess.Popen(
        command(settings, tmp_path, "--json", "--format", "parquet"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while process.poll() is None and written(tmp_path) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    there = written(tmp_path)
    assert (process.returncode, 3 <= there < 1000) == (130, True)
    assert '"complete": false' in out
    assert err == f"interrupted: {there} of 1000 points are done; run the same command to resume\n"
    assert len(list(tmp_path.rglob("sweep.parquet"))) == 1


@pytest.mark.release
def test_a_scheduler_that_is_lost_is_one_line_and_leaves_the_rows_that_are_there(tmp_path: Path):
    place = tmp_path / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli"]
    options = ["--no-dashboard", "--scheduler-file", str(place)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*start[:2], f"{start[2]}.dask_scheduler", "--port", "0", *options], **quiet)
    worker = subprocess.Popen(
        [*start[:2], f"{start[2]}.dask_worker", "--nthreads", "1", "--no-nanny", *options], **quiet
    )
    try:
        while not place.exists() or not place.read_text():
            time.sleep(0.05)
        address = json.loads(place.read_text())["address"]
        settings = [f"sweep={{{PRESETS}, {LARGE}}}", "engine.layers=1"]
        on_dask = command(settings, tmp_path, "--backend", "dask", "--scheduler", address)
        process = subprocess.Popen(on_dask, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and written(tmp_path) < 3:
            time.sleep(0.05)
        scheduler.kill()
        out, err = process.communicate(timeout=60)
    finally:
        for each in (scheduler, worker):
            each.kill()
            each.wait()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --scheduler: the cluster must run until the end of the sweep, got 'tcp://")
    assert 3 <= written(tmp_path) < 1000
