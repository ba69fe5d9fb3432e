"""Mixtures of experts and latent attention compute what one device computes, however mesh axes deal them out."""

import numpy as np
import pytest
from support.machines import meshed, switch, torus
from support.mixtures import model_of, passes

from sim.errors import LayoutError
from sim.specs.uses import PRESETS, Uses

X, Y = ("x",), ("y",)
DEALS = {
    "experts by chip, tokens sent": Uses(batch=("x", "y"), experts=("x", "y")),
    "experts by chip, every chip all tokens": Uses(heads=("x", "y"), d_ff=("x", "y"), experts=("x", "y")),
    "every expert split over all chips": Uses(heads=("x", "y"), d_ff=("x", "y")),
    "tokens sent along x, each expert split along y": Uses(batch=X, experts=X, heads=Y, d_ff=Y),
    "tokens sent along x, experts by x and y": Uses(batch=X, experts=("x", "y"), heads=Y, d_ff=Y),
    "tokens sent along x, copies along y": Uses(batch=("x", "y"), experts=X),
    "stream split in tokens, experts by chip": Uses(
        heads=("x", "y"), d_ff=("x", "y"), experts=("x", "y"), tokens=("x", "y")
    ),
    "attention of own sequences, experts by chip": Uses(d_ff=("x", "y"), experts=("x", "y"), tokens=("x", "y")),
    "attention of own sequences, experts by x, each split along y": Uses(d_ff=("x", "y"), experts=X, tokens=("x", "y")),
    "stream split in d_model along x": Uses(heads=("x", "y"), d_ff=("x", "y"), experts=Y, stream=X),
}
MACHINES = {"switch": meshed(switch(4), x=2, y=2), "torus": torus(2, 2)}


def assert_equal(found):
    for got, want, _, _ in found:
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("latent", [False, True], ids=["heads", "latent"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("deal", DEALS)
def test_every_deal_of_axes_equals_one_device(deal, machine, latent):
    assert_equal(passes(DEALS[deal], MACHINES[machine], model_of(experts=8, latent=latent)))


@pytest.mark.parametrize("shared", ["under_dispatch", "under_combine", "apart"])
@pytest.mark.parametrize("scheme", ["standard", "parallel", "ladder", "hybrid"])
def test_residual_schemes_and_places_of_the_shared_expert(scheme, shared):
    """All places of the shared expert give the same; one device is the reference of the standard scheme alone."""
    deal, machine, model = DEALS["tokens sent along x, experts by x and y"], MACHINES["switch"], model_of(experts=8)
    first = [got for got, *_ in passes(deal, machine, model, scheme=scheme, shared=shared)]
    for again, *_ in passes(Uses(), torus(1, 1), model, scheme=scheme):
        np.testing.assert_allclose(first.pop(0), again, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("deal", ["experts by chip, tokens sent", "tokens sent along x, each expert split along y"])
def test_two_parts_of_a_batch(deal):
    assert_equal(passes(DEALS[deal], MACHINES["switch"], model_of(experts=8), parts=(0.5, 0.5)))


@pytest.mark.parametrize("latent", [False, True], ids=["heads", "latent"])
@pytest.mark.parametrize("shared", ["under_dispatch", "under_combine", "apart"])
@pytest.mark.parametrize("deal", ["experts by chip, tokens sent", "tokens sent along x, each expert split along y"])
def test_two_parts_of_a_batch_two_stages_apart(deal, shared, latent):
    """The second part's tokens are sent in one layer, their experts computed in the next: with their own weights."""
    model = model_of(experts=8, latent=latent)
    assert_equal(passes(DEALS[deal], MACHINES["switch"], model, parts=(0.5, 0.5), shared=shared, in_stages=True))


@pytest.mark.parametrize("latent", [False, True], ids=["heads", "latent"])
@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize("deal", DEALS)
def test_halves_of_every_sequence(deal, experts, latent):
    """The second half of the positions attends to the first half's keys, which are in the same cache."""
    model = model_of(experts=experts, latent=latent, window=0 if latent else 3)
    assert_equal(passes(DEALS[deal], MACHINES["switch"], model, parts=(0.5, 0.5), split_dim="L", positions=(16, 8, 8)))


@pytest.mark.parametrize("latent", [False, True], ids=["heads", "latent"])
def test_unequal_parts_of_every_sequence(latent):
    deal = DEALS["tokens sent along x, each expert split along y"]
    model = model_of(experts=8, latent=latent)
    given = passes(deal, MACHINES["switch"], model, parts=(0.75, 0.25), split_dim="L", positions=(8, 4, 8))
    assert_equal(given)


@pytest.mark.parametrize("absorbs", [(False, False, False), (True, True, True), (True, False, True)])
def test_plain_and_absorbed_latent_attention_are_equal(absorbs):
    deal = DEALS["tokens sent along x, each expert split along y"]
    assert_equal(passes(deal, MACHINES["switch"], model_of(experts=8, latent=True), absorbs=absorbs))


@pytest.mark.parametrize("absorbs", [(False, False, True), (False, True, True)])
def test_a_prompt_in_two_chunks_and_three_tokens_at_once(absorbs):
    deal = DEALS["tokens sent along x, each expert split along y"]
    model = model_of(experts=8, latent=True)
    assert_equal(passes(deal, MACHINES["switch"], model, absorbs=absorbs, positions=(3, 2, 3)))


@pytest.mark.parametrize("window", [1, 2, 4])
def test_sliding_windows(window):
    assert_equal(passes(PRESETS["tensor_parallel"](("x", "y")), MACHINES["switch"], model_of(window=window)))


@pytest.mark.parametrize("deal", ["experts by chip, tokens sent", "tokens sent along x, experts by x and y"])
def test_chips_send_the_rows_of_the_routing(deal):
    """A token goes once to every chip that has an expert of it, and what the executor sends is what a count says."""
    uses, model = DEALS[deal], model_of(experts=8)
    for *_, flow, one in passes(uses, MACHINES["switch"], model):
        grid, per_holder = flow.grid, 8 // (4 if "y" in uses.experts else 2)
        sequences = 8 // (4 if "y" in uses.batch else 2)
        for (source, chip), sent in flow.rows_sent.items():
            first, experts = grid.block(uses.batch, source) * sequences, grid.block(uses.experts, chip)
            mine = range(experts * per_holder, (experts + 1) * per_holder)
            tokens = [chosen for (b, _), chosen in one.chosen.items() if first <= b < first + sequences]
            assert sent == sum(any(expert in mine for expert in chosen) for chosen in tokens)
        assert len(flow.rows_sent) == (16 if "y" in uses.batch else 8)


def test_gathered_weights_and_split_d_model_are_refused():
    for uses in (PRESETS["fsdp"](("x", "y")), PRESETS["weight_stationary_2d"](("x", "y"))):
        with pytest.raises(LayoutError, match="requires whole d_model"):
            next(passes(uses, MACHINES["torus"], model_of(experts=8, dense_first=0)))
