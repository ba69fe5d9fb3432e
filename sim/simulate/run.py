"""One scenario from its file to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sim.program import Period, Program
from sim.program.trace import Trace
from sim.report.critical_path import shares
from sim.report.memory import Memory
from sim.report.metrics import measure
from sim.report.overlap import slower_overlap
from sim.report.phases import together
from sim.report.pipeline import pass_report
from sim.report.pool import copy_ps, layers_ps, pool_report
from sim.report.present.bottlenecks import Bottlenecks
from sim.report.present.comparison import Comparison
from sim.report.present.comparison import compare as side_by_side
from sim.report.report import Report, build
from sim.report.spread import Spread
from sim.report.waiting import waiting
from sim.report.what_if import what_if
from sim.simulate.decode_steps import Steps, simulate_steps
from sim.simulate.forward_pass import Simulated, lower_pass, simulate_pass
from sim.simulate.latency import latency_s, steps_of
from sim.simulate.predict import form_of
from sim.simulate.result import Pass, Run
from sim.specs import Scenario


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
        steps = steps_of(scenario, phase)
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
    form = form_of(scenario, each_step)
    spec, batches = scenario.pipeline, lowered.batches
    requests = pass_report(trace, batches, scenario, spec) if spec and batches else None
    report = build(
        scenario,
        topology,
        trace,
        memory,
        form,
        latency_s,
        lowered.notes,
        requests,
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
        topology, lowered, _ = lower_pass(phase, own.kept)
        times, periods = own.times(lowered.program)
        times["end"] = times["free"] + lowered.program.flight_ps
        trace = Trace(lowered.program, times)
        simulated = Simulated(phase, topology, lowered, trace, periods, own.shortcuts, 0.0)
        passes.append(_pass(phase, simulated, own.latency_s, len(steps_of(scenario, phase)) > 1))
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
