"""Every layout computes what one device computes: the NumPy executor against a plain transformer with a KV cache."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import transformer
from machines import torus

from sim.errors import LayoutError
from sim.execute import Execution
from sim.layouts import LAYOUTS
from sim.layouts import weight_stationary as ws

FORMS = (None, "one_way", "bidirectional_throughput", "bidirectional_latency")
MESHES = ((2, 2, 2), (4, 2, 1), (2, 4), (3, 2, 1))


def run_both(layout, mesh, *, block="parallel", attention="heads", form=None, ffn="swiglu", batch=8, prompt=3, steps=2):
    """Prefill and then decode with two layers; the layout's output and the one device's, for every pass."""
    chips = int(np.prod(mesh))
    size = transformer.sizes(batch=batch, positions=prompt, heads=chips, e=2 * chips, f=2 * chips)
    rng = np.random.default_rng(0)
    layers = [transformer.weights(rng, size, ffn) for _ in range(2)]
    machine = torus(*mesh)
    chips_run = Execution(machine, size, form)
    one = transformer.OneDevice(layers, block)
    model = SimpleNamespace(ffn=ffn)
    axes = "".join(axis.name for axis in machine.axes)
    for positions in (prompt, *[1] * steps):
        size["L"] = positions
        x = rng.normal(size=(batch, positions, size["E"]))
        value = chips_run.place(x, f"B L E_{axes}")
        for i, w in enumerate(layers):
            chips_run.layer, chips_run.weights = i, w
            value = layout(chips_run, value, model, block, attention)
        yield chips_run.whole(value), one.forward(x)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("block", "attention"), [*itertools.product(("parallel", "serial"), ("heads", "batch"))])
@pytest.mark.parametrize("mesh", MESHES, ids=lambda m: "x".join(map(str, m)))
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_one_device(name, mesh, block, attention, form):
    batch = int(np.prod(mesh))
    for got, want in run_both(LAYOUTS[name], mesh, block=block, attention=attention, form=form, batch=batch):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_mlp_and_odd_token_counts(name):
    for got, want in run_both(LAYOUTS[name], (2, 2, 2), ffn="mlp", batch=3, prompt=5):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_a_layout_that_gathers_the_wrong_axes_is_refused(monkeypatch):
    monkeypatch.setattr(ws, "_axes", lambda flow: (("z",), ("x", "y")))
    with pytest.raises(LayoutError, match=r"all_gather\(xy\) of BLE_xyz: 'E' must be split innermost"):
        list(run_both(ws.weight_stationary_2d, (2, 2, 2)))


def test_a_layout_that_forgets_to_sum_is_refused(monkeypatch):
    monkeypatch.setattr(ws, "_onto_residual", lambda flow, x, out, f: flow.add(x, out, "residual"))
    with pytest.raises(AssertionError, match="partial yz"):
        list(run_both(ws.weight_stationary_2d, (2, 2, 2)))


def test_a_layout_that_normalises_with_its_own_shard_only_computes_something_else(monkeypatch):
    def own_shard_only(flow, x, e, f, name):
        (y,) = flow.all_gather([(x, "E")], f, "residual")
        return flow.scale(y, flow.mean_square(y, "E", name), flow.weight(name, f"E_{e[0]}"), name)

    monkeypatch.setattr(ws, "_normalised", own_shard_only)
    got, want = next(run_both(ws.weight_stationary_2d, (2, 2, 2)))
    assert not np.allclose(got, want)
