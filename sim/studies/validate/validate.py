"""Predict every case of a suite: simulated, and by the closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sim import topology as machines
from sim.closed_form import pope
from sim.errors import InputError, suggest
from sim.lowering.costs import Work, cost
from sim.lowering.placement import tensor_chips, used_chips
from sim.report.measurement import Measurement
from sim.report.present.validation import NCCL_TUNER, Outcome, Validation
from sim.simulate.latency import latency_s
from sim.simulate.predict import predict
from sim.specs import DTYPE_BYTES, AnySuite, Scenario, load
from sim.studies.bench import collective as bench
from sim.studies.own_predictions import own_function
from sim.studies.validate.csv_rows import positive
from sim.studies.validate.measurements import fitted, repeated, series_of
from sim.studies.validate.orderings import orderings
from sim.studies.validate.rows import AnyCase, Case, CollectiveCase, MatmulCase, read
from sim.units import PS_PER_S

SEQUENTIAL = "stages run `sequential`, one request and one stage at a time: the suite gives no layout.pipeline"
"""Note of a case in several pipeline stages that says nothing of their schedule."""


def validate(
    name: str, rows: Path | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Validation:
    """Predict every case of a suite.

    Args:
        name: a shipped suite or a file.
        rows: another CSV of the same columns, in place of the suite's own.
        progress: called with (cases done, cases in all).

    Raises:
        InputError: a row that is wrong, or a scenario that cannot run; the message names it.
    """
    suite, cases = read(name, rows)
    own = _own_forms(suite, cases, load.path("suite", name).parent)
    own_cases = read(name)[1] if rows and (suite.calibration or suite.fitted) else cases
    known_fits = {_identity(own_cases[place]) for place in fitted(suite, own_cases)}
    outcomes: list[Outcome] = []
    scenarios: dict[int, Scenario] = {}
    known: dict[str, float] = {}
    for place, case in enumerate(cases):
        progress(place, len(cases))
        with _named(case):
            if isinstance(case, CollectiveCase):
                outcome = _of_collective(case)
            elif isinstance(case, MatmulCase):
                outcome = _of_matmul(case)
            else:
                scenarios[place] = case.scenario()
                outcome = _of_scenario(case, scenarios[place], known)
            forms = {**outcome.forms, **_own(case, scenarios.get(place), own)}
        outcomes.append(replace(outcome, forms=forms, series=series_of(case, suite.series)))
    measured = repeated(cases, scenarios)
    fits = {measured.get(place, place) for place, case in enumerate(cases) if _identity(case) in known_fits}
    marked = [
        replace(
            outcome,
            repeats=cases[measured[place]].case_id if place in measured else "",
            fitted=measured.get(place, place) in fits,
        )
        for place, outcome in enumerate(outcomes)
    ]
    return Validation(suite, tuple(marked), orderings(cases, marked, suite))


def _identity(case: AnyCase) -> tuple[str, float]:
    return case.case_id, case.published


@contextmanager
def _named(case: AnyCase) -> Iterator[None]:
    """Names the case in messages."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error), where=case.case_id) from None


OwnForm = Callable[[AnyCase, Scenario | None], float | None]


def _own_forms(suite: AnySuite, cases: Sequence[AnyCase], folder: Path) -> dict[str, OwnForm]:
    """Returns the suite's own predictions by name: functions of a case and its scenario, None where it has none.

    Raises:
        InputError: the rows have no such column, or there is no such function.
    """

    def of_column(column: str) -> OwnForm:
        return lambda case, scenario: positive(case.row, column)

    def of_function(function: Callable[..., float]) -> OwnForm:
        def form(case: AnyCase, scenario: Scenario | None) -> float:
            if scenario is None or not isinstance(case, Case):
                return function(*_arguments(case))
            return predicted(case, scenario, function(scenario))

        return form

    found = {}
    for name, each in suite.predictions.items():
        where = f"{suite.name}: predictions.{name}"
        if each.column and each.column not in cases[0].row:
            hint = suggest(each.column, cases[0].row)
            raise InputError("must be a column of the rows", where=f"{where}.column", got=each.column, hint=hint)
        found[name] = (
            of_column(each.column)
            if each.column
            else of_function(own_function(each.closed_form or "", folder, f"{where}.closed_form"))
        )
    return found


def _arguments(case: AnyCase) -> tuple[object, ...]:
    if isinstance(case, CollectiveCase):
        return case.collective, case.chips, case.size_bytes
    return (case.rows, case.columns, case.inner, case.products, case.dtype) if isinstance(case, MatmulCase) else ()


def _own(case: AnyCase, scenario: Scenario | None, own: Mapping[str, OwnForm]) -> dict[str, float]:
    values = {name: form(case, scenario) for name, form in own.items()}
    return {name: value for name, value in values.items() if value is not None}


def predicted(case: Case, scenario: Scenario, latency: float) -> float:
    """A latency in the case's metric."""
    if case.metric in ("latency_s", "prefill_s", "decode_s"):
        return latency
    if case.metric == "memory_bandwidth_per_gpu":
        return _bytes_per_step(scenario) * scenario.workload.steps / latency
    if case.metric == "tokens_per_s":
        return scenario.workload.batch * scenario.workload.steps / latency
    peak = scenario.topology.chip.peak[scenario.workload.activations].value
    return pope.mfu(scenario.parameters, scenario.tokens, used_chips(scenario), peak, latency)


def _bytes_per_step(scenario: Scenario) -> float:
    """Weights per GPU as gpt-fast counts them: layers split over chips, embedding and head whole."""
    model, bytes_each = scenario.model, DTYPE_BYTES[scenario.workload.weights]
    ends = model.table_parameters
    return bytes_each * ((model.parameters - ends) / tensor_chips(scenario) + ends)


def simulated(case: AnyCase, *further: str, known: MutableMapping[str, float] | None = None) -> float:
    """The prediction in the case's metric, with further settings; `known` as in `latency_s`. Raises InputError."""
    if isinstance(case, CollectiveCase):
        return _with_host(case, measure(case, *further).time_s)
    if isinstance(case, MatmulCase):
        return matmul_s(case, *further)
    scenario = case.scenario(*further)
    return predicted(case, scenario, latency_s(scenario, known))


def measure(case: CollectiveCase, *further: str) -> Measurement:
    """The case's collective, with further settings of its machine. Raises InputError."""
    spec, stack = load.machine(case.machine, [*case.settings, *further])
    topology = machines.build(spec.keep_first_chips(case.chips), stack)
    axes = tuple(axis.name for axis in topology.axes)
    return bench.measure(topology, case.collective, axes, case.size_bytes, case.algorithm)


def _with_host(case: CollectiveCase, gpus_s: float) -> float:
    return case.host.total_s(gpus_s, case.size_bytes) if case.host else gpus_s


def _of_collective(case: CollectiveCase) -> Outcome:
    found = measure(case)
    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric="latency_s",
        published=case.published,
        simulated=_with_host(case, found.time_s),
        forms={NCCL_TUNER: found.closed_form_s} if found.form == NCCL_TUNER and found.closed_form_s else {},
        not_gated=case.not_gated,
        algorithm=found.algorithm,
        setting=case.setting,
        collective=case.collective,
        size_bytes=case.size_bytes,
    )


def matmul_s(case: MatmulCase, *further: str) -> float:
    """Time of the case's matmuls, s, with further settings. Products of 8-bit numbers are written as 16-bit ones."""
    chip = machines.build(*load.machine(case.machine, [*case.settings, *further])).chip
    if case.dtype not in DTYPE_BYTES:
        raise InputError("unknown number format", where="dtype", got=case.dtype, hint=suggest(case.dtype, DTYPE_BYTES))
    m, n, k, size = case.rows, case.columns, case.inner, DTYPE_BYTES[case.dtype]
    moved = case.products * ((m * k + k * n) * size + m * n * max(size, 2))
    work = Work(2.0 * m * n * k * case.products, moved, rows=m, columns=n, products=case.products)
    return cost(chip, work, case.dtype).duration_ps / PS_PER_S


def _of_matmul(case: MatmulCase) -> Outcome:
    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric=case.metric,
        published=case.published,
        simulated=matmul_s(case),
        forms={},
        not_gated=case.not_gated,
    )


def _of_scenario(case: Case, scenario: Scenario, known: MutableMapping[str, float]) -> Outcome:
    form = predict(scenario)
    latencies = {form.name: form.latency_s, form.per_axis_name: form.per_axis_latency_s} if form else {}
    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric=case.metric,
        published=case.published,
        simulated=predicted(case, scenario, latency_s(scenario, known)),
        forms={
            name.removeprefix("closed form, "): predicted(case, scenario, latency)
            for name, latency in latencies.items()
        },
        not_gated=case.not_gated,
        note=SEQUENTIAL if scenario.pipeline and scenario.layout.pipeline is None else "",
        variant=case.variant,
        setting=case.setting,
    )
