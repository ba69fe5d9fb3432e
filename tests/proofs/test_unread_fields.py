"""Every field of workload and layout is read, or refused, or named by a note that says that it has no effect."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from sim.errors import InputError
from sim.lowering.placement import dealt_pass
from sim.simulate.predict import predict_phase
from sim.simulate.run import run
from sim.specs import load
from sim.specs.base import Strict
from sim.specs.exchange import ExchangeInputs
from sim.specs.layout import RESIDUALS, LayoutSpec
from sim.specs.unread import find_unread
from sim.specs.uses import PRESETS
from sim.specs.workload import Workload
from sim.studies.bench.exchange import run_tokens

NO_SWEEP = ("sweep=null", "figure=null", "reference=null")
MIXTRAL = ("mixtral_8x7b_tp_or_ep", "engine.layers=2", "workload.batch=16")
SCENARIOS = {
    "tensor parallel": ("vllm_llama3_70b_tp8", "engine.layers=2", "workload.prompt=64", "workload.batch=2"),
    "experts, drawn": (
        "deepseek_v3_imbalance",
        "engine.layers=4",
        "mesh={rank: 8}",
        "workload.batch=64",
        "layout.experts.kernel=normal",
    ),
    "experts, expected": (*MIXTRAL, "layout.ffn=expert_parallel"),
    "experts on every chip": (*MIXTRAL, "layout.ffn=tensor_parallel"),
    "torus": (
        *("palm540b_decode_ws2d", "engine.layers=2", "topology=tpu_v5e_4x4", "mesh={a: x, b: y}"),
        *("layout.overlap=none", "model.block=serial"),
    ),
    "gathered weights": (
        *("llama3_70b_h100_x2_prefill", "topology=dgx_h100", "engine.layers=3", "layout.ffn=fsdp", "stack=vllm"),
        *("workload.prompt=64", "workload.batch=8"),
    ),
}
PARTS = {
    "Hybrid": "{ladder_layers: 1}",
    "PipelineSpec": "{requests: 2}",
    "KvTransferSpec": "{axis: t}",
    "UsesSpec": "{batch: [t]}",
    "ChunkSpec": "{tokens: 8}",
    "SpeculationSpec": "{draft: 1, acceptance: 0.5}",
}
"""Values of fields that have parts and are not set by default."""
NAMES = {"ffn": tuple(PRESETS), "residual": RESIDUALS, "trace": ("0,1,2,3,4,5,6,7", "0,1")}


def fields(spec: type[Strict], prefix: str) -> Iterator[tuple[str, list[Any]]]:
    """Yields the path of every field, also of parts that are always there, and values of its type."""
    for name, field in spec.model_fields.items():
        if isinstance(field.get_default(call_default_factory=True), Strict):
            yield from fields(type(field.get_default(call_default_factory=True)), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", [*NAMES.get(name, ()), *values(field.annotation)]


def values(annotation: Any) -> list[Any]:
    """Returns some values of a type."""
    kind = get_origin(annotation)
    if kind is Literal:
        return list(get_args(annotation))
    if kind is Annotated:
        return values(get_args(annotation)[0])
    if kind in (Union, types.UnionType):
        return [value for each in get_args(annotation) for value in values(each)]
    return {bool: [True, False], int: [2, 8, 32], float: [0.5, 1.5]}.get(
        annotation, [PARTS[annotation.__name__]] if annotation.__name__ in PARTS else []
    )


FIELDS = {**dict(fields(LayoutSpec, "layout.")), **dict(fields(Workload, "workload."))}


def numbers(data: Any) -> Any:
    """Returns the numbers of a report."""
    if isinstance(data, dict):
        return {key: numbers(value) for key, value in data.items() if key != "engine"}
    if isinstance(data, list | tuple):
        return [numbers(value) for value in data if not isinstance(value, str)]
    return data if isinstance(data, int | float) else None


EXCHANGES = {
    "kernels with times of rows": ("hgx_h800", "stack=deep_ep"),
    "a uniform load on ideal kernels": ("hgx_h800_x2", "stack=ideal"),
    "a drawn load on a torus": ("tpu_v4_2x2x2", "workload.routing.load=zipf"),
    "gathered tokens": ("hgx_h800", "stack=vllm", "layout.experts.dispatch=all_gather"),
}
EXCHANGED = {
    f"{part}.{path}": tried
    for part in ("workload", "layout")
    for path, tried in fields(ExchangeInputs.model_fields[part].annotation, "")
}


def exchanged(settings: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    (row,) = run_tokens(settings[0], "dispatch", [96], ["model=deepseek_v3", *settings[1:]])
    return numbers(row.to_dict()), row.notes


@pytest.mark.parametrize("name", EXCHANGES)
def test_every_field_of_an_exchange_by_itself_is_read_or_refused_or_noted(name: str, tmp_path: Path) -> None:
    before, _ = exchanged(EXCHANGES[name])
    inputs, _ = load.exchange(["model=deepseek_v3", *(each for each in EXCHANGES[name][1:] if "stack" not in each)])
    outcomes = {}
    for path, tried in EXCHANGED.items():
        others = [value for value in tried if value != attrgetter(path)(inputs)]
        outcomes[path] = outcome_of(path, others, before, EXCHANGES[name], exchanged, tmp_path)
    assert [path for path, outcome in outcomes.items() if outcome == "ignored"] == []
    assert {"read", "noted"} <= set(outcomes.values())


def simulated(settings: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    report = run(load.scenario(settings[0], [*settings[1:], *NO_SWEEP])).report
    # Constants that a result rests on are the stack's, with those of kernels of dispatch that may send nothing.
    return numbers({name: part for name, part in report.to_dict().items() if name != "rests_on"}), report.notes


def try_values(settings: tuple[str, ...], path: str, before: Any, folder: Path) -> str:
    """Sets a field to one value after the other until one changes a number or is noted; returns what it does."""
    scenario = load.scenario(settings[0], [*settings[1:], *NO_SWEEP])
    same = [path, re.sub("[.](prefill|decode)[.]", ".", path)]
    others = [value for value in FIELDS[path] if value not in [attrgetter(each)(scenario) for each in same]]
    return outcome_of(path, others, before, settings, simulated, folder)


def outcome_of(
    path: str,
    others: Sequence[Any],
    before: Any,
    settings: tuple[str, ...],
    simulated: Callable[[tuple[str, ...]], tuple[Any, tuple[str, ...]]],
    folder: Path,
) -> str:
    """Sets a field to one value after the other until one changes a number or is noted; returns what it does."""
    refused = 0
    for value in others:
        if path.endswith("trace"):
            trace = folder / "trace.csv"
            trace.write_text(f"{value}\n", encoding="utf-8")
            value = str(trace)
        try:
            after, notes = simulated((*settings, f"{path}={str(value).lower() if isinstance(value, bool) else value}"))
        except InputError:
            refused += 1
            continue
        noted = any(re.search(rf"(^|, ){re.escape(path)}(,| ha).*no effect", note) for note in notes)
        assert not (noted and after != before), f"{path}={value} has an effect, and a note says that it has none"
        if noted or after != before:
            return "noted" if noted else "read"
    return "refused" if refused == len(others) else "ignored"


def test_every_field_has_values_to_try() -> None:
    assert [path for path, tried in FIELDS.items() if not tried] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_every_field_is_read_or_refused_or_noted(name: str, tmp_path: Path) -> None:
    before, _ = simulated(SCENARIOS[name])
    outcomes = {path: try_values(SCENARIOS[name], path, before, tmp_path) for path in FIELDS}
    assert [path for path, outcome in outcomes.items() if outcome == "ignored"] == []
    assert {"read", "refused", "noted"} <= set(outcomes.values())


@pytest.mark.parametrize("name", load.shipped("scenario"))
def test_a_closed_form_leaves_out_no_field_without_effect(name: str) -> None:
    scenario = load.scenario(name, NO_SWEEP)
    for phase in scenario.phases:
        form, unread = predict_phase(phase, each_step=False), find_unread(dealt_pass(phase))
        left_out = [each.removeprefix("leaves out ").partition(":")[0] for each in form.inexact] if form else []
        assert [field for field in left_out if any(f"{field}.".startswith(f"{each}.") for each in unread)] == []


def test_a_field_without_effect_keeps_a_closed_form_exact() -> None:
    (phase,) = load.scenario("mixtral_8x7b_tp_or_ep", [*NO_SWEEP, "layout.ffn=tensor_parallel"]).phases
    set_ = load.scenario(
        "mixtral_8x7b_tp_or_ep", [*NO_SWEEP, "layout.ffn=tensor_parallel", "layout.experts.multiprocessors=8"]
    )
    before, after = predict_phase(phase, each_step=False), predict_phase(set_, each_step=False)
    assert before is not None
    assert after is not None
    assert before.inexact == after.inexact
