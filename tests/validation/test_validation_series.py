"""Series, fitted rows, options, units and predictions of one's own in a validation."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.published import ROW, write_rows, write_suite
from support.validations import sample

from sim.errors import InputError
from sim.plots import parity
from sim.plots.style import page_width, save
from sim.report.present.validation import Errors, bias
from sim.report.present.validation_text import render, shown
from sim.simulate.latency import latency_s
from sim.studies.validate.cases import read
from sim.studies.validate.validate import SEQUENTIAL, validate

CONSTANT = {"fields": ["topology.link.latency"], "unit": "us", "low": 0.5, "high": 6}


def printed(found) -> str:
    console = Console(file=io.StringIO(), width=200)
    render(found, console)
    return console.file.getvalue()


def simulated_s(folder: Path, **row) -> float:
    (case,) = read(write_suite(folder, [row]))[1]
    return latency_s(case.run.scenario())


def test_rows_are_parted_into_fitted_and_not_fitted_and_into_series(tmp_path):
    time_s = simulated_s(tmp_path)
    rows = [
        {"case_id": "a", "source": "table 1", "value": time_s / 1.02},
        {"case_id": "b", "source": "table 1", "batch": 8, "value": 1},
        {"case_id": "c", "source": "figure 2", "chips": 4, "ffn_layout": "weight_stationary_1d", "value": 2},
    ]
    calibration = {"rows": ["a"], "constants": {"latency": CONSTANT}}
    found = validate(write_suite(tmp_path, rows, calibration=calibration))
    assert {name: [each.case_id for each in part] for name, part in found.parts.items()} == {
        "fitted": ["a"],
        "not fitted": ["b", "c"],
    }
    assert list(found.series) == ["table 1", "figure 2"]
    assert [each.error for each in found.parts["fitted"]] == [pytest.approx(0.02)]
    assert "rows not fitted" in printed(found)


def test_without_a_list_all_gated_rows_are_fitted_ones(tmp_path):
    rows = [{"case_id": "a"}, {"case_id": "b", "batch": 8}]
    found = validate(
        write_suite(tmp_path, rows, calibration={"constants": {"latency": CONSTANT}}, not_gated={"b": "odd"})
    )
    assert [each.fitted for each in found.outcomes] == [True, False]


def test_rows_of_a_file_of_ones_own_were_not_fitted(tmp_path):
    suite = write_suite(tmp_path, [{"case_id": "a"}], calibration={"constants": {"latency": CONSTANT}})
    rows = write_rows(tmp_path / "own.csv", [{"case_id": "a", "value": 0.5}])
    assert [each.fitted for each in validate(suite, rows).outcomes] == [False]


def test_the_same_passes_in_two_metrics_are_one_measurement_and_a_second_reading_is_another(tmp_path):
    rows = [
        {"case_id": "latency", "value": 1.0},
        {"case_id": "mfu", "metric": "mfu", "value": 0.5},
        {"case_id": "same", "value": 1.01, "reading_error_pct": 2},
        {"case_id": "again", "value": 1.2, "reading_error_pct": 2},
    ]
    found = validate(write_suite(tmp_path, rows))
    assert {each.case_id: each.repeats for each in found.outcomes} == {
        "latency": "",
        "mfu": "latency",
        "same": "latency",
        "again": "",
    }
    assert found.simulated.cases == 2


def test_how_exact_a_value_is_must_be_a_number(tmp_path):
    suite = write_suite(tmp_path, [{}])
    write_rows(tmp_path / "rows.csv", [{"run_to_run_pct": "few"}], (*ROW, "run_to_run_pct"))
    with pytest.raises(
        InputError, match=r"rows.csv:2: column 'run_to_run_pct' must be a number of at least 0, got 'few'"
    ):
        validate(suite)


def test_which_option_is_faster_is_told_beside_errors(tmp_path):
    """2D is slower here; the published values of batch 4 say the same, those of batch 8 the reverse."""
    times_s = {
        (batch, ffn): simulated_s(tmp_path, batch=batch, ffn_layout=f"weight_stationary_{ffn}")
        for batch in (4, 8)
        for ffn in ("1d", "2d")
    }
    rows = [
        {"case_id": f"{ffn}-{batch}", "batch": batch, "ffn_layout": f"weight_stationary_{ffn}", "value": value}
        for (batch, ffn), value in {
            (4, "1d"): times_s[4, "1d"],
            (4, "2d"): times_s[4, "2d"],
            (8, "1d"): times_s[8, "2d"],
            (8, "2d"): times_s[8, "1d"],
        }.items()
    ]
    found = validate(write_suite(tmp_path, rows, options=["ffn_layout"]))
    right, wrong = found.orderings
    assert right.right
    assert right.simulated == pytest.approx(right.published)
    assert not wrong.right
    assert wrong.simulated == pytest.approx(1 / wrong.published)
    assert "which ffn_layout is faster: simulated 1 of 2" in printed(found)


def test_options_closer_than_they_are_read_say_nothing(tmp_path):
    rows = [
        {"case_id": ffn, "ffn_layout": f"weight_stationary_{ffn}", "value": value, "reading_error_pct": 3}
        for ffn, value in (("1d", 1.0), ("2d", 1.05))
    ]
    assert validate(write_suite(tmp_path, rows, options=["ffn_layout"])).orderings == ()
    exact = [row | {"reading_error_pct": ""} for row in rows]
    assert len(validate(write_suite(tmp_path, exact, options=["ffn_layout"])).orderings) == 1
    assert validate(write_suite(tmp_path, exact, options=["ffn_layout"], tie="5 %")).orderings == ()


def test_bias_is_of_times_for_rates_too(tmp_path):
    """Half of the published MFU is twice the time."""
    mfu = {"case_id": "mfu", "metric": "mfu", "value": 1}
    (once,) = validate(write_suite(tmp_path, [mfu])).outcomes
    found = validate(write_suite(tmp_path, [mfu | {"value": 2 * once.simulated}]))
    assert bias(found.outcomes) == pytest.approx(1.0)
    assert Errors.of(each.error for each in found.outcomes).median == pytest.approx(0.5)


def test_a_bandwidth_is_shown_as_one():
    assert shown("memory_bandwidth_per_gpu", 1.481870e12) == "1,481.9 GB/s"
    assert shown("tokens_per_s", 21.3) == "21.3/s"
    assert shown("latency_s", 0.02) == "20 ms"


HEAD = "case_id,source,system,model,layers,tp,pp,batch,input_len,real_len,output_len,engine,dtype,metric,value\n"


def test_stages_that_run_one_after_the_other_say_so(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text(HEAD + "a,,8xA100,gpt-20b,2,2,2,1,20,20,8,fastertransformer,fp16,latency_s,1\n")
    found = validate("energonai", rows)
    assert [each.note for each in found.outcomes] == [SEQUENTIAL]
    assert f"note: a: {SEQUENTIAL}" in printed(found)


# --- predictions of one's own ----------------------------------------------------------------------------------------


def test_a_column_and_a_function_stand_beside_the_simulation(tmp_path):
    (tmp_path / "forms.py").write_text("def double(scenario):\n    return 2e-3 * scenario.workload.steps\n")
    predictions = {"sheet": {"column": "by_hand"}, "double": {"closed_form": "forms:double"}}
    rows = [{"case_id": "a", "value": 1e-3, "by_hand": 1.5e-3}, {"case_id": "b", "value": 1e-3, "batch": 8}]
    suite = write_suite(tmp_path, rows, predictions=predictions)
    write_rows(tmp_path / "rows.csv", rows, (*ROW, "by_hand"))
    found = validate(suite)
    assert [each.forms.get("sheet") for each in found.outcomes] == [1.5e-3, None]
    assert [each.forms["double"] for each in found.outcomes] == [2e-3, 2e-3]
    assert found.form("sheet") == Errors(pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5), 1)
    text = printed(found)
    assert any(line.startswith("sheet ") and "median  50.0%" in line for line in text.splitlines())
    assert any(line.startswith("double ") and "median 100.0%" in line for line in text.splitlines())
    save(parity.draw(found), tmp_path / "parity.png")
    without = validate(write_suite(tmp_path, rows))
    save(parity.draw(without), tmp_path / "without.png")
    assert (tmp_path / "parity.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_a_function_of_a_collective_gets_its_name_chips_and_bytes(tmp_path):
    (tmp_path / "forms.py").write_text(
        "def wire(collective, chips, size):\n    return size * chips * len(collective)\n"
    )
    suite = {
        "name": "own",
        "kind": "collectives",
        "rows": "rows.csv",
        "tolerance": {"median": "5 %", "nine_in_ten": "12 %", "worst": "20 %"},
        "machines": {"*": {"topology": "dgx_h100"}},
        "predictions": {"wire": {"closed_form": "forms:wire"}},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    rows = "case_id,source,system,gpus,collective,bytes,time_us\na,,box,8,all_reduce,1024,20\n"
    (tmp_path / "rows.csv").write_text(rows)
    (outcome,) = validate(str(tmp_path / "suite.yaml")).outcomes
    assert list(outcome.forms) == ["NCCL's tuner", "wire"]
    assert outcome.forms["wire"] == 1024 * 8 * len("all_reduce")


@pytest.mark.parametrize(
    ("prediction", "code", "message"),
    [
        ({}, "", "predictions.own: must name a column of the rows or a closed_form, and only one of them"),
        (
            {"closed_form": "forms"},
            "",
            "predictions.own.closed_form: must be module:function, or a closed form of a plugin, got 'forms'",
        ),
        ({"closed_form": "forms:other"}, "", "predictions.own.closed_form: must name a function of module forms"),
        ({"closed_form": "no_such_module:f"}, "", "must be module:function of a module that can be imported"),
        ({"closed_form": "forms:f"}, "def f(scenario): return 1 / 0", "forms:f failed .ZeroDivisionError: division"),
        ({"closed_form": "forms:f"}, "def f(scenario): return -1", "forms:f must return seconds above 0, got -1.0"),
        ({"column": "value2"}, "", "own.column: must be a column of the rows, got 'value2'; did you mean 'value'?"),
        ({"column": "notes"}, "", "column 'notes' must be a number above 0, got 'made up'"),
    ],
)
def test_a_prediction_that_cannot_be_used_is_told_in_one_line(tmp_path, prediction, code, message):
    (tmp_path / "forms.py").write_text(code)
    suite = write_suite(tmp_path, [{}], predictions={"own": prediction})
    write_rows(tmp_path / "rows.csv", [{"notes": "made up"}], (*ROW, "notes"))
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
        validate(suite)
    assert "\n" not in str(caught.value)


def test_times_of_a_suite_without_a_fit_are_called_measured_and_drawn_in_their_unit(tmp_path):
    """Five decades on 1.5 inches: labels stand apart."""
    rows = [{"case_id": f"r{i}", "batch": 2**i, "value": 1e-6 * 10**i} for i in range(6)]
    found = validate(write_suite(tmp_path, rows))
    assert list(found.parts) == ["measured"]
    assert "fitted" not in printed(found)
    with page_width(3.3):
        made = parity.draw(found)
        save(made, tmp_path / "parity.png")
    axes = made.axes[0]
    assert axes.get_xlabel() == "measured latency, us"
    low, high = axes.get_xlim()
    labels = [each for each in axes.get_xticklabels() if low <= each.get_position()[0] <= high]
    boxes = [label.get_window_extent() for label in labels]
    assert len(boxes) > 1
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.slow
def test_fitted_and_other_measurements_have_markers_of_their_own_and_every_predictor_a_panel(tmp_path):
    found = sample("ladder", tmp_path, 40)
    made = parity.draw(found)
    titles = [axes.get_title(loc="left").split("\n")[0] for axes in made.axes]
    assert titles.count("simulated") * (1 + len(found.form_names)) == len(titles)
    (legend,) = made.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert {"constants fitted to it", "not fitted"} <= set(names)
    assert ("not gated" in names) == any(outcome.not_gated for outcome in found.outcomes)
