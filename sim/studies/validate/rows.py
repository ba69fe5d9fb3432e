"""Published measurements as scenarios, collectives or matmuls: a CSV of rows, and a file that says how to read them.

The columns of each kind of suite stand in `sim.studies.validate.csv_templates`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from sim.errors import InputError, listed, suggest
from sim.specs import (
    ALGORITHMS,
    AnySuite,
    CollectiveSuite,
    GenerationSuite,
    HostTimes,
    MatmulSuite,
    RequestSuite,
    Scenario,
    Settings,
    Suite,
    load,
)
from sim.studies.validate.csv_rows import Row, read_rows
from sim.studies.validate.padded_lengths import lengths_of_batch


@dataclass(frozen=True, slots=True)
class Case:
    """One published value and the scenario it was measured in."""

    case_id: str
    source: str
    metric: str
    """`latency_s`, `mfu`, `prefill_s`, `decode_s` or `tokens_per_s`."""
    published: float
    base: str
    settings: tuple[str, ...]
    """What the row changes in the base, as in --set."""
    not_gated: str
    """Reason, empty if it is gated."""
    variant: str = ""
    """Residual scheme as the row calls it."""
    setting: str = ""
    """What rows of other variants have in common with this one."""
    row: Mapping[str, str] = field(default_factory=dict)
    """The line of the CSV, by column."""

    def scenario(self, *further: str) -> Scenario:
        """The scenario of the row, with further settings. Raises InputError."""
        return load.scenario(self.base, [*self.settings, *further])


@dataclass(frozen=True, slots=True)
class CollectiveCase:
    """One published time and the collective it is of."""

    case_id: str
    source: str
    published: float
    """Seconds."""
    machine: str
    settings: tuple[str, ...]
    """What the row changes in the machine, as in --set."""
    chips: int
    collective: str
    size_bytes: float
    algorithm: str | None
    """None for the machine's default."""
    not_gated: str
    """Reason, empty if it is gated."""
    setting: str
    """Machine and chips."""
    host: HostTimes | None = None
    """None where the GPUs alone take the time."""
    row: Mapping[str, str] = field(default_factory=dict)
    """The line of the CSV, by column."""
    metric: str = "latency_s"


@dataclass(frozen=True, slots=True)
class MatmulCase:
    """One published time and the matmuls, in one launch, it is of."""

    case_id: str
    source: str
    published: float
    """Seconds."""
    machine: str
    """Whose chip it runs on."""
    settings: tuple[str, ...]
    """What the row changes in the machine and its stack, as in --set."""
    rows: int
    columns: int
    inner: int
    """[rows, inner] x [inner, columns]."""
    products: int
    """How many of them."""
    dtype: str
    not_gated: str
    """Reason, empty if it is gated."""
    row: Mapping[str, str] = field(default_factory=dict)
    """The line of the CSV, by column."""
    metric: str = "latency_s"


AnyCase = Case | CollectiveCase | MatmulCase


def read(name: str, rows: Path | None = None) -> tuple[AnySuite, tuple[AnyCase, ...]]:
    """The suite of a shipped name or a path, and its cases, from its own CSV or from `rows`.

    Raises:
        InputError: the file or a row is wrong; the message names the line.
    """
    suite = load.suite(name)
    folder = load.path("suite", name).parent
    source = rows or folder / suite.rows
    if isinstance(suite, CollectiveSuite):
        collectives = suite
        return suite, read_rows(source, lambda row: _collective_case(collectives, row))
    if isinstance(suite, MatmulSuite):
        matmuls = suite
        return suite, read_rows(source, lambda row: _matmul_case(matmuls, row))
    if (folder / suite.base).is_file():
        suite = suite.model_copy(update={"base": str(folder / suite.base)})
    if isinstance(suite, RequestSuite):
        tables = {pattern: str(folder / file) for pattern, file in suite.lengths.items()}
        requests = suite.model_copy(update={"lengths": tables})
        return suite, read_rows(source, lambda row: _request_case(requests, row))
    if isinstance(suite, GenerationSuite):
        generations = suite
        return suite, read_rows(source, lambda row: _generation_case(generations, row))
    scenarios, base = suite, load.scenario(suite.base)
    return suite, read_rows(source, lambda row: _case(scenarios, base, row))


def _machine(suite: CollectiveSuite | MatmulSuite, row: Row, *keys: str) -> tuple[str, Settings]:
    """(machine, settings of it) of a row's system. Raises InputError."""
    settings = dict(_entry("machines", suite.machines, keys, row.where))
    if "topology" not in settings:
        raise InputError("an entry of the suite's 'machines' must name a 'topology'", where=row.where, got=keys[0])
    return settings.pop("topology"), settings


def _texts(settings: Settings) -> tuple[str, ...]:
    """As in --set."""
    return tuple(f"{field}={json.dumps(value)}" for field, value in settings.items())


def _matmul_case(suite: MatmulSuite, row: Row) -> MatmulCase:
    case_id, dtype = row.cell("case_id"), row.cell("dtype")
    machine, settings = _machine(suite, row, row.cell("system"))
    return MatmulCase(
        case_id=case_id,
        source=row.get("source"),
        published=row.real("time_us") * 1e-6,
        machine=machine,
        settings=_texts(settings),
        rows=row.number("m"),
        columns=row.number("n"),
        inner=row.number("k"),
        products=row.number("products") if row.get("products") else 1,
        dtype=suite.dtypes.get(dtype, dtype),
        not_gated=_first(suite.not_gated, case_id) or "",
        row=row.values,
    )


_SPELLINGS = {"alltoall": "all_to_all", "sendrecv": "permute"}
"""As nccl-tests spells them; in its sendrecv every GPU sends to the next and receives from the one before."""


def _collective_case(suite: CollectiveSuite, row: Row) -> CollectiveCase:
    system, case_id = row.cell("system"), row.cell("case_id")
    chips = row.number("gpus")
    key = f"{system} gpus={chips}"
    machine, settings = _machine(suite, row, system, key)  # a pattern without GPUs fits the system alone
    collective, size = _SPELLINGS.get(row.cell("collective"), row.cell("collective")), row.real("bytes")
    if collective not in ALGORITHMS:
        raise InputError("unknown collective", where=row.where, got=collective, hint=suggest(collective, ALGORITHMS))
    host = _first(suite.host_bound, case_id)
    if chips > (most := load.topology_spec(machine).chip_count):
        hint = "a pattern of the suite's 'machines' may say gpus=16"
        raise InputError(f"{machine} has {most} chips", where=row.where, got=chips, hint=hint)
    return CollectiveCase(
        case_id=case_id,
        source=row.get("source"),
        published=row.real("time_us") * 1e-6,
        machine=machine,
        settings=_texts(settings),
        chips=chips,
        collective=collective,
        size_bytes=size,
        algorithm=_first(suite.algorithms, case_id) or None,
        row=row.values,
        not_gated=_first(suite.not_gated, case_id) or (host.reason if host and size <= host.up_to else ""),
        setting=f"{settings.get('name', machine)}, {chips} chips",
        host=_first(suite.hosts, case_id) or None,
    )


def measured(machine: str, collective: str, chips: int, algorithm: str | None = None) -> list[tuple[float, float]]:
    """(bytes, time in s) of the published rows of a shipped machine as it is, of the algorithm that the row ran."""
    suites = [name for name in load.shipped("suite") if isinstance(load.suite(name), CollectiveSuite)]
    cases = [case for name in suites for case in read(name)[1] if isinstance(case, CollectiveCase)]
    wanted = (machine, collective, chips, algorithm)
    return [
        (case.size_bytes, case.published)
        for case in cases
        if (case.machine, case.collective, case.chips, case.algorithm) == wanted and not case.settings
    ]


def _generation_case(suite: GenerationSuite, row: Row) -> Case:
    """Decode steps are one less than the tokens generated: the prefill gives the first."""
    number = row.number
    metric = row.one_of("metric", ("prefill_s", "decode_s", "tokens_per_s"))
    variant, case_id = row.one_of("variant", suite.variants), f"{row.cell('case_id')}/{metric}"
    system = f"{row.cell('system')} p2p={row.cell('p2p')} tp={number('tp')}"
    known = {
        **_entry("systems", suite.systems, [system], row.where),
        **_entry("models", suite.models, [row.cell("model")], row.where),
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
    return Case(
        case_id=case_id,
        source=row.get("source"),
        metric=metric,
        published=row.real("value"),
        base=suite.base,
        settings=_texts(settings),
        not_gated=_first(suite.not_gated, case_id) or "",
        row=row.values,
        variant=variant,
        setting=" ".join(f"{name}={row.cell(name)}" for name in same),
    )


def _request_case(suite: RequestSuite, row: Row) -> Case | None:
    """A forward pass, or a prefill and the decode steps after it."""
    number, case_id = row.number, row.cell("case_id")
    if _first(suite.left_out, case_id):
        return None
    metric = row.one_of("metric", ("latency_s", "tokens_per_s", "memory_bandwidth_per_gpu"))
    known: dict[str, Any] = {}
    for name in ("system", "model", "engine"):
        known |= _entry(f"{name}s", getattr(suite, f"{name}s"), [row.cell(name)], row.where)
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
    if table := _first(suite.lengths, row.cell("model")):
        settings["padding.real_lengths"] = lengths_of_batch(Path(table), number("batch"), padded)
    for stored in ("weights", "activations", "kv_cache"):
        settings.setdefault(f"workload.{stored}", _DTYPES.get(row.cell("dtype"), row.cell("dtype")))
    if known.get("padding.eliminate") and not padding:
        del settings["padding.eliminate"]
    first: dict[str, Any] = {field: settings.pop(field) for field in ("topology", "model") if field in settings}
    return Case(
        case_id=case_id if metric in ("latency_s", "tokens_per_s") else f"{case_id}/{metric}",
        source=row.get("source"),
        metric=metric,
        published=row.real("value"),
        base=suite.base,
        settings=_texts({**first, **settings}),
        not_gated=_first(suite.not_gated, case_id) or "",
        row=row.values,
    )


PHASES = {"prefill": "prefill", "decode_step": "decode", "decode_total": "decode", "total": "generate"}
_TOKENS = {
    "prefill": {"prompt": "input_tokens"},
    "decode_step": {"context": "context_tokens"},
    "decode_total": {"context": "context_tokens", "generate": "generated_tokens"},
    "total": {"prompt": "input_tokens", "generate": "generated_tokens"},
}
_DTYPES = {"bfloat16": "bf16", "float16": "fp16"}


def _case(suite: Suite, base: Scenario, row: Row) -> Case:
    cell, number, real, one_of, where = row.cell, row.number, row.real, row.one_of, row.where
    phase = one_of("phase", PHASES)
    tokens = {field: number(column) for field, column in _TOKENS[phase].items()}
    if phase == "decode_step":
        tokens["generate"] = 1
    dtypes = {
        field: _DTYPES.get(cell(column), cell(column))
        for field, column in (("weights", "weight_dtype"), ("activations", "activation_dtype"))
    }
    model, system = cell("model"), row.get("system")
    settings = {
        **(_entry("systems", suite.systems, [system], where) if suite.systems and system else {}),
        **_entry("models", suite.models, [model], where),
        **_first(suite.at_chips, model).get(number("chips"), {}),
        "layout.ffn": cell("ffn_layout"),
        "layout.attention": cell("attention_layout"),
        **_first(suite.layouts, cell("ffn_layout")),
        **_first(suite.sources, row.get("source")),
        "workload": {"phase": PHASES[phase], "batch": number("batch"), **tokens, **dtypes},
        **_slice(suite, base, row),
        "reference": None,
    }
    uncertainty = real("reading_error_pct", zero=True) / 100 if row.get("reading_error_pct") else 0.0
    return Case(
        case_id=cell("case_id"),
        source=row.get("source"),
        metric=one_of("metric", ("latency_s", "mfu")),
        published=real("value"),
        base=suite.base,
        settings=_texts(settings),
        not_gated=_first(suite.not_gated, cell("case_id")) or _uncertain(suite, uncertainty),
        row=row.values,
    )


def _slice(suite: Suite, base: Scenario, row: Row) -> dict[str, Any]:
    """Returns the settings that cut a row's mesh out of the base's machine; none where it is that machine.

    An axis of a smaller slice wraps where the suite says so (`wrap_multiple`), else only where it is a whole axis of
    the base's machine that wraps.
    """
    mesh, where, lines = row.cell("mesh"), row.where, base.topology.lines
    lengths = [int(length) if length.isdigit() else 0 for length in mesh.split("x")]
    if len(lengths) != len(lines) or 0 in lengths:
        raise InputError("column 'mesh' must give the length of each axis, such as 4x4x4", where=where, got=mesh)
    if (chips := row.number("chips")) != prod(lengths):
        raise InputError(f"column 'chips' must be those of the mesh, {prod(lengths)}", where=where, got=chips)
    if lengths == [axis.size for axis in lines.values()]:
        return {}
    multiple = suite.wrap_multiple
    axes = {}
    for length, (name, whole) in zip(lengths, lines.items(), strict=True):
        if multiple is None and length > whole.size:
            rule = f"column 'mesh' must be the mesh of the suite's base, or a part of it: axis {name} has {whole.size}"
            hint = f"name a scenario on a {mesh} machine as the suite's 'base', or give its 'wrap_multiple'"
            raise InputError(rule, where=where, got=mesh, hint=hint)
        wraps = all(each % multiple == 0 for each in lengths) if multiple else whole.wrap and length == whole.size
        axes[name] = {"size": length, "wrap": wraps}
    return {"topology.axes": axes, "topology.name": f"{base.topology.chip.name}_{mesh}"}


def _uncertain(suite: Suite, uncertainty: float) -> str:
    """Reason not to gate a row that is printed or read with too large an error, empty if it is not."""
    return f"published to {100 * uncertainty:g} % only" if uncertainty > suite.gated_up_to else ""


def _entry(name: str, patterns: Mapping[str, Settings], keys: Sequence[str], where: str) -> Settings:
    """Returns the first entry of the suite's field `name` whose pattern fits one of the keys. Raises InputError."""
    for pattern, settings in patterns.items():
        if any(fnmatchcase(key, pattern) for key in keys):
            return settings
    rule = f"must fit a pattern of the suite's '{name}'"
    raise InputError(rule, where=where, got=keys[0], hint=f"add a pattern; there are {listed(list(patterns))}")


def _first(patterns: Mapping[str, Any], name: str) -> Any:
    """The value of the first pattern that fits, else an empty mapping."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), {})
