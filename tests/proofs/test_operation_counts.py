"""The bytes of every collective that a scenario's program makes are those of the ledger, which counts from the uses."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
from support.selection import Choice, combinations, covering

from sim.closed_form.operation_counts import count_operations
from sim.errors import InputError
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.simulate.communication import Communication
from sim.specs import Scenario, load
from sim.specs.uses import PRESETS

TORUS, SWITCH, BOXES = "palm540b_decode_ws2d", "llama3_70b_tp8_standard", "llama31_405b_tp16_ladder"
MACHINES = {
    "torus 2x2x2": (
        TORUS,
        "topology.axes={x: {size: 2, wrap: true}, y: {size: 2, wrap: true}, z: {size: 2, wrap: true}}",
    ),
    "torus 2x4": (TORUS, "topology.axes={x: {size: 2, wrap: true}, y: {size: 4, wrap: true}}"),
    "lines 4x4": (
        TORUS,
        "topology.axes={x: {size: 1, wrap: false}, y: {size: 4, wrap: false}, z: {size: 4, wrap: false}}",
    ),
    "torus as x and yz": (TORUS, "topology=tpu_v4_2x2x2", "mesh={x: x, yz: [y, z]}"),
    "switch 8": (SWITCH, "model.kv_heads=8"),
    "switch 8, few heads": (SWITCH, "model.kv_heads=4"),
    "switch 8, own heads": (SWITCH, "model.kv_heads=16"),
    "switch 2x4": (SWITCH, "mesh={box: 2, gpu: 4}"),
    "switch 2x2x2": (SWITCH, "mesh={a: 2, b: 2, c: 2}"),
    "boxes": (BOXES, "mesh={box: boxes, gpu: 8}"),
    "DGX-1": (
        SWITCH,
        "topology=dgx1_v100",
        "stack=best_kernels",
        "workload.activations=fp16",
        "mesh={box: 2, gpu: 4}",
    ),
}
SCHEMES = {
    **dict.fromkeys(("standard", "parallel", "ladder", "desync2", "desync4", "no_communication"), ""),
    "hybrid": ", hybrid: {ladder_layers: 1}",
}
"""With what else the layout needs."""
WORKLOADS = (
    "{phase: prefill, batch: 32, prompt: 16, weights: int8}",
    "{phase: decode, batch: 32, context: 32, generate: 4, weights: bf16}",
)
MODEL = {"layers": 2, "d_model": 128, "d_ff": 256, "heads": 16, "kv_heads": 2, "d_head": 8, "vocabulary": 100}
OVERLAPS = ("none", "collective_matmul", "chunked_matmul", "micro_batches")
USES = {
    "weights gathered over one axis, d_model split": "{gather: [y], d_model: [x], heads: [z], d_ff: [z], "
    "residual: {z: d_model}, stored: {d_model: [x], heads: [z, y], d_ff: [z, y]}}",
    "replicas": "{batch: [x], heads: [y, z], d_ff: [y, z]}",
    "d_model and tokens of the stream": "{heads: [x, y, z], d_ff: [x, y, z], residual: {x: d_model, y: tokens}}",
    "tokens beside d_model": "{d_model: [x], heads: [y, z], d_ff: [y, z], residual: {y: tokens, z: tokens}}",
    "tokens over one axis": "{heads: [x, y, z], d_ff: [x, y, z], residual: {x: tokens}}",
    "FFN over more chips than attention": "{heads: [x], d_ff: [x, y, z], residual: {y: tokens, z: tokens}}",
}

Volumes = dict[tuple[str, tuple[str, ...]], float]
"""Bytes of all collectives of a kind over the same axes."""


def on(name: str, layout: str, *settings: str) -> Scenario:
    base, *own = MACHINES[name]
    model = [f"model.{field}={value}" for field, value in MODEL.items()]
    fields = ["layout.mesh={}", "model.padded_heads=null", "model.block=serial", "stack.collective_axes=at_once"]
    return load.scenario(
        base, [*model, *(fields if base != TORUS else fields[1:]), f"layout={layout}", *settings, *own]
    )


def simulated(scenario: Scenario) -> Volumes:
    """Bytes of a pass, as they are where each collective begins. On a torus a dispatch is an all-to-all."""
    topology = mesh_of(scenario)
    program = lower(scenario, topology).program
    axes, lengths = dict(program.axes), {axis.name: axis.size for axis in topology.mesh}
    found: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for task in ((program.kind == Kind.BEGIN) & (program.chip == 0)).nonzero()[0]:
        name = program.op_names[program.op[task]]
        over = tuple(sorted(axis for axis in axes[name] if lengths[axis] > 1))
        found[name.partition("(")[0], over] += program.bytes[task]
    return dict(found)


def counted(scenario: Scenario) -> Volumes:
    to = Communication(scenario)
    found: Counter[tuple[str, tuple[str, ...]]] = Counter()
    for (collective, axes), size in count_operations(scenario, to).collective_bytes.items():
        if to.topology.has_lines and collective in ("dispatch", "combine"):
            collective = "all_to_all"
        found[collective, tuple(axis for axis in axes if to.lengths[axis] > 1)] += size
    return dict(found)


OPTIONS = {"workload": WORKLOADS, "residual": tuple(SCHEMES), "attention": ("heads", "batch"), "overlap": OVERLAPS}


def compare(choices: Iterable[Choice], uses: str) -> Counter[str]:
    """Counts the combinations that have the same bytes, and those that are refused.

    Refused are micro-batches and chunks of schemes that have none, and desync where streams are not whole.
    """
    outcomes: Counter[str] = Counter()
    for choice in choices:
        residual = choice["residual"]
        block = "parallel" if residual == "parallel" else "serial"
        more = f"residual: {residual}, block: {block}, overlap: {choice['overlap']}{SCHEMES[residual]}"
        layout = f"{{{uses}, attention: {choice['attention']}, {more}}}"
        try:
            scenario = on(choice["machine"], layout, f"workload={choice['workload']}")
            program = simulated(scenario)
        except InputError:
            outcomes["refused"] += 1
            continue
        assert counted(scenario) == pytest.approx(program, rel=1e-12), choice
        outcomes["equal"] += 1
    return outcomes


def overlaps(choice: Choice) -> bool:
    """False for micro-batches and chunks of schemes that have none."""
    residual, overlap = choice["residual"], choice["overlap"]
    return not (
        (overlap == "micro_batches" and residual != "standard")
        or (overlap == "chunked_matmul" and residual == "parallel")
    )


PAIRS = covering({"preset": tuple(PRESETS), "machine": tuple(MACHINES), **OPTIONS}, overlaps)


@pytest.mark.parametrize("preset", PRESETS)
def test_bytes_of_every_collective_are_those_of_the_ledger(preset: str) -> None:
    outcomes = compare((choice for choice in PAIRS if choice["preset"] == preset), f"ffn: {preset}")
    assert outcomes["equal"] >= 0.4 * outcomes.total(), outcomes


@pytest.mark.release
@pytest.mark.parametrize("workload", WORKLOADS, ids=["prefill", "decode"])
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_bytes_of_every_combination_are_those_of_the_ledger(preset: str, name: str, workload: str) -> None:
    outcomes = compare(combinations(OPTIONS | {"machine": (name,), "workload": (workload,)}), f"ffn: {preset}")
    assert outcomes["equal"] >= 16, outcomes


EXPERTS = {
    "tokens sent along all axes": "{batch: [x, y, z], experts: [x, y, z]}",
    "tokens sent along x, experts by x and y": "{batch: [x], experts: [x, y], heads: [y, z], d_ff: [y, z]}",
    "every chip all tokens": "{heads: [x, y, z], d_ff: [x, y, z], experts: [x, y, z]}",
    "own sequences, each expert split": "{d_ff: [x, y, z], experts: [x], residual: {x: tokens, y: tokens, z: tokens}}",
}
MIXTURE = "{count: 16, top_k: 3, d_ff: 64, shared: 1, groups: 4, top_groups: 2, dense_first: 1}"


@pytest.mark.parametrize("scheme", ["per_expert", "per_rank", "all_gather"])
@pytest.mark.parametrize("machine", ["torus 2x2x2", "switch 2x2x2"])
@pytest.mark.parametrize("uses", EXPERTS)
def test_bytes_of_experts_and_latent_attention_are_those_of_the_ledger(uses: str, machine: str, scheme: str) -> None:
    renamed = dict(zip("xyz", "abc" if machine.startswith("switch") else "xyz", strict=True))
    deal = re.sub(r"\b[xyz]\b", lambda axis: renamed[axis[0]], EXPERTS[uses])
    layout = f"{{uses: {deal}, experts: {{dispatch: {scheme}}}}}"
    latent = "model.latent={q_rank: 32, kv_rank: 24, rope: 4, d_value: 16}"
    for workload in WORKLOADS:
        more = (f"workload={workload}", "workload.dispatch=fp8", f"model.experts={MIXTURE}", "model.kv_heads=16")
        scenario = on(machine, layout, *more, latent)
        assert counted(scenario) == pytest.approx(simulated(scenario), rel=1e-12)


@pytest.mark.parametrize("choose", [covering, pytest.param(combinations, marks=pytest.mark.release)])
@pytest.mark.parametrize("uses", USES)
def test_bytes_of_uses_of_ones_own_are_those_of_the_ledger(uses: str, choose: Callable[..., list[Choice]]) -> None:
    outcomes = compare(choose(OPTIONS | {"machine": ("torus 2x2x2",)}), f"uses: {USES[uses]}")
    assert outcomes["equal"] >= 8, outcomes
