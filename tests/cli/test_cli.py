"""The command: exit codes, one line for bad input, and results that are complete or untouched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from support.files import write

from sim import cli
from sim.specs import Scenario, load


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


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_run_reports_and_writes_its_results(sim):
    write(Path())
    code, out, err = sim("run", "scenario.yaml", "--no-plots")
    assert (code, err) == (0, "")
    assert out.endswith("results in out/tiny/\n")
    assert sorted(tree(Path("out"))) == [
        f"tiny/{n}" for n in ("manifest.json", "report.json", "trace.json", "trace.npz")
    ]


def test_the_same_scenario_writes_the_same_bytes(sim):
    write(Path())
    sim("run", "scenario.yaml", "--out", "one")
    sim("run", "scenario.yaml", "--out", "two")
    one = tree(Path("one"))
    assert one == tree(Path("two"))
    assert "tiny/timeline.png" in one


def test_json_is_one_object(sim):
    write(Path())
    code, out, _ = sim("run", "scenario.yaml", "--no-plots", "--json")
    assert code == 0
    report = json.loads(out)
    assert {"scenario", "simulated", "closed_form", "memory", "links", "engine"} <= set(report)
    assert report["simulated"]["latency_s"] > 0


def test_the_manifest_holds_the_scenario_that_ran(sim):
    write(Path())
    settings = ("topology.link.bandwidth=3 GB/s", "perturb.jitter.ops=1e-7")
    sim("run", "scenario.yaml", "--no-plots", *(part for s in settings for part in ("--set", s)))
    (manifest,) = Path("out").glob("*/manifest.json")
    data = json.loads(manifest.read_text(encoding="utf-8"))["scenario"]
    wanted = load.scenario("scenario.yaml", settings)
    Path("again.yaml").write_text(json.dumps(data), encoding="utf-8")
    Path("as_yaml.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    assert load.scenario("again.yaml") == load.scenario("as_yaml.yaml") == Scenario.model_validate(data) == wanted


def test_all_scenarios_are_checked_before_the_first_runs(sim):
    write(Path())
    code, out, err = sim("run", "scenario.yaml", "scenaro.yaml")
    assert (code, out) == (2, "")
    assert err == "error: no such scenario file, got 'scenaro.yaml'; did you mean 'scenario.yaml'?\n"
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "workload.batch=abc"), "--set workload.batch: must be a whole number, got 'abc'"),
        (
            ("--set", "collectives.permute=ring"),
            "--set collectives.permute: no algorithm of permute, got 'ring'; choose ",
        ),
        (("--set", "model.d_ff=33"), "scenario.yaml with --set model.d_ff=33: layout: d_ff must be"),
        (
            ("--set", "topology.chip.peak.bf16=1e-9 FLOP/s"),
            "scenario.yaml with --set topology.chip.peak.bf16=1e-9 FLOP/s: exceeds the clock of the ",
        ),
        (
            ("--set", "topology.link.bandwidth=1e-9 bit/s"),
            "scenario.yaml with --set topology.link.bandwidth=1e-9 bit/s: exceeds the clock of the ",
        ),
        (("--out", "model.yaml"), "--out: must be a folder, got 'model.yaml'"),
        (("--out", "model.yaml/deeper"), "--out: must be a folder, got 'model.yaml/deeper'"),
    ],
)
def test_bad_input_is_one_line_and_costs_no_earlier_result(sim, arguments, message):
    write(Path())
    sim("run", "scenario.yaml", "--no-plots")
    before = tree(Path())
    code, out, err = sim("run", "scenario.yaml", "--no-plots", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert tree(Path()) == before


def test_a_mesh_that_does_not_divide_a_dimension_names_both(sim):
    write(Path(), {"model.d_ff": 33})
    _, _, err = sim("run", "scenario.yaml", "--no-plots")
    rule = "layout: d_ff must be a multiple of the 2 chips that share it"
    assert err == f"error: scenario.yaml: {rule}, got 33; such as 32 or 34, or fewer chips along y (E_x F_y)\n"


def test_interrupted_it_says_130_and_keeps_the_earlier_results(sim, monkeypatch):
    write(Path())
    sim("run", "scenario.yaml", "--no-plots")
    before = tree(Path())

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("sim.simulate.run.run", "sim.results.folder.write"):
        with monkeypatch.context() as patch:
            patch.setattr(place, interrupted)
            code, _, err = sim("run", "scenario.yaml", "--no-plots")
        assert (code, "Traceback" in err) == (130, False)
        assert tree(Path()) == before


def test_memory_that_does_not_suffice_is_bad_input(sim, monkeypatch):
    def too_large(*_: object) -> None:
        raise MemoryError

    write(Path())
    monkeypatch.setattr("sim.simulate.run.run", too_large)
    code, _, err = sim("run", "scenario.yaml")
    assert (code, err) == (2, "error: scenario.yaml: exceeds this computer's memory; try a smaller machine\n")


# --- other commands --------------------------------------------------------------------------------------------------


def test_a_topology_is_described_and_drawn(sim):
    write(Path())
    code, out, _ = sim("topology", "topology.yaml")
    assert code == 0
    assert Path("out/square.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in Path("out").iterdir()] == ["square.png"]
    assert "out/square.png" in out


def test_a_machine_that_cannot_be_wired_names_its_file(sim):
    nodes = {"a": "chip", "b": "chip"}
    pair = {"name": "pair", "kind": "graph", "chip": "chip.yaml", "nodes": nodes, "link_types": {"nv": "link.yaml"}}
    write(Path(), {"topology": pair | {"links": []}})
    code, _, err = sim("topology", "topology.yaml", "--no-plots")
    assert (code, err) == (2, "error: topology.yaml: pair: links: there must be a path from a to b\n")


def test_schemas_are_written_where_asked(sim):
    code, out, _ = sim("schema", "--out", "schemas")
    assert (code, len(out.splitlines())) == (0, 9)
    assert all(Path(line).is_file() for line in out.splitlines())
    Path("file").write_text("", encoding="utf-8")
    assert sim("schema", "--out", "file") == (2, "", "error: --out: must be a folder, got 'file'\n")


@pytest.mark.parametrize(
    "arguments",
    [("run",), ("run", "x", "--nope"), ("frobnicate",), ("collective", "all_gather"), ("run", "x", "--out")],
    ids=" ".join,
)
def test_a_command_line_that_does_not_parse_is_2(sim, arguments):
    code, out, err = sim(*arguments)
    assert (code, out) == (2, "")
    assert "Error" in err
    assert "Traceback" not in err


def test_version(sim):
    from sim import __version__

    assert sim("--version") == (0, f"{__version__}\n", "")


# --- the process -----------------------------------------------------------------------------------------------------


def test_the_slow_packages_stay_away_from_a_run_without_plots():
    script = """
import sys
from sim import cli
sys.argv = ["sim", "run", "scenario.yaml", "--no-plots", "--json"]
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code
slow = {"networkx", "matplotlib", "pandas", "joblib", "dask", "pint"} & set(sys.modules)
assert not slow, slow
"""
    write(Path())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_early_is_no_error_message():
    # As `sim run ... | head -1`; the results are written before anything is printed.
    write(Path())
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "sim", "run", "scenario.yaml", "--no-plots"]
    done = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, text=True, check=False)
    os.close(written)
    assert (done.returncode, done.stderr) == (1, "")
    assert Path("out/tiny/report.json").is_file()


# --- what nobody foresaw ---------------------------------------------------------------------------------------------


def _process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sim", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


def _fail(*arguments: object, **named: object) -> NoReturn:
    raise KeyError("two\nlines")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("sim.simulate.run.run", ("run", "scenario.yaml")),
        ("sim.cli.list_command.listing", ("list",)),
        ("sim.topology.describe.facts", ("topology", "topology.yaml")),
        (
            "sim.studies.bench.groups.run_sizes",
            ("collective", "all_gather", "--topology", "topology.yaml", "--size", "1MiB"),
        ),
        ("sim.studies.validate.validate.validate", ("validate", "pope")),
        ("sim.specs.load.schema.write", ("schema",)),
        ("sim.results.folder.read", ("export", ".", "kineto")),
    ],
)
def test_an_internal_error_is_one_line_and_70(sim, monkeypatch, function, arguments):
    write(Path())
    monkeypatch.setattr(function, _fail)
    code, _, err = sim(*arguments)
    assert (code, err.count("\n")) == (70, 1)
    assert err.startswith("internal error: KeyError: ")
    assert "please report it with what `sim --traceback ...` prints" in err
    for place in (0, len(arguments)):
        code, _, err = sim(*arguments[:place], "--traceback", *arguments[place:])
        assert code == 70
        assert "Traceback (most recent call last):" in err


def test_a_full_disk_behind_the_output_is_one_line_and_74():
    write(Path())
    for arguments in (
        ("list",),
        ("run", "scenario.yaml", "--no-plots"),
        ("run", "scenario.yaml", "--json", "--no-plots"),
    ):
        with open("/dev/full", "w") as full:
            done = _process(*arguments, stdout=full)
        expected = (74, "error: standard output cannot be written: No space left on device\n")
        assert (done.returncode, done.stderr) == expected


def test_no_output_at_all_is_no_error():
    done = _process("list", preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_before_anything_is_there_is_130(sim, monkeypatch):
    def interrupt(*arguments: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.cli.list_command.listing", interrupt)
    assert sim("list") == (130, "", "")


def test_a_scenario_comes_from_standard_input_or_a_named_pipe():
    text = Path(write(Path())).read_text(encoding="utf-8")
    done = _process("run", "/dev/stdin", "--no-plots", "--quiet", input=text, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("out/tiny/report.json").is_file()
    done = _process("sweep", "/dev/stdin", "--no-plots", "--set", "sweep={workload.batch: [4, 8]}", input=text)
    assert (done.returncode, done.stderr) == (0, "")
    done = _process("sweep", "/dev/stdin", "--jobs", "2", "--set", "sweep={workload.batch: [4, 8]}", input=text)
    assert (done.returncode, done.stderr) == (
        2,
        "error: /dev/stdin: must be a file for several processes, not a pipe; write it to a file, or use one process\n",
    )
