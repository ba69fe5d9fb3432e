"""One scenario from its file to its report."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim import periodic
from sim.closed_form import pope
from sim.closed_form.tally import per_operation, usual
from sim.communication import Communication
from sim.folded import of_all, of_chips, of_some
from sim.lower import lower
from sim.lowering.lowered import Lowered
from sim.passes import Simulated, lowered_pass, simulate_pass
from sim.periodic import Period
from sim.program import Program
from sim.report.bottlenecks import Bottlenecks
from sim.report.comparison import Comparison
from sim.report.comparison import compare as side_by_side
from sim.report.critical_path import shares
from sim.report.memory import Memory
from sim.report.metrics import measure
from sim.report.overlap import slower_overlap
from sim.report.phases import sum_of_forms, together
from sim.report.pool import Series, copy_ps, layers_ps, over_time, pool_report
from sim.report.report import HALVES, PAPER, ClosedForm, Report, build
from sim.report.spread import Spread
from sim.report.waiting import waiting
from sim.report.what_if import what_if
from sim.specs import Scenario
from sim.steps import Steps, simulate_steps
from sim.topology.graph import Topology
from sim.trace import Trace

MEAN_STEP = "takes the step of mean cache length for every step"
"""Why a closed form of steps that are simulated one by one is not exact."""


@dataclass(frozen=True)
class Pass:
    """One forward pass: the prefill, or the decode step of mean cache length."""

    scenario: Scenario
    topology: Topology
    """Folded where some chips were simulated for all."""
    lowered: Lowered
    part: Trace
    """Of all layers, or of those that were simulated for the rest."""
    periods: tuple[Period, ...]
    """How the layers that were left out follow."""
    report: Report

    @functools.cached_property
    def trace(self) -> Trace:
        """Of all layers, made when first asked for: the report does without."""
        return periodic.whole(self.part, self.periods)

    @property
    def makespan_ps(self) -> int:
        """End of the last task of all layers."""
        return periodic.makespan_ps(self.part, self.periods)

    def whole(self) -> tuple[Trace, Topology]:
        """The trace of all chips: each has the times of the one that was simulated for it."""
        full = self.topology.unfolded
        if full is None:
            return self.trace, self.topology
        return of_all(self.trace, self.topology, lower(self.scenario, full).program), full

    def of_chips(self, chips: Sequence[int]) -> tuple[Trace, Topology]:
        """The trace of some chips of the whole machine, in which tasks may wait for nothing: to look at, not to run.

        Only on a torus can a chip's part be told without the others'; elsewhere it is of all chips.
        """
        full = self.topology.unfolded
        if not (full or self.topology).has_lines:
            return self.whole()
        if full is None:
            return periodic.whole(of_some(self.part, chips), self.periods), self.topology
        return of_chips(self.trace, self.topology, chips), full

    @property
    def span(self) -> str:
        """What its trace is of: `one decode step`, `all 12 requests`."""
        return self.report.span if self.report.pipeline else f"one {self.scenario.workload.phase} step"

    def memory_of(self, chip: int) -> Series:
        """What a chip's memory holds over time: all of it throughout, but for layers that visit from a memory pool."""
        used_bytes, pool = self.report.memory.used_bytes, self.report.pool
        if pool is None:
            return np.zeros(1), np.array([used_bytes])
        return over_time(self.trace, self.topology.stand_in(chip), used_bytes, pool.layer_bytes)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run made: a pass per phase, and the report of all steps."""

    scenario: Scenario
    passes: tuple[Pass, ...]
    report: Report
    tasks: int
    """Simulated in all."""
    engine_s: float
    """Wall-clock time of the engine."""
    settings: tuple[str, ...] = ()
    """What `--set` changed of the scenario, `key=value` each."""
    source: str | None = None
    """The scenario's file; None where it was none."""

    @property
    def settings_text(self) -> str:
        """`with key=value, ...`, for titles; nothing where nothing was changed."""
        return f"with {', '.join(self.settings)}" if self.settings else ""

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def suffix(self, part: Pass) -> str:
        """What tells files of a phase from those of the other: `_decode`; nothing where there is one phase."""
        return f"_{part.scenario.workload.phase}" if len(self.passes) > 1 else ""


def run(scenario: Scenario, progress: Callable[[int, int], None] = lambda done, total: None) -> Run:
    """Lower, simulate, predict and report a scenario.

    A decode scenario simulates the step of mean cache length; a generation its prefill and then every decode step, each
    with the cache as long as it then is.

    Args:
        progress: called with (passes simulated, passes in all).

    Raises:
        LayoutError: the mesh does not divide a dimension.
        InputError: no closed form or collective of that name.
    """
    passes, tasks, engine_s = [], 0, 0.0
    for phase in scenario.phases:
        steps = _steps(scenario, phase)
        each = simulate_steps(steps, progress) if len(steps) > 1 else Steps()
        whole = simulate_pass(phase)
        whole = replace(whole, shortcuts=(*whole.shortcuts, *each.shortcuts))
        passes.append(_pass(phase, whole, each.latency_s if each.times_s else None, len(steps) > 1))
        tasks, engine_s = tasks + len(whole.trace.program) + each.tasks, engine_s + whole.engine_s + each.engine_s
    report = _report(scenario, passes)
    return Run(
        scenario=scenario,
        passes=tuple(passes),
        report=replace(report, spread=_spread(scenario, report.simulated.latency_s, progress)),
        tasks=tasks,
        engine_s=engine_s,
    )


def _spread(scenario: Scenario, first_s: float, progress: Callable[[int, int], None]) -> Spread | None:
    """Latencies of the runs that `perturb.repeats` asks for, of which one has been; None where it is the only one."""
    perturb = scenario.perturb
    if perturb is None or perturb.repeats == 1:
        return None
    latencies_s = [first_s]
    for done in range(1, perturb.repeats):
        progress(done, perturb.repeats)
        again = perturb.model_copy(update={"seed": perturb.seed + done, "repeats": 1})
        latencies_s.append(latency_s(scenario.model_copy(update={"perturb": again})))
    return Spread.of(latencies_s)


def bottlenecks(
    result: Run, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Bottlenecks, ...]:
    """The critical path of one step of each phase, and what would shorten it, by simulating it again.

    Args:
        progress: called with (simulations done, simulations in all) of a phase.
    """
    found = []
    for part in result.passes:
        own = shares(part.trace, part.topology)
        results = what_if(part.trace, part.topology, own, progress, part.scenario.engine.kernel)
        found.append(Bottlenecks(part.scenario.workload.phase, part.span, own, results))
    return tuple(found)


def compare(before: Run, after: Run, names: Sequence[str] = ()) -> Comparison:
    """Two runs side by side, the difference of their steps taken apart along their critical paths.

    Args:
        names: of the runs, by default those of their scenarios.
    """
    runs = before, after
    given = names or [run.scenario.name for run in runs]
    shown = [name + (", per request" if run.scenario.pipeline else "") for run, name in zip(runs, given, strict=True)]
    latencies_s = [run.report.simulated.latency_s for run in runs]
    paths = [{part.scenario.workload.phase: shares(part.trace, part.topology) for part in run.passes} for run in runs]
    spans = [{part.scenario.workload.phase: part.span for part in run.passes} for run in runs]
    scenarios = [run.scenario.model_dump(mode="json", exclude_none=True) for run in runs]
    found = side_by_side(shown, latencies_s, paths, spans, scenarios)
    based = tuple(dict.fromkeys(run.report.rests_on.text for run in runs if run.report.rests_on))
    return replace(found, rests_on=based)


def latency_s(scenario: Scenario, known: MutableMapping[str, float] | None = None) -> float:
    """Simulated time of all steps, s: what `run` reports, without the report.

    Args:
        known: times of passes simulated before, s, by what was simulated; new ones are added.
    """
    total, known = 0.0, {} if known is None else known
    for phase in scenario.phases:
        steps = _steps(scenario, phase)
        if len(steps) > 1:
            total += simulate_steps(steps).latency_s
            continue
        engine = steps[0].engine.model_copy(update={"layers": steps[0].layers})  # all, or as many: one and the same
        alike = {"name": "", "description": "", "reference": None, "engine": engine}
        key = steps[0].model_copy(update=alike).model_dump_json()
        known[key] = known.get(key) or step_s(steps[0])
        total += known[key] * phase.workload.steps
    return total


def step_s(scenario: Scenario) -> float:
    """Simulated time of one forward pass, of a pipeline the mean of its requests, s."""
    return simulate_pass(scenario).step_s


def predict(scenario: Scenario) -> ClosedForm | None:
    """Both closed forms, of all steps of all phases; None where none covers the machine or the layout."""
    forms = [_form(phase, len(_steps(scenario, phase)) > 1) for phase in scenario.phases]
    known = [form for form in forms if form is not None]
    return sum_of_forms(known) if len(known) == len(forms) else None


def _form(phase: Scenario, each_step: bool) -> ClosedForm | None:
    """Both closed forms of one phase, for all steps: so many times the step of mean cache length.

    Args:
        each_step: every step is simulated with the cache as long as it then is.
    """
    if uncovered(phase):
        return None
    to = Communication(phase)
    detailed = per_operation(phase, to)
    if pope.covers(phase):
        first, names = pope.paper(phase), (PAPER, "per axis, with loops")
    else:
        first, names = usual(phase, to), (HALVES, "per operation")
    steps = phase.workload.steps
    return ClosedForm(
        latency_s=steps * first.step_s,
        terms={name: steps * time_s for name, time_s in first.terms.items()},
        per_axis_latency_s=steps * detailed.step_s,
        per_axis_terms={name: steps * time_s for name, time_s in detailed.terms.items()},
        inexact=(*detailed.inexact, *([MEAN_STEP] if each_step else [])),
        name=names[0],
        per_axis_name=names[1],
    )


def uncovered(scenario: Scenario) -> str:
    """What of the scenario no closed form of a pass knows; empty where nothing is in the way."""
    if scenario.pipeline:
        return "a pipeline of requests"
    if scenario.packed_rows is not None:
        return "padding that is left out"
    return "layers in a memory pool" if scenario.memory_pool else ""


def _steps(scenario: Scenario, phase: Scenario) -> tuple[Scenario, ...]:
    """The steps to simulate for a phase's latency: each decode step of a generation whose cache grows, else one."""
    if phase.workload.static_cache is not None and phase.workload.phase == "decode":
        return (phase.model_copy(update={"workload": phase.workload.each_step[0]}),)
    if scenario.workload.phase != "generate" or phase.workload.phase != "decode" or scenario.engine.steps == "mean":
        return (phase,)
    return tuple(phase.model_copy(update={"workload": workload}) for workload in phase.workload.each_step)


def _pass(scenario: Scenario, found: Simulated, latency_s: float | None, each_step: bool) -> Pass:
    topology, lowered, trace, periods = found.topology, found.lowered, found.trace, found.periods
    memory = Memory(
        lowered.weights_bytes, lowered.kv_cache_bytes, topology.chip.hbm_capacity, lowered.gather_buffer_bytes
    )
    padded = None
    if scenario.padding and scenario.packed_rows is not None:
        padding = scenario.padding.model_copy(update={"eliminate": False})
        whole = simulate_pass(scenario.model_copy(update={"padding": padding}))
        padded = whole.step_s, measure(whole.trace, whole.topology, periods=whole.periods)
    form = _form(scenario, each_step)
    report = build(
        scenario,
        topology,
        trace,
        memory,
        form,
        latency_s,
        lowered.notes,
        found.requests,
        padded,
        lowered.batches,
        periods,
    )
    report = replace(report, shortcuts=found.shortcuts)
    if scenario.memory_pool:
        plain = simulate_pass(scenario.model_copy(update={"memory_pool": None}))
        plain_ps = plain.makespan_ps, layers_ps(plain.trace, plain.periods)
        pool = pool_report(scenario, copy_ps(trace), found.makespan_ps, *plain_ps, memory, lowered.layer_bytes)
        report = replace(report, pool=pool)
    if scenario.overlap != "none":
        layout = scenario.layout.model_copy(update={"overlap": "none"})
        alone = simulate_pass(scenario.model_copy(update={"layout": layout}))
        both = (measure(each.trace, each.topology, each.lowered.batches, each.periods) for each in (found, alone))
        report = replace(
            report, notes=(*report.notes, *slower_overlap(scenario.overlap, scenario.workload.phase, *both))
        )
    if scenario.perturb:
        report = replace(report, waiting=waiting(trace, topology.chips, periods))
    return Pass(scenario, topology, lowered, trace, periods, report)


@dataclass(frozen=True, slots=True)
class WrittenPhase:
    """What was written of one phase of a run."""

    latency_s: float
    """Of all steps."""
    shortcuts: tuple[str, ...]
    kept: int | None
    """Copies of a layer that were simulated; None for all."""
    times: Callable[[Program], tuple[npt.NDArray[np.void], tuple[Period, ...]]]
    """(program) -> ([tasks] of TIMES, the ends to be filled in; how the layers that were left out follow)."""


def restored(scenario: Scenario, written: Sequence[WrittenPhase], spread: Spread | None) -> Run:
    """A run from what was written of it, without simulating: lowered again, with the times it had.

    Args:
        written: each phase.
        spread: what the report says of repeated runs.
    """
    passes, tasks = [], 0
    for phase, own in zip(scenario.phases, written, strict=True):
        topology, lowered, _ = lowered_pass(phase, own.kept)
        times, periods = own.times(lowered.program)
        times["end"] = times["free"] + lowered.program.flight_ps
        trace = Trace(lowered.program, times)
        simulated = Simulated(phase, topology, lowered, trace, periods, own.shortcuts, 0.0)
        passes.append(_pass(phase, simulated, own.latency_s, len(_steps(scenario, phase)) > 1))
        tasks += len(times)
    report = replace(_report(scenario, passes), spread=spread)
    return Run(scenario, tuple(passes), report, tasks, 0.0)


def _report(scenario: Scenario, passes: Sequence[Pass]) -> Report:
    if len(passes) == 1:
        return passes[0].report
    prefill, decode = passes
    stored = [part.lowered.stored_weights for part in passes]
    moved = [name for name in stored[0] if stored[0][name] != stored[1].get(name)]
    notes = []
    if moved:
        held = "memory is of the weights of one phase at a time, and the time to reshard them is not counted"
        notes.append(f"prefill and decode store {', '.join(moved)} in different shardings: {held}")
    return together(scenario, prefill.report, decode.report, notes)
