"""Every layout computes what one device computes: the NumPy executor against a plain transformer with a KV cache."""

from itertools import product

import numpy as np
import pytest
from support.forward_passes import assert_equal, differs, run_both
from support.machines import meshed, switch, torus, two_boxes
from support.selection import pairwise

from sim.errors import LayoutError
from sim.layouts import attention as attention_module
from sim.layouts.layer import Layer
from sim.specs.uses import PRESETS, Uses

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
BLOCKS = ("parallel", "serial")
ATTENTION = ("heads", "batch")
HEADS = {"multi-query": 1, "grouped-query": 2, "multi-head": None}


@pytest.mark.parametrize(
    ("name", "mesh", "block", "attention", "form"),
    pairwise(product(PRESETS, MESHES, BLOCKS, ATTENTION, FORMS)),
    ids=str,
)
@pytest.mark.every_case
def test_layout_equals_one_device(name, mesh, block, attention, form):
    assert_equal(run_both(PRESETS[name], mesh, block=block, attention=attention, form=form))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PRESETS)
def test_loops_between_two_chips_need_no_wraparound(name, form):
    assert_equal(run_both(PRESETS[name], (2, 2, 2), form=form, wrap=False))


@pytest.mark.parametrize(("name", "machine", "form"), pairwise(product(PRESETS, MESHED, FORMS)))
def test_layouts_and_loops_run_on_any_mesh(name, machine, form):
    mesh = MESHED[machine]
    sizes = [axis.size for axis in mesh.mesh]
    assert_equal(run_both(PRESETS[name], sizes, form=form, machine=mesh))


@pytest.mark.parametrize(
    ("name", "machine"), pairwise(product(PRESETS, ("switch 2x2x2", "switch 2x4", "two boxes 2x4")))
)
def test_chunks_that_are_sent_directly(name, machine):
    mesh = MESHED[machine]
    assert_equal(run_both(PRESETS[name], [axis.size for axis in mesh.mesh], form="direct", machine=mesh))


@pytest.mark.parametrize(
    ("name", "block", "attention", "kv"), pairwise(product(PRESETS, BLOCKS, ATTENTION, HEADS.values()))
)
def test_every_kind_of_attention(name, block, attention, kv):
    assert_equal(run_both(PRESETS[name], (2, 2, 2), block=block, attention=attention, kv=kv, form="one_way"))


@pytest.mark.parametrize("kv", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize("batch", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("name", ["weight_stationary_1d", "weight_stationary_2d"])
def test_batches_that_do_not_fill_the_chips(name, batch, attention, kv):
    assert_equal(run_both(PRESETS[name], (2, 2, 2), attention=attention, batch=batch, kv=kv, prompt=4))


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize(("batch", "form"), [(8, None), (8, "bidirectional_latency"), (4, "one_way")])
def test_more_chips_than_heads(batch, form, attention, kv):
    """4 heads on 8 chips: heads over the 4 chips of y and z, sequences over x."""
    assert_equal(
        run_both(
            PRESETS["weight_stationary_2d"], (2, 2, 2), attention=attention, batch=batch, kv=kv, heads=4, form=form
        )
    )


@pytest.mark.parametrize("kv", [1, 2, 4])
@pytest.mark.parametrize("attention", ["heads", "batch"])
def test_more_chips_than_heads_and_one_sequence(attention, kv):
    """Neither heads nor sequences over x: positions of the prompt; a decode step has one, and is refused."""
    found = run_both(PRESETS["weight_stationary_2d"], (2, 2, 2), attention=attention, batch=1, kv=kv, heads=4, prompt=4)
    (logits,), _, (want,) = next(found)
    np.testing.assert_allclose(logits, want, rtol=1e-9, atol=1e-9)
    with pytest.raises(LayoutError, match="heads must be a multiple of the 8 chips that share it, got 4"):
        next(found)


@pytest.mark.parametrize("name", PRESETS)
def test_an_lm_head_of_its_own(name):
    assert_equal(run_both(PRESETS[name], (2, 2, 2), tied=False))


@pytest.mark.parametrize("name", PRESETS)
def test_two_matrix_ffn(name):
    assert_equal(run_both(PRESETS[name], (2, 2, 2), ffn="mlp"))


# --- the proof can fail: layouts with one thing wrong are refused, or compute something else -------------------------


def test_a_partition_that_uses_an_axis_twice_is_refused():
    with pytest.raises(LayoutError, match="'x' twice"):
        next(run_both(lambda axes: Uses(d_model=("x",), heads=("x", "y", "z"), d_ff=("x", "y", "z")), (2, 2, 2)))


def test_a_layer_that_gathers_the_wrong_axes_is_refused(monkeypatch):
    def wrong(self, x, plus, name):
        return x, self.flow.all_gather([(x, "E")], self.uses.d_model, "residual")[0]

    monkeypatch.setattr(Layer, "norm", wrong)
    with pytest.raises(
        LayoutError, match=r"all_gather\(x\) of BLE_xzy: the last axes that split 'E' must be x.* split over xzy"
    ):
        next(run_both(PRESETS["weight_stationary_2d"], (2, 2, 2)))


def test_a_missing_reduce_scatter_is_refused(monkeypatch):
    monkeypatch.setattr(Layer, "_reduce_products", lambda self, factors, sum_axes, name: self._multiply(factors))
    with pytest.raises(LayoutError, match=r"add of BLE_xzy and BLE_x \(partial zy\)"):
        next(run_both(PRESETS["weight_stationary_2d"], (2, 2, 2)))


def test_a_missing_all_reduce_of_keys_is_refused(monkeypatch):
    def unsummed(layer, q, y):
        weights = [layer.flow.weight(name, "E_x K Q", "E_x K Q") for name in ("w_k", "w_v")]
        return layer.attend(q, *layer.flow.matmul(y, weights, "kv"))

    monkeypatch.setitem(attention_module.ATTENTION, "heads", unsummed)
    with pytest.raises(LayoutError, match="the partial sum must be reduced first"):
        next(run_both(PRESETS["weight_stationary_2d"], (2, 2, 2)))


@pytest.mark.parametrize(
    ("differing", "rule"),
    [
        (("x",), r"local_slice\(x\) of BLE \(differs x\): chips along x must hold the same values"),
        (("y", "x"), r"local_slice\(x\) of BLE \(differs yx\): chips along x must hold the same values"),
        (("y",), "chips have different values"),
    ],
)
def test_attention_that_slices_a_stream_of_the_chips_own_is_refused(monkeypatch, differing, rule):
    """Few key-value heads are projected on a slice of the tokens: it must be a slice of one and the same stream."""
    project = Layer.project

    def own(self, *args):
        y, products = project(self, *args)
        return self.flow.keep_partial(self.flow.as_mean_partial(y, differing)), products

    monkeypatch.setattr(Layer, "project", own)
    with pytest.raises(LayoutError, match=rule):
        next(run_both(PRESETS["weight_stationary_1d"], (2, 2), batch=4))


def test_a_norm_over_the_own_shard_only_computes_something_else(monkeypatch):
    def own_shard_only(self, x, axes, name):
        flow = self.flow
        return flow.scale(x, flow.mean_square(x, "E", name), flow.weight(name, "E_x", "E_x"), name)

    monkeypatch.setattr(Layer, "_scale_to_unit", own_shard_only)
    assert differs(run_both(PRESETS["weight_stationary_2d"], (2, 2, 2)))


def test_a_loop_that_needs_its_shards_one_piece_early_is_caught(monkeypatch):
    from sim.layouts import numpy_loops

    late = numpy_loops.piece_of_arrival
    monkeypatch.setattr(numpy_loops, "piece_of_arrival", lambda *args: late(*args) - 1)
    with pytest.raises(KeyError):  # the last piece has nothing to multiply
        next(run_both(PRESETS["weight_stationary_2d"], (4, 2), form="one_way"))
