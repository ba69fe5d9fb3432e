"""Layers fetched from another memory: stalls on both sides of the edge, placement, memory over time, what fits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import scenario

from sim import units
from sim.closed_form.memory_pool import max_layers, stall_per_group
from sim.engine import simulate
from sim.errors import InputError
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.program.trace import Trace
from sim.report.pool import memory_over_time
from sim.simulate.run import run

LAYER_BYTES = 2 * (12 * 64 * 64 + 2 * 64)
"""Of the small model: twelve d_model squared and the gains of two norms, bf16."""


def pooled(layers: int, every: int, copy_ps: float, **pool: Any) -> Trace:
    """A model whose layers all take the same time, one copy of a layer taking `copy_ps`."""
    bandwidth = units.text(LAYER_BYTES / (copy_ps * 1e-12), "B/s")
    link = {"name": "link", "bandwidth": bandwidth, "latency": "0 s"}
    return simulated(layers, {"offload_every": every, "to": "host", "link": link} | pool)


def simulated(layers: int, pool: dict[str, Any] | None) -> Trace:
    more: dict[str, Any] = {"memory_pool": pool} if pool else {}
    given = scenario(schedule="sequential", requests=1, layers=layers, more=more)
    plain = given.model_copy(
        update={
            "stack": given.stack.model_copy(update={"elementwise": "fused"}),
            "layout": given.layout.model_copy(update={"pipeline": None}),
        }
    )
    return simulate(lower(plain, mesh_of(plain)).program)


def layer_ps() -> int:
    """Time of a layer: one more of them."""
    return simulated(7, None).makespan_ps - simulated(6, None).makespan_ps


@pytest.mark.parametrize("every", [3, 4, 6])
@pytest.mark.parametrize("picoseconds", [0, 1, 1000])
def test_a_fetch_stalls_by_what_two_layers_do_not_hide(every: int, picoseconds: int):
    """From six layers a group on, the copy back is over when the fetch begins: up to 2 t nothing stalls, then each
    picosecond more is one of a stall per group. In shorter groups copy back and fetch share I - 1 layers."""
    t, layers = layer_ps(), 12
    hidden = {3: t, 4: 3 * t // 2, 6: 2 * t}[every]  # e + f = (I - 1) t, or f = 2 t
    stalls = pooled(layers, every, hidden + picoseconds).makespan_ps - simulated(layers, None).makespan_ps
    per_group = stall_per_group(every, t, hidden + picoseconds, hidden + picoseconds)
    assert stalls == layers // every * per_group
    assert (stalls == 0) == (picoseconds == 0)


def test_groups_of_two_fetch_one_layer_ahead():
    t = layer_ps()
    even = pooled(8, 2, t // 2).makespan_ps
    assert even == simulated(8, None).makespan_ps  # e + f <= t
    assert pooled(8, 2, t).makespan_ps - even == 4 * t  # of e + f = 2 t, one t is hidden


@given(st.integers(3, 9), st.integers(1, 50), st.integers(0, 200), st.integers(0, 200))
def test_no_stall_exactly_where_both_copies_fit(every: int, t: int, f: int, e: int):
    fits = f <= 2 * t and e + f <= (every - 1) * t
    assert (stall_per_group(every, t, f, e) == 0) == fits


def test_a_copy_back_at_once_overlaps_with_the_layer_it_is_of():
    t = layer_ps()
    copy = 3 * t / 2 + t / 4  # in groups of 4 too long by a quarter each, after the layer has been computed
    waits, at_once = (pooled(12, 4, copy, evict=evict).makespan_ps for evict in ("when_computed", "at_once"))
    assert at_once < waits


def test_the_last_layer_of_each_group_is_remote_and_comes_two_layers_ahead():
    trace = pooled(12, 6, layer_ps())
    program, t = trace.program, layer_ps()
    names = np.array(program.op_names)[program.op]
    copies = program.kind == Kind.COPY
    assert program.layer[copies & (names == "fetch")].tolist() == [5, 11]
    assert program.layer[copies & (names == "evict")].tolist() == [11, 5]
    starts = trace.times["start"]
    begins = {layer: starts[(program.kind == Kind.COMPUTE) & (program.layer == layer)].min() for layer in range(12)}
    assert starts[copies & (names == "fetch")].tolist() == [begins[3], begins[9]]
    assert starts[copies & (names == "evict")].tolist() == [begins[0], begins[6]]
    assert begins[5] - begins[3] == 2 * t


def test_memory_over_time_peaks_at_the_local_layers_and_one_visitor():
    times, sizes = memory_over_time(pooled(12, 6, layer_ps()), 0, 11 * LAYER_BYTES, LAYER_BYTES)
    assert sizes.max() == 11 * LAYER_BYTES  # 12 - 12 / 6 + 1
    assert sizes.min() == 10 * LAYER_BYTES
    assert sizes[-1] == 11 * LAYER_BYTES  # the last layer is still there
    assert (np.diff(times) >= 0).all()


def test_the_largest_model_with_and_without():
    """Of 20 units 2 are not layers. 18 layers of 1; in groups of 6, 3 groups keep 15 and have a visitor: 17 <= 18."""
    assert max_layers(20, 2, 1, 0) == 18
    assert max_layers(20, 2, 1, 0, every=6) == 18
    assert max_layers(23, 2, 1, 0, every=6) == 24  # 4 x 5 + 1 = 21
    assert max_layers(20, 2, 1, 0, every=2) == 34  # 17 local, 17 remote, one visiting


def test_the_report_says_where_layers_live_and_what_it_costs():
    link = {"name": "link", "bandwidth": "1 GB/s", "latency": "0 s"}
    pool = {"offload_every": 3, "to": "host", "link": link}
    given = scenario(schedule="sequential", requests=1, more={"memory_pool": pool})
    report = run(given).report
    assert report.pool is not None
    assert report.pool.remote_layers == (2, 5)
    assert report.pool.stall_s == pytest.approx(report.pool.closed_form_stall_s, rel=0.05)  # layer 0 adds no sum
    assert report.pool.layers_that_fit > report.pool.layers_that_fit_without
    assert report.memory.weights_bytes == 64 * 64 * 2 + 64 * 2 + (6 - 2 + 1) * LAYER_BYTES


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"offload_every": 4, "to": "peer"}, "must divide the layers, 6"),
        ({"offload_every": 1, "to": "peer"}, "greater than or equal to 2|at least 2"),
        ({"offload_every": 3, "to": "host"}, "link to the host's memory"),
        ({"offload_every": 3, "to": "peer"}, "no chip is left free"),
    ],
)
def test_inconsistent_pools_are_refused(pool: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        run(scenario(schedule="sequential", requests=1, more={"memory_pool": pool}))
