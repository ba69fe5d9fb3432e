"""Published against predicted: the errors, whether they are small enough, and how that is told."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from support.published import write_rows, write_suite
from support.validations import validation

from sim import cli
from sim.plots import parity
from sim.plots.style import save
from sim.report.present.validation import Errors, Validation
from sim.simulate.latency import latency_s
from sim.simulate.run import run
from sim.specs import load
from sim.specs.suite import Tolerance
from sim.studies.validate.cases import read
from sim.studies.validate.validate import to_metric, validate


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def sim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`sim validate` in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sim", "validate", *arguments])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return int(str(code or 0)), *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def pope() -> Validation:
    return validation("pope")


def measured(*errors: float, **fields) -> str:
    """A suite whose rows the simulator misses by these errors: simulated / published - 1."""
    _, (case,) = read(write_suite(Path()))
    simulated = latency_s(case.run.scenario())
    rows = [{"case_id": f"row-{i}", "value": simulated / (1 + error)} for i, error in enumerate(errors)]
    return write_suite(Path(), rows, **fields)


# --- the paper -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_paper_is_met(pope):
    assert pope.passes
    assert pope.simulated.median <= 0.05
    assert pope.simulated.nine_in_ten <= 0.10
    assert pope.simulated.worst <= 0.20
    assert pope.simulated.cases == 54


def test_the_shipped_tolerance_is_the_one_promised():
    tolerance = load.suite("pope").tolerance
    assert (tolerance.median, tolerance.nine_in_ten, tolerance.worst) == pytest.approx((0.05, 0.10, 0.20))


def test_the_simulator_is_closer_than_the_papers_closed_form(pope):
    """It is the per-axis form but for picoseconds: that form has the loops as well."""
    detailed, paper = pope.form("per operation"), pope.form("the paper's")
    for error in ("median", "nine_in_ten", "worst"):
        simulated, form, of_paper = (getattr(each, error) for each in (pope.simulated, detailed, paper))
        assert simulated == pytest.approx(form, rel=1e-6)
        assert 0 < simulated < of_paper


def published_rows(pope):
    with (load.path("suite", "pope").parent / pope.suite.rows).open(encoding="utf-8", newline="") as file:
        return {row["case_id"]: row for row in csv.DictReader(file)}


def test_a_measurement_that_is_published_twice_counts_once(pope):
    """Latency and MFU, in a table or in two figures; each row that repeats names a row that counts."""
    by_id = {outcome.case_id: outcome for outcome in pope.outcomes}
    repeats = {outcome.case_id: outcome.repeats for outcome in pope.outcomes if outcome.repeats}
    assert len(pope.outcomes) - len(repeats) == 58
    assert all(not by_id[measured].repeats for measured in repeats.values())
    assert repeats["d2-decode-b64-mfu"] == "d2-decode-b64-lat"
    assert repeats["f1p-c64-b128-lat"] == "f7-wg-b128"


def test_all_rows_are_shown_and_only_multi_head_attention_is_not_gated(pope):
    assert [outcome.case_id for outcome in pope.outcomes] == list(published_rows(pope))
    for outcome in pope.outcomes:
        assert bool(outcome.not_gated) == outcome.case_id.startswith("f8-mh-"), outcome.case_id


def test_latency_and_mfu_of_one_measurement_are_of_one_simulation(pope):
    """MFU * latency = 2 N tokens / (chips * peak), the same for published and for simulated values (Pope et al. 2)."""
    by_id = {outcome.case_id: outcome for outcome in pope.outcomes}
    latency, mfu = by_id["t2-ht-prefill-lat"], by_id["t2-ht-prefill-mfu"]
    assert latency.simulated * mfu.simulated == pytest.approx(2 * 540e9 * 512 * 2048 / (64 * 275e12), rel=1e-9)
    paper = latency.forms["the paper's"] * mfu.forms["the paper's"]
    assert paper == pytest.approx(latency.simulated * mfu.simulated, rel=1e-9)


def test_bytes_of_a_gpu_are_of_the_chips_and_tables_that_there_are():
    """A mesh that is not given is the whole machine; tied tables, whole on every GPU, are one: 2 x 128256 x 8192 bytes.

    Layers: 80 x 8192 x (2 x (64 + 8) x 128 + 3 x 28672) parameters over 8 GPUs.
    """
    base = ["model.nominal_parameters=null", "workload.weights=bf16"]
    layers, table = 80 * 8192 * (2 * (64 + 8) * 128 + 3 * 28672) / 8, 128256 * 8192
    for settings, tables in (["layout.mesh.tensor=8"], 2), (["layout.mesh.tensor=null"], 2), (["model.tied=true"], 1):
        scenario = load.scenario("llama3_70b_tp8_standard", [*base, *settings])
        want = 2 * (layers + tables * table) * scenario.workload.steps
        assert to_metric("memory_bandwidth_per_gpu", scenario, 1.0) == pytest.approx(want, rel=1e-12), settings


@pytest.mark.parametrize("name", load.shipped("scenario"))
def test_mfu_is_the_reports_on_every_machine(name):
    """Over the chips that the layout uses: all of a torus, of GPUs tensor x pipeline."""
    settings = ["sweep=null", "figure=null"]
    scenario = load.scenario(name, settings)
    if scenario.pipeline or scenario.memory_pool or scenario.layout.kv_transfer:
        pytest.skip("its rate is not that of one latency, layers are in groups, or some chips only receive a cache")
    scenario = load.scenario(name, [*settings, "engine.layers=6"])
    report = run(scenario).report
    assert to_metric("mfu", scenario, report.simulated.latency_s) == pytest.approx(report.simulated.mfu, rel=1e-12)


# --- errors and tolerance --------------------------------------------------------------------------------------------


def test_errors_by_hand():
    # 1 to 10 %, with signs that cancel in a mean: the median lies between 5 and 6 %, nine are at most 9 %.
    errors = Errors.of((-1) ** i * i / 100 for i in range(10, 0, -1))
    assert errors == Errors(median=pytest.approx(0.055), nine_in_ten=0.09, worst=0.10, cases=10)


@pytest.mark.parametrize(("cases", "within"), [(1, 1), (9, 9), (10, 9), (11, 10), (20, 18), (21, 19), (100, 90)])
def test_nine_in_ten_is_the_least_bound_that_nine_cases_in_ten_keep(cases, within):
    assert Errors.of(range(1, cases + 1)).nine_in_ten == within
    assert within / cases >= 0.9 > (within - 1) / cases


def test_no_cases_have_no_errors():
    assert Errors.of(()) == Errors(0.0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("median", "nine_in_ten", "worst", "passes"),
    [(0.05, 0.12, 0.2, True), (0.051, 0.12, 0.2, False), (0.05, 0.121, 0.2, False), (0.05, 0.12, 0.21, False)],
)
def test_all_three_must_be_within_the_tolerance(median, nine_in_ten, worst, passes):
    tolerance = Tolerance(median=0.05, nine_in_ten=0.12, worst=0.2)
    assert Errors(median, nine_in_ten, worst, 10).within(tolerance) is passes


def test_a_row_that_is_not_gated_does_not_count():
    suite = measured(0.01, 0.9, not_gated={"row-1": "the source contradicts itself"})
    found = validate(suite)
    assert found.outcomes[1].error == pytest.approx(0.9)
    assert (found.simulated.cases, found.simulated.worst, found.passes) == (1, pytest.approx(0.01), True)


def test_progress_is_told_case_by_case():
    seen = []
    validate(measured(0.0, 0.0, 0.0), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 3), (1, 3), (2, 3)]


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_suite_within_its_tolerance_is_exit_code_0_and_a_table(sim):
    code, out, err = sim(measured(0.01, -0.1, 0.02), "--no-plots")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    header = next(line.split() for line in lines if "measured" in line)
    per_operation = ["per", "operation", "error"]
    assert header == ["case", "used", "measured", "simulated", "error", "the", "paper's", "error", *per_operation]
    first, second = (next(line for line in lines if line.strip().startswith(f"row-{i}")) for i in range(2))
    assert "+1.0%" in first
    assert "-10.0%" in second
    assert any("simulated" in line and "median   2.0%" in line and "worst  10.0%" in line for line in lines)
    assert "passes its tolerance: median 5%, nine in ten 12%, worst 20%, of 3 gated measurements" in out


def test_a_suite_that_misses_its_tolerance_is_exit_code_1(sim):
    impossible = {"median": "0.1 %", "nine_in_ten": "0.1 %", "worst": "0.1 %"}
    code, out, err = sim(measured(0.01, tolerance=impossible), "--no-plots")
    assert (code, err) == (1, "")
    assert "misses its tolerance" in out


def test_what_is_not_gated_says_why(sim):
    code, out, _ = sim(measured(0.01, 0.9, not_gated={"row-1": "the source contradicts itself"}), "--no-plots")
    assert code == 0
    assert "passes its tolerance" in out
    assert "of 1 gated measurements" in out
    assert "not gated: row-1: the source contradicts itself" in out


def test_json_is_one_object(sim):
    code, out, _ = sim(measured(0.01, -0.02), "--no-plots", "--json")
    (suite,) = json.loads(out)["suites"]
    assert (code, suite["suite"], suite["passes"]) == (0, "made_up", True)
    assert suite["tolerance"] == pytest.approx({"median": 0.05, "nine_in_ten": 0.12, "worst": 0.20})
    assert [case["error"] for case in suite["cases"]] == pytest.approx([0.01, -0.02])
    assert suite["errors"]["simulated"] == {
        "median": pytest.approx(0.015),
        "nine_in_ten": pytest.approx(0.02),
        "worst": pytest.approx(0.02),
        "cases": 2,
    }
    assert set(suite["errors"]) == {"simulated", "the paper's", "per operation"}
    for case in suite["cases"]:
        for name, value in case["forms"].items():
            assert case["form_errors"][name] == pytest.approx(value / case["published"] - 1)


def test_json_of_a_miss_is_exit_code_1_too(sim):
    code, out, _ = sim(measured(0.5), "--no-plots", "--json")
    assert (code, json.loads(out)["suites"][0]["passes"]) == (1, False)


def test_rows_of_another_file_run_under_the_shipped_suite(sim):
    row = {"case_id": "own", "model": "PaLM 62B", "chips": 16, "mesh": "2x2x4", "context_tokens": 256, "value": 0.01}
    write_rows(Path("own.csv"), [row])
    _, out, err = sim("pope", "--rows", "own.csv", "--no-plots", "--json")
    assert err == ""
    (case,) = json.loads(out)["suites"][0]["cases"]
    assert (case["case_id"], case["published"], case["not_gated"]) == ("own", 0.01, "")
    assert case["simulated"] > case["forms"]["the paper's"] > 0


@pytest.mark.parametrize(("option", "value"), [("--rows", "rows.csv"), ("--set", "stack.op_overhead=0 s")])
def test_other_rows_and_settings_go_with_one_suite(sim, option, value):
    suite = measured(0.0)
    code, out, err = sim(suite, "pope", option, value)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {option}: requires one suite")


def test_a_name_is_printed_whole_and_as_it_is(sim):
    name = "[bold]-a-case-with-a-name-of-sixty-characters-" + "x" * 14
    suite = write_suite(Path(), [{"case_id": name}], not_gated={"*": "[red] is not a reason"})
    out = sim(suite, "--no-plots")[1]
    assert name in out
    assert f"not gated: {name}: [red] is not a reason" in out


def test_without_a_name_every_shipped_suite_is_validated(sim, monkeypatch):
    seen = []

    def noted(name, *rest):
        seen.append(name)
        return validate(measured(0.0))

    monkeypatch.setattr("sim.studies.validate.validate.validate", noted)
    assert sim("--no-plots")[0] == 0
    assert seen == list(load.shipped("suite"))


# --- what cannot be run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"batch": -1}, "unlucky: --set workload: batch: must be greater than 0, got -1"),
        ({"ffn_layout": "weight_stationary_3d"}, "unlucky: --set layout.ffn: must be one of weight_"),
        ({"weight_dtype": "fp4"}, "unlucky: --set workload: weights: must be one of bf16, fp16, int8, fp8, mxfp8, "),
        ({"activation_dtype": "int8"}, "unlucky: "),
    ],
    ids=str,
)
def test_a_row_that_cannot_run_is_named(sim, row, message):
    suite = write_suite(Path(), [{"case_id": "fine"}, {"case_id": "unlucky"} | row])
    code, out, err = sim(suite, "--no-plots")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1


def test_a_suite_that_is_not_there(sim):
    assert sim("popee")[::2] == (2, "error: no such suite, got 'popee'; did you mean 'pope'?\n")


# --- the parity plot -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_same_results_draw_the_same_bytes(pope):
    for name in ("one.png", "two.png"):
        save(parity.draw(pope), name)
    assert Path("one.png").read_bytes() == Path("two.png").read_bytes()
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_draws_it_and_says_where(sim):
    code, out, _ = sim(measured(0.01), "--out", "results")
    assert code == 0
    assert "parity plot in results/made_up_parity.png" in out
    assert [path.name for path in Path("results").iterdir()] == ["made_up_parity.png"]


def test_it_is_drawn_as_well_where_the_suite_fails_and_not_where_a_row_cannot_run(sim):
    sim(measured(0.9), "--out", "failed")
    assert Path("failed/made_up_parity.png").is_file()
    sim(write_suite(Path(), [{"ffn_layout": "weight_stationary_3d"}]), "--out", "broken")
    assert not Path("broken").exists()


# --- rows of one's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "suite"),
    [("scenarios", "pope"), ("generations", "ladder"), ("requests", "energonai"), ("collectives", "nccl")],
)
def test_a_template_is_a_row_that_the_shipped_suite_reads(sim, kind, suite):
    code, out, err = sim("--template", kind)
    assert code == 0
    Path("own.csv").write_text(out)
    assert len(read(suite, Path("own.csv"))[1]) == 1
    assert [line.split()[0] for line in err.splitlines()] == out.splitlines()[0].split(",")


def test_a_template_of_no_kind_is_refused(sim):
    assert sim("--template", "request") == (
        2,
        "",
        "error: --template: must be a kind of suite, got 'request'; did you mean 'requests'?\n",
    )


def test_a_summary_is_written_beside_the_table(sim):
    code, _, _ = sim(measured(0.01, -0.02), "--no-plots", "--summary", "page.md")
    text = Path("page.md").read_text()
    assert code == 0
    assert "## made_up" in text
    assert "| simulated | 2 | 1.5% | 2.0% | 2.0% | -0.5% |" in text
    assert "Too slow: 1 of 2, too fast: 1. Worst: `row-1` -2.0%, `row-0` +1.0%." in text
