"""Sweeps: several processes and a cluster give the rows of one, and an interrupted one goes on where it was."""

import csv
import json
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim import cli
from sim.cli import build_app
from sim.errors import InputError
from sim.simulate.result import Run
from sim.simulate.run import run
from sim.specs import Scenario, load
from sim.specs.sweep import OUTCOMES_ON_X
from sim.studies.sweep import points, quantities, rows, workers
from sim.studies.sweep.published import published_points
from sim.studies.sweep.record import Record
from sim.studies.sweep.study import plan_sweep

SWEEP = "sweep={workload.batch: [64, 128, 7, 256], layout.ffn: [weight_stationary_1d, weight_gathered_x]}"
SET = [SWEEP, "engine.layers=2"]


def planned() -> list[points.Point]:
    return points.list_points(load.scenario("palm540b_decode_ws2d", SET), SET)


def sweep(out: Path, *options: str) -> tuple[list[dict[str, str]], str]:
    """The rows of the file that `sim sweep` writes, and what it says on standard error."""
    sets = [part for setting in SET for part in ("--set", setting)]
    command = ["sweep", "palm540b_decode_ws2d", *sets, "--no-plots", "--out", str(out), *options]
    done = CliRunner().invoke(build_app(()), command, catch_exceptions=False)
    (path,) = out.rglob("sweep.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file)), done.stderr


def in_order(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(found, key=lambda row: (row["workload.batch"], row["layout.ffn"]))


@pytest.mark.slow
def test_processes_give_the_rows_of_one(tmp_path: Path):
    one, _ = sweep(tmp_path / "one")
    two, _ = sweep(tmp_path / "two", "--jobs", "2")
    assert len(one) == 8
    assert sum(bool(row["error"]) for row in one) == 1  # 7 sequences and gathered weights stop no other
    assert in_order(two) == in_order(one)


@pytest.mark.parametrize("cut", [0, 1, 30])
def test_an_interrupted_sweep_goes_on_without_repeating_or_losing_a_row(tmp_path: Path, monkeypatch, cut: int):
    """Four rows are there, the last without its end if the process was killed while it wrote."""
    whole, _ = sweep(tmp_path)
    (path,) = tmp_path.rglob("sweep.csv")
    lines = path.read_text().splitlines(keepends=True)
    text = "".join(lines[:5])
    path.write_text(text[: len(text) - cut])
    asked = []
    monkeypatch.setattr(workers, "run_point", lambda name, point: asked.append(point) or rows.run_point(name, point))
    again, said = sweep(tmp_path)
    kept = 4 if cut == 0 else 3
    assert again == whole
    assert len(asked) == 8 - kept
    assert f"resuming: {kept} of 8" in said


def test_another_sweep_or_a_finished_one_starts_anew(tmp_path: Path, monkeypatch):
    sweep(tmp_path)
    asked = []
    monkeypatch.setattr(workers, "run_point", lambda name, point: asked.append(point) or rows.run_point(name, point))
    sweep(tmp_path)
    assert len(asked) == 8
    (path,) = tmp_path.rglob("sweep.csv")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    mark = path.with_suffix(".json")
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"of": "another scenario"}))
    sweep(tmp_path)
    assert len(asked) == 16


@pytest.mark.parametrize("name", ["palm540b_decode_ws2d", "pmep_gpt3_host", "energonai_pipeline_queue"])
def test_an_outcome_read_back_is_the_outcome(name: str):
    found = rows.run_point(name, points.Point({}, points.NO_SWEEP)).outcome
    assert (found.pipeline is not None, found.pool is not None) == ("queue" in name, "pmep" in name)
    texts = {name: "" if value is None else str(value) for name, value in rows.outcome_columns(found).items()}
    assert rows.parse_outcome(texts) == found


def test_the_table_has_the_columns_that_there_is_something_in(tmp_path: Path):
    """Throughput always, requests and bubbles of pipelines, stalls of memory pools."""
    heads = {}
    for name in ("palm540b_decode_ws2d", "pmep_gpt3_host", "energonai_pipeline"):
        sets = ["--set", "engine.layers=4", *(["--set", SWEEP] if name == "palm540b_decode_ws2d" else [])]
        done = CliRunner().invoke(build_app(()), ["sweep", name, *sets, "--out", str(tmp_path)], catch_exceptions=False)
        heads[name] = next(line for line in done.stdout.splitlines() if "tokens/s" in line)
    assert "closed form" in heads["palm540b_decode_ws2d"]
    for name, own in (("pmep_gpt3_host", ("stall", "slower", "by formula")), ("energonai_pipeline", ("requests/s",))):
        assert all((text in head) == (text in own) for head in [heads[name]] for text in (*own, "closed form"))
        assert (next(tmp_path.glob(f"{name}*")) / "figure.png").is_file()


def test_a_cluster_that_is_not_there_is_one_clear_line():
    with pytest.raises(InputError, match="must be the address of a Dask scheduler"):
        workers.Cluster.of("dask", "")


# --- points that fail ------------------------------------------------------------------------------------------------


def _sweep(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["sim", "sweep", "llama3_70b_tp8_standard", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(str(stop.code or 0))
    return 0


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("division by zero"), KeyError("port"), RecursionError(), TypeError]
)
def test_whatever_a_point_raises_is_its_row(tmp_path: Path, monkeypatch, capsys, error: Exception):
    def fails(scenario: Scenario, *arguments: object, **options: bool) -> Run:
        if scenario.workload.batch == 2:
            raise error
        return run(scenario)

    monkeypatch.setattr("sim.studies.sweep.rows.run", fails)
    sweep = "sweep={workload.batch: [1, 2, 4]}"
    assert _sweep(monkeypatch, "--set", sweep, "--set", "engine.layers=1", "--out", str(tmp_path), "--no-plots") == 70
    err = capsys.readouterr().err
    assert err.startswith("1 of 3 points failed; the first, workload.batch=2: internal error: ")
    assert err.count("\n") == 1
    with next(tmp_path.rglob("sweep.csv")).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["latency_s"]) for row in rows] == [True, False, True]
    assert [row["error"].startswith("internal error: ") for row in rows] == [False, True, False]


def test_a_sweep_of_too_many_points_is_refused_before_they_are_made():
    values = ", ".join(map(str, range(1, 401)))
    settings = [f"sweep={{workload.batch: [{values}], workload.context: [{values}]}}"]
    with pytest.raises(InputError, match=r"^sweep: must have at most 100,000 points, got 160000; sweep fewer values"):
        points.list_points(load.scenario("palm540b_decode_ws2d", settings), settings)


def test_a_long_sweep_says_how_far_it_is_where_there_is_no_terminal(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sim.cli.progress._SILENCE_S", -1.0)
    settings = ["--set", "sweep={workload.batch: [1, 2, 4]}", "--set", "engine.layers=1"]
    assert _sweep(monkeypatch, *settings, "--out", str(tmp_path), "--no-plots") == 0
    name = "simulating llama3_70b_tp8_standard"
    assert capsys.readouterr().err == f"{name}: 1 of 3\n{name}: 2 of 3\n"


@pytest.mark.parametrize("damage", ["", "x", "nan", "-1", "inf", "0"])
@pytest.mark.parametrize("column", ["value", "batch", "chips", "input_tokens", "generated_tokens"])
def test_damaged_published_points_are_one_line(tmp_path: Path, column: str, damage: str):
    scenario = load.scenario("pope_fig8_attention")
    figure = scenario.figure
    assert figure.published
    with (load.data_root() / "scenarios/published/pope_dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "damaged.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {column: damage} for row in rows)
    figure = figure.model_copy(update={"published_file": str(tmp_path / "damaged.csv")})
    needed = column in ("value", "batch") or (figure.x, column) == ("tokens", "input_tokens")
    if needed:
        with pytest.raises(InputError, match=r"^figure\.published\."):
            published_points(figure)
    else:
        with suppress(InputError):
            assert all(y > 0 for line in published_points(figure).values() for _, y in line)


# --- labels from a file ----------------------------------------------------------------------------------------------

_LABELS = (
    "=1+1",
    "+1+cmd|/C calc!A0",
    "-2+3",
    "@SUM(1)",
    "'quoted'",
    "\t=1",
    "[red]",
    "$\\frac{1}{ $",
    "-5",
    "<b>",
)


def test_no_label_is_a_formula_for_a_spreadsheet_or_mathematics_for_a_figure(tmp_path: Path, monkeypatch, capsys):
    variants = {label: {"workload.batch": 2**i} for i, label in enumerate(_LABELS)}
    figure = {"x": "tokens", "y": "latency", "series": "=axis", "title": "$\\frac{1}{ $"}
    settings = [f"sweep={json.dumps({'=axis': variants})}", f"figure={json.dumps(figure)}", "engine.layers=1"]
    sets = [part for setting in settings for part in ("--set", setting)]
    assert _sweep(monkeypatch, *sets, "--out", str(tmp_path), "--format", "png,svg") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    path = next(tmp_path.rglob("sweep.csv"))
    with path.open(newline="") as file:
        head, *rows = list(csv.reader(file))
    cells = [head[0], *(row[0] for row in rows)]
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in cells)
    assert [cell for cell in cells if cell.startswith("-")] == ["-5"]  # a number
    assert len(set(cells)) == len(_LABELS) + 1
    assert len(list(path.parent.glob("figure.*"))) == 2

    base = load.scenario("llama3_70b_tp8_standard", settings)
    planned = points.list_points(base, settings)
    record = Record(path, base, planned, None)
    text = path.read_text("utf-8")
    path.write_text(text[: text.rindex("\n", 0, -1) + 1], "utf-8")  # the last row was not written
    found = record.interrupted()
    assert {number: row.choices for number, row in found.items()} == {
        number: point.choices for number, point in enumerate(planned[:-1])
    }


@pytest.mark.parametrize(
    "command",
    [
        ("run", "palm540b_decode_ws2d", "--set", "engine.layers=2"),
        (
            "run",
            "bert_6b_pp2",
            "--set",
            "layout.pipeline.schedule=non_blocking",
            "--set",
            "workload.batch=1",
            "--set",
            "padding=null",
        ),
        ("run", "llama3_70b_tp8_standard", "--critical-path", "--set", "engine.layers=2"),
        pytest.param(("sweep", "pope_crossover", "--set", "engine.layers=1"), marks=pytest.mark.release),
        ("topology", "tpu_v4_4x4x8"),
        ("topology", "a100_pcie_bridges"),
        ("collective", "all_reduce", "--topology", "dgx_h100", "--min", "1MiB", "--max", "4MiB"),
        pytest.param(("validate", "nccl"), marks=pytest.mark.release),
    ],
)
def test_all_text_of_every_figure_is_text_and_not_mathematics(tmp_path: Path, monkeypatch, command: tuple[str, ...]):
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    seen, draw = [], Figure.draw

    def drawn(made: Figure, *arguments: object) -> None:
        draw(made, *arguments)
        seen.extend(made.findobj(Text))

    monkeypatch.setattr(Figure, "draw", drawn)
    monkeypatch.setattr("sim.results.two_processes._can_fork", lambda: False)  # all in this process
    done = CliRunner().invoke(build_app(()), [*command, "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert len(seen) > 5
    assert not [text.get_text() for text in seen if text.get_text() and text.get_parse_math()]


def test_every_figure_that_may_stand_on_the_x_axis_is_known():
    assert set(quantities.X) == set(OUTCOMES_ON_X)


def test_the_title_says_what_was_set_and_comes_from_the_description():
    settings = ["sweep={workload.batch: [64, 128]}", "engine.layers=2", "layout.overlap=none"]
    scenario = load.scenario("palm540b_decode_ws2d", settings)
    study = plan_sweep("palm540b_decode_ws2d", scenario, settings)
    assert study.figure.title == f"{scenario.description}\nwith engine.layers=2, layout.overlap=none"
    plain = plan_sweep("pope_crossover", load.scenario("pope_crossover"), [])
    assert plain.figure.title == load.scenario("pope_crossover").figure.title


def test_a_sweep_over_words_says_that_it_has_no_figure(tmp_path):
    words = "sweep={layout.attention: [heads, batch]}"
    options = ["--set", words, "--set", "engine.layers=1", "--out", str(tmp_path)]
    done = CliRunner().invoke(build_app(()), ["sweep", "palm540b_decode_ws2d", *options], catch_exceptions=False)
    text = " ".join(done.stdout.split())
    assert "no figure: no axis of the sweep has numbers for x (layout.attention); --parts draws bars" in text
    assert not list(tmp_path.glob("*/figure.png"))


def test_rows_have_the_notes_of_their_runs_and_the_table_each_once(tmp_path: Path):
    """Stack torch_compile has no kernels of dispatch and combine; four layers of all are simulated."""
    swept = "sweep={layout.ffn: [tensor_parallel, expert_parallel], workload.batch: [8, 32]}"
    settings = [part for each in (swept, "engine.layers=4", "stack=torch_compile") for part in ("--set", each)]
    command = ["sweep", "mixtral_8x7b_tp_or_ep", *settings, "--out", str(tmp_path)]
    printed = CliRunner().invoke(build_app(()), [*command, "--no-plots"]).output
    (folder,) = tmp_path.iterdir()
    with (folder / "sweep.csv").open(encoding="utf-8") as file:
        notes = [row["notes"] for row in csv.DictReader(file)]
    assert ["no kernel" in note for note in notes] == [False, False, True, True]
    assert all("4 of the model's 32 layers" in note for note in notes)
    assert printed.count("no kernel") == printed.count("4 of the model's 32 layers") == 1
