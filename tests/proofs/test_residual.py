"""Every residual scheme computes its own recurrence: the NumPy executor against plain loops over ranks."""

import numpy as np
import pytest
from msgspec.structs import replace
from support import forward_passes
from support.forward_passes import assert_equal
from support.machines import switch

from sim.errors import LayoutError
from sim.layouts import residual
from sim.layouts.layer import Layer
from sim.layouts.numpy_executor import NumpyExecutor
from sim.layouts.residual import SCHEMES
from sim.lowering.placement import tensor_parallel
from sim.specs.layout import RESIDUALS
from sim.specs.uses import PRESETS

LAYERS = 5
PARTIAL_MLP = Layer.partial_mlp


def passes(scheme, *, tp=4, kv=2, layers=LAYERS, ladder_layers=2, layout="tensor_parallel", head=False, **options):
    machine = tensor_parallel(switch(tp), kv)
    at = PRESETS[layout](tuple(axis.name for axis in machine.mesh))
    return forward_passes.passes(
        at, machine, scheme=scheme, kv=kv, layers=layers, ladder_layers=ladder_layers, head=head, **options
    )


def differs(scheme, **options):
    return forward_passes.differs(passes(scheme, **options))


@pytest.mark.parametrize("kv", [1, 2, 4, 8], ids=lambda kv: f"kv{kv}")
@pytest.mark.parametrize("tp", [1, 2, 4])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_computes_its_recurrence(scheme, tp, kv):
    """Also with fewer key-value heads than chips: copies along axis r."""
    assert_equal(passes(scheme, tp=tp, kv=kv))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_last_layer_is_not_special(scheme, layers):
    assert_equal(passes(scheme, layers=layers, ladder_layers=min(2, layers)))


@pytest.mark.parametrize("scheme", ["standard", "parallel", "ladder", "hybrid"])
def test_the_stream_may_be_split_over_tokens(scheme):
    assert_equal(passes(scheme, layout="megatron_sequence_parallel"))


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "no_communication"])
def test_the_head_may_be_split_over_the_vocabulary(scheme):
    assert_equal(passes(scheme, head=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_logits_of_every_position_end_with_the_same(scheme):
    assert_equal(passes(scheme, every_position=True))


def test_two_parts_of_the_batch_compute_the_same():
    assert_equal(passes("standard", parts=2))


@pytest.mark.parametrize("chunks", [2, 3])
@pytest.mark.parametrize("scheme", ["standard", "ladder"])
def test_a_matmul_summed_in_pieces_computes_the_same(scheme, chunks):
    assert_equal(passes(scheme, chunks=chunks, widths=3))


@pytest.mark.parametrize("cuts", [(1,), (2,), (1, 2, 3)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_computes_its_recurrence_over_stages(scheme, cuts):
    """Every rank sends its own residual stream, also where those of desync differ."""
    assert_equal(passes(scheme, cuts=cuts))


@pytest.mark.parametrize("scheme", ["standard", "parallel", "ladder", "hybrid", "desync2"])
def test_stages_may_send_a_share_from_each_rank(scheme):
    assert_equal(passes(scheme, cuts=(1, 2, 3), scattered=True))


def test_shares_of_streams_that_differ_are_refused():
    """After an odd layer of desync4 every rank has its own stream: shares of them are not shares of one."""
    with pytest.raises(LayoutError, match="differs tr"):
        differs("desync4", cuts=(1,), scattered=True)
    assert not differs("desync4", cuts=(2,), scattered=True)


def test_chips_of_desync_differ_between_the_sums():
    got, _, _ = next(passes("no_communication"))
    assert not np.allclose(got[0], got[1])


def test_the_names_of_schemes_are_those_of_a_scenario():
    assert tuple(SCHEMES) == RESIDUALS


# --- the proof can fail: schemes with one thing wrong are refused, or compute something else --------------------------


def test_a_ladder_that_waits_for_the_last_half_is_standard(monkeypatch):
    """Adding the newest output instead of the one before turns Ladder into Standard, and the test of Ladder says so."""
    monkeypatch.setitem(residual.LAYERS, "ladder", residual.LAYERS["standard"])
    assert differs("ladder")


def test_a_ladder_that_drops_the_last_outputs_is_caught(monkeypatch):
    norm = NumpyExecutor.norm
    monkeypatch.setattr(
        NumpyExecutor,
        "norm",
        lambda self, x, plus, gain, name: norm(self, x, () if name == "final_norm" else plus, gain, name),
    )
    assert differs("ladder")


def test_a_desync_without_its_share_of_the_residual_is_caught(monkeypatch):
    monkeypatch.setattr(
        Layer, "partial_mlp", lambda layer, y, stream=None: layer.mlp(y) if stream else PARTIAL_MLP(layer, y)
    )
    assert differs("desync2")


def test_a_desync_that_takes_the_whole_residual_from_every_chip_is_caught(monkeypatch):
    share = NumpyExecutor.as_mean_partial

    def whole(self, x, axes):
        value = share(self, x, axes)
        return replace(value, shards=x.shards)

    monkeypatch.setattr(NumpyExecutor, "as_mean_partial", whole)
    assert differs("desync4")


def test_a_missing_sum_is_refused(monkeypatch):
    monkeypatch.setattr(Layer, "_reduce_products", lambda self, factors, sum_axes, name: self._multiply(factors))
    with pytest.raises(LayoutError, match=r"add of BLE and BLE \(partial tr\): both must be sharded alike"):
        next(passes("standard"))


def test_chips_that_differ_cannot_split_the_stream_over_tokens():
    with pytest.raises(LayoutError, match="that differ between chips must not be split"):
        assert_equal(passes("no_communication", layout="megatron_sequence_parallel"))
