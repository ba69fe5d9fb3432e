"""One scenario from its file to its report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim.closed_form.plugin_forms import check_bounds, predict_plugin_forms
from sim.lowering.placement import dealt_pass, describe_mesh, describe_unused_chips, describe_unused_links
from sim.program import Period, Program
from sim.program.trace import Trace
from sim.report.memory import Memory, longest_context
from sim.report.metrics import PassTrace, measure
from sim.report.report import Report, build_report
from sim.simulate.forward_pass import Simulated, lower_pass, simulate_pass
from sim.simulate.latency import latency_s, steps_of
from sim.simulate.predict import predict_phase
from sim.simulate.remedies import add_remedies
from sim.simulate.result import Pass, Run
from sim.specs import Scenario
from sim.specs.layout import IN_PARTS
from sim.specs.unread import describe_unread, find_unread

if TYPE_CHECKING:
    from sim.report.padding import Padding
    from sim.report.pool import Pool
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.present.comparison import Comparison
    from sim.report.spread import Spread


def run(
    scenario: Scenario,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    remedies: bool = True,
) -> Run:
    """Lowers, simulates, predicts and reports a scenario.

    A decode scenario simulates the step of mean cache length; a generation its prefill and then every decode step, each
    with the cache as long as it then is.

    Args:
        progress: called with (passes simulated, passes in all).
        remedies: look for what would make it fit in memory, if it does not.

    Raises:
        LayoutError: the mesh does not divide a dimension.
        InputError: no closed form or collective of that name.
    """
    passes, tasks, engine_s = [], 0, 0.0
    for phase in scenario.phases:
        steps, latency = steps_of(scenario, phase), None
        simulated = simulate_pass(phase)
        if len(steps) > 1:
            from sim.simulate.decode_steps import simulate_steps

            all_steps = simulate_steps(steps, progress)
            simulated = replace(simulated, shortcuts=(*simulated.shortcuts, *all_steps.shortcuts))
            latency, tasks, engine_s = all_steps.latency_s, tasks + all_steps.tasks, engine_s + all_steps.engine_s
        passes.append(_report_pass(phase, simulated, latency, len(steps) > 1))
        tasks, engine_s = tasks + len(simulated.trace.program), engine_s + simulated.engine_s
    report = _combine_reports(scenario, passes, remedies=remedies)
    return Run(
        scenario=scenario,
        passes=tuple(passes),
        report=replace(report, spread=_repeat_runs(scenario, report.simulated.latency_s, progress)),
        tasks=tasks,
        engine_s=engine_s,
    )


def _repeat_runs(scenario: Scenario, first_s: float, progress: Callable[[int, int], None]) -> Spread | None:
    """Simulates the further runs that `perturb.repeats` asks for; None if one run is asked for."""
    perturb = scenario.perturb
    if perturb is None or perturb.repeats == 1:
        return None
    from sim.report.spread import Spread

    latencies_s = [first_s]
    for done in range(1, perturb.repeats):
        progress(done, perturb.repeats)
        again = perturb.model_copy(update={"seed": perturb.seed + done, "repeats": 1})
        latencies_s.append(latency_s(scenario.model_copy(update={"perturb": again})))
    return Spread.of(latencies_s)


def find_bottlenecks(
    result: Run, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Bottlenecks, ...]:
    """Finds the critical path of one step of each phase, and what would shorten it, by simulating it again.

    Args:
        progress: called with (simulations done, simulations in all) of a phase.
    """
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.what_if import run_what_ifs

    result_phases = []
    for part in result.passes:
        path_shares = part.attribute_step()
        results = run_what_ifs(part.trace, part.topology, path_shares, progress, part.scenario.engine.kernel)
        result_phases.append(Bottlenecks(part.scenario.workload.phase, part.span, path_shares, results))
    return tuple(result_phases)


def compare(before: Run, after: Run, names: Sequence[str] = ()) -> Comparison:
    """Compares two runs, and attributes the difference of their steps along their critical paths.

    Args:
        names: of the runs, by default those of their scenarios.
    """
    from sim.report.present.comparison import compare as side_by_side

    runs = before, after
    shown = names or [run.scenario.name for run in runs]
    latencies_s = [run.report.simulated.latency_s for run in runs]
    paths = [{part.scenario.workload.phase: part.attribute_step() for part in run.passes} for run in runs]
    spans = [{part.scenario.workload.phase: part.span for part in run.passes} for run in runs]
    scenarios = [run.scenario.model_dump(mode="json", exclude_none=True) for run in runs]
    comparison = side_by_side(shown, latencies_s, paths, spans, scenarios)
    based = tuple(dict.fromkeys(run.report.rests_on.text for run in runs if run.report.rests_on))
    per_request = ["; latencies are per request" if run.scenario.pipeline else "" for run in runs]
    machines = tuple(run.machine_text + note for run, note in zip(runs, per_request, strict=True))
    noted = dict.fromkeys(note for run in runs for note in run.report.notes)
    of = {
        note: " and ".join(name for name, run in zip("AB", runs, strict=True) if note in run.report.notes)
        for note in noted
    }
    notes = tuple(f"{of[note]}: {note}" for note in noted)
    return replace(comparison, rests_on=based, machines=machines, notes=notes)


def _report_pass(scenario: Scenario, simulated: Simulated, latency_s: float | None, each_step: bool) -> Pass:
    """Builds a pass's report, with the comparisons to the same pass without padding removal, pool or overlap."""
    lowered, topology = simulated.lowered, simulated.topology
    memory = Memory(
        lowered.weights_bytes, lowered.kv_cache_bytes, topology.chip.hbm_capacity, lowered.gather_buffer_bytes
    )
    memory = replace(memory, longest_context=longest_context(memory, scenario))
    overlap = (*_stream_notes(scenario), *_overlap_notes(scenario, simulated))
    notes = (
        *describe_mesh(scenario),
        *describe_unused_chips(scenario),
        *describe_unused_links(topology),
        *lowered.notes,
        *overlap,
    )
    form, rows = predict_phase(scenario, each_step), lowered.expert_rows
    chips_differ = scenario.perturb is not None or (rows is not None and not rows.even)
    report = build_report(scenario, _measured(simulated), memory, form, latency_s, notes)
    report = replace(
        report,
        shortcuts=simulated.shortcuts,
        pool=_pool(scenario, simulated, memory),
        padding=_padding(scenario, simulated, report),
    )
    if chips_differ:
        from sim.report.waiting import measure_waiting

        report = replace(report, waiting=measure_waiting(simulated.trace, topology.chips, simulated.periods))
    return Pass(scenario, topology, lowered, simulated.trace, simulated.periods, report)


def _measured(simulated: Simulated) -> PassTrace:
    lowered = simulated.lowered
    return PassTrace(
        simulated.trace,
        simulated.topology,
        lowered.batches,
        simulated.periods,
        lowered.expert_rows,
        lowered.transfer,
    )


def _pool(scenario: Scenario, simulated: Simulated, memory: Memory) -> Pool | None:
    if scenario.memory_pool is None:
        return None
    from sim.report.pool import report_pool

    resident = simulate_pass(scenario.model_copy(update={"memory_pool": None}))
    layer_bytes = simulated.lowered.layer_bytes
    return report_pool(scenario, scenario.memory_pool, _measured(simulated), _measured(resident), layer_bytes, memory)


def _padding(scenario: Scenario, simulated: Simulated, report: Report) -> Padding | None:
    if scenario.padding is None or scenario.packed_rows is None:
        return None
    from sim.report.padding import Padding, compare_ops

    spec = scenario.padding.model_copy(update={"eliminate": False})
    padded = simulate_pass(scenario.model_copy(update={"padding": spec}))
    return Padding(
        padded_rows=scenario.workload.batch * scenario.workload.tokens_per_step,
        real_rows=scenario.packed_rows,
        padded_latency_s=padded.step_s,
        packed_latency_s=simulated.step_s,
        ops=compare_ops(report.ops, measure(padded.trace, padded.topology, periods=padded.periods).ops),
    )


def _stream_notes(scenario: Scenario) -> tuple[str, ...]:
    """Returns the note that a scheme which needs a stream for collectives has none."""
    chosen = {"layout.overlap": scenario.overlap, "layout.residual": scenario.residual}
    needs = (*IN_PARTS, "chunked_matmul", "ladder", "hybrid")
    waiting = [f"{field}={scheme}" for field, scheme in chosen.items() if scheme in needs]
    if scenario.communication_streams or not waiting:
        return ()
    return (
        f"{' and '.join(waiting)} hides nothing: collectives are on the compute stream, in order with all operations; "
        f"layout.communication=own_stream lets them run beside compute",
    )


def _overlap_notes(scenario: Scenario, simulated: Simulated) -> tuple[str, ...]:
    if scenario.overlap == "none":
        return ()
    layout = scenario.layout.model_copy(update={"overlap": "none"})
    without = scenario.model_copy(update={"layout": layout})
    form = predict_phase(without, each_step=False)
    if form and form.is_exact and simulated.step_s * without.workload.steps < form.detailed_latency_s:
        return ()
    serial = simulate_pass(without)
    if simulated.makespan_ps <= serial.makespan_ps:
        return ()
    from sim.report.overlap import explain_slower_overlap

    measures = (measure(each.trace, each.topology, each.lowered.batches, each.periods) for each in (simulated, serial))
    return explain_slower_overlap(scenario.overlap, scenario.workload.phase, *measures)


class WrittenPhase(Struct, frozen=True):
    """Saved figures of one phase of a run."""

    latency_s: float
    """Latency of all steps, s."""
    shortcuts: tuple[str, ...]
    kept: int | None
    """Copies of a layer that were simulated; None for all."""
    times: Callable[[Program], tuple[npt.NDArray[np.void], tuple[Period, ...]]]
    """(program) -> ([tasks] of TIMES, the ends to be filled in; how the layers that were left out follow)."""


def restore_run(scenario: Scenario, written: Sequence[WrittenPhase], spread: Spread | None) -> Run:
    """Restores a run from its saved figures without simulating: it is lowered again and has its saved times.

    Args:
        written: each phase.
        spread: what the report says of repeated runs.
    """
    passes, tasks = [], 0
    for phase, phase_written in zip(scenario.phases, written, strict=True):
        topology, lowered, _ = lower_pass(phase, phase_written.kept)
        times, periods = phase_written.times(lowered.program)
        times["end"] = times["free"] + lowered.program.flight_ps
        trace = Trace(lowered.program, times)
        simulated = Simulated(phase, topology, lowered, trace, periods, phase_written.shortcuts, 0.0)
        passes.append(_report_pass(phase, simulated, phase_written.latency_s, len(steps_of(scenario, phase)) > 1))
        tasks += len(times)
    report = replace(_combine_reports(scenario, passes), spread=spread)
    return Run(scenario, tuple(passes), report, tasks, 0.0)


def _combine_reports(scenario: Scenario, passes: Sequence[Pass], *, remedies: bool = True) -> Report:
    """The report of all phases, with the fields that none of them reads, and the closed forms of the scenario's
    plugins."""
    report = _combine_phases(scenario, passes)
    unread = describe_unread(scenario, [find_unread(dealt_pass(part.scenario)) for part in passes])
    memory = add_remedies(report.memory, scenario, report.chips) if remedies else report.memory
    report = replace(report, notes=(*report.notes, *unread), memory=memory)
    forms = predict_plugin_forms(scenario)
    check_bounds(forms, report.simulated.latency_s)
    return replace(report, plugin_forms=forms) if forms else report


def _combine_phases(scenario: Scenario, passes: Sequence[Pass]) -> Report:
    if len(passes) == 1:
        return passes[0].report
    from sim.report.phases import combine_phases

    prefill, decode = passes
    stored = [part.lowered.stored_weights for part in passes]
    moved = [name for name in stored[0] if stored[0][name] != stored[1].get(name)]
    notes = []
    if moved:
        held = "memory is of the weights of one phase at a time, and the time to reshard them is not counted"
        notes.append(f"prefill and decode store {', '.join(moved)} in different shardings: {held}")
    return combine_phases(scenario, prefill.report, decode.report, notes)
