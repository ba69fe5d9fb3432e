"""Predict every case of a suite: simulated, and by the closed forms."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from pathlib import Path

from sim import bench, load
from sim import topology as machines
from sim.closed_form import pope
from sim.errors import InputError
from sim.placement import some_chips, tensor_chips, used_chips
from sim.report.validation import Outcome, Validation
from sim.run import latency_s, predict
from sim.specs import DTYPE_BYTES, Scenario
from sim.suite import Case, CollectiveCase, read


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
    outcomes = []
    known: dict[str, float] = {}
    for done, case in enumerate(cases):
        progress(done, len(cases))
        outcomes.append(_outcome(case, known))
    return Validation(suite, tuple(outcomes))


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


def simulated(case: Case | CollectiveCase, *further: str, known: MutableMapping[str, float] | None = None) -> float:
    """The prediction in the case's metric, with further settings; `known` as in `latency_s`. Raises InputError."""
    if isinstance(case, CollectiveCase):
        return _with_host(case, measure(case, *further).time_s)
    scenario = case.scenario(*further)
    return predicted(case, scenario, latency_s(scenario, known))


def measure(case: CollectiveCase, *further: str) -> bench.Measurement:
    """The case's collective, with further settings of its machine. Raises InputError."""
    spec, stack = load.machine(case.machine, [*case.settings, *further])
    topology = machines.build(some_chips(spec, range(case.chips)), stack)
    axes = tuple(axis.name for axis in topology.axes)
    return bench.measure(topology, case.collective, axes, case.size_bytes, case.algorithm)


def _with_host(case: CollectiveCase, gpus_s: float) -> float:
    return case.host.total_s(gpus_s, case.size_bytes) if case.host else gpus_s


def _outcome(case: Case | CollectiveCase, known: MutableMapping[str, float]) -> Outcome:
    try:
        return _of_collective(case) if isinstance(case, CollectiveCase) else _of_scenario(case, known)
    except InputError as error:
        raise InputError(str(error), where=case.case_id) from None


def _of_collective(case: CollectiveCase) -> Outcome:
    found = measure(case)
    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric="latency_s",
        published=case.published,
        simulated=_with_host(case, found.time_s),
        paper=found.closed_form_s if found.form == "NCCL's tuner" else None,
        per_axis=None,
        not_gated=case.not_gated,
        algorithm=found.algorithm,
        setting=case.setting,
        collective=case.collective,
        size_bytes=case.size_bytes,
    )


def _of_scenario(case: Case, known: MutableMapping[str, float]) -> Outcome:
    scenario = case.scenario()
    form = predict(scenario)
    return Outcome(
        case_id=case.case_id,
        source=case.source,
        metric=case.metric,
        published=case.published,
        simulated=predicted(case, scenario, latency_s(scenario, known)),
        paper=predicted(case, scenario, form.latency_s) if form else None,
        per_axis=predicted(case, scenario, form.per_axis_latency_s) if form else None,
        not_gated=case.not_gated,
        variant=case.variant,
        setting=case.setting,
    )
