"""An all-gather around 16 chips of a TPU v5e slice takes what was measured, from latency- to bandwidth-bound."""

from __future__ import annotations

import csv
from typing import NamedTuple

import pytest

from sim.report.collective_result import CollectiveResult
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec

CURVE = load.data_root() / "scenarios" / "published" / "tpu_v5e_all_gather.csv"
MACHINE = "tpu_v5e_16x16"


class Point(NamedTuple):
    size: float
    """Bytes of the gathered array."""
    time_s: float
    reading_error: float


def points() -> list[Point]:
    with CURVE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Point(float(r["bytes_V"]), float(r["time_s"]), float(r["reading_error_pct"]) / 100) for r in rows]


POINTS = [point for point in points() if point.reading_error < 0.05]


@pytest.fixture(scope="module")
def simulated() -> dict[float, CollectiveResult]:
    rows = bench.run_sizes(MACHINE, CollectiveSpec("all_gather", ("x",), 0.0), [point.size for point in POINTS], [])
    return {row.size_bytes: row for row in rows}


def test_most_of_the_curve_can_be_read():
    assert len(POINTS) >= 9


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.size:.0f}B")
def test_within_10_percent_of_the_measured_time(simulated, point):
    assert simulated[point.size].group == 16
    assert simulated[point.size].time_s == pytest.approx(point.time_s, rel=0.10)


def test_long_arrays_reach_the_measured_bandwidth(simulated):
    """From 128 MiB latency is below a percent: the error is that of the plateau, algbw = 16/15 * 2 * 45 GB/s * 0.94."""
    long = [point for point in POINTS if point.size >= 2**27]
    assert len(long) >= 3
    for point in long:
        assert simulated[point.size].algbw == pytest.approx(point.size / point.time_s, rel=0.01)


def test_a_shorter_array_is_never_slower(simulated):
    times = [simulated[point.size].time_s for point in sorted(POINTS)]
    assert times == sorted(times)
