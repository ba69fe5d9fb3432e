"""Layouts of one's own, from a scenario file: what each mesh axis does."""

import pytest

from sim.errors import InputError
from sim.simulate.forward_pass import simulate_pass
from sim.specs import load
from sim.specs.layout_uses import UsesSpec
from sim.specs.uses import PRESETS, named

TORUS = "{phase: decode, batch: 64, context: 128, generate: 1, weights: bf16}"


def scenario(layout: str, *settings: str):
    own = ("stack=ideal", f"workload={TORUS}", "engine.layers=3", *settings)
    return load.scenario("palm540b_decode_ws2d", [f"layout={layout}", *own])


@pytest.mark.parametrize(
    ("uses", "preset"),
    [
        ("{d_model: [x], heads: [z, y], d_ff: [z, y], residual: {z: d_model, y: d_model}}", "weight_stationary_2d"),
        ("{heads: [z, y, x], d_ff: [z, y, x], residual: {x: d_model}}", "weight_stationary_1d"),
        ("{heads: [x, y, z], d_ff: [x, y, z]}", "tensor_parallel"),
        ("{gather: [x, y, z]}", "fsdp"),
        ("{d_ff: [x, y, z], residual: {x: tokens, y: tokens, z: tokens}}", "attention_data_parallel"),
        (
            "{gather: [x], heads: [z, y], d_ff: [z, y], residual: {y: d_model, z: d_model}, "
            "stored: {d_model: [x], heads: [z, y], d_ff: [z, y]}}",
            "weight_gathered_x",
        ),
    ],
)
def test_uses_written_out_are_the_preset(uses, preset):
    own, named_one = scenario(f"{{uses: {uses}}}"), scenario(f"{{ffn: {preset}}}")
    assert own.uses(dict.fromkeys("xyz", 1)) == PRESETS[preset](("x", "y", "z"))
    times = [simulate_pass(each).makespan_ps for each in (own, named_one)]
    assert times[0] == times[1]


def test_a_preset_of_ones_own_has_a_name():
    presets = "presets={mine: {d_model: [z], heads: [x, y], d_ff: [x, y], residual: {x: d_model, y: d_model}}}"
    found = scenario("{ffn: mine}", presets)
    assert found.uses(dict.fromkeys("xyz", 1)).d_model == ("z",)
    assert simulate_pass(found).makespan_ps > 0


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        ("{heads: [x, y], d_ff: [x, y]}", "must give every mesh axis one use in each half of a layer, got z in 0"),
        ("{d_model: [x], heads: [x, y, z], d_ff: [y, z]}", "one use in each half of a layer, got x in 2"),
        ("{heads: [x, y, w], d_ff: [x, y, z]}", "names an axis that the mesh does not have, got w"),
        ("{heads: [x, y], d_ff: [x, y, z], residual: {z: d_model}}", "by axes of both heads and d_ff, got z"),
        ("{gather: [x, y, z], residual: {z: tokens}}", "by axes of heads or d_ff, got z"),
    ],
)
def test_uses_that_contradict_each_other_are_one_line(uses, message):
    with pytest.raises(InputError, match=r"layout\.uses") as caught:
        simulate_pass(scenario(f"{{uses: {uses}}}"))
    assert message in str(caught.value).replace("'", "")


@pytest.mark.parametrize("layout", ["{attention: heads}", "{ffn: fsdp, uses: {gather: [x, y, z]}}"])
def test_a_layout_is_a_preset_or_uses(layout):
    with pytest.raises(InputError, match="must name a preset, unless 'uses' says what the mesh axes do"):
        scenario(layout)


def test_a_phase_may_have_uses_of_its_own():
    layout = "{ffn: weight_stationary_2d, prefill: {uses: {gather: [x, y, z]}}}"
    phase = "workload={phase: generate, batch: 64, prompt: 64, generate: 1, weights: bf16}"
    prefill, decode = load.scenario("palm540b_decode_ws2d", [f"layout={layout}", phase, "stack=ideal"]).phases
    assert prefill.uses(dict.fromkeys("xyz", 1)).gather == ("x", "y", "z")
    assert decode.uses(dict.fromkeys("xyz", 1)) == PRESETS["weight_stationary_2d"](("x", "y", "z"))


def test_names_of_several_letters_are_told_apart():
    assert named(("x", "data", "y")) == "x[data]y"
    assert UsesSpec(gather=("data", "x")).over(("x", "data")).weight("F{f}") == ("F_", "F_[data]x")


@pytest.mark.parametrize(
    ("machine", "mesh", "uses", "same"),
    [
        (
            "dgx_a100",
            "{s: 2, t: 4}",
            "{heads: [t], d_ff: [t], stage: [s]}",
            "{ffn: tensor_parallel, mesh: {tensor: 4, pipeline: 2}}",
        ),
        (
            "tpu_v4_2x2x4",
            "{s: {of: z, size: 2}, x: x, y: y, z: {of: z, size: 2}}",
            "{d_model: [x], heads: [z, y], d_ff: [z, y], residual: {z: d_model, y: d_model}, stage: [s]}",
            "{ffn: weight_stationary_2d, attention: heads, mesh: {pipeline: 2}}",
        ),
    ],
)
def test_stages_are_a_mesh_axis(machine, mesh, uses, same):
    """Slabs along the longest axis, or boxes' halves, as `layout.mesh.pipeline` makes them."""
    own = (f"topology={machine}", "stack=ideal", f"workload={TORUS}", "engine.layers=4", "model=llama3_70b")
    times = [
        simulate_pass(load.scenario("palm540b_decode_ws2d", [*settings, *own])).makespan_ps
        for settings in ((f"mesh={mesh}", f"layout={{uses: {uses}}}"), (f"layout={same}",))
    ]
    assert times[0] == times[1] > 0
