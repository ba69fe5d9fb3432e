"""Every layout computes what one device computes: the NumPy executor against a plain transformer with a KV cache."""

import itertools
from math import prod
from types import SimpleNamespace

import numpy as np
import pytest
import transformer
from machines import meshed, switch, torus, two_boxes

from sim.errors import LayoutError
from sim.execute import Execution
from sim.layouts import attention as attention_module
from sim.layouts import block as block_module
from sim.layouts.block import transformer_layer
from sim.layouts.ends import embedding, unembedding
from sim.partition import LAYOUTS, Partition

FORMS = (None, "one_way", "bidirectional_throughput", "bidirectional_latency")
MESHES = ((2, 2, 2), (2, 4, 2), (1, 4, 4), (3, 2), (4,))
MESHED = {
    "switch 2x2x2": meshed(switch(8), x=2, y=2, z=2),
    "switch 2x4": meshed(switch(8), x=2, y=4),
    "two boxes 2x4": meshed(two_boxes(), x=2, y=4),
    "torus 4x2, split": meshed(torus(4, 2), x=2, y=2, z=2),
    "mesh 1x4x4": torus(1, 4, 4, wrap=False),
    "torus 4x4, merged": meshed(torus(4, 4), x=16),
}
HEADS = {"multi-query": 1, "grouped-query": 2, "multi-head": None}


def run_both(
    layout,
    mesh,
    *,
    block="parallel",
    attention="heads",
    form=None,
    ffn="swiglu",
    batch=None,
    prompt=3,
    kv=1,
    heads=None,
    tied=True,
    wrap=True,
    machine=None,
):
    """Prefill, then two decode steps, two layers; (layout's logits and token, one device's logits) of every pass."""
    chips = prod(mesh)
    heads = heads or 2 * chips
    batch = chips if batch is None else batch
    size = transformer.sizes(batch=batch, positions=prompt, heads=heads, kv_heads=kv or heads, e=2 * chips, f=2 * chips)
    rng = np.random.default_rng(0)
    layers = [transformer.weights(rng, size, ffn) for _ in range(2)]
    ends = transformer.ends(rng, size, tied=tied)
    machine = machine or torus(*mesh, wrap=wrap)
    flow = Execution(machine, size, form)
    one = transformer.OneDevice(layers, ends, block)
    model = SimpleNamespace(ffn=ffn, heads=heads, kv_heads=kv or heads)
    at = layout(tuple(axis.name for axis in machine.mesh))
    for positions in (prompt, 1, 1):
        size["L"] = positions
        flow.tokens, flow.weights = rng.integers(size["V"], size=(batch, positions)), ends
        x = embedding(flow, at)
        for i, w in enumerate(layers):
            flow.layer, flow.weights = i, w
            x = transformer_layer(flow, x, at, model, block, attention)
        flow.weights = ends
        logits, token = unembedding(flow, x, at, tied=tied)
        yield flow.whole(logits), flow.whole(token), one.logits(flow.tokens)


def assert_equal(passes):
    for logits, token, want in passes:
        np.testing.assert_allclose(logits, want, rtol=1e-9, atol=1e-9)
        assert (token == want.argmax(-1)).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("block", "attention"), [*itertools.product(("parallel", "serial"), ("heads", "batch"))])
@pytest.mark.parametrize("mesh", MESHES, ids=lambda m: "x".join(map(str, m)))
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_one_device(name, mesh, block, attention, form):
    assert_equal(run_both(LAYOUTS[name], mesh, block=block, attention=attention, form=form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_loops_between_two_chips_need_no_wraparound(name, form):
    assert_equal(run_both(LAYOUTS[name], (2, 2, 2), form=form, wrap=False))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("machine", MESHED, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_and_loops_run_on_any_mesh(name, machine, form):
    mesh = MESHED[machine]
    sizes = [axis.size for axis in mesh.mesh]
    assert_equal(run_both(LAYOUTS[name], sizes, form=form, machine=mesh))


@pytest.mark.parametrize("kv", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize(("block", "attention"), [*itertools.product(("parallel", "serial"), ("heads", "batch"))])
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_kind_of_attention(name, block, attention, kv):
    assert_equal(run_both(LAYOUTS[name], (2, 2, 2), block=block, attention=attention, kv=kv, form="one_way"))


@pytest.mark.parametrize("kv", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("name", ["weight_stationary_1d", "weight_stationary_2d"])
def test_batches_that_do_not_fill_the_chips(name, batch, attention, kv):
    assert_equal(run_both(LAYOUTS[name], (2, 2, 2), attention=attention, batch=batch, kv=kv, prompt=4))


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize(("batch", "form"), [(8, None), (8, "bidirectional_latency"), (4, "one_way")])
def test_more_chips_than_heads(batch, form, attention, kv):
    """4 heads on 8 chips: heads over the 4 chips of y and z, sequences over x."""
    assert_equal(
        run_both(
            LAYOUTS["weight_stationary_2d"], (2, 2, 2), attention=attention, batch=batch, kv=kv, heads=4, form=form
        )
    )


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("attention", ["heads", "batch"])
def test_more_chips_than_heads_and_one_sequence(attention, kv):
    """Neither heads nor sequences over x: positions of the prompt; a decode step has one, and is refused."""
    passes = run_both(
        LAYOUTS["weight_stationary_2d"], (2, 2, 2), attention=attention, batch=1, kv=kv, heads=4, prompt=4
    )
    logits, _, want = next(passes)
    np.testing.assert_allclose(logits, want, rtol=1e-9, atol=1e-9)
    with pytest.raises(LayoutError, match="heads must be a multiple of the 8 chips that share it, got 4"):
        next(passes)


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_lm_head_of_its_own(name):
    assert_equal(run_both(LAYOUTS[name], (2, 2, 2), tied=False))


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_matrix_ffn(name):
    assert_equal(run_both(LAYOUTS[name], (2, 2, 2), ffn="mlp"))


# --- the proof can fail: layouts with one thing wrong are refused, or compute something else -------------------------


def test_a_partition_that_uses_an_axis_twice_is_refused():
    with pytest.raises(LayoutError, match="'x' twice"):
        next(run_both(lambda axes: Partition(e=("x",), f=("x", "y", "z")), (2, 2, 2)))


def test_a_block_that_gathers_the_wrong_axes_is_refused(monkeypatch):
    def wrong(flow, x, at, weights, names):
        (y,) = flow.all_gather([(x, "E")], at.e, "residual")
        return y, flow.matmul(y, [weight for weight, _ in weights], "wrong")

    monkeypatch.setattr(block_module, "_into", wrong)
    with pytest.raises(LayoutError, match=r"all_gather\(x\) of BLE_xzy: 'E' must be split innermost over these axes"):
        next(run_both(LAYOUTS["weight_stationary_2d"], (2, 2, 2)))


def test_a_missing_reduce_scatter_is_refused(monkeypatch):
    def unsummed(flow, x, at, factors, name):
        return flow.add(x, flow.all_gather_matmul(factors, at.e, name), "residual")

    monkeypatch.setattr(block_module, "_onto_residual", unsummed)
    with pytest.raises(LayoutError, match=r"add of BLE_xzy and BLE_x \(partial zy\)"):
        next(run_both(LAYOUTS["weight_stationary_2d"], (2, 2, 2)))


def test_a_missing_all_reduce_of_keys_is_refused(monkeypatch):
    def unsummed(flow, q, y, at, model):
        k, v = flow.matmul(y, [flow.weight(name, "E_x K Q", "E_x K Q") for name in ("w_k", "w_v")], "kv")
        return flow.attention(q, k, v, "attention")

    monkeypatch.setitem(attention_module.ATTENTION, "heads", unsummed)
    with pytest.raises(LayoutError, match="the partial sum must be reduced first"):
        next(run_both(LAYOUTS["weight_stationary_2d"], (2, 2, 2)))


@pytest.mark.parametrize(
    ("differs", "rule"),
    [
        (("x",), r"local_slice\(x\) of BLE \(differs x\): chips along x must hold the same values"),
        (("y", "x"), r"local_slice\(x\) of BLE \(differs yx\): chips along x must hold the same values"),
        (("y",), "chips have different values"),
    ],
)
def test_attention_that_slices_a_stream_of_the_chips_own_is_refused(monkeypatch, differs, rule):
    """Few key-value heads are projected on a slice of the tokens: it must be a slice of one and the same stream."""
    into = block_module._into

    def own(flow, *args):
        y, products = into(flow, *args)
        return flow.own_part(flow.share(y, differs)), products

    monkeypatch.setattr(block_module, "_into", own)
    with pytest.raises(LayoutError, match=rule):
        next(run_both(LAYOUTS["weight_stationary_1d"], (2, 2), batch=4))


def test_a_norm_over_the_own_shard_only_computes_something_else(monkeypatch):
    def own_shard_only(flow, x, axes, name):
        return flow.scale(x, flow.mean_square(x, "E", name), flow.weight(name, "E_x", "E_x"), name)

    monkeypatch.setattr(block_module, "_normalised", own_shard_only)
    logits, _, want = next(run_both(LAYOUTS["weight_stationary_2d"], (2, 2, 2)))
    assert not np.allclose(logits, want)


def test_a_loop_that_needs_its_shards_one_piece_early_is_caught(monkeypatch):
    from sim import execute

    late = execute.piece_of_arrival
    monkeypatch.setattr(execute, "piece_of_arrival", lambda *args: late(*args) - 1)
    with pytest.raises(KeyError):  # the last piece has nothing to multiply
        next(run_both(LAYOUTS["weight_stationary_2d"], (4, 2), form="one_way"))
