"""Two runs side by side: the parts of the difference add up to the difference."""

import json

import pytest
from support.files import write
from typer.testing import CliRunner

from sim.cli import build_app
from sim.errors import InputError
from sim.report.breakdown import PARTS, compute_breakdown
from sim.simulate.run import compare, run
from sim.specs import load


def test_causes_and_operations_add_up_to_the_difference(tmp_path):
    scenario = str(write(tmp_path))
    runs = [run(load.scenario(scenario, settings)) for settings in ([], ["topology.link.latency=9 us"])]
    found = compare(*runs)
    (phase,) = found.phases
    makespans = [each.passes[0].trace.makespan_ps for each in runs]
    for terms in (phase.causes, phase.ops):
        assert round(sum(term.change_s for term in terms) * 1e12) == makespans[1] - makespans[0]
    assert phase.causes[0].name == "link latency"
    assert [(field.name, field.after) for field in found.fields] == [("topology.link.latency", "9 us")]
    assert found.summary.startswith("B takes ")
    assert "largest change: link latency +" in found.summary


def test_the_head_has_machine_and_chips_of_each_side():
    """A layout of 8 GPUs stays one of 8 on a machine of 16."""
    options = ["--set", "engine.layers=2", "--what-if", "topology=dgx_h100_x2", "--no-plots"]
    done = CliRunner().invoke(build_app(()), ["compare", "llama3_70b_tp8_standard", *options], catch_exceptions=False)
    text = " ".join(done.stdout.split())
    assert "on dgx_h100, 8 chips B: " in text
    assert "on dgx_h100_x2, 8 of 16 chips B takes " in text


def test_quantities_that_prefixes_do_not_tell_apart_are_written_out(tmp_path):
    scenario = str(write(tmp_path))
    runs = [run(load.scenario(scenario, [f"topology.link.latency={late}"])) for late in ("2 us", "2000.001 ns")]
    (field,) = compare(*runs).fields
    assert (field.before, field.after) == ("2e-06 s", "2.000001e-06 s")


def test_a_run_beside_itself_has_no_difference(tmp_path):
    same = run(load.scenario(str(write(tmp_path))))
    found = compare(same, same)
    assert found.fields == ()
    assert "B takes the same time as A" in found.summary
    assert not any(term.change_s for phase in found.phases for term in phase.causes + phase.ops)


@pytest.mark.slow
def test_pages_of_different_comparisons_have_different_names(tmp_path):
    """One with settings, or of other runs of the same scenario, must not replace the plain one."""
    scenario, out = str(write(tmp_path)), tmp_path / "out"

    def invoke(*arguments: str) -> None:
        done = CliRunner().invoke(build_app(()), [*arguments, "--out", str(out)], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    invoke("run", scenario, "--no-plots")
    invoke("run", scenario, "--no-plots", "--set", "workload.batch=8")
    invoke("compare", scenario, scenario)
    invoke("compare", scenario, scenario, "--set", "workload.batch=8")
    invoke("compare", str(out / "tiny"), str(out / "tiny,workload.batch=8"))
    assert {path.name for path in out.glob("*.html")} == {
        "tiny_vs_tiny.html",
        "tiny,workload.batch=8_vs_tiny,workload.batch=8.html",
        "tiny_vs_tiny,workload.batch=8.html",
    }


def test_results_and_scenarios_can_be_compared(tmp_path):
    scenario = str(write(tmp_path))
    CliRunner().invoke(build_app(()), ["run", scenario, "--out", str(tmp_path), "--no-plots"], catch_exceptions=False)
    options = [str(tmp_path / "tiny"), scenario, "--no-plots", "--json"]
    done = CliRunner().invoke(build_app(()), ["compare", *options], catch_exceptions=False)
    found = json.loads(done.output)
    assert found["before_s"] == found["after_s"]
    with pytest.raises(InputError, match="--set: is not supported with results"):
        CliRunner().invoke(build_app(()), ["compare", *options, "--set", "workload.batch=8"], catch_exceptions=False)


@pytest.mark.parametrize("settings", [[], ["layout.overlap=collective_matmul"]])
def test_parts_of_a_step_add_up_and_agree_with_the_report(tmp_path, settings):
    done = run(load.scenario(str(write(tmp_path)), settings))
    part, simulated = done.passes[0], done.report.simulated
    parts = compute_breakdown(part.trace, part.topology)
    assert list(parts) == [name for name in PARTS if name in parts]
    assert len(parts) == 5  # no streams, no pool, no pipeline: nothing to wait for
    assert sum(parts.values()) == pytest.approx(simulated.step_s, rel=1e-12)
    assert parts["exposed"] == pytest.approx(simulated.exposed_communication_s)
    assert parts["overlapped"] == pytest.approx(simulated.overlapped_communication_s)
    assert parts["compute-bound"] + parts["memory-bound"] + parts["overlapped"] == pytest.approx(simulated.compute_s)


def test_what_if_changes_one_side(tmp_path):
    scenario = str(write(tmp_path))
    options = [scenario, "--set", "workload.batch=8", "--what-if", "link.latency=3x", "--no-plots", "--json"]
    done = CliRunner().invoke(build_app(()), ["compare", *options], catch_exceptions=False)
    (field,) = json.loads(done.output)["fields"]
    assert field["name"] == "topology.link.latency"
    with pytest.raises(InputError, match="requires two runs; name B, or say --what-if KEY=VALUE"):
        CliRunner().invoke(build_app(()), ["compare", scenario], catch_exceptions=False)
