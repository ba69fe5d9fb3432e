"""Padding left out: the same function, fewer rows where the reference says so, and what it costs."""

from typing import Any

import numpy as np
import pytest
from support import transformer
from support.forward_passes import plain_model
from support.machines import switch
from support.pipelines import scenario, times

from sim.engine import simulate
from sim.errors import InputError
from sim.layouts.forward import ForwardPass, kinds_of
from sim.layouts.layer import Layer
from sim.layouts.numpy_executor import NumpyExecutor
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of, tensor_parallel
from sim.program import Kind
from sim.simulate.run import run
from sim.specs.uses import PRESETS

LENGTHS = (5, 2, 7, 1)


@pytest.mark.parametrize("chips", [1, 2, 4])
def test_packed_layers_compute_what_padded_ones_do(chips: int):
    """A model of two layers on packed rows, attention padded: every real token's output is that of a device alone."""
    rng = np.random.default_rng(chips)
    size = transformer.sizes(batch=4, positions=7, kv_heads=8)
    layers = [transformer.weights(rng, size, "mlp") for _ in range(2)]
    flow = NumpyExecutor(tensor_parallel(switch(chips), 8), size)
    flow.lengths = LENGTHS
    at = PRESETS["tensor_parallel"](tuple(axis for axis, _ in flow.mesh))
    model = plain_model("mlp", heads=8, kv_heads=8)
    kinds = kinds_of(model, ("standard",) * 2)
    layer = Layer(flow, model, at, packed=True)
    whole = ForwardPass((layer,), kinds, (), every_position=True, tied=True, has_logits=False)
    x = rng.normal(size=(4, 7, size["E"]))
    flow.send(flow.place(x, "B L E"))
    streams = whole.embed_tokens()
    for i, weights in enumerate(layers):
        flow.layer, flow.weights = i, weights
        streams = whole.layer(whole.kinds[0], streams)
    packed = flow.collect(whole.finish_stream(streams))
    for sequence, real in enumerate(LENGTHS):
        alone = transformer.OneDevice(layers, {}, "serial").forward(x[sequence : sequence + 1, :real])
        np.testing.assert_allclose(packed[sequence, :real], alone[0], rtol=1e-9, atol=1e-9)


def rows_of(given: Any) -> dict[str, tuple[float, float]]:
    """(flops, bytes) of an op on chip 0."""
    program = lower(given, mesh_of(given)).program
    found: dict[str, tuple[float, float]] = {}
    for i in np.flatnonzero((program.chip == 0) & ((program.kind == Kind.COMPUTE) | (program.kind == Kind.SEND))):
        name = program.op_names[program.op[i]]
        flops, moved = found.get(name, (0.0, 0.0))
        found[name] = flops + float(program.flops[i]), moved + float(program.bytes[i])
    return found


def padded_and_packed(**more: Any) -> list[Any]:
    given = {"schedule": "non_blocking", "requests": 1, "layers": 2} | more
    return [
        scenario(more={"padding": {"real_lengths": 0.25, "eliminate": packed}}, **given) for packed in (False, True)
    ]


def test_which_ops_scale_with_the_real_tokens():
    """A quarter of the rows: linears, sums and sends a quarter; attention and the logits all (reference: DRCE)."""
    padded, packed = (rows_of(s) for s in padded_and_packed(tensor=2, pipeline=2, bandwidth="1 GB/s"))
    for op in ("qkv", "o", "wi", "wo"):
        assert packed[op][0] == padded[op][0] / 4
    assert packed["attention"] == padded["attention"]
    assert packed["embedding"] == padded["embedding"]
    assert packed["all_reduce(t) attention"][1] == padded["all_reduce(t) attention"][1] / 4
    assert packed["send(p) activations 0->1"][1] == padded["send(p) activations 0->1"][1] / 4
    assert {"pad", "unpad", "remove padding"} <= set(packed) - set(padded)


def test_pad_kernels_read_one_form_and_write_the_other():
    """Queries, keys and values of a chip's 2 heads of 16: T = 16 rows read, B x S = 64 written, 2 bytes each."""
    packed = rows_of(padded_and_packed(tensor=2, pipeline=1)[1])
    layers, head_bytes = 2, 2 * 16 * 2
    assert packed["pad"][1] == layers * 3 * (16 + 64) * head_bytes
    assert packed["unpad"][1] == layers * (16 + 64) * head_bytes


def test_the_report_says_what_every_op_saves():
    report = run(padded_and_packed(tensor=2, pipeline=1)[1]).report
    assert report.padding is not None
    assert (report.padding.padded_rows, report.padding.real_rows) == (64, 16)
    saved = {op.op: op.saved_s for op in report.padding.ops}
    assert saved["wi"] > 0
    assert saved["pad"] < 0
    assert saved["attention"] == 0
    assert report.padding.saved == 1 - report.padding.packed_latency_s / report.padding.padded_latency_s


def test_nothing_to_remove_costs_the_kernels():
    """All lengths full: packing adds pad kernels and saves nothing."""
    full = scenario(schedule="non_blocking", requests=1, more={"padding": {"real_lengths": 1.0, "eliminate": True}})
    plain = scenario(schedule="non_blocking", requests=1)
    assert simulate(lower(full, mesh_of(full)).program).makespan_ps > times(plain).trace.makespan_ps


def test_lengths_given_or_drawn():
    def lengths(value: Any) -> Any:
        return scenario(schedule="non_blocking", more={"padding": {"real_lengths": value}}).padding.lengths(4, 16)

    assert lengths([1, 2, 3, 16]) == (1, 2, 3, 16)
    assert lengths("50 %") == (8, 8, 8, 8)
    drawn = {"distribution": "uniform", "seed": 3}
    assert lengths(drawn) == lengths(drawn)
    assert all(1 <= length <= 16 for length in lengths(drawn))


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ({"real_lengths": [1, 2]}, "length of each of the 4 sequences"),
        ({"real_lengths": [1, 2, 3, 17]}, "at most workload.prompt, 16"),
        ({"real_lengths": 0}, "above 0 and at most 1"),
    ],
)
def test_wrong_lengths_are_refused(padding: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        scenario(schedule="non_blocking", more={"padding": padding})


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_two_stages_compute_what_one_does(scattered: bool, packed: bool):
    """A layer, its output sent whole or in shares to the next stage, and another layer there."""
    rng = np.random.default_rng(7)
    size = transformer.sizes(batch=4, positions=7, kv_heads=8)
    layers = [transformer.weights(rng, size, "mlp") for _ in range(2)]
    flow = NumpyExecutor(tensor_parallel(switch(4), 8), size)
    flow.lengths = LENGTHS
    at = PRESETS["tensor_parallel"](tuple(axis for axis, _ in flow.mesh))
    model = plain_model("mlp", heads=8, kv_heads=8)
    kinds = kinds_of(model, ("standard",) * 2)
    layer = Layer(flow, model, at, packed=packed)
    whole = ForwardPass((layer,), kinds, (), every_position=True, tied=True, has_logits=False)
    x = rng.normal(size=(4, 7, size["E"]))
    flow.send(flow.place(x, "B L E"))
    flow.layer, flow.weights = 0, layers[0]
    whole.send_stream(whole.layer(kinds[0], whole.embed_tokens()), scattered)
    flow.layer, flow.weights = 1, layers[1]
    found = flow.collect(whole.finish_stream(whole.layer(kinds[1], whole.receive_stream(scattered, kinds[0]))))
    expected = transformer.OneDevice(layers, {}, "serial").forward(x)
    for sequence, real in enumerate(LENGTHS):
        rows = slice(real if packed else 7)
        np.testing.assert_allclose(found[sequence, rows], expected[sequence, rows], rtol=1e-9, atol=1e-9)
