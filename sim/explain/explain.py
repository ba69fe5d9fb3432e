"""One explanation per phase of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from sim.closed_form.per_axis import per_axis
from sim.closed_form.tensor_parallel import LAYOUT, per_operation
from sim.engine import simulate
from sim.errors import InputError
from sim.explain import formula, tensor_parallel
from sim.explain.changes import IDEAL, changed
from sim.program import Ints, Kind, Program
from sim.report.explanation import HALVES, PAPERS, ROUNDING, Explanation, Model, bars
from sim.run import Pass, Run, run, step_s, uncovered, wires
from sim.specs import Scenario
from sim.units import PS_PER_S, format_list, format_seconds

CONTENTION = "Contention"
MACHINE = "A machine below its data sheet"
WAITING = "Latency and overheads"
OVERLAP = "Overlap"
_FEW = (3, 4, 5)
"""Layers of the runs that show whether layers take equal times."""


def explain(result: Run) -> tuple[Explanation, ...]:
    """Why the simulated step of each phase is not what the paper's formula, or the usual one, says.

    Raises:
        InputError: a layout that no formula covers.
    """
    published = result.report.published
    published_s = published.value / result.scenario.workload.steps if published and len(result.passes) == 1 else None
    return tuple(_explain(part, published_s) for part in result.passes)


def _explain(part: Pass, published_s: float | None) -> Explanation:
    scenario = part.scenario
    if what := uncovered(scenario):
        raise InputError(f"no closed form covers {what}", where=scenario.name, hint="run it without --explain")
    if scenario.layout.ffn == LAYOUT:
        words, inexact = HALVES, per_operation(changed(scenario, tensor_parallel.FREE), wires(scenario)).inexact
        first, simulated = tensor_parallel.formulas(scenario), [*tensor_parallel.simulations(part), *_growing(part)]
    else:
        ideal = changed(scenario, IDEAL)
        words, inexact = PAPERS, per_axis(ideal).inexact
        first, simulated = formula.models(ideal), [*_simulated(part, ideal), *_growing(part)]
    # Effects that do not apply make no difference; that nothing contends is worth saying.
    closed, (contention, *others) = list(_telling(first)), simulated
    telling = [contention, *_telling(others, before=contention.step_s)]
    found = tuple(bars([*closed, *telling]))
    return Explanation(
        scenario=scenario.name,
        phase=scenario.workload.phase,
        machine=part.report.machine,
        chips=part.report.chips,
        bars=found,
        ideal_at=len(closed),
        inexact=inexact,
        published_s=published_s,
        words=words,
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


def _simulated(part: Pass, ideal: Scenario) -> Iterator[Model]:
    """Simulations, from the ideal machine to the scenario as it is."""
    real = part.scenario
    form = per_axis(ideal)
    (step,) = _of_all_layers(part, ideal, _unaltered)
    why = "none: nothing waits that the closed form does not count; it is exact here, and the simulation agrees"
    if not form.exact:
        reasons = format_list(form.inexact)
        why = f"what the closed form does not know: it {reasons}"
        if abs(step - form.step_s) < ROUNDING * step:
            why = f"none, though the closed form {reasons}"
    yield Model("Shared links", CONTENTION, step, why)

    scenario = ideal
    for name, group, field, words in _EFFECTS:
        value = _get(real, field)
        if value == IDEAL[field]:
            continue
        scenario, before = changed(scenario, {field: value}), step
        (step,) = _of_all_layers(part, scenario, _unaltered)
        yield Model(name, group, step, words(real, value, step - before))

    if real.overlap != "none":
        for model in _looped(part):
            step = model.step_s
            yield model


def _growing(part: Pass) -> Iterator[Model]:
    """The mean of all steps, where each was simulated by itself."""
    step_s, steps = part.report.simulated.step_s, part.scenario.workload.steps
    if step_s != part.makespan_ps / PS_PER_S:
        why = f"the cache grows in {steps} steps; above is the step of mean length, this the mean of all"
        yield Model("Every step by itself", "Growing cache", step_s, why)


def _looped(part: Pass) -> Iterator[Model]:
    """The looped program: first as if chips did not compute while shards move, then as it is."""
    apart, hidden = _of_all_layers(part, part.scenario, lambda scenario: _apart_and_hidden(run(scenario).passes[0]))
    why = "looped matmuls pass shards from chip to chip, over fewer links or in more hops than one collective"
    yield Model("Shards sent hop by hop", OVERLAP, apart, why)
    why = "they multiply one shard while the next is on its way (section 3.5)"
    yield Model("Hidden under matmuls", OVERLAP, hidden, why)
    why = "a looped matmul is launched piece by piece, each with its own overhead"
    yield Model("Launches of the pieces", OVERLAP, part.makespan_ps / PS_PER_S, why)


def _apart_and_hidden(part: Pass) -> tuple[float, float]:
    """Step with nothing under the matmuls, and with what the loops hide; each loop is launched once, s."""
    program = part.trace.program
    computes = np.flatnonzero(program.kind == Kind.COMPUTE)
    once = _launched_once(program, computes)
    only_wires = once.busy_ps.copy()
    only_wires[computes] = 0
    of_a_chip = computes[program.chip[computes] == part.topology.stand_in(part.report.critical_chip)]
    apart_ps = simulate(replace(program, busy_ps=only_wires)).makespan_ps + int(once.busy_ps[of_a_chip].sum())
    return apart_ps / PS_PER_S, simulate(once).makespan_ps / PS_PER_S


def _launched_once(program: Program, computes: Ints) -> Program:
    """The program with the launch overhead of a looped matmul on its first piece only."""
    key = np.stack([program.op[computes], program.layer[computes], program.chip[computes]])
    _, first = np.unique(key, axis=1, return_index=True)
    busy_ps = program.busy_ps.copy()
    later = np.delete(computes, first)
    busy_ps[later] -= program.overhead_ps[later]
    return replace(program, busy_ps=busy_ps)


def _unaltered(scenario: Scenario) -> tuple[float]:
    return (step_s(scenario),)


def _of_all_layers(part: Pass, scenario: Scenario, times: Callable[[Scenario], tuple[float, ...]]) -> tuple[float, ...]:
    """`times` of a scenario, s, from a few of its layers where every chip is simulated and layers take equal times."""
    few = [changed(scenario, {"engine.layers": count}) for count in _FEW]
    if part.topology.unfolded is not None or scenario.layers <= sum(_FEW):
        return times(scenario)
    first, second, third = (np.array(times(each)) for each in few)
    if (np.abs((third - second) - (second - first)) > 0.5 / PS_PER_S).any():
        return times(scenario)
    return tuple((third + (third - second) * (scenario.layers - _FEW[-1])).tolist())


# --- effects of the machine, in the order in which they are switched on ----------------------------------------------

Words = Callable[[Scenario, Any, float], str]
"""(scenario, the machine's value, what it adds to the step, s) -> why."""


def _get(scenario: Scenario, path: str) -> Any:
    value: Any = scenario
    for name in path.split("."):
        value = getattr(value, name)
    return getattr(value, "value", value)


def _matmul(scenario: Scenario, value: float, _: float) -> str:
    peak = scenario.topology.chip.peak[scenario.workload.activations].value
    return f"large matmuls reach {value:.1%} of {peak / 1e12:.0f} TFLOP/s"


def _with_collectives(_: Scenario, value: float, __: float) -> str:
    return f"matmuls whose input is gathered or whose output is scattered over an axis reach {value:.1%} of that"


def _in_turn(_: Scenario, __: str, ___: float) -> str:
    return "a collective over several axes is one on each, over the links of that axis alone"


def _memory(scenario: Scenario, value: float, _: float) -> str:
    return f"streaming reads reach {value:.1%} of {scenario.topology.chip.hbm_bandwidth.value / 1e9:.0f} GB/s"


def _tiled(scenario: Scenario, value: float, _: float) -> str:
    rate = scenario.topology.chip.hbm_bandwidth.value / 1e9
    return f"matmuls of more than one row, whose weights are read in tiles, reach {value:.1%} of {rate:.0f} GB/s"


def _beside(_: Scenario, value: float, __: float) -> str:
    return f"{1 - value:.0%} of the shorter of FLOPs and memory in an operation does not pass under the longer"


def _link(scenario: Scenario, value: float, _: float) -> str:
    return f"long transfers reach {value:.1%} of {_get(scenario, 'topology.link.bandwidth') / 1e9:.0f} GB/s a link"


def _hops(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} a hop, {added / value:,.0f} hops after each other"


def _steps(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} to start a message, {added / value:,.0f} messages after each other"


def _launches(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} to start each of {added / value:,.0f} collectives"


def _kernels(_: Scenario, value: str, __: float) -> str:
    return "norms, activations and residual adds read and write memory by themselves"


def _ops(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} beside each of {added / value:,.0f} matmuls and attentions"


_EFFECTS: tuple[tuple[str, str, str, Words], ...] = (
    ("Memory bandwidth reached", MACHINE, "stack.hbm_efficiency", _memory),
    ("Memory bandwidth of matmuls", MACHINE, "stack.matmul_hbm_efficiency", _tiled),
    ("Matmul rate reached", MACHINE, "stack.matmul_efficiency", _matmul),
    ("Matmuls with collectives", MACHINE, "stack.collective_matmul_efficiency", _with_collectives),
    ("FLOPs and memory in turn", MACHINE, "stack.roofline_overlap", _beside),
    ("Link bandwidth reached", MACHINE, "topology.link.efficiency", _link),
    ("Axes one after the other", MACHINE, "stack.collective_axes", _in_turn),
    ("Norms and activations apart", MACHINE, "stack.elementwise", _kernels),
    ("Hop latency", WAITING, "topology.link.latency", _hops),
    ("Steps of collectives", WAITING, "stack.collective_step", _steps),
    ("Launches of collectives", WAITING, "stack.collective_overhead", _launches),
    ("Launches of operations", WAITING, "stack.op_overhead", _ops),
)
