"""Predictions of one's own in the figure and the table of a sweep."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest
from support import files
from support.published import write_rows

from sim import cli
from sim.errors import InputError
from sim.specs import load
from sim.studies.sweep import chart
from sim.studies.sweep.points import list_points
from sim.studies.sweep.predictions import load_forms, predict_points
from sim.studies.sweep.rows import run_point

FORM = "def four_ms(scenario):\n    return 4e-3 * scenario.workload.batch\n"
ROWS = [
    {"case_id": f"b{batch}", "batch": batch, "generated_tokens": 1, "value": 1e-3 * batch, "by_hand": 2e-3 * batch}
    for batch in (4, 8)
]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a sweep over two batches whose figure has predictions; returns its chart."""
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.csv"), ROWS, (*ROWS[0], "chips", "phase", "input_tokens", "context_tokens", "metric"))
    Path("forms.py").write_text(FORM)

    def made(predictions, **figure):
        shown = {"x": "workload.batch", "y": "step", "predictions": predictions, **figure}
        name = str(files.write(tmp_path, {"scenario.sweep": {"workload.batch": [4, 8]}, "scenario.figure": shown}))
        base = load.scenario(name)
        spec = chart.figure_of(base, ["workload.batch"])
        rows = [(point, run_point(name, point)) for point in list_points(base)]
        beside = predict_points(name, spec, load_forms(spec, tmp_path), rows)
        return chart.build_chart(base, spec, [row for _, row in rows], beside)

    return made


def test_a_function_is_a_line_beside_the_simulated_one(sweep):
    """4 ms a sequence for both steps: 2 ms a sequence and step; drawn in ms."""
    (line,) = sweep({"mine": {"closed_form": "forms:four_ms"}}).lines
    assert dict(line.predictions["mine"]) == pytest.approx({4.0: 8.0, 8.0: 16.0})


def test_a_rate_falls_as_the_time_grows(sweep):
    """4 sequences x 2 tokens in 16 ms."""
    (line,) = sweep({"mine": {"closed_form": "forms:four_ms"}}, y="tokens_per_s").lines
    assert dict(line.predictions["mine"])[4.0] == pytest.approx(8 / 16e-3)


def test_a_column_of_the_published_rows_stands_beside_them(sweep):
    figure = {"published": {"": ["b4", "b8"]}, "published_file": "rows.csv"}
    (line,) = sweep({"sheet": {"column": "by_hand"}}, **figure).lines
    assert dict(line.predictions["sheet"]) == pytest.approx({4.0: 8.0, 8.0: 16.0})
    assert dict(line.published) == pytest.approx({4.0: 4.0, 8.0: 8.0})


def test_the_command_prints_and_draws_them(sweep, monkeypatch, capsys):
    sweep({"mine": {"closed_form": "forms:four_ms"}})
    monkeypatch.setattr(sys, "argv", ["sim", "sweep", "scenario.yaml", "--out", "out"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert stop.value.code in (0, None)
    assert "mine" in out
    assert "16 ms" in out
    assert Path("out/tiny/figure.png").is_file()
    with Path("out/tiny/sweep.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


@pytest.mark.parametrize(
    ("prediction", "figure", "message"),
    [
        ({"closed_form": "forms:none"}, {}, r"predictions\.own\.closed_form: must name a function of module forms"),
        ({"closed_form": "forms:four_ms"}, {"y": "bubble"}, r"requires figure\.y to be one of latency, step"),
        ({"column": "by_hand"}, {}, r"predictions\.own\.column: requires figure\.published"),
        (
            {"column": "notes"},
            {"published": {"": ["b4"]}, "published_file": "rows.csv"},
            "no published row has a value in column 'notes'",
        ),
    ],
)
def test_what_cannot_be_shown_is_told(sweep, prediction, figure, message):
    with pytest.raises(InputError, match=message):
        sweep({"own": prediction}, **figure)
