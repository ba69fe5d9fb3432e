"""A fit finds the constants that made the rows, stays within its bounds, and is what the shipped machines carry."""

from __future__ import annotations

import json
import re
import sys
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from msgspec.structs import replace
from support import files
from support.published import write_rows, write_suite

from sim import cli
from sim.errors import InputError
from sim.plots import calibration as plot
from sim.report.present.calibration import Series, format_fit, settings
from sim.report.present.validation import Errors
from sim.simulate.latency import latency_s
from sim.specs import load
from sim.studies.validate import calibrate
from sim.studies.validate.cases import read
from sim.studies.validate.validate import to_metric, validate

MACHINE = {"chip.peak.bf16.value": "20 GFLOP/s", "model.d_model": 64, "model.d_ff": 256, "model.d_head": 16}
"""Slow enough that a prefill is bound by its matmuls, a step by memory and latency."""

ROWS = (
    {"case_id": "prefill", "phase": "prefill", "input_tokens": 256, "batch": 16, "metric": "mfu"},
    {"case_id": "prefill-heads", "phase": "prefill", "input_tokens": 16, "batch": 1, "attention_layout": "heads"},
    {"case_id": "step"},
    {"case_id": "steps", "phase": "decode_total", "context_tokens": 8192, "generated_tokens": 4, "batch": 16},
    {"case_id": "step-1d", "ffn_layout": "weight_stationary_1d", "batch": 16, "mesh": "2x1", "chips": 2},
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
        scenario = case.run.scenario(*settings(spec.calibration.constants, truth))
        rows.append(row | {"value": to_metric(case.metric, scenario, latency_s(scenario))})
    write_rows(Path("rows.csv"), rows)
    return suite


def fitted(suite: str, **options):
    """A fit without cross-validation, which has tests of its own."""
    return calibrate.fit(suite, cross_validate=False, **options)


# --- known constants -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_constants_that_made_the_rows_are_found():
    truth = {"matmul_efficiency": 0.7, "hop_latency": 3.0, "hbm_efficiency": 0.8, "overhead": 1.5}
    found = fitted(measured(truth))
    assert found.values == pytest.approx(truth, rel=0.02)
    assert found.settled
    assert max(map(abs, found.residuals.values())) < 1e-4


@pytest.mark.slow
def test_also_where_they_are_close_to_a_bound():
    truth = {"matmul_efficiency": 0.502, "hop_latency": 5.99}
    assert fitted(measured(truth)).values == pytest.approx(truth, rel=0.02)


@pytest.mark.slow
def test_the_fitted_settings_reproduce_the_rows():
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0})
    found = fitted(suite)
    for case in read(suite)[1]:
        scenario = case.run.scenario(*found.settings())
        # Settings are written with four digits.
        assert to_metric(case.metric, scenario, latency_s(scenario)) == pytest.approx(case.published, rel=1e-3)


@pytest.mark.slow
def test_the_printed_settings_are_settings_of_validate():
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0})
    found = fitted(suite)
    assert max(abs(outcome.error) for outcome in validate(suite).outcomes) > 0.1
    # Settings are written with four digits.
    assert max(abs(outcome.error) for outcome in validate(suite, settings=found.settings()).outcomes) < 1e-3
    assert f"sim validate {suite} \\\n    --set stack.matmul_efficiency=0.7" in format_fit(found)


@pytest.mark.slow
def test_bounds_hold_where_the_rows_ask_for_more():
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0}, matmul_efficiency=(0.8, 1), hop_latency=(0.5, 2))
    values = fitted(suite).values
    assert 0.8 <= values["matmul_efficiency"] < 0.81
    assert 1.9 < values["hop_latency"] <= 2


def test_a_residual_is_predicted_over_published():
    """With latency held at half of what it was, steps come out too fast and so does the prefill, its MFU too high."""
    found = fitted(measured({"hop_latency": 4.0}, hop_latency=(1.99, 2.0)))
    assert found.residuals["step"] < -0.2
    assert found.residuals["prefill"] > 0


@pytest.mark.slow
def test_a_search_that_was_cut_short_says_so(monkeypatch):
    suite = measured({"matmul_efficiency": 0.7, "hop_latency": 3.0})
    assert "did not settle" not in format_fit(fitted(suite))
    monkeypatch.setattr(calibrate, "_MOST_STEPS", 1)
    found = fitted(suite)
    assert not found.settled
    assert "the search did not settle" in format_fit(found)


def test_it_reports_its_progress():
    seen: list[tuple[int, float]] = []
    found = fitted(measured({"hop_latency": 3.0}), progress=lambda *step: seen.append(step))
    assert [evaluations for evaluations, _ in seen] == list(range(1, found.evaluations + 1))
    assert min(rms for _, rms in seen) < 1e-6 < seen[0][1]


def test_a_choice_is_the_value_of_the_least_squared_errors():
    """The count of sixteenths that made the rows, of all that are listed; then no neighbour has less."""
    sixteenths = {"fields": ["stack.matmul_efficiency"], "values": [0.5, 0.625, 0.75, 0.875, 1.0]}
    suite = measured({"matmul_efficiency": 0.75})
    spec = yaml.safe_load(Path(suite).read_text(encoding="utf-8"))
    spec["calibration"]["constants"] = {"matmul_efficiency": sixteenths}
    Path(suite).write_text(yaml.safe_dump(spec), encoding="utf-8")
    found = fitted(suite)
    assert found.values == {"matmul_efficiency": 0.75}
    assert max(map(abs, found.residuals.values())) < 1e-4
    assert found.settled
    assert "0.75" in format_fit(found)

    spec["calibration"]["constants"]["overhead"] = CONSTANTS["overhead"]
    Path(suite).write_text(yaml.safe_dump(spec), encoding="utf-8")
    rule = "made_up: constants of a stage must all have 'values', or all 'low' and 'high', got 'matmul_efficiency'"
    with pytest.raises(InputError, match=re.escape(rule)):
        fitted(suite)


@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5], [1.0, 0.5]])
def test_a_choice_has_several_values_that_ascend(values: list[float]):
    suite = measured({"matmul_efficiency": 0.75})
    spec = yaml.safe_load(Path(suite).read_text(encoding="utf-8"))
    spec["calibration"]["constants"] = {"matmul_efficiency": {"fields": ["stack.matmul_efficiency"], "values": values}}
    Path(suite).write_text(yaml.safe_dump(spec), encoding="utf-8")
    with pytest.raises(InputError, match=r"calibration.constants.matmul_efficiency.values: must"):
        fitted(suite)


# --- what rows determine, and how a fit generalises ------------------------------------------------------------------


@pytest.mark.slow
def test_each_measurement_counts_once():
    """An MFU of the same pass weighs nothing beside its latency."""
    once = measured({"hop_latency": 3.0})
    found = fitted(once)
    assert list(found.residuals) == [row["case_id"] for row in ROWS]
    rows = [*read(once)[1]]
    again = [row | {"value": case.published} for row, case in zip(ROWS, rows, strict=True)]
    write_rows(Path("rows.csv"), [*again, again[2] | {"case_id": "step-mfu", "metric": "mfu", "value": 1e-9}])
    assert fitted(once).values == found.values


@pytest.mark.slow
def test_constants_that_only_count_together_are_named():
    """A matmul takes FLOPs / (peak x efficiency): the product is determined, not its factors."""
    peak = {"fields": ["topology.chip.peak.bf16.value"], "unit": "GFLOP/s", "low": 10, "high": 30}
    truth = {"matmul_efficiency": 0.7, "hop_latency": 3.0}
    suite = measured(truth)
    spec, cases = read(suite)
    known = settings(spec.calibration.constants, truth)
    rows = [
        row | {"metric": "latency_s", "value": latency_s(case.run.scenario(*known))}  # an MFU has the peak in it
        for row, case in zip(ROWS, cases, strict=True)
    ]
    write_rows(Path("rows.csv"), rows)
    raw = yaml.safe_load(Path(suite).read_text())
    raw["calibration"]["constants"]["peak"] = peak
    Path(suite).write_text(yaml.safe_dump(raw))
    found = fitted(suite)
    (determination,) = found.determinations
    (direction,) = determination.directions
    assert set(direction.changes) == {"matmul_efficiency", "peak"}
    assert direction.changes["matmul_efficiency"] * direction.changes["peak"] < 0
    assert determination.condition_number > 50
    assert found.standard_errors["hop_latency"] < 0.1
    assert "not determined: " in format_fit(found)
    assert "peak" in next(line for line in format_fit(found).splitlines() if line.startswith("not determined"))


def test_a_constant_that_no_row_notices_is_named():
    suite = measured({"hop_latency": 3.0})
    spec = yaml.safe_load(Path(suite).read_text())
    spec["calibration"]["constants"]["unused"] = {
        "fields": ["stack.stream_wait"],
        "unit": "us",
        "low": 0,
        "high": 9,
    }
    Path(suite).write_text(yaml.safe_dump(spec))
    found = fitted(suite)
    (determination,) = found.determinations
    assert determination.condition_number == float("inf")
    assert [set(each.changes) for each in determination.directions] == [{"unused"}]
    assert found.standard_errors["unused"] == float("inf")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["standard_errors"]["unused"] is None


def test_determined_constants_are_not_named():
    found = fitted(measured({"matmul_efficiency": 0.7, "hop_latency": 3.0}))
    (determination,) = found.determinations
    assert determination.directions == ()
    assert determination.condition_number < 20


@pytest.mark.slow
def test_each_series_is_predicted_by_a_fit_without_it():
    """Series b takes a third longer than the machine of series a and c: left out, that is its error."""
    suite = measured({"hop_latency": 3.0})
    cases = read(suite)[1]
    series = ("a", "a", "b", "c", "a")
    longer = {"a": 1.0, "b": 4 / 3, "c": 1.0}
    rows = [
        row | {"source": name, "value": case.published * longer[name]}
        for row, case, name in zip(ROWS, cases, series, strict=True)
    ]
    write_rows(Path("rows.csv"), rows)
    found = calibrate.fit(suite)
    by_series = {each.series: each for each in found.series}
    assert list(by_series) == ["a", "b", "c"]
    assert Errors.of(by_series["b"].left_out.values()).worst == pytest.approx(0.25, abs=0.005)
    assert Errors.of(by_series["b"].fitted.values()).worst < Errors.of(by_series["b"].left_out.values()).worst
    assert found.all_left_out.cases == found.in_sample.cases == len(ROWS)
    text = format_fit(found)
    assert text.index("in the sample") < text.index("each series by a fit without it")


@pytest.mark.slow
def test_a_series_left_out_is_predicted_without_constants_of_later_stages():
    """The overhead is that of `steps` alone, which another machine measured; the others are those of their own."""
    suite = measured({"hop_latency": 3.0})
    series = {"prefill": "a", "prefill-heads": "b", "step": "a", "step-1d": "b", "steps": "c"}
    rows = [
        row | {"source": series[case.case_id], "value": case.published * (2 if case.case_id == "steps" else 1)}
        for row, case in zip(ROWS, read(suite)[1], strict=True)
    ]
    later = {"rows": ["steps"], "constants": {"overhead": CONSTANTS["overhead"]}}
    first = {
        "rows": [name for name in series if name != "steps"],
        "constants": {"hop_latency": CONSTANTS["hop_latency"]},
    }
    suite = write_suite(Path(), rows, calibration=first | {"then": later})
    files.write(Path(), MACHINE)
    found = calibrate.fit(suite)
    assert found.values["overhead"] > 1
    for each in found.series[:2]:
        assert list(each.left_out) == list(each.fitted)
        assert Errors.of(each.left_out.values()).worst < 1e-3


def test_a_series_that_alone_determines_a_constant_is_said_not_to_be_left_out():
    suite = measured({"hop_latency": 3.0})
    found = calibrate.fit(suite)
    (only,) = found.series
    assert only.reason == "fewer rows than constants are left for hop_latency"
    assert found.all_left_out is None


@pytest.mark.parametrize(
    ("rows", "missing"),
    [
        ([{"batch": 4}, {"batch": 8}], "add rows on another number of chips than 4"),
        ([{}, {"mesh": "2x1", "chips": 2}], "add rows of a second size (batch, prompt, context or bytes)"),
    ],
)
def test_rows_of_one_size_or_one_number_of_chips_are_refused(rows, missing):
    suite = write_suite(Path(), rows, calibration={"constants": {"hop_latency": CONSTANTS["hop_latency"]}})
    with pytest.raises(InputError) as refused:
        calibrate.fit(suite)
    rule = "made_up: calibration must have rows of two sizes and of two numbers of chips"
    assert str(refused.value) == f"{rule}; {missing}"


# --- the command -----------------------------------------------------------------------------------------------------


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sim", "calibrate", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(str(stop.code or 0))
    return 0


def test_the_command_prints_the_fit_and_how_to_use_it(monkeypatch, capsys):
    """Rows of three digits scatter by 0.001: it is that over the root of the sum of squares of what 1 us changes."""
    suite = measured({"hop_latency": 3.0})
    spec, cases = read(suite)
    changes = []
    for case in cases:
        two, three, four = (
            latency_s(case.run.scenario(*settings(spec.calibration.constants, {"hop_latency": us})))
            for us in (2.0, 3.0, 4.0)
        )
        changes.append((four - two) / 2 / three)
    error = f"{0.001 / sum(change**2 for change in changes) ** 0.5:.2g}"
    assert call(monkeypatch, suite, "--no-cross-validate") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("hop")] == [["hop_latency", "3", error]]
    assert all(any(line.startswith(row["case_id"]) for line in out.splitlines()) for row in ROWS)
    assert "    --set 'topology.link.latency=3 us'" in out.splitlines()


@pytest.mark.slow
def test_the_command_draws_constants_and_errors_of_each_series(monkeypatch, capsys):
    suite = measured({"hop_latency": 3.0})
    assert call(monkeypatch, suite, "--no-cross-validate", "--format", "svg", "--width", "3.3in") == 0
    assert "figure in out/suite_fit.svg" in capsys.readouterr().out
    drawn = Path("out/suite_fit.svg").read_text(encoding="utf-8")
    assert ">hop_latency</text>" in drawn
    assert ">3 ± " in drawn
    assert call(monkeypatch, suite, "--no-cross-validate", "--no-plots", "--out", "none") == 0
    assert not Path("none").exists()


def test_the_figure_has_a_point_for_each_row_with_and_without_its_series():
    found = calibrate.fit(measured({"hop_latency": 3.0}))
    rows = dict(zip("ab", ({"one": 0.1, "two": -0.2}, {"three": 0.05}), strict=True))
    without = {"a": {"one": 0.3, "two": -0.1}, "b": {}}
    series = tuple(Series(name, rows[name], without[name]) for name in rows)
    constants, errors = plot.draw(replace(found, series=series)).axes
    fitted, left_out = (points.get_offsets().data[:, 0].tolist() for points in errors.collections)
    assert fitted == pytest.approx([10, -20, 5])
    assert left_out == pytest.approx([30, -10])
    (constant,) = found.constants.values()
    share = (3.0 - constant.low) / (constant.high - constant.low)
    assert any(line.get_xdata()[0] == pytest.approx(share, abs=1e-3) for line in constants.lines)


def test_as_json(monkeypatch, capsys):
    assert call(monkeypatch, measured({"hop_latency": 3.0}), "--json", "--no-cross-validate") == 0
    data = json.loads(capsys.readouterr().out)
    assert data["values"] == {"hop_latency": pytest.approx(3.0, rel=1e-3)}
    assert list(data["residuals"]) == [row["case_id"] for row in ROWS]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "made_up: must have a 'calibration'; name its constants"),
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
    rows = [{"batch": 8}, {"mesh": "2x1", "chips": 2}]
    suite = write_suite(Path(), rows, calibration={"constants": constants})
    assert call(monkeypatch, suite) == 2
    assert capsys.readouterr().err.startswith("error: --set topology.link.speed: unknown key 'speed'")


# --- the shipped machines --------------------------------------------------------------------------------------------


@pytest.mark.release
def test_the_shipped_machine_carries_what_the_fit_gives():
    found = calibrate.fit("pope", cross_validate=False)
    base = load.suite("pope").base
    fitted, shipped = load.scenario(base, found.settings()), load.scenario(base)
    assert found.settled
    for name, constant in found.constants.items():
        assert constant.low < found.values[name] < constant.high
        for field in constant.fields:
            value = attrgetter(f"{field}.value")
            assert value(shipped) == pytest.approx(value(fitted), rel=0.02), field
