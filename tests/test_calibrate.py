"""A fit finds the constants that made the rows, stays within its bounds, and is what the shipped machines carry."""

from __future__ import annotations

import json
import sys
from operator import attrgetter
from pathlib import Path

import files
import pytest
from published import write_rows, write_suite

from sim import calibrate, cli, load
from sim.run import latency_s
from sim.suite import read
from sim.validate import predicted

MACHINE = {"chip.peak.bf16.value": "20 GFLOP/s", "model.d_model": 64, "model.d_ff": 256, "model.d_head": 16}
"""Slow enough that a prefill is bound by its matmuls, a step by memory and latency."""

ROWS = (
    {"case_id": "prefill", "phase": "prefill", "input_tokens": 256, "batch": 16, "metric": "mfu"},
    {"case_id": "prefill-heads", "phase": "prefill", "input_tokens": 16, "batch": 1, "attention_layout": "heads"},
    {"case_id": "step"},
    {"case_id": "steps", "phase": "decode_total", "context_tokens": 8192, "generated_tokens": 4, "batch": 16},
    {"case_id": "step-1d", "ffn_layout": "weight_stationary_1d", "batch": 16},
)

CONSTANTS = {
    "matmul_efficiency": {"fields": ["stack.matmul_efficiency"], "low": 0.5, "high": 1},
    "hop_latency": {"fields": ["topology.link.latency"], "unit": "us", "low": 0.5, "high": 6},
    "hbm_efficiency": {"fields": ["stack.hbm_efficiency"], "low": 0.5, "high": 1},
    "overhead": {
        "fields": ["stack.op_overhead", "stack.collective_overhead"],
        "unit": "us",
        "low": 0,
        "high": 20,
    },
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def measured(truth: dict[str, float], **bounds: tuple[float, float]) -> str:
    """A suite whose rows were measured on a machine with these constants, which it then fits."""
    constants = {name: CONSTANTS[name] for name in truth}
    for name, (low, high) in bounds.items():
        constants[name] = constants[name] | {"low": low, "high": high}
    calibration = {"rows": [row["case_id"] for row in ROWS], "constants": constants}
    suite = write_suite(Path(), ROWS, calibration=calibration)
    files.write(Path(), MACHINE)
    spec, cases = read(suite)
    rows = []
    for row, case in zip(ROWS, cases, strict=True):
        scenario = case.scenario(*calibrate.settings(spec.calibration, truth))
        rows.append(row | {"value": predicted(case, scenario, latency_s(scenario))})
    write_rows(Path("rows.csv"), rows)
    return suite


# --- known constants -------------------------------------------------------------------------------------------------


def test_the_constants_that_made_the_rows_are_found():
    truth = {"matmul_efficiency": 0.7, "hop_latency": 3.0, "hbm_efficiency": 0.8, "overhead": 1.5}
    found = calibrate.fit(measured(truth))
    assert found.values == pytest.approx(truth, rel=0.02)
    assert found.settled
    assert max(map(abs, found.residuals.values())) < 1e-4


def test_also_where_they_are_close_to_a_bound():
    truth = {"matmul_efficiency": 0.502, "hop_latency": 5.99}
    assert calibrate.fit(measured(truth)).values == pytest.approx(truth, rel=0.02)


def test_the_fitted_settings_reproduce_the_rows():
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0})
    found = calibrate.fit(suite)
    for case in read(suite)[1]:
        scenario = case.scenario(*found.settings())
        # Settings are written with four digits.
        assert predicted(case, scenario, latency_s(scenario)) == pytest.approx(case.published, rel=1e-3)


def test_bounds_hold_where_the_rows_ask_for_more():
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0}, matmul_efficiency=(0.8, 1), hop_latency=(0.5, 2))
    values = calibrate.fit(suite).values
    assert 0.8 <= values["matmul_efficiency"] < 0.81
    assert 1.9 < values["hop_latency"] <= 2


def test_a_residual_is_predicted_over_published():
    """With latency held at half of what it was, steps come out too fast and so does the prefill, its MFU too high."""
    found = calibrate.fit(measured({"hop_latency": 4.0}, hop_latency=(1.99, 2.0)))
    assert found.residuals["step"] < -0.2
    assert found.residuals["prefill"] > 0


def test_a_search_that_was_cut_short_says_so(monkeypatch):
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0})
    assert "did not settle" not in calibrate.report(calibrate.fit(suite))
    monkeypatch.setattr(calibrate, "_MOST_STEPS", 1)
    found = calibrate.fit(suite)
    assert not found.settled
    assert "the search did not settle" in calibrate.report(found)


def test_it_reports_its_progress():
    seen: list[tuple[int, float]] = []
    found = calibrate.fit(measured({"hop_latency": 3.0}), progress=lambda *step: seen.append(step))
    assert [evaluations for evaluations, _ in seen] == list(range(1, found.evaluations + 1))
    assert seen[-1][1] < 1e-6 < seen[0][1]


# --- the command -----------------------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sim", "calibrate", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(str(stop.code or 0))
    return 0


def test_the_command_prints_the_fit_and_how_to_use_it(monkeypatch, capsys):
    suite = measured({"hop_latency": 3.0})
    assert call(monkeypatch, suite) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("hop")] == [["hop_latency", "3", "us"]]
    assert all(any(line.startswith(row["case_id"]) for line in out.splitlines()) for row in ROWS)
    assert "  --set 'topology.link.latency=3 us'" in out.splitlines()


def test_as_json(monkeypatch, capsys):
    assert call(monkeypatch, measured({"hop_latency": 3.0}), "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["values"] == {"hop_latency": pytest.approx(3.0, rel=1e-3)}
    assert list(data["residuals"]) == [row["case_id"] for row in ROWS]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "made_up: the suite has no 'calibration'; name its rows and constants"),
        (
            {"calibration": {"rows": ["stp"], "constants": {"hop_latency": CONSTANTS["hop_latency"]}}},
            "made_up: calibration.rows: no such row, got 'stp'; did you mean 'step'?",
        ),
        (
            {"calibration": {"rows": [], "constants": {"hop_latency": CONSTANTS["hop_latency"]}}},
            "suite.yaml: calibration.rows: must have 1 or more entries, got []",
        ),
    ],
)
def test_a_suite_that_cannot_be_fitted_says_why(monkeypatch, capsys, fields, message):
    suite = write_suite(Path(), [{"case_id": "step"}], **fields)
    assert call(monkeypatch, suite) == 2
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_a_constant_of_no_field_is_named(monkeypatch, capsys):
    constants = {"speed": {"fields": ["topology.link.speed"], "low": 0.5, "high": 1}}
    suite = write_suite(Path(), [{}], calibration={"rows": ["step"], "constants": constants})
    assert call(monkeypatch, suite) == 2
    assert capsys.readouterr().err.startswith("error: --set topology.link.speed: unknown key 'speed'")


# --- the shipped machines --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_shipped_machine_carries_what_the_fit_gives():
    found = calibrate.fit("pope")
    base = load.suite("pope").base
    fitted, shipped = load.scenario(base, found.settings()), load.scenario(base)
    assert found.settled
    for name, constant in found.calibration.constants.items():
        assert constant.low < found.values[name] < constant.high
        for field in constant.fields:
            value = attrgetter(f"{field}.value")
            assert value(shipped) == pytest.approx(value(fitted), rel=0.02), field
