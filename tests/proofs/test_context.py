"""Chips that share the positions of prompts, or of the cache alone, compute what one device computes."""

import numpy as np
import pytest
from support.machines import meshed, switch, torus
from support.mixtures import model_of, passes

from sim.errors import LayoutError
from sim.specs.uses import Uses

MACHINES = {"switch": meshed(switch(4), x=2, y=2), "torus": torus(2, 2)}
PREFILL = {
    "positions along x": Uses(context=("x",), batch=("y",)),
    "positions along x and y": Uses(context=("x", "y")),
    "positions along x, heads along y": Uses(context=("x",), heads=("y",), d_ff=("y",)),
    "positions along x, sequences along y": Uses(context=("x",), d_ff=("y",), tokens=("y",)),
}
DECODE = {
    "cache along y": Uses(heads=("x", "y"), d_ff=("x", "y"), context=("y",)),
    "cache along x and y": Uses(heads=("x", "y"), d_ff=("x", "y"), context=("x", "y")),
    "cache along y, heads as well, sequences along x": Uses(batch=("x",), heads=("y",), d_ff=("y",), context=("y",)),
}


def assert_equal(found):
    for got, want, _, _ in found:
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("context", ["ring", "heads"])
@pytest.mark.parametrize("experts", [0, 8])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("deal", PREFILL)
def test_prompts_whose_positions_chips_share(deal, machine, experts, context):
    model = model_of(experts=experts, kv_heads=8)
    given = passes(PREFILL[deal], MACHINES[machine], model, positions=(8,), absorbs=(False,), context=context)
    assert_equal(given)


@pytest.mark.parametrize("latent", [False, True], ids=["heads", "latent"])
@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("deal", DECODE)
def test_caches_whose_positions_chips_share(deal, machine, latent):
    """Also of prompts and of several tokens at once: a chip may then see none of the positions that are its own."""
    model = model_of(latent=latent)
    assert_equal(passes(DECODE[deal], MACHINES[machine], model, positions=(3, 1, 2), absorbs=(True,) * 3))


def test_a_window_over_a_shared_cache():
    assert_equal(passes(DECODE["cache along y"], MACHINES["switch"], model_of(window=2), positions=(3, 1, 1)))


def test_what_latent_attention_does_not_share_is_refused():
    model = model_of(latent=True)
    with pytest.raises(LayoutError, match="latent attention over positions"):
        next(passes(PREFILL["positions along x"], MACHINES["switch"], model, positions=(8,), absorbs=(False,)))
    with pytest.raises(LayoutError, match="requires absorbed latent attention"):
        next(passes(DECODE["cache along y"], MACHINES["switch"], model, absorbs=(False,), positions=(3,)))
