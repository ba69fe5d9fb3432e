"""Sweeps: several processes and a cluster give the rows of one, and an interrupted one goes on where it was."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim import load
from sim.cli import app
from sim.errors import InputError
from sim.sweep import points, rows, workers

SWEEP = "sweep={workload.batch: [64, 128, 7, 256], layout.ffn: [weight_stationary_1d, weight_gathered_x]}"
SET = [SWEEP, "engine.layers=2"]


def planned() -> list[points.Point]:
    return points.points(load.scenario("palm540b_decode_ws2d", SET), SET)


def sweep(out: Path, *options: str) -> tuple[list[dict[str, str]], str]:
    """The rows of the file that `sim sweep` writes, and what it says on standard error."""
    sets = [part for setting in SET for part in ("--set", setting)]
    command = ["sweep", "palm540b_decode_ws2d", *sets, "--no-plots", "--out", str(out), *options]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    (path,) = out.rglob("sweep.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file)), done.stderr


def in_order(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return sorted(found, key=lambda row: (row["workload.batch"], row["layout.ffn"]))


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
    monkeypatch.setattr(workers, "measure", lambda name, point: asked.append(point) or rows.measure(name, point))
    again, said = sweep(tmp_path)
    kept = 4 if cut == 0 else 3
    assert again == whole
    assert len(asked) == 8 - kept
    assert f"going on: {kept} of 8" in said


def test_another_sweep_or_a_finished_one_starts_anew(tmp_path: Path, monkeypatch):
    sweep(tmp_path)
    asked = []
    monkeypatch.setattr(workers, "measure", lambda name, point: asked.append(point) or rows.measure(name, point))
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
    found = rows.measure(name, points.Point({}, points.NO_SWEEP)).outcome
    assert (found.pipeline is not None, found.pool is not None) == ("queue" in name, "pmep" in name)
    texts = {name: "" if value is None else str(value) for name, value in rows.columns(found).items()}
    assert rows.outcome_of(texts) == found


def test_the_table_has_the_columns_that_there_is_something_in(tmp_path: Path):
    """Throughput always, requests and bubbles of pipelines, stalls of memory pools."""
    heads = {}
    for name in ("palm540b_decode_ws2d", "pmep_gpt3_host", "energonai_pipeline"):
        sets = ["--set", "engine.layers=4", *(["--set", SWEEP] if name == "palm540b_decode_ws2d" else [])]
        done = CliRunner().invoke(app, ["sweep", name, *sets, "--out", str(tmp_path)], catch_exceptions=False)
        heads[name] = next(line for line in done.stdout.splitlines() if "tokens/s" in line)
    assert "closed form" in heads["palm540b_decode_ws2d"]
    for name, own in (("pmep_gpt3_host", ("stall", "slower", "by formula")), ("energonai_pipeline", ("requests/s",))):
        assert all((text in head) == (text in own) for head in [heads[name]] for text in (*own, "closed form"))
        assert (next(tmp_path.glob(f"{name}*")) / "figure.png").is_file()


def test_a_cluster_that_is_not_there_is_one_clear_line():
    with pytest.raises(InputError, match="a Dask cluster has a scheduler"):
        list(workers.measured("palm540b_decode_ws2d", planned(), backend="dask"))
