"""The worked examples in `scenarios/examples` do what they say."""

from math import ceil, log2
from pathlib import Path

import pytest
from support.machines import switch

from sim.api import load, simulate
from sim.collectives import chunk_replay, schedule
from sim.simulate.latency import latency_s
from sim.specs import load as files
from sim.specs.load import plugin_files
from sim.studies.bench.collective import CollectiveSpec, run_collective
from sim.studies.validate.calibrate import fit
from sim.studies.validate.validate import validate
from sim.topology import build

EXAMPLES = Path(__file__).parents[2] / "scenarios/examples"


@pytest.mark.parametrize("chips", [2, 3, 5, 6, 8, 12])
def test_bruck_takes_as_long_as_its_formula_on_a_switch(chips: int):
    """(n-1) c/w + ceil(log2 n) t: only the first chunk of a step waits for the latency of the step before."""
    plugin_files.load("bruck.py", "", EXAMPLES)
    machine, size = switch(chips, bandwidth=1e9, latency_s=1e-5), 1.2e3
    chunk_replay.replay(schedule(machine, "all_gather", ("g",), "bruck"), machine)
    row = run_collective(machine, CollectiveSpec("all_gather", ("g",), size, "bruck"))
    formula_s = (chips - 1) * size / chips / 1e9 + ceil(log2(chips)) * 1e-5
    assert row.time_s == pytest.approx(formula_s, rel=0.1)  # the ports of a switch pass the head of a chunk on
    assert row.time_s >= row.bound_s


def test_bruck_runs_in_its_scenario():
    run = simulate(load(EXAMPLES / "bruck.yaml", "engine.layers=2"))
    assert {op.op for op in run.report.ops} >= {"all_gather(t) wi"}


def test_half_a_ladder_is_between_standard_and_ladder():
    times = {
        scheme: latency_s(load(EXAMPLES / "half_ladder.yaml", "sweep=null", "figure=null", f"layout.residual={scheme}"))
        for scheme in ("standard", "half_ladder", "ladder")
    }
    assert times["standard"] > times["half_ladder"] > times["ladder"]
    hidden = (times["standard"] - times["half_ladder"]) / (times["standard"] - times["ladder"])
    assert hidden == pytest.approx(0.5, abs=0.1)  # one of the two sums of a layer


def test_the_machine_of_boxes_is_built_and_run():
    machine = build(*files.machine(str(EXAMPLES / "four_boxes.yaml")))
    assert machine.chips == 16
    run = simulate(load(EXAMPLES / "boxes.yaml", "engine.layers=2"))
    assert run.report.chips == 16
    assert any("(box)" in op.op for op in run.report.ops)  # weights are gathered over the network


@pytest.mark.slow
def test_own_rows_are_calibrated_and_validated():
    suite = str(EXAMPLES / "own_rows.yaml")
    result = validate(suite)
    assert result.passes
    assert {outcome.forms["mine"] > 0 for outcome in result.outcomes} == {True}
    fitted = fit(suite, cross_validate=False)
    truth = {"matmul_efficiency": 0.72, "hbm_efficiency": 0.81, "collective_step": 1.6}  # 2 % of noise on the rows
    assert fitted.values == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_loads(path: Path):
    kind = path.read_text().partition("schemas/")[2].partition(".json")[0]
    {"scenario": files.scenario, "topology": files.topology_spec, "suite": files.suite}[kind](str(path))
