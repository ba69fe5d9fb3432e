"""A sweep is every combination of its axes, each as if run by itself; a point that cannot run says so in its row."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from files import DROP, write

from sim import cli, load
from sim.errors import InputError
from sim.run import run
from sim.sweep import chart, points, published, rows

LAYOUTS = {"1D": {"layout.ffn": "weight_stationary_1d"}, "2D": {"layout.ffn": "weight_stationary_2d"}}
SWEEP = {"layout": LAYOUTS, "workload.batch": [4, 8]}
FIGURE = {"x": "workload.batch", "y": "step", "series": "layout"}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run the command in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sim", *arguments])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return int(str(code or 0)), out, err

    return call


def scenario(sweep: Any = SWEEP, figure: Any = DROP, **fields: Any) -> str:
    """The path of a tiny scenario with a sweep."""
    changes = {"scenario.sweep": sweep} | ({} if figure is DROP else {"scenario.figure": figure})
    return str(write(Path(), changes | {f"scenario.{key}": value for key, value in fields.items()}))


def planned(path: str, *settings: str) -> list[points.Point]:
    return points.points(load.scenario(path, settings), settings)


def prepared(path: str) -> None:
    base = load.scenario(path)
    chart.figure_of(base, list(base.sweep))


def error(sweep: Any = SWEEP, figure: Any = DROP) -> str:
    with pytest.raises(InputError) as caught:
        prepared(scenario(sweep, figure))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- points ----------------------------------------------------------------------------------------------------------


def test_the_points_are_all_combinations_the_last_axis_fastest():
    chosen = [tuple(point.choices.values()) for point in planned(scenario())]
    assert chosen == [("1D", "4"), ("1D", "8"), ("2D", "4"), ("2D", "8")]


def test_a_point_is_the_scenario_with_its_fields_set():
    path = scenario({"layout": [{"ffn": "weight_stationary_1d", "attention": "heads"}], "workload.generate": [3]})
    (point,) = planned(path)
    assert point.choices == {"layout": "ffn=weight_stationary_1d, attention=heads", "workload.generate": "3"}
    loaded = load.scenario(path, point.settings)
    assert (loaded.layout.ffn, loaded.layout.attention) == ("weight_stationary_1d", "heads")
    assert (loaded.workload.generate, loaded.sweep) == (3, None)


def test_a_swept_reference_is_read_and_a_field_inside_it_can_be_set():
    path = scenario({"topology": ["topology.yaml"]})
    (point,) = planned(path, "topology.link.latency=7 us")
    assert load.scenario(path, point.settings).topology.link.latency.value == pytest.approx(7e-6)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ((), ["layout", "workload.batch"]),
        (("workload.batch=16",), ["layout"]),
        (("layout.ffn=weight_stationary_2d",), ["workload.batch"]),
        (("layout={ffn: weight_stationary_2d, attention: heads}",), ["workload.batch"]),
        (("workload.generate=1",), ["layout", "workload.batch"]),
        (("sweep={workload.generate: [1, 2]}",), ["workload.generate"]),
    ],
)
def test_a_field_that_is_set_is_no_longer_swept(settings, left):
    path = scenario()
    assert list(points.swept(load.scenario(path, settings), settings)) == left
    for point in planned(path, *settings):
        assert load.scenario(path, point.settings).workload.batch in (4, 8, 16)


def test_there_must_be_something_to_sweep():
    with pytest.raises(InputError, match="sweep: there is nothing to sweep; use 'sim run'"):
        planned(str(write(Path())))
    with pytest.raises(InputError, match="the settings choose all of it"):
        planned(scenario({"workload.batch": [1]}), "workload.batch=2")


# --- what a file may say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [[], {}, 4, None, {"2D": 1}, {"2D": {}}, {"batch": [1, 2]}])
def test_an_axis_is_values_or_variants(axis):
    message = error({"workload.batch": axis})
    assert message.startswith("scenario.yaml: sweep.workload.batch: must be a list of values, or variants such as ")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"x": "workload.bach"},
            "scenario.yaml: figure.x: must be an axis of the sweep, tokens or chips, got 'workload.bach'; did",
        ),
        (
            {"x": "workload.batch", "series": None},
            "scenario.yaml: figure.series: 'layout' varies in the sweep and must",
        ),
        ({"series": "layot"}, "scenario.yaml: figure.series: must be an axis of the sweep, got 'layot'; did you mean"),
        ({"x": "layout", "series": "workload.batch"}, "figure.x: the values on the x axis must be numbers or quantit"),
        ({"y": "speed"}, "scenario.yaml: figure.y: must be one of latency, step, mfu, tokens_per_s, ttft, tpot, cost"),
        ({"published": {"3D": ["f6-2d-c64"]}}, "figure.published: must be a line, got '3D'; choose from 1D, 2D"),
        ({"published": {"2D": ["f6"]}}, "figure.published.2D: no such published case, got 'f6'; see pope_dev.csv"),
        ({"published": {"2D": ["f7-ws-b64"]}}, "figure.published.2D: f7-ws-b64: a case of mfu, phase prefill, has no "),
        ({"published": {"2D": ["f"]}, "published_file": "pope"}, "figure.published_file: no such file of published"),
        ({"crossovers": True}, "scenario.yaml: figure.crossovers: crossovers are counts of tokens, so x must be 'tok"),
        ({"x": "tokens", "crossovers": True}, "figure.crossovers: the paper's crossovers are of a torus of three axes"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_before_anything_runs(changes, message):
    assert error(figure=FIGURE | changes).startswith(message)


def test_a_figure_needs_a_sweep():
    path = str(write(Path(), {"scenario.figure": FIGURE}))
    with pytest.raises(InputError, match="figure: a figure shows a sweep, and there is none"):
        load.scenario(path)


# --- rows ------------------------------------------------------------------------------------------------------------


def test_a_row_is_what_the_run_by_itself_reports():
    path = scenario()
    point = planned(path)[2]
    outcome = rows.measure(path, point).outcome
    report = run(load.scenario(path, point.settings)).report
    assert outcome is not None
    assert outcome.simulated.latency_s == report.simulated.latency_s
    assert outcome.simulated.mfu == report.simulated.mfu
    assert (outcome.chips, outcome.tokens) == (4, 4)
    assert outcome.fits == report.memory.fits
    # The cost of a token, chips x time / tokens: 4 chips, a batch of 4, 2 steps.
    assert outcome.simulated.cost_chip_s == pytest.approx(4 * report.simulated.latency_s / (4 * 2))


def test_the_closed_form_is_the_same_work_in_another_time():
    path = scenario()
    outcome = rows.measure(path, planned(path)[2]).outcome
    simulated, form = outcome.simulated, outcome.closed_form
    assert form.mfu * form.latency_s == pytest.approx(simulated.mfu * simulated.latency_s)
    assert form.tokens_per_s * form.latency_s == pytest.approx(simulated.tokens_per_s * simulated.latency_s)
    assert form.cost_chip_s / form.latency_s == pytest.approx(simulated.cost_chip_s / simulated.latency_s)
    assert form.step_s == form.tpot_s == pytest.approx(form.latency_s / 2)
    assert form.ttft_s is None


def test_a_generation_has_both_times_in_both_forms():
    path = scenario(
        {"workload.prompt": [4, 8]},
        workload={"phase": "generate", "batch": 4, "prompt": 4, "generate": 2, "weights": "bf16"},
    )
    short, long = (rows.measure(path, point).outcome for point in planned(path))
    for form in ("simulated", "closed_form"):
        figures = getattr(short, form)
        assert figures.latency_s == pytest.approx(figures.ttft_s + 2 * figures.tpot_s)
        assert figures.ttft_s < getattr(long, form).ttft_s
    assert (short.tokens, long.tokens) == (16, 32)


def test_a_point_that_cannot_run_stops_no_other(sim):
    code, out, err = sim("sweep", scenario({"workload.batch": [3, 4, 0], "layout.ffn": ["weight_gathered_x"]}))
    assert (code, err) == (0, "")
    bad, good, zero = table(Path("out/tiny/sweep.csv"))
    assert "do not divide batch" in bad["error"]
    assert (good["error"], float(good["latency_s"]) > 0) == ("", True)
    assert zero["error"] == "workload.batch: must be greater than 0, got 0"
    assert "must be greater than 0" in out


def test_when_no_point_can_run_the_command_fails(sim):
    code, _, err = sim("sweep", scenario({"layout.fnn": [1, 2]}))
    assert code == 2
    assert err.startswith("error: scenario.yaml: sweep: not one point of the sweep can run; the first: layout.fnn: unk")


def test_a_row_is_on_disk_before_the_next_point_runs(tmp_path):
    path = scenario()
    arriving = rows.recorded(rows.measured(path, planned(path)), ["layout", "workload.batch"], tmp_path / "sweep.csv")
    for count, _ in enumerate(arriving, 1):
        assert len(table(tmp_path / "sweep.csv")) == count


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_sweep_writes_a_table_and_a_figure(sim):
    code, out, err = sim("sweep", scenario(figure=FIGURE))
    assert (code, err) == (0, "")
    assert out.endswith("results in out/tiny/\n")
    assert sorted(path.name for path in Path("out/tiny").iterdir()) == ["figure.png", "sweep.csv"]
    assert [(row["layout"], row["workload.batch"]) for row in table(Path("out/tiny/sweep.csv"))] == [
        ("1D", "4"),
        ("1D", "8"),
        ("2D", "4"),
        ("2D", "8"),
    ]


def test_the_same_sweep_writes_the_same_bytes(sim):
    path = scenario(figure=FIGURE)
    sim("sweep", path, "--out", "one")
    sim("sweep", path, "--out", "two")
    for name in ("sweep.csv", "figure.png"):
        assert Path("one/tiny", name).read_bytes() == Path("two/tiny", name).read_bytes()


def test_json_is_one_object(sim):
    _, out, _ = sim("sweep", scenario({"workload.batch": [0, 4]}), "--json", "--no-plots")
    data = json.loads(out)
    assert data["scenario"] == "tiny"
    failed, good = data["rows"]
    assert (failed["outcome"], good["error"]) == (None, None)
    assert good["choices"] == {"workload.batch": "4"}
    assert good["outcome"]["simulated"]["latency_s"] > 0
    assert not Path("out/tiny/figure.png").exists()


def test_run_refuses_a_sweep_in_one_line_and_takes_one_of_its_points(sim):
    path = scenario(figure=FIGURE)
    code, _, err = sim("run", path)
    assert code == 2
    assert err == (
        "error: scenario.yaml: sweep: this scenario is a sweep of several runs; use 'sim sweep', or choose one with "
        "--set layout.ffn=... --set workload.batch=...\n"
    )
    one = ("--set", "layout.ffn=weight_stationary_1d", "--set", "workload.batch=8")
    assert sim("run", path, "--no-plots", *one)[0] == 0


# --- published points ------------------------------------------------------------------------------------------------


def test_a_published_case_gives_what_its_latency_implies():
    known = published.cases("pope_dev")
    decode = known["t2-ll-decode-lat"]  # 1.82 s for 64 steps of 64 sequences on 64 chips
    assert published.y_of(decode, "latency") == 1.82
    assert published.y_of(decode, "step") == published.y_of(decode, "tpot") == pytest.approx(1.82 / 64)
    assert published.y_of(decode, "tokens_per_s") == pytest.approx(64 * 64 / 1.82)
    assert published.y_of(decode, "cost") == pytest.approx(64 * 1.82 / (64 * 64))
    prefill = known["t2-ll-prefill-lat"]
    assert published.y_of(prefill, "ttft") == 0.29
    assert published.x_of(prefill, "tokens") == 2048
    assert published.x_of(decode, "tokens") == published.x_of(decode, "workload.batch") == 64
    assert published.x_of(decode, "chips") == 64


def test_one_published_step_is_no_latency_of_a_generation():
    step = published.cases("pope_dev")["f6-2d-c64"]
    assert published.y_of(step, "step") == 0.09203
    with pytest.raises(InputError, match="a case of latency_s, phase decode_step, has no 'latency'; it has step, "):
        published.y_of(step, "latency")
