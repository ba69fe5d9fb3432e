"""Cases of a suite: each row of its CSV of published measurements as the run that it measured.

The columns of each kind of suite stand in `sim.studies.validate.csv_rows`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from sim.errors import InputError, suggest
from sim.lowering.exchange import Way
from sim.specs import ALGORITHMS, Scenario, load
from sim.specs.load import plugin_files
from sim.specs.suite import (
    AnySuite,
    CollectiveSuite,
    CopySuite,
    ExchangeSuite,
    GenerationSuite,
    MatmulSuite,
    OperationSuite,
    RequestSuite,
    Settings,
    StepSuite,
    Suite,
)
from sim.studies.validate.csv_rows import NOT_AN_INPUT, TRAINING, Row, read_rows
from sim.studies.validate.padded_lengths import lengths_of_batch
from sim.studies.validate.patterns import entry, first
from sim.studies.validate.runs import CollectiveRun, CopyRun, ExchangeRun, MatmulRun, OperationRun, Run, ScenarioRun
from sim.studies.validate.slices import slice_settings

P = ParamSpec("P")
R = TypeVar("R")


class Case(Struct, frozen=True):
    """One published value and the run that it was measured in."""

    case_id: str
    metric: str
    """`latency_s`, `mfu`, `prefill_s`, `decode_s`, `tokens_per_s`, `tokens_per_s_per_chip`, `memory_bandwidth_per_gpu`,
    `bandwidth`, `training_tokens_per_s` or `speedup`."""
    published: float
    """In the unit of the metric."""
    not_gated: str
    """Reason, empty if the value is held against the tolerance."""
    row: Row
    run: Run

    @property
    def source(self) -> str:
        """Publication of the value."""
        return self.row.get("source")


def read(name: str, rows: Path | None = None, settings: Sequence[str] = ()) -> tuple[AnySuite, tuple[Case, ...]]:
    """Reads a suite, by shipped name or path, and its cases, from its own CSV or from `rows`, with further settings.

    Raises:
        InputError: the file or a row is wrong; the message names the line.
    """
    suite = load.suite(name)
    folder = load.path("suite", name).parent
    source = rows or folder / suite.rows
    if (
        not isinstance(suite, CollectiveSuite | ExchangeSuite | MatmulSuite | CopySuite)
        and (folder / suite.base).is_file()
    ):
        suite = suite.model_copy(update={"base": str(folder / suite.base)})
    if isinstance(suite, RequestSuite):
        suite = suite.model_copy(update={"lengths": {key: str(folder / file) for key, file in suite.lengths.items()}})
    cases = read_rows(source, _case_builder(suite))
    runs = (replace(case.run, settings=(*case.run.settings, *settings)) for case in cases)
    return suite, tuple(replace(case, run=run) for case, run in zip(cases, runs, strict=True))


def with_plugins(function: Callable[Concatenate[str, P], R]) -> Callable[Concatenate[str, P], R]:
    """Returns a function of a suite's name that runs with the plugins of the suite in use."""

    @functools.wraps(function)
    def call(name: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with plugin_files.using(load.suite(name).plugins):
            return function(name, *args, **kwargs)

    return call


def _case_builder(suite: AnySuite) -> Callable[[Row], Case | None]:
    """Returns the function that makes a case of a row."""
    match suite:
        case CollectiveSuite():
            return lambda row: _collective_case(suite, row)
        case ExchangeSuite():
            return lambda row: _exchange_case(suite, row)
        case MatmulSuite():
            return lambda row: _matmul_case(suite, row)
        case CopySuite():
            return lambda row: _copy_case(suite, row)
        case OperationSuite():
            return lambda row: _operation_case(suite, row)
        case RequestSuite():
            return lambda row: _request_case(suite, row)
        case StepSuite():
            return lambda row: _step_case(suite, row)
        case GenerationSuite():
            return lambda row: _generation_case(suite, row)
    base = load.scenario(suite.base)
    return lambda row: _scenario_case(suite, base, row)


def _machine(
    suite: CollectiveSuite | ExchangeSuite | MatmulSuite | CopySuite, row: Row, *keys: str
) -> tuple[str, Settings]:
    """Returns the machine of a row's system and its settings. Raises InputError."""
    settings = dict(entry("machines", suite.machines, keys, row.where))
    if "topology" not in settings:
        raise InputError("entries of the suite's 'machines' must name a 'topology'", where=row.where, got=keys[0])
    return settings.pop("topology"), settings


def _texts(settings: Settings) -> tuple[str, ...]:
    """Returns settings as in --set."""
    return tuple(f"{field}={json.dumps(value)}" for field, value in settings.items())


def _matmul_case(suite: MatmulSuite, row: Row) -> Case:
    case_id = row.cell("case_id")
    machine, settings = _machine(suite, row, row.cell("system"))
    matmuls = MatmulRun(
        machine=machine,
        settings=_texts(settings),
        rows=row.number("m"),
        columns=row.number("n"),
        inner=row.number("k"),
        products=row.number("products") if row.get("products") else 1,
        dtype=row.cell("dtype"),
        spread=next((share for kernel, share in suite.grouped.items() if fnmatchcase(row.get("kernel"), kernel)), None),
    )
    return Case(case_id, "latency_s", row.real("time_us") * 1e-6, _not_gated(suite, case_id), row, matmuls)


def _copy_case(suite: CopySuite, row: Row) -> Case:
    case_id = row.cell("case_id")
    machine, settings = _machine(suite, row, row.cell("system"))
    run = CopyRun(machine, _texts(settings), row.real("bytes"))
    return Case(case_id, "latency_s", row.real("time_us") * 1e-6, _not_gated(suite, case_id), row, run)


def _operation_case(suite: OperationSuite, row: Row) -> Case:
    case_id, system = row.cell("case_id"), row.cell("system")
    settings = {
        **entry("systems", suite.systems, [system, f"{row.get('kernel')} on {system}"], row.where),
        **entry("models", suite.models, [row.cell("model")], row.where),
        **suite.settings,
        **_step(row),
    }
    run = OperationRun(suite.base, _texts(settings), row.cell("operation"))
    return Case(case_id, "latency_s", row.real("time_us") * 1e-6, _not_gated(suite, case_id), row, run)


def _step(row: Row) -> Settings:
    """Returns the workload of a row that measures one prefill or one decode step."""
    phase = row.one_of("phase", ("prefill", "decode"))
    prefill, tokens = phase == "prefill", row.number("tokens")
    workload = {
        "phase": phase,
        "batch": row.number("batch"),
        "prompt": tokens if prefill else None,
        "context": None if prefill else tokens,
        "generate": None if prefill else 1,
    }
    return {f"workload.{field}": value for field, value in workload.items()}


def _step_case(suite: StepSuite, row: Row) -> Case | None:
    """Returns the case of a row: one step of an engine, or of two engines to compare; None if it is left out."""
    case_id = row.cell("case_id")
    if first(suite.left_out, case_id):
        return None
    metric = row.one_of("metric", ("latency_s", "tokens_per_s_per_chip", "speedup"))
    system = row.cell("system")
    fixed = {
        **suite.settings,
        **entry("systems", suite.systems, [f"{system} gpus={row.number('gpus')}", system], row.where),
        **entry("models", suite.models, [row.cell("model")], row.where),
        **_step(row),
        "reference": None,
    }

    def settings(column: str) -> tuple[str, ...]:
        return _texts({**fixed, **entry("engines", suite.engines, [row.cell(column)], row.where)})

    baseline = settings("baseline") if metric == "speedup" else None
    run = ScenarioRun(suite.base, settings("engine"), baseline=baseline)
    return Case(case_id, metric, row.real("value"), _not_gated(suite, case_id), row, run)


_SPELLINGS = {"alltoall": "all_to_all", "sendrecv": "permute"}
"""Names of nccl-tests; in its sendrecv every GPU sends to the next and receives from the one before."""


def _collective_case(suite: CollectiveSuite, row: Row) -> Case:
    system, case_id = row.cell("system"), row.cell("case_id")
    chips = row.number("gpus")
    key = f"{system} gpus={chips}"
    machine, settings = _machine(suite, row, system, key)  # a pattern without GPUs fits the system alone
    collective, size = _SPELLINGS.get(row.cell("collective"), row.cell("collective")), row.real("bytes")
    if collective not in ALGORITHMS:
        raise InputError("unknown collective", where=row.where, got=collective, hint=suggest(collective, ALGORITHMS))
    host = first(suite.host_bound, case_id)
    run = CollectiveRun(
        machine=machine,
        settings=_texts(settings),
        chips=chips,
        collective=collective,
        size_bytes=size,
        algorithm=first(suite.algorithms, case_id) or None,
        host=first(suite.hosts, case_id) or None,
        setting=f"{settings.get('name', machine)}, {chips} chips",
    )
    not_gated = _not_gated(suite, case_id) or (host.reason if host and size <= host.up_to else "")
    return Case(case_id, "latency_s", row.real("time_us") * 1e-6, not_gated, row, run)


def _exchange_case(suite: ExchangeSuite, row: Row) -> Case:
    """Returns the case of a row; its routing is limited to groups where the row has any."""
    case_id, kernel, system, chips = row.cell("case_id"), row.cell("kernel"), row.cell("system"), row.number("gpus")
    machine, of_machine = _machine(suite, row, f"{system} gpus={chips}", system)
    way: Way = "dispatch" if row.one_of("way", ("dispatch", "combine")) == "dispatch" else "combine"
    limited = row.get("groups") != ""
    settings = {
        "model": suite.model,
        "model.d_model": row.number("d_model"),
        "model.experts.count": row.number("experts"),
        "model.experts.top_k": row.number("top_k"),
        "model.experts.groups": row.number("groups") if limited else 1,
        "model.experts.top_groups": row.number("top_groups") if limited else 1,
        **of_machine,
        **entry("kernels", suite.kernels, (f"{kernel} on {system}", kernel), row.where),
        f"workload.{way}": row.cell("format"),
    }
    if row.get("multiprocessors"):
        settings["layout.experts.multiprocessors"] = row.number("multiprocessors")
    metric = row.one_of("metric", ("latency_s", "bandwidth"))
    run = ExchangeRun(machine, _texts(settings), chips, way, row.number("tokens"))
    return Case(case_id, metric, row.real("value"), _not_gated(suite, case_id), row, run)


def published_times(
    machine: str, collective: str, chips: int, algorithm: str | None = None
) -> list[tuple[float, float]]:
    """Returns (bytes, seconds) of the published rows of a shipped machine without changes, by the same algorithm."""
    suites = [name for name in load.shipped("suite") if isinstance(load.suite(name), CollectiveSuite)]
    pairs = [(case.run, case.published) for name in suites for case in read(name)[1]]
    return [
        (run.size_bytes, published_s)
        for run, published_s in pairs
        if isinstance(run, CollectiveRun)
        and (run.machine, run.settings, run.collective) == (machine, (), collective)
        and (run.chips, run.algorithm) == (chips, algorithm)
    ]


def _generation_case(suite: GenerationSuite, row: Row) -> Case:
    """Returns the case of a row; decode steps are one less than the tokens generated: the prefill gives the first."""
    number = row.number
    metric = row.one_of("metric", ("prefill_s", "decode_s", "tokens_per_s"))
    variant, case_id = row.one_of("variant", suite.variants), f"{row.cell('case_id')}/{metric}"
    system = f"{row.cell('system')} p2p={row.cell('p2p')} tp={number('tp')}"
    known = {
        **entry("systems", suite.systems, [system], row.where),
        **entry("models", suite.models, [row.cell("model")], row.where),
    }
    prompt, steps = number("prompt_tokens"), number("generated_tokens") - 1
    tokens = {
        "prefill_s": {"phase": "prefill", "prompt": prompt},
        "decode_s": {"phase": "decode", "context": prompt, "generate": steps},
        "tokens_per_s": {"phase": "generate", "prompt": prompt, "generate": steps},
    }[metric]
    workload = {**tokens, "batch": number("batch"), "static_cache": prompt + number("generated_tokens")}
    settings = {
        **known,
        **suite.settings,
        **{f"workload.{field}": workload.get(field) for field in ("prompt", "context", "generate")},
        **{f"workload.{field}": value for field, value in workload.items()},
        "layout.mesh": {"tensor": number("tp")},
        **suite.variants[variant],
        "reference": None,
        "sweep": None,
        "figure": None,
    }
    same = ("system", "model", "tp", "p2p", "batch", "prompt_tokens", "generated_tokens")
    setting = " ".join(f"{name}={row.cell(name)}" for name in same)
    run = ScenarioRun(suite.base, _texts(settings), variant, setting)
    return Case(case_id, metric, row.real("value"), _not_gated(suite, case_id), row, run)


def _request_case(suite: RequestSuite, row: Row) -> Case | None:
    """Returns the case of a row: a forward pass, or a prefill and the decode steps after it; None if it is left out."""
    number, case_id = row.number, row.cell("case_id")
    if first(suite.left_out, case_id):
        return None
    metric = row.one_of("metric", ("latency_s", "tokens_per_s", "memory_bandwidth_per_gpu", TRAINING))
    known: dict[str, Any] = {}
    for name in ("system", "model", "engine"):
        known |= entry(f"{name}s", getattr(suite, f"{name}s"), [row.cell(name)], row.where)
    padded, real = number("input_len"), number("real_len")
    steps = number("output_len") - 1 if row.get("output_len") else 0
    workload = {"phase": "generate" if steps else "prefill", "batch": number("batch"), "prompt": padded}
    padding = {"real_lengths": real / padded} if real < padded else None
    settings = {
        **({"padding": padding} if padding else {}),
        **suite.settings,
        **({"model.layers": number("layers")} if row.get("layers") else {}),
        **{f"workload.{field}": value for field, value in workload.items()},
        "workload.generate": steps or None,
        "layout.mesh": {"tensor": number("tp"), "pipeline": number("pp")},
        "reference": None,
        **known,
    }
    if table := first(suite.lengths, row.cell("model")):
        settings["padding.real_lengths"] = lengths_of_batch(Path(table), number("batch"), padded)
    for stored in ("weights", "activations", "kv_cache"):
        settings.setdefault(f"workload.{stored}", _DTYPES.get(row.cell("dtype"), row.cell("dtype")))
    if known.get("padding.eliminate") and not padding:
        del settings["padding.eliminate"]
    machine: dict[str, Any] = {field: settings.pop(field) for field in ("topology", "model") if field in settings}
    name = f"{case_id}/{metric}" if metric == "memory_bandwidth_per_gpu" else case_id
    setting = " ".join(f"{key}={text}" for key, text in row.values.items() if key not in (*NOT_AN_INPUT, "engine"))
    recomputed = row.real("recomputed", zero=True) if metric == TRAINING else None
    run = ScenarioRun(suite.base, _texts({**machine, **settings}), row.cell("engine"), setting, recomputed)
    return Case(name, metric, row.real("value"), _not_gated(suite, case_id), row, run)


PHASES = {"prefill": "prefill", "decode_step": "decode", "decode_total": "decode", "total": "generate"}
_TOKENS = {
    "prefill": {"prompt": "input_tokens"},
    "decode_step": {"context": "context_tokens"},
    "decode_total": {"context": "context_tokens", "generate": "generated_tokens"},
    "total": {"prompt": "input_tokens", "generate": "generated_tokens"},
}
_DTYPES = {"bfloat16": "bf16", "float16": "fp16"}


def _scenario_case(suite: Suite, base: Scenario, row: Row) -> Case:
    cell, number, where = row.cell, row.number, row.where
    phase = row.one_of("phase", PHASES)
    tokens = {field: number(column) for field, column in _TOKENS[phase].items()}
    if phase == "decode_step":
        tokens["generate"] = 1
    dtypes = {
        field: _DTYPES.get(cell(column), cell(column))
        for field, column in (("weights", "weight_dtype"), ("activations", "activation_dtype"))
    }
    model, system = cell("model"), row.get("system")
    settings = {
        **(entry("systems", suite.systems, [system], where) if suite.systems and system else {}),
        **entry("models", suite.models, [model], where),
        **first(suite.at_chips, model).get(number("chips"), {}),
        "layout.ffn": cell("ffn_layout"),
        "layout.attention": cell("attention_layout"),
        **first(suite.layouts, cell("ffn_layout")),
        **first(suite.sources, row.get("source")),
        "workload": {"phase": PHASES[phase], "batch": number("batch"), **tokens, **dtypes},
        **slice_settings(suite, base, row),
        "reference": None,
    }
    error = row.real("reading_error_pct", zero=True) / 100 if row.get("reading_error_pct") else 0.0
    not_gated = _not_gated(suite, cell("case_id"))
    if not not_gated and error > suite.gated_up_to:
        not_gated = f"published to {100 * error:g} % only"
    metric, run = row.one_of("metric", ("latency_s", "mfu")), ScenarioRun(suite.base, _texts(settings))
    return Case(cell("case_id"), metric, row.real("value"), not_gated, row, run)


def _not_gated(suite: AnySuite, case_id: str) -> str:
    """Returns the suite's reason not to hold a row against the tolerance, empty if it has none."""
    return first(suite.not_gated, case_id) or ""
