"""Functions for scripts and notebooks: a file, its tasks, its run, its report, and the studies of the command line.

    load -> lower, simulate, predict -> report, explain, compare
    sweep, search, validate

What they return shows itself in one line, and as a table in a notebook.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import fields

from sim.specs import load as files
from sim.specs.load import plugin_files

if TYPE_CHECKING:
    from sim.api.results import SimulatedRun, Sweep
    from sim.lowering.lowered_pass import LoweredPass
    from sim.report.closed_form import ClosedForm
    from sim.report.present.comparison import Comparison
    from sim.report.present.explanation import Explanation
    from sim.report.present.validation import Validation
    from sim.report.report import Report
    from sim.simulate.result import Run
    from sim.simulate.together import Job, TogetherRun
    from sim.specs import Scenario
    from sim.studies.search import SearchResult, Work

__all__ = [
    "compare",
    "explain",
    "load",
    "lower",
    "predict",
    "report",
    "search",
    "simulate",
    "simulate_together",
    "sweep",
    "validate",
]


def load(name: str | Path, *settings: str, plugins: Iterable[str | Path] = ()) -> Scenario:
    """Loads the scenario of a shipped name or a file, with `"key=value"` settings as after `--set`. Raises InputError.

    Args:
        plugins: files, entry points or modules beside those that the scenario names.
    """
    with plugin_files.using(map(str, plugins)):
        return files.scenario(str(name), settings)


def lower(scenario: Scenario) -> LoweredPass:
    """Returns the tasks of one forward pass, of the first phase if there are two, and its memory.

    Raises:
        LayoutError: the mesh does not divide a dimension.
    """
    from sim.simulate.forward_pass import lower_pass

    return lower_pass(scenario.phases[0])[1]


def simulate(scenario: Scenario) -> SimulatedRun:
    """Simulates every phase; returns traces and the report. Raises InputError."""
    from sim.api.results import SimulatedRun
    from sim.simulate.run import run

    result = run(scenario)
    return SimulatedRun(**{field.name: getattr(result, field.name) for field in fields(result)})


def simulate_together(jobs: Sequence[Job], machine: str | Path | None = None) -> TogetherRun:
    """Simulates several jobs at once on one machine, and each alone. Raises InputError.

    Args:
        jobs: `sim.simulate.together.Job`: a scenario, its chips and its number of passes.
        machine: a shipped name or a file; default: that of all scenarios.
    """
    from sim.simulate.together import run_together

    return run_together(jobs, files.topology_spec(str(machine)) if machine else None)


def predict(scenario: Scenario) -> ClosedForm | None:
    """Returns the closed forms of all steps of all phases, seconds; None if no form covers the scenario."""
    from sim.simulate.predict import predict as predict_forms

    return predict_forms(scenario)


def report(run: Run, page: str | Path | None = None) -> Report:
    """Returns the figures of a run; with `page` also writes them there as one HTML file."""
    if page is not None:
        from sim.results import page as html

        html.write([run], Path(page))
    return run.report


def explain(run: Run) -> tuple[Explanation, ...]:
    """Explains the difference to the closed form, effect by effect, for each phase. Raises InputError."""
    from sim.studies.explain import explain as explain_run

    return explain_run(run)


def compare(before: Run, after: Run) -> Comparison:
    """Compares run B, `after`, with run A: what makes the difference, along their critical paths."""
    from sim.simulate.run import compare as compare_runs

    return compare_runs(before, after)


def sweep(name: str | Path, *settings: str, jobs: int = 1, plugins: Iterable[str | Path] = ()) -> Sweep:
    """Simulates every combination of a scenario's sweep. Raises InputError.

    Args:
        jobs: processes on this computer.
        plugins: as of `load`.
    """
    from sim.api.results import Sweep
    from sim.studies.sweep.study import plan_sweep
    from sim.studies.sweep.workers import run_points

    with plugin_files.using(map(str, plugins)):
        study = plan_sweep(str(name), files.scenario(str(name), settings), settings)
        rows = dict(run_points(str(name), study.points, jobs))
    return Sweep(study, [rows[number] for number in range(len(study.points))])


def search(
    work: Work, topologies: Sequence[str], *settings: str, chips: str = "", max_step: str = "", jobs: int = 1
) -> SearchResult:
    """Tries every layout and attention sharding on every mesh of the machines. Raises InputError.

    Args:
        work: `sim.studies.search.Work`: model, phase, batches and what else is tried.
        topologies: shipped names or files.
        chips: numbers of chips, such as `16,64` or `64..256`; default: those of the machines.
        max_step: slower candidates do not win, such as `20ms`.
        jobs: processes on this computer.
    """
    from sim.studies import search as searching

    machines = searching.list_machines(topologies, searching.parse_counts(chips) if chips else None, settings)
    goal = searching.parse_goal(max_step, "", searching.chip_names([each.topology for each in machines]))
    points = searching.list_candidates(work, machines, settings)
    tried = dict(searching.run_candidates(points, jobs, goal.max_step_s))
    candidates = [(points[number], row) for number, row in sorted(tried.items()) if row]
    fitting = goal.fitting([row for _, row in candidates])
    return searching.SearchResult(work.phase, goal, candidates, len(tried), fitting)


def validate(suite: str | Path, rows: str | Path | None = None, *settings: str) -> Validation:
    """Compares predictions with the measurements of a suite. Raises InputError.

    Args:
        rows: another CSV of the same columns.
        settings: changes of the scenario or machine of every row, as in --set.
    """
    from sim.studies.validate.validate import validate as validate_suite

    return validate_suite(str(suite), Path(rows) if rows else None, settings=settings)
