"""Pope et al. 2022, Efficiently Scaling Transformer Inference: what the paper finds to be faster is faster here.

The settings and machines are those of the shipped suite `pope`.
"""

from __future__ import annotations

import functools

import pytest

from sim import api
from sim.simulate.latency import latency_s, step_s
from sim.specs import load
from sim.studies.validate.cases import read


@functools.cache
def simulated(case_id: str) -> float:
    """Seconds of a row of the suite."""
    _, cases = read("pope")
    return latency_s(next(case for case in cases if case.case_id == case_id).run.scenario())


# --- figure 6: on more chips two dimensions move less: bytes per chip fall with sqrt(chips), and not at all in one ----


@pytest.mark.parametrize("chips", [64, 128, 256])
def test_two_dimensions_beat_one_from_64_chips_up(chips):
    assert simulated(f"f6-2d-c{chips}") < simulated(f"f6-1d-c{chips}")


@pytest.mark.parametrize("overlap", ["none", "collective_matmul"])
@pytest.mark.parametrize("chips", ["4x4x4", "8x4x4", "4x8x8"])
def test_whether_loops_hide_collectives_or_not(chips, overlap):
    """As a user would write it."""
    settings = [f"topology=tpu_v4_{chips}", f"layout.overlap={overlap}"]
    two, one = (
        step_s(load.scenario("palm540b_decode_ws2d_b512", [*settings, f"layout.ffn=weight_stationary_{dimensions}"]))
        for dimensions in ("2d", "1d")
    )
    assert two < one


def test_and_more_so_on_256():
    gains = [simulated(f"f6-1d-c{chips}") / simulated(f"f6-2d-c{chips}") for chips in (64, 128, 256)]
    assert gains == sorted(gains)
    assert gains[2] > 1.1 * gains[0]


def test_one_dimension_takes_4_percent_longer_on_64_chips():
    """96.04 and 92.03 ms are measured, 1.04; within 8 points."""
    assert simulated("f6-1d-c64") / simulated("f6-2d-c64") == pytest.approx(1.04, abs=0.08)


def test_four_times_the_chips_are_1_37_times_as_fast():
    """92.03 and 67.36 ms are measured; within 12 %. What stays is latency: more hops on longer axes."""
    assert simulated("f6-2d-c64") / simulated("f6-2d-c256") == pytest.approx(1.37, rel=0.12)


@pytest.mark.parametrize("layout", ["1d", "2d"])
def test_more_chips_are_faster(layout):
    times = [simulated(f"f6-{layout}-c{chips}") for chips in (64, 128, 256)]
    assert times == sorted(times, reverse=True)


# --- figure 7: gathered weights cost the same whatever the batch, stationary ones cost activations ------------------


def test_gathered_weights_overtake_stationary_ones_between_131072_and_262144_tokens():
    # 64 and 128 prompts of 2048 tokens.
    assert simulated("f7-wg-b64") > simulated("f7-ws-b64")
    for batch in (128, 256, 512):
        assert simulated(f"f7-wg-b{batch}") < simulated(f"f7-ws-b{batch}")


def test_stationary_weights_gain_nothing_from_a_larger_batch():
    """A percent more, as memory on the chip holds a smaller part of larger activations."""
    per_sequence = [simulated(f"f7-ws-b{batch}") / batch for batch in (64, 128, 256, 512)]
    assert max(per_sequence) < 1.02 * min(per_sequence)


# --- figure 8: a multi-query cache sharded over batch is read once in all, over heads by every chip ------------------


def test_attention_over_batch_is_flat_in_context_where_over_heads_it_grows():
    """Each chip reads a 64th of the cache, where over heads each reads all of it."""
    by_batch, by_heads = (
        simulated(f"f8-{series}-ctx2048") - simulated(f"f8-{series}-ctx128") for series in ("mqb", "mqh")
    )
    assert by_batch < 0.03 * simulated("f8-mqb-ctx128")
    assert by_heads > 0.9 * simulated("f8-mqh-ctx128")
    assert by_heads > 32 * by_batch


def test_the_longer_the_context_the_more_attention_over_batch_gains():
    gains = [simulated(f"f8-mqh-ctx{tokens}") / simulated(f"f8-mqb-ctx{tokens}") for tokens in (512, 2048, 8192)]
    assert 1 < gains[0] < gains[1] < gains[2]


# --- table 1: how long a context fits, with 30 % of memory for the cache --------------------------------------------

CACHES = {
    "multi-head": ["layout.attention=heads", "model.d_head=128", "model.heads=64", "model.kv_heads=64"],
    "multi-query over heads": ["layout.attention=heads"],
    "multi-query over batch": ["layout.attention=batch"],
}
PUBLISHED = {
    128: {"multi-head": 1320, "multi-query over heads": 660, "multi-query over batch": 43_000},
    512: {"multi-head": 330, "multi-query over heads": 165, "multi-query over batch": 10_700},
}
"""Longest context, tokens; rounded in the paper, by 1 % at most."""


@pytest.mark.parametrize("attention", CACHES)
@pytest.mark.parametrize("batch", PUBLISHED)
def test_multi_query_attention_over_batch_holds_32_times_the_context_of_multi_head(batch, attention):
    workload = [f"workload.batch={batch}", "workload.context=1023"]  # and one token generated
    base = ["sweep=null", "figure=null", "engine.layers=all"]
    scenario = api.load("pope_fig8_attention", *base, *workload, *CACHES[attention])
    memory = api.simulate(scenario).report.memory
    longest = 0.3 * memory.capacity_bytes / (memory.kv_cache_bytes / 1024)
    assert longest == pytest.approx(PUBLISHED[batch][attention], rel=0.015)


# --- section 4.3: a serial block has twice the collectives of a parallel one ----------------------------------------


def test_a_serial_block_is_10_to_20_percent_slower_per_decode_step_at_batch_512():
    """14 % are measured, and nothing was fitted to it. It has one more gather, norm and scatter of the stream."""
    parallel = load.scenario("palm540b_decode_ws2d_b512")
    serial = load.scenario("palm540b_decode_ws2d_b512", ["layout.block=serial"])
    assert (parallel.block, serial.block) == ("parallel", "serial")
    assert 1.10 <= step_s(serial) / step_s(parallel) <= 1.20
