"""Without overlap the simulation of every layout is its per-axis closed form, to the rounding of the tasks."""

import itertools

import pytest

from sim import load
from sim.closed_form.per_axis import per_axis
from sim.errors import LayoutError
from sim.partition import LAYOUTS
from sim.run import step_s

MODELS = {"palm_540b": 64, "palm_8b": 16}
"""Heads that the machine computes: as many as chips, and fewer than chips."""


@pytest.mark.parametrize("kv", ["multi-query", "grouped-query", "multi-head"])
@pytest.mark.parametrize(("attention", "block"), [*itertools.product(("heads", "batch"), ("parallel", "serial"))])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("ffn", LAYOUTS)
def test_simulation_without_overlap_is_the_per_axis_closed_form(ffn, model, attention, block, kv):
    heads = {"multi-query": 1, "grouped-query": 8, "multi-head": load.model(model).heads}[kv]
    layout = f"{{ffn: {ffn}, attention: {attention}, block: {block}, overlap: none}}"
    seen = 0
    for batch, phase in itertools.product((1, 16, 64), ("prefill", "decode")):
        tokens = "prompt: 128" if phase == "prefill" else "context: 2048, generate: 64"
        workload = f"{{phase: {phase}, batch: {batch}, {tokens}, weights: int8}}"
        settings = [f"model={model}", f"model.kv_heads={heads}", f"layout={layout}", f"workload={workload}"]
        scenario = load.scenario("palm540b_decode_ws2d", [*settings, "engine.layers=3"])
        try:
            simulated = step_s(scenario)
        except LayoutError:  # a batch that the layout's chips do not divide
            assert batch < 64
            continue
        form = per_axis(scenario)
        assert form.exact
        # A layer has at most 40 operations and hops one after another, each rounded to half a picosecond.
        assert abs(simulated - form.step_s) <= (3 + 1) * 40 * 0.5e-12
        seen += 1
    assert seen >= 2
