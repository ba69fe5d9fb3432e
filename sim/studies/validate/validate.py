"""Predict every case of a suite: simulated, and by the closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from sim import topology as machines
from sim.closed_form import pope
from sim.errors import InputError, suggest
from sim.lowering.costs import Work, cost
from sim.lowering.placement import tensor_chips, used_chips
from sim.lowering.work import GroupedMatmul
from sim.program import Kind
from sim.report.closed_form import PER_OPERATION
from sim.report.collective_result import CollectiveResult
from sim.report.exchange_result import ExchangeResult
from sim.report.present.validation import NCCL_TUNER, Outcome, Validation
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.latency import latency_s
from sim.simulate.predict import predict
from sim.simulate.run import run as simulate
from sim.specs import DTYPE_BYTES, Scenario, StackSpec, load
from sim.specs.suite import AnySuite
from sim.studies.bench import collective as bench
from sim.studies.bench.exchange import ExchangeCase, run_exchange
from sim.studies.own_predictions import load_function
from sim.studies.validate.cases import Case, read, with_plugins
from sim.studies.validate.csv_rows import TRAINING
from sim.studies.validate.measurements import find_repeats, fitted_places, series_of
from sim.studies.validate.orderings import compare_options
from sim.studies.validate.runs import CollectiveRun, CopyRun, ExchangeRun, MatmulRun, OperationRun, Run, ScenarioRun
from sim.topology.graph import Topology
from sim.units import PS_PER_S

SEQUENTIAL = "stages run `sequential`, one request and one stage at a time: the suite gives no layout.pipeline"
"""Note of a case in several pipeline stages that says nothing of their schedule."""


@with_plugins
def validate(
    name: str,
    rows: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    settings: Sequence[str] = (),
) -> Validation:
    """Predicts every case of a suite.

    Args:
        name: a shipped suite or a file.
        rows: another CSV of the same columns, in place of the suite's own.
        progress: called with (cases done, cases in all).
        settings: changes of the scenario or machine of every row, as in --set.

    Raises:
        InputError: a row that is wrong, or a scenario that cannot run; the message names it.
    """
    suite, cases = read(name, rows, settings)
    forms_of_user = _own_forms(suite, cases, load.path("suite", name).parent)
    own_cases = read(name)[1] if rows and (suite.calibration or suite.fitted) else cases
    known_fits = {_identity(own_cases[place]) for place in fitted_places(suite, own_cases)}
    outcomes: list[Outcome] = []
    scenarios: dict[int, Scenario] = {}
    known: dict[str, float] = {}
    for place, case in enumerate(cases):
        progress(place, len(cases))
        with _named(case):
            if isinstance(case.run, ScenarioRun):
                scenarios[place] = case.run.scenario()
            outcome = _outcome(case, scenarios.get(place), known)
            forms = {**outcome.forms, **_own(case, scenarios.get(place), forms_of_user)}
        outcomes.append(replace(outcome, forms=forms, series=series_of(case, suite.series)))
    passes = {place: scenario for place, scenario in scenarios.items() if cases[place].metric != "speedup"}
    measured = find_repeats(cases, passes)
    fits = {measured.get(place, place) for place, case in enumerate(cases) if _identity(case) in known_fits}
    marked = [
        replace(
            outcome,
            repeats=cases[measured[place]].case_id if place in measured else "",
            fitted=measured.get(place, place) in fits,
        )
        for place, outcome in enumerate(outcomes)
    ]
    return Validation(suite, tuple(marked), compare_options(cases, marked, suite))


def _identity(case: Case) -> tuple[str, float]:
    return case.case_id, case.published


@contextmanager
def _named(case: Case) -> Iterator[None]:
    """Names the case in messages."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error), where=case.case_id) from None


OwnForm = Callable[[Case, Scenario | None], float | None]


def _own_forms(suite: AnySuite, cases: Sequence[Case], folder: Path) -> dict[str, OwnForm]:
    """Returns the suite's own predictions by name: functions of a case and its scenario, None where it has none.

    Raises:
        InputError: the rows have no such column, or there is no such function.
    """

    def of_column(column: str) -> OwnForm:
        return lambda case, scenario: case.row.real(column) if case.row.get(column) else None

    def of_function(function: Callable[..., float]) -> OwnForm:
        def form(case: Case, scenario: Scenario | None) -> float:
            if scenario is None:
                return function(*_arguments(case.run))
            return to_metric(case.metric, scenario, function(scenario))

        return form

    forms = {}
    for name, each in suite.predictions.items():
        where = f"{suite.name}: predictions.{name}"
        if each.column and each.column not in cases[0].row.values:
            hint = suggest(each.column, cases[0].row.values)
            raise InputError("must be a column of the rows", where=f"{where}.column", got=each.column, hint=hint)
        forms[name] = (
            of_column(each.column)
            if each.column
            else of_function(load_function(each.closed_form or "", folder, f"{where}.closed_form"))
        )
    return forms


def _arguments(run: Run) -> tuple[object, ...]:
    if isinstance(run, CollectiveRun):
        return run.collective, run.chips, run.size_bytes
    if isinstance(run, MatmulRun):
        return run.rows, run.columns, run.inner, run.products, run.dtype
    if isinstance(run, CopyRun):
        return (run.moved_bytes,)
    return (run.scenario(), run.operations) if isinstance(run, OperationRun) else ()


def _own(case: Case, scenario: Scenario | None, forms: Mapping[str, OwnForm]) -> dict[str, float]:
    values = {name: form(case, scenario) for name, form in forms.items()}
    return {name: value for name, value in values.items() if value is not None}


def to_metric(metric: str, scenario: Scenario, latency: float) -> float:
    """Converts a latency (s) to a metric."""
    if metric in ("latency_s", "prefill_s", "decode_s"):
        return latency
    if metric == "memory_bandwidth_per_gpu":
        return _bytes_per_step(scenario) * scenario.workload.steps / latency
    if metric == TRAINING:
        return scenario.tokens / used_chips(scenario) / latency
    if metric == "tokens_per_s":
        return scenario.workload.batch * scenario.workload.steps / latency
    if metric == "tokens_per_s_per_chip":
        return _tokens(scenario) / used_chips(scenario) / latency
    return pope.mfu(scenario.parameters, scenario.tokens, used_chips(scenario), scenario.matmul_peak.value, latency)


def _tokens(scenario: Scenario) -> float:
    """Returns the tokens that a prefill processes, or that decode steps are expected to add."""
    workload = scenario.workload
    return workload.tokens if workload.phase == "prefill" else workload.batch * workload.accepted * workload.steps


def _bytes_per_step(scenario: Scenario) -> float:
    """Returns the weights per GPU as gpt-fast counts them: layers split over chips, embedding and head replicated."""
    model, bytes_each = scenario.model, DTYPE_BYTES[scenario.workload.weights]
    ends = model.table_parameters
    return bytes_each * ((model.parameters - ends) / tensor_chips(scenario) + ends)


def simulate_case(case: Case, *settings: str, known: MutableMapping[str, float] | None = None) -> float:
    """Simulates a case with further settings; `known` as in `latency_s`.

    Returns:
        The prediction in the case's metric.

    Raises:
        InputError: a setting that is wrong, or a run that is not possible.
    """
    run = case.run
    if isinstance(run, CollectiveRun):
        return _with_host(run, run_collective(run, *settings).time_s)
    if isinstance(run, ExchangeRun):
        result = exchange(run, *settings)
        return result.bandwidth if case.metric == "bandwidth" else result.time_s
    if isinstance(run, MatmulRun):
        return matmul_s(run, *settings)
    if isinstance(run, CopyRun):
        return copy_s(run, *settings)
    if isinstance(run, OperationRun):
        return operation_s(run, *settings)
    scenario = run.scenario(*settings)
    own_s = measured_s(run, scenario, known)
    if run.baseline is None:
        return to_metric(case.metric, scenario, own_s)
    return latency_s(load.scenario(run.base, [*run.baseline, *settings]), known) / own_s


def measured_s(run: ScenarioRun, scenario: Scenario, known: MutableMapping[str, float] | None = None) -> float:
    """Simulates the time that a row measures, s: of a scenario, or of the step of training that it stands for.

    A step is a forward pass, the recomputed share of one, and a backward pass. The backward pass multiplies twice as
    often: for the gradients of the activations, with the collectives of the forward pass in reverse, and for those of
    the weights, with none. Assumes that the former takes as long as the forward pass, and the latter as long as its
    compute by itself, and that collectives between replicas and the optimizer hide or take no time.
    """
    forward_s = latency_s(scenario, known)
    if run.recomputed is None:
        return forward_s
    apart = scenario.model_copy(update={"layout": scenario.layout.model_copy(update={"overlap": "none"})})
    return (2 + run.recomputed) * forward_s + simulate(apart).report.simulated.compute_s


def run_collective(run: CollectiveRun, *settings: str) -> CollectiveResult:
    """Simulates a case's collective with further settings of its machine. Raises InputError."""
    topology, _ = _machine(run, [*run.settings, *settings])
    axes = tuple(axis.name for axis in topology.axes)
    return bench.run_collective(topology, bench.CollectiveSpec(run.collective, axes, run.size_bytes, run.algorithm))


def exchange(run: ExchangeRun, *settings: str) -> ExchangeResult:
    """Simulates a case's exchange of tokens with further settings. Raises InputError."""
    inputs, of_machine = load.exchange([*run.settings, *settings])
    topology, stack = _machine(run, of_machine)
    return run_exchange(topology, stack, ExchangeCase.of(inputs, run.way, run.tokens))


def _machine(run: CollectiveRun | ExchangeRun, settings: Sequence[str]) -> tuple[Topology, StackSpec]:
    """Returns the chips that take part, and their stack.

    Raises:
        InputError: the machine has fewer chips, or is a torus that has more.
    """
    spec, stack = load.machine(run.machine, settings)
    part = spec.keep_first_chips(min(run.chips, spec.chip_count))
    if part.chip_count != run.chips:
        rule = f"{run.machine} has {spec.chip_count} chips{', and a torus runs on all of them' if spec.lines else ''}"
        hint = "a pattern of the suite's 'machines' may say gpus=16, and give a number of boxes or axes of a slice"
        raise InputError(rule, got=run.chips, hint=hint)
    return machines.build(part, stack), stack


def _with_host(run: CollectiveRun, gpus_s: float) -> float:
    return run.host.total_s(gpus_s, run.size_bytes) if run.host else gpus_s


def matmul_s(run: MatmulRun, *settings: str) -> float:
    """Returns the time of a case's matmuls, s, with further settings. Products of 8-bit numbers are written in bf16.

    Raises:
        InputError: an unknown number format, or a setting that is wrong.
    """
    chip = machines.build(*load.machine(run.machine, [*run.settings, *settings])).chip
    if run.dtype not in DTYPE_BYTES:
        raise InputError("must be a number format", where="dtype", got=run.dtype, hint=suggest(run.dtype, DTYPE_BYTES))
    return cost(chip, _matmul_work(run), run.dtype).duration_ps / PS_PER_S


def copy_s(run: CopyRun, *settings: str) -> float:
    """Returns the time of a case's copy, s, with further settings. Raises InputError for a setting that is wrong."""
    chip = machines.build(*load.machine(run.machine, [*run.settings, *settings])).chip
    return cost(chip, Work(0.0, run.moved_bytes), "bf16").duration_ps / PS_PER_S


def _matmul_work(run: MatmulRun) -> Work:
    m, n, k, size = run.rows, run.columns, run.inner, DTYPE_BYTES[run.dtype]
    written = run.dtype if size >= DTYPE_BYTES["bf16"] else "bf16"
    if run.spread is not None:
        steps = [(2 * expert + 1) / run.products - 1 for expert in range(run.products)]
        rows = [floor(m * (1 + run.spread * step)) for step in steps]
        hit = sum(count > 0 for count in rows)
        return GroupedMatmul(k, n, run.dtype, run.dtype, written).work(rows, hit)
    moved = run.products * ((m * k + k * n) * size + m * n * DTYPE_BYTES[written])
    return Work(2.0 * m * n * k * run.products, moved, rows=m, columns=n, products=run.products)


def operation_s(run: OperationRun, *settings: str) -> float:
    """Returns the time of a case's operations, s, with further settings: from the start of the first to the end of the
    last, on the chip where it is longest.

    Raises:
        InputError: the pass has no such operation, or a setting is wrong.
    """
    trace = simulate_pass(run.scenario(*settings).phases[0]).trace
    program, names = trace.program, trace.program.op_names
    chosen = np.zeros(len(names), dtype=np.bool_)
    for pattern in map(str.strip, run.operations.split(",")):
        fits = np.array([fnmatchcase(name, pattern) for name in names])
        if not fits.any():
            hint = suggest(pattern, names)
            raise InputError("must be an operation of the pass", where="operation", got=pattern, hint=hint)
        chosen |= fits
    tasks = np.flatnonzero(chosen[program.op] & (program.kind != Kind.SEND))  # a message may outlast its sender's part
    times, chip = trace.times[tasks], program.chip[tasks]
    own = (times[chip == each] for each in np.unique(chip))
    return max(int(each["end"].max() - each["start"].min()) for each in own) / PS_PER_S


def _outcome(case: Case, scenario: Scenario | None, known: MutableMapping[str, float]) -> Outcome:
    """Simulates a case, and predicts it by the closed forms.

    Args:
        scenario: None for a collective or matmuls.
        known: as in `latency_s`.
    """
    run = case.run

    def outcome(simulated: float, forms: Mapping[str, float], **fields: Any) -> Outcome:
        names = case.case_id, case.source, case.metric
        return Outcome(*names, case.published, simulated, forms, case.not_gated, **fields)

    if isinstance(run, ExchangeRun | MatmulRun | CopyRun | OperationRun):
        return outcome(simulate_case(case), {})
    if isinstance(run, CollectiveRun):
        result = run_collective(run)
        return outcome(
            _with_host(run, result.time_s),
            {NCCL_TUNER: result.closed_form_s} if result.form == NCCL_TUNER and result.closed_form_s else {},
            setting=run.setting,
            algorithm=result.algorithm,
            collective=run.collective,
            size_bytes=run.size_bytes,
        )
    assert scenario is not None
    form = predict(scenario) if run.recomputed is None and run.baseline is None else None
    latencies = {form.name: form.latency_s, PER_OPERATION: form.detailed_latency_s} if form else {}
    return outcome(
        simulate_case(case, known=known),
        {name.removeprefix("closed form, "): to_metric(case.metric, scenario, s) for name, s in latencies.items()},
        setting=run.setting,
        note=SEQUENTIAL if scenario.pipeline and scenario.layout.pipeline is None else "",
        variant=run.variant,
    )
