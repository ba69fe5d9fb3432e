"""What a closed form calls exact is the simulated time; what it does not know makes it inexact, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pydantic
import pytest
from pydantic import BaseModel
from support import scenarios

from sim import api
from sim.closed_form.coverage import ANY_VALUE, COVERED, WITHOUT_EFFECT, list_omissions
from sim.errors import InputError
from sim.report.present import text
from sim.simulate.predict import predict
from sim.simulate.run import run
from sim.specs import ChipSpec, GraphSpec, Scenario, SwitchSpec, TorusSpec, load
from sim.specs.uses import PRESETS

MAKERS = {"torus": scenarios.on_a_torus, "switch": scenarios.on_a_switch}
SEEDS = range(12)
Change = Callable[[Random, dict[str, Any]], dict[str, Any]]


def random(machine: str, kind: str, seed: int, change: Change | None = None) -> Scenario | None:
    """A random scenario; None where its choices do not go together."""
    draw = Random(f"{machine} {kind} {seed}")
    fields = MAKERS[machine](draw, kind)
    try:
        return Scenario.model_validate(change(draw, fields) if change else fields)
    except pydantic.ValidationError:
        return None


def compare_exact(scenario: Scenario) -> int:
    """Compares the phases whose form is called exact with the simulation; returns how many they are.

    A task rounds its two times, busy and in flight, to half a picosecond each: a picosecond for every task of a chip,
    in every step.
    """
    try:
        report = run(scenario).report
    except InputError:  # a mesh that does not divide a dimension
        return 0
    compared = 0
    for phase in report.phases or (report,):
        form = phase.closed_form
        if form is None or not form.is_exact:
            continue
        steps = 1 if phase.simulated.ttft_s else round(phase.simulated.latency_s / phase.simulated.step_s)
        off_s = abs(phase.simulated.latency_s - form.detailed_latency_s)
        assert off_s <= phase.tasks * 1e-12 * steps, scenario
        compared += 1
    return compared


# --- exact is exact --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [SEEDS[:3], pytest.param(SEEDS[3:], marks=pytest.mark.release)], ids=str)
@pytest.mark.parametrize("machine", MAKERS)
@pytest.mark.parametrize("kind", load.shipped("chip"))
def test_what_is_called_exact_is_the_simulated_time(kind: str, machine: str, seeds: range):
    for scenario in filter(None, (random(machine, kind, seed) for seed in seeds)):
        compare_exact(scenario)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 200), marks=pytest.mark.release)], ids=str)
@pytest.mark.parametrize("machine", MAKERS)
@pytest.mark.parametrize("kind", ["tpu_v4", "gb200"])
def test_experts_latent_attention_windows_and_formats_are_exact(kind: str, machine: str, seeds: range):
    """A switch, a ring: tokens exchanged by messages, all-to-alls, gathers, shared experts beside them or not."""
    scenarios_of = (random(machine, kind, seed, scenarios.of_recent_models) for seed in seeds)
    compared = sum(map(compare_exact, filter(None, scenarios_of)))
    assert compared >= len(seeds) / 5


@pytest.mark.slow
def test_every_layout_is_exact_somewhere_and_inexact_somewhere():
    """Else the test above would say nothing."""
    found: Counter[tuple[str, bool]] = Counter()
    for machine, kind in ((machine, kind) for machine in MAKERS for kind in load.shipped("chip")):
        for scenario in filter(None, (random(machine, kind, seed) for seed in SEEDS)):
            form = None
            with suppress(InputError):  # a mesh that does not divide a dimension
                form = predict(scenario)
            if form:
                found[scenario.layout.ffn, form.is_exact] += 1
    for layout in PRESETS:
        assert found[layout, True], layout
        assert found[layout, False], layout


# --- what is known ---------------------------------------------------------------------------------------------------


def plain(*settings: str) -> Scenario:
    return load.scenario("palm540b_decode_ws2d", ["layout.overlap=none", "engine.layers=3", *settings])


def on_switch(*settings: str) -> Scenario:
    fields = (
        "stack.stream_wait=0 s",
        "stack.matmul_balance=null",
        "collectives={all_reduce: one_shot}",
        "engine.layers=3",
        *settings,
    )
    return load.scenario("llama3_8b_tp8_ladder", fields)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["stack.matmul_balance=100"], "leaves out stack.matmul_balance"),
        (
            ["layout.overlap=collective_matmul", "collectives.collective_matmul=bidirectional_latency"],
            "approximates loops of bidirectional_latency by bidirectional_throughput",
        ),
        (
            ["layout.communication=own_stream"],
            "assumes that collectives on their own stream overlap only Ladder's next sublayer",
        ),
        (["layout.graph_capture=false", "stack.launch=4 us"], "leaves out layout.graph_capture: false"),
        (["perturb={slow_links: [{links: ['0:x+'], factor: 2}]}"], "leaves out perturb"),
        (["collectives={all_gather: line}"], "assumes that all chips end all_gather over z together"),
        (
            ["topology.axes.z.size=8", "model.padded_heads=128", "stack.collective_axes=at_once"],
            "uses a lower bound for all_gather over zy",
        ),
    ],
)
def test_what_is_left_out_on_a_torus_is_named(settings: list[str], reason: str):
    known = predict(plain())
    assert known is not None
    assert known.inexact == ()
    form = predict(plain(*settings))
    assert form is not None
    assert reason in form.inexact
    assert not form.is_exact


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["stack.stream_wait=1 us"], "leaves out stack.stream_wait"),
        (["layout.graph_capture=false", "stack.launch=4 us"], "leaves out layout.graph_capture: false"),
        (["collectives={}"], "uses NCCL's tuner for all_reduce"),
        (
            ["layout.residual=standard", "layout.overlap=chunked_matmul"],
            "leaves out layout.overlap: chunked_matmul",
        ),
    ],
)
def test_what_is_left_out_on_a_switch_is_named(settings: list[str], reason: str):
    known = predict(on_switch())
    assert known is not None
    assert known.inexact == ()
    form = predict(on_switch(*settings))
    assert form is not None
    assert reason in form.inexact


def test_a_draw_tiled_reads_and_three_kernels_of_attention_are_known():
    """Each changes the time, and the form follows."""
    launched = "stack.op_overhead=1 us"
    before = predict(plain(launched))
    for settings in (
        ["workload.sampling=top_k"],
        ["stack.matmul_hbm_efficiency=0.5"],
        ["stack.elementwise=kernel"],
    ):
        scenario = plain(launched, *settings)
        form, report = predict(scenario), run(scenario).report
        assert before is not None
        assert form is not None
        assert form.inexact == ()
        assert form.detailed_latency_s > before.detailed_latency_s
        off_s = abs(report.simulated.latency_s - form.detailed_latency_s)
        assert off_s <= report.tasks * 1e-12 * scenario.workload.steps


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        (["topology.axes={x: {size: 1, wrap: true}, y: {size: 4, wrap: true}}"], "an axis of one chip splits nothing"),
        (
            [
                "topology.axes={x: {size: 4, wrap: true}, y: {size: 2, wrap: false}, z: {size: 4, wrap: true}}",
                "layout={ffn: weight_gathered_xy, attention: batch}",
                "collectives={all_gather: bidirectional_ring, reduce_scatter: bidirectional_ring}",
                "collectives.all_to_all=dimension_ordered",
                "workload.batch=32",
            ],
            "weights are gathered over the axes of what is summed first, and unequal axes are not exchanged",
        ),
    ],
    ids=["axis of one chip", "order of axes"],
)
def test_machines_on_which_the_form_differed_are_exact(settings: list[str], what: str):
    small = ["workload={phase: prefill, batch: 1, prompt: 8, weights: bf16}", "model.d_model=8448", "model.d_ff=1024"]
    scenario = plain(*small, "model.heads=64", "model.padded_heads=null", *settings)
    form, report = predict(scenario), run(scenario).report
    assert form is not None
    assert form.inexact == (), what
    assert abs(report.simulated.latency_s - form.detailed_latency_s) <= report.tasks * 1e-12, what


def test_serving_gpus_on_a_ring_are_not_exact():
    """Tiles are not in the form, and its time was 3 % off where it was called exact."""
    machine = {
        "name": "ring",
        "kind": "torus",
        "chip": scenarios.chip("a100_pcie_80"),
        "link": scenarios.LINK,
        "axes": {"x": {"size": 8, "wrap": True}},
    }
    model = scenarios.model(Random(0), 8)
    work = {"phase": "decode", "batch": 8, "context": 100, "generate": 1, "static_cache": 101, "weights": "bf16"}
    layout = {"ffn": "weight_gathered_xy", "attention": "heads"}
    stack = {"name": "ring", "matmul_balance": {"value": 100}}
    fields = {"name": "ring", "topology": machine, "stack": stack, "model": model, "workload": work, "layout": layout}
    form = predict(Scenario.model_validate(fields))
    assert form is not None
    assert form.inexact == ("leaves out stack.matmul_balance",)


def test_a_field_that_no_form_lists_makes_them_inexact():
    """Whatever is added to a chip counts as left out, once it is not at its default."""

    class Wider(ChipSpec):
        cache_policy: Literal["plain", "clever"] = "plain"

    scenario = plain()
    for policy, expected in (("plain", ()), ("clever", ("leaves out topology.chip.cache_policy: clever",))):
        chip = Wider(**{**dict(scenario.topology.chip), "cache_policy": policy})
        topology = scenario.topology.model_copy(update={"chip": chip})
        assert list_omissions(scenario.model_copy(update={"topology": topology}), COVERED) == expected


def fields_of(kind: type[BaseModel], at: str = "", above: tuple[type, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(path, annotation) of every field, those of parts after their whole; not again of a part that is in itself."""
    above = (*above, kind)
    for name, field in kind.model_fields.items():
        yield at + name, field.annotation
        for part in models_in(field.annotation):
            if part in above:
                continue
            inside = f"{at}{name}.*." if get_origin(field.annotation) is dict else f"{at}{name}."
            yield from fields_of(part, inside, above)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for each in get_args(annotation):
            yield from models_in(each)


@pytest.mark.parametrize("layout", PRESETS)
def test_no_form_predicts_a_batch_that_chips_do_not_divide(layout: str):
    """The closed form refuses what the simulation refuses, in place of searching for a split that there is not."""
    scenario = plain(f"layout={{ffn: {layout}, attention: batch}}", "workload.batch=7")
    at = PRESETS[layout](("x", "y", "z"))
    if at.gather or at.tokens or at.batch:  # sequences are split over these, of one token each
        with pytest.raises(
            InputError, match=r"workload\.batch: must be a multiple of the .* chips that share it, got 7"
        ):
            predict(scenario)
    else:
        assert predict(scenario) is not None


def test_the_form_lists_fields_that_exist_and_choices_by_value():
    """So that a choice that is added to a field counts as left out."""
    choices: dict[str, set[Any]] = {}
    for path, annotation in fields_of(Scenario):
        parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        choices.setdefault(path, set()).update(*(get_args(part) for part in parts if get_origin(part) is Literal))
    assert set(COVERED) <= set(choices)
    for path, values in COVERED.items():
        if choices[path] and path not in WITHOUT_EFFECT:
            assert values is not ANY_VALUE, path
            assert set(values) <= choices[path] | {None}


def test_fields_of_every_kind_of_machine_are_walked():
    every = {path for path, _ in fields_of(Scenario)}
    for kind in (TorusSpec, SwitchSpec, GraphSpec):
        assert {f"topology.{path}" for path, _ in fields_of(kind)} <= every


# --- where it is said ------------------------------------------------------------------------------------------------


def test_the_report_says_why_a_form_is_not_exact():
    launched = ("layout.graph_capture=false", "stack.launch=1 us")
    report = run(plain(*launched, "stack.matmul_balance=100")).report
    lines = [part.text for block in text.overall_blocks(report) for part in block if isinstance(part, text.Line)]
    reasons = "it leaves out layout.graph_capture: false and leaves out stack.matmul_balance"
    assert f"the closed form per operation is not exact: {reasons}" in lines
    form = report.to_dict()["closed_form"]
    assert form["per_axis_exact"] is False
    assert list(form["inexact"]) == ["leaves out layout.graph_capture: false", "leaves out stack.matmul_balance"]


def test_the_report_of_an_exact_form_says_nothing_of_it():
    report = run(plain()).report
    assert not any(
        "not exact" in part.text for b in text.overall_blocks(report) for part in b if isinstance(part, text.Line)
    )
    assert report.to_dict()["closed_form"]["per_axis_exact"] is True


def test_a_growing_cache_is_not_exact_and_one_of_fixed_length_is():
    settings = ["workload={phase: generate, batch: 64, prompt: 128, generate: 3, weights: int8}"]
    form = api.predict(plain(*settings))
    assert form is not None
    assert form.inexact == ("uses the step of mean cache length for every step",)
    for same in ("engine.steps=mean", "workload.static_cache=131"):
        form = api.predict(plain(*settings, same))
        assert form is not None
        assert form.inexact == ()


def test_the_prediction_of_a_generation_is_that_of_both_phases():
    """As the report has it, and as both phases add up to."""
    scenario = plain("workload={phase: generate, batch: 64, prompt: 128, generate: 3, weights: int8}")
    form = api.predict(scenario)
    assert form == run(scenario).report.closed_form
    parts = [predict(phase) for phase in scenario.phases]
    assert form is not None
    assert form.latency_s == pytest.approx(sum(part.latency_s for part in parts if part), rel=1e-15)
    assert form.detailed_latency_s == pytest.approx(sum(part.detailed_latency_s for part in parts if part), rel=1e-15)
