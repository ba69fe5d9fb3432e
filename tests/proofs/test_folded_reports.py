"""Switches and pipelines folded: every figure of the report is the full run's, and what is unlike turns folding off."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import scenario
from support.reports import both, figures
from support.selection import pairwise

from sim.errors import InputError
from sim.simulate.forward_pass import lower_pass
from sim.specs import Scenario, load

SWITCHES = ["dgx_a100", "dgx_h100", "hgx_b200", "gb200_nvl72", "mi300x"]
SUMS = ["auto", "ring", "tree", "nvls", "one_shot", "two_shot", "halving_doubling"]
PHASES = [
    "{phase: decode, batch: 16, context: 100, generate: 8, weights: bf16}",
    "{phase: prefill, batch: 16, prompt: 128, weights: bf16}",
    "{phase: generate, batch: 16, prompt: 128, generate: 2, weights: bf16}",
]


@st.composite
def tensor_parallel(draw: st.DrawFn) -> list[str]:
    machine = draw(st.sampled_from(SWITCHES))
    residual = draw(st.sampled_from(["standard", "parallel", "ladder", "desync2", "desync4", "no_communication"]))
    overlap = draw(st.sampled_from(["none", "micro_batches", "chunked_matmul"])) if residual == "standard" else "none"
    sequence = residual == "standard" and overlap == "none" and draw(st.booleans())
    return [
        f"topology={machine}",
        f"layout.mesh.tensor={draw(st.sampled_from([2, 4, 8, 16] if machine == 'gb200_nvl72' else [2, 4, 8]))}",
        f"layout.residual={residual}",
        f"layout.overlap={overlap}",
        f"layout.sequence_parallel={str(sequence).lower()}",
        f"layout.graph_capture={draw(st.sampled_from(['true', 'false']))}",
        f"layout.communication={draw(st.sampled_from(['own_stream', 'compute_stream']))}",
        f"collectives={{all_reduce: {draw(st.sampled_from(SUMS))}}}",
        f"workload={draw(st.sampled_from(PHASES))}",
        f"engine.layers={draw(st.sampled_from([2, 5, 16]))}",
    ]


@given(tensor_parallel())
def test_folded_and_periodic_is_the_full_run_of_tensor_parallel_chips(chosen: list[str]):
    try:
        mine, full = both("llama3_70b_tp8_standard", chosen)
    except InputError:  # an algorithm that the machine does not have
        return
    assert mine == full


@st.composite
def pipelined(draw: st.DrawFn) -> dict[str, Any]:
    schedule = draw(st.sampled_from(["non_blocking", "blocking", "sequential", "bounded_queue"]))
    spec: dict[str, Any] = {"schedule": schedule, "requests": draw(st.integers(1, 4))}
    if schedule == "bounded_queue":
        spec["queue"] = {"capacity": draw(st.integers(1, 2)), "retry": draw(st.sampled_from(["0 s", "7 us"]))}
    if schedule == "blocking":
        spec["microbatches"] = draw(st.sampled_from([1, 2, "auto"]))
    if schedule == "non_blocking":
        spec["send_blocks_stage"] = draw(st.booleans())
    kind, poll = draw(st.sampled_from(["multi", "single"])), draw(st.sampled_from(["0 s", "11 us"]))
    rpc = "0 s" if kind == "single" else "3 us"  # one that takes time calls chip after chip
    spec["controller"] = draw(st.sampled_from([None, {"kind": kind, "rpc": rpc, "poll": poll, "result_poll": poll}]))
    phase = draw(st.sampled_from(["prefill", "decode"]))
    if schedule == "non_blocking":
        times = [{"in_flight": 2}] if phase == "decode" else [{"in_flight": 2}, {"every": "100 us", "seed": 3}]
        spec["arrivals"] = draw(st.sampled_from(times))
    given: dict[str, Any] = {"phase": phase, "bandwidth": draw(st.sampled_from(["1 GB/s", "50 GB/s"])), **spec}
    if draw(st.booleans()):
        sizes = draw(st.sampled_from([(4,), (2, 2), (4, 2), (2, 4, 1), (2, 4, 2), (4, 4, 2), (2, 2, 4), (4, 4, 4)]))
        layouts = ["stationary_1d", "stationary_2d", "gathered_x", "gathered_xyz"]
        name = f"weight_{draw(st.sampled_from(layouts))}"
        return given | {
            "torus": sizes,
            "pipeline": draw(st.sampled_from([1, max(sizes)])),
            "layout": name,
            "batch": 128,
        }
    more: dict[str, Any] = {}
    if draw(st.booleans()):
        link = {"name": "link", "bandwidth": "10 GB/s", "latency": "2 us"}
        more["memory_pool"] = {"offload_every": 2, "to": "host", "prefetch_layers": 1, "link": link}
    if phase == "prefill" and draw(st.booleans()):
        more["padding"] = {"real_lengths": 0.5, "eliminate": True}
    pipeline = draw(st.integers(1, 4))
    return given | {
        "tensor": draw(st.sampled_from([2, 4, 1])),
        "pipeline": pipeline,
        "layers": 4 * pipeline,
        "more": more,
    }


@given(pipelined())
def test_a_folded_pipeline_is_the_full_run(chosen: dict[str, Any]):
    found = scenario(**chosen)
    off = found.engine.model_copy(update={"shortcuts": "layers"})
    assert figures(found) == figures(found.model_copy(update={"engine": off}))


SPLITS = [
    "{x: x, y: y, out: {of: z, size: 2}, in: {of: z, size: 4}}",
    "{x: x, y: {of: y, size: 2}, out: {of: z, size: 4}, in: {of: z, size: 2}, last: {of: y, size: 2}}",
    "{x: {of: z, size: 4}, y: y, in: {of: z, size: 2}, z: x}",
    "{x: x, y: y, out: {of: z, size: 2}, mid: {of: z, size: 2}, in: {of: z, size: 2}}",
    "{x: x, y: y, out: {of: z, size: 4}, in: {of: z, size: 2}}",
]
LAYOUTS = ["weight_stationary_1d", "weight_stationary_2d", "weight_gathered_x", "weight_gathered_xyz"]


@pytest.mark.parametrize(
    ("mesh", "layout", "overlap", "phase"),
    pairwise(product(SPLITS, LAYOUTS, ("none", "collective_matmul"), ("decode", "prefill"))),
)
def test_folded_and_periodic_is_the_full_run_of_a_torus_with_split_axes(
    mesh: str, layout: str, overlap: str, phase: str
):
    axes = "topology.axes={x: {size: 2, wrap: true}, y: {size: 4, wrap: true}, z: {size: 8, wrap: true}}"
    work = {"decode": "context: 100, generate: 8", "prefill": "prompt: 64"}[phase]
    workload = f"workload={{phase: {phase}, batch: 64, {work}, weights: bf16}}"
    chosen = [axes, f"mesh={mesh}", f"layout={{ffn: {layout}, overlap: {overlap}}}", workload, "engine.layers=4"]
    mine, full = both(TORUS, chosen)
    assert mine == full


def said(found: Scenario) -> str:
    return lower_pass(found)[2]


TORUS, SWITCH = "palm540b_decode_ws2d", "llama3_70b_tp8_standard"


@pytest.mark.parametrize(
    ("name", "chosen", "why"),
    [
        (
            TORUS,
            "perturb={stragglers: [{chips: [5], factor: 1.5}]}",
            "chips differ: stragglers",
        ),
        (TORUS, "perturb={slow_links: [{links: ['5:x+'], factor: 2}]}", "chips differ: slow_links"),
        (TORUS, "perturb={failed_links: ['5:x+']}", "chips differ: failed_links"),
        (TORUS, "perturb={jitter: {ops: 2 %}}", "chips differ: jitter"),
        (TORUS, "topology.axes.y.wrap=false", "axis y closes no ring"),
        (SWITCH, "perturb={stragglers: [{chips: [5], factor: 1.5}]}", "chips differ: stragglers"),
        (SWITCH, "perturb={slow_links: [{links: ['gpu3:egress'], factor: 2}]}", "chips differ: slow_links"),
        (SWITCH, "perturb={jitter: {links: 5 %}}", "chips differ: jitter"),
        (SWITCH, "collectives={all_reduce: tree_ll}", "all_reduce: chips do different things"),
        (SWITCH, "topology=dgx_h100_p2p_disabled", "links of a graph lead to different chips"),
        (SWITCH, "layout.mesh={tensor: 1}", "no symmetry to use: one chip"),
        (SWITCH, "engine.shortcuts=layers", "engine.shortcuts is layers"),
    ],
)
def test_what_is_unlike_turns_folding_off(name: str, chosen: str, why: str):
    text = said(load.scenario(name, [chosen, "engine.layers=2"]))
    assert text.startswith("simulated all chips (")
    assert text.endswith(f"{why})")


@pytest.mark.parametrize(
    ("sizes", "settings", "text"),
    [
        (
            (2, 4, 8),
            [SPLITS[0]],
            "simulated 4 representative chips of 64 (each other chip is symmetric to one of them)",
        ),
        # The four chips of a group do not send to each other in the same order from each: they keep their places.
        (
            (2, 4, 8),
            [SPLITS[4]],
            "simulated 8 representative chips of 64 (each other chip is symmetric to one of them)",
        ),
        # Rings of the groups along x and part of z together are not alike from every chip.
        (
            (2, 4, 8),
            [SPLITS[2], "stack=ideal"],
            "simulated 16 representative chips of 64 (each other chip is symmetric to one of them)",
        ),
        ((1, 1, 8), [SPLITS[4]], "simulated all chips (all_to_all: chips do different things)"),
    ],
)
def test_chips_of_a_torus_with_split_axes_are_alike_where_translations_map_groups_to_groups(
    sizes: tuple[int, int, int], settings: list[str], text: str
):
    mesh, *more = settings
    axes = ", ".join(f"{name}: {{size: {size}, wrap: true}}" for name, size in zip("xyz", sizes, strict=True))
    chosen = [f"topology.axes={{{axes}}}", f"mesh={mesh}", "engine.layers=2", *more]
    assert said(load.scenario(TORUS, chosen)) == text


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"tensor": 2, "more": {"perturb": {"stragglers": [{"chips": [1], "factor": 2}]}}}, "chips differ: stragglers"),
        (
            {"tensor": 2, "controller": {"kind": "single", "rpc": "1 us"}},
            "the controller calls one chip after the other",
        ),
        ({"tensor": 1}, "one chip per stage"),
        ({"torus": (4, 4), "layout": "weight_stationary_1d"}, "in a stage axis x closes no ring"),
    ],
)
def test_what_is_unlike_in_a_stage_turns_folding_off(chosen: dict[str, Any], why: str):
    text = said(scenario(stages=[3, 3], schedule="non_blocking", requests=2, **chosen))
    assert text.startswith("simulated all chips (")
    assert text.endswith(f"{why})")


def test_a_controller_whose_calls_take_no_time_leaves_chips_alike():
    controller = {"kind": "single", "rpc": "0 s"}
    text = said(scenario(stages=[3, 3], schedule="non_blocking", requests=2, tensor=2, controller=controller))
    assert text == "simulated 1 representative chip of each stage, for 4 chips (the chips of a stage are symmetric)"
