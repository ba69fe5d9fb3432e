"""One explanation per phase of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from msgspec.structs import replace

from sim.closed_form import pope
from sim.closed_form.pass_time import predict_per_operation
from sim.closed_form.prediction import Prediction
from sim.engine import simulate
from sim.errors import InputError
from sim.program import Ints, Kind, Program
from sim.report.present.explanation import ROUNDING, Explanation, Model, build_bars
from sim.simulate.communication import Communication
from sim.simulate.latency import step_s
from sim.simulate.predict import find_uncovered
from sim.simulate.result import Pass, Run
from sim.simulate.run import run
from sim.specs import Scenario
from sim.studies.explain import formula, usual
from sim.studies.explain.changes import read_field, with_fields, without_source
from sim.studies.explain.effects import OVERLAP, PAPER_WALK, USUAL_WALK, Walk
from sim.units import PS_PER_S, format_list

_FEW = (3, 4, 5)
"""Layers of the runs that show whether layers take equal times."""


def explain(result: Run) -> tuple[Explanation, ...]:
    """Explains the difference between the simulated step of each phase and the formula, effect by effect.

    Raises:
        InputError: a layout that no formula covers.
    """
    published = result.report.published
    published_s = published.value / result.scenario.workload.steps if published and len(result.passes) == 1 else None
    return tuple(_explain(part, published_s) for part in result.passes)


def _explain(part: Pass, published_s: float | None) -> Explanation:
    scenario = part.scenario
    if what := find_uncovered(scenario):
        raise InputError(f"no closed form covers {what}", where=scenario.name, hint="run it without --explain")
    walk = PAPER_WALK if pope.covers(scenario) else USUAL_WALK
    base = with_fields(scenario, walk.base)
    form = predict_per_operation(base, Communication(base))
    first = formula.list_models(base) if walk is PAPER_WALK else usual.list_models(base)
    simulated = [*_simulated(part, walk, form), *_growing(part)]
    # Effects that do not apply make no difference; that nothing contends is worth saying.
    closed, (contention, *others) = list(_telling(first)), simulated
    telling = [contention, *_telling(others, before=contention.step_s)]
    return Explanation(
        scenario=scenario.name,
        phase=scenario.workload.phase,
        machine=part.report.machine,
        chips=part.report.chips,
        bars=tuple(build_bars([*closed, *telling])),
        ideal_at=len(closed),
        inexact=form.inexact,
        published_s=published_s,
        words=walk.words,
    )


def _telling(models: Iterator[Model] | list[Model], before: float = 0.0) -> Iterator[Model]:
    """Models without those that change nothing; the last value is always reached."""
    last: Model | None = None
    for model in models:
        if abs(model.step_s - before) > ROUNDING * model.step_s:
            yield model
            before, last = model.step_s, None
        else:
            last = model
    if last and last.step_s != before:
        yield last


def _simulated(part: Pass, walk: Walk, form: Prediction) -> Iterator[Model]:
    """Simulations, from what the closed form knows to the scenario as it is."""
    real, scenario = part.scenario, with_fields(part.scenario, walk.base)
    (step,) = _of_all_layers(part, scenario, _unaltered)
    why = "none: nothing waits that the closed form does not count; it is exact here, and the simulation agrees"
    if not form.exact:
        reasons = format_list(form.inexact)
        why = f"what the closed form does not know: it {reasons}"
        if abs(step - form.step_s) < ROUNDING * step:
            why = f"none, though the closed form {reasons}"
    yield Model(*walk.first, step, why)
    for effect in walk.effects:
        value = read_field(real, effect.field)
        if without_source(value) == walk.base[effect.field]:
            continue
        scenario, before = with_fields(scenario, {effect.field: value}), step
        (step,) = _of_all_layers(part, scenario, _unaltered)
        yield Model(effect.name, effect.group, step, effect.why(real, step - before))
    if walk is PAPER_WALK and real.overlap != "none":
        yield from _looped(part)


def _growing(part: Pass) -> Iterator[Model]:
    """Returns the mean of all steps, each simulated by itself."""
    step_s, steps = part.report.simulated.step_s, part.scenario.workload.steps
    if step_s != part.makespan_ps / PS_PER_S:
        why = f"the cache grows in {steps} steps; above is the step of mean length, this the mean of all"
        yield Model("Every step by itself", "Growing cache", step_s, why)


def _looped(part: Pass) -> Iterator[Model]:
    """Simulates the looped program, first as if chips did not compute while shards move."""
    apart, hidden = _of_all_layers(part, part.scenario, lambda scenario: _apart_and_hidden(run(scenario).passes[0]))
    why = "looped matmuls pass shards from chip to chip, over fewer links or in more hops than one collective"
    yield Model("Shards sent hop by hop", OVERLAP, apart, why)
    why = "they multiply one shard while the next is on its way (section 3.5)"
    yield Model("Hidden under matmuls", OVERLAP, hidden, why)
    why = "a looped matmul is launched piece by piece, each with its own overhead"
    yield Model("Launches of the pieces", OVERLAP, part.makespan_ps / PS_PER_S, why)


def _apart_and_hidden(part: Pass) -> tuple[float, float]:
    """Returns the step without overlap, and with what the loops hide; each loop is launched once, s."""
    program = part.trace.program
    computes = np.flatnonzero(program.kind == Kind.COMPUTE)
    once = _launched_once(program, computes)
    only_wires = once.busy_ps.copy()
    only_wires[computes] = 0
    of_a_chip = computes[program.chip[computes] == part.topology.representative_of(part.report.critical_chip)]
    apart_ps = simulate(replace(program, busy_ps=only_wires)).makespan_ps + int(once.busy_ps[of_a_chip].sum())
    return apart_ps / PS_PER_S, simulate(once).makespan_ps / PS_PER_S


def _launched_once(program: Program, computes: Ints) -> Program:
    """Returns the program with the launch overhead of a looped matmul on its first piece only."""
    key = np.stack([program.op[computes], program.layer[computes], program.chip[computes]])
    _, first = np.unique(key, axis=1, return_index=True)
    busy_ps = program.busy_ps.copy()
    later = np.delete(computes, first)
    busy_ps[later] -= program.overhead_ps[later]
    return replace(program, busy_ps=busy_ps)


def _unaltered(scenario: Scenario) -> tuple[float]:
    return (step_s(scenario),)


def _of_all_layers(part: Pass, scenario: Scenario, times: Callable[[Scenario], tuple[float, ...]]) -> tuple[float, ...]:
    """Extrapolates `times` of a scenario, s, from a few layers if all chips are simulated and layers are equal."""
    few = [with_fields(scenario, {"engine.layers": count}) for count in _FEW]
    if part.topology.is_folded or scenario.layers <= sum(_FEW) or scenario.residual == "hybrid":
        return times(scenario)
    first, second, third = (np.array(times(each)) for each in few)
    if (np.abs((third - second) - (second - first)) > 0.5 / PS_PER_S).any():
        return times(scenario)
    return tuple((third + (third - second) * (scenario.layers - _FEW[-1])).tolist())
