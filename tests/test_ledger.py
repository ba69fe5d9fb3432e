"""The bytes of every collective that a scenario's program makes are those of the ledger, which counts from the uses."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from sim import load
from sim.closed_form.ledger import ledger
from sim.communication import Communication
from sim.errors import InputError
from sim.lower import lower
from sim.placement import machine
from sim.program import Kind
from sim.specs import Scenario
from sim.uses import PRESETS

MACHINES = {
    "2x2x2": "topology.axes={x: {size: 2, wrap: true}, y: {size: 2, wrap: true}, z: {size: 2, wrap: true}}",
    "2x4": "topology.axes={x: {size: 2, wrap: true}, y: {size: 4, wrap: true}}",
    "switch 8": "model.kv_heads=8",
    "switch 4x2": "model.kv_heads=4",
    "own heads": "model.kv_heads=16",
}
Volumes = dict[tuple[str, tuple[str, ...]], float]
"""Bytes of all collectives of a kind over the same axes."""
SCHEMES = ("standard", "parallel", "ladder", "desync2")
WORKLOADS = (
    "{phase: prefill, batch: 16, prompt: 8, weights: int8}",
    "{phase: decode, batch: 16, context: 32, generate: 4, weights: bf16}",
)
MODEL = (
    "model.layers=3",
    "model.d_model=128",
    "model.d_ff=256",
    "model.heads=16",
    "model.d_head=8",
    "model.vocabulary=100",
)


def on(name: str, *settings: str) -> Scenario:
    base = "palm540b_decode_ws2d" if name[1] == "x" else "llama3_8b_tp8_ladder"
    own = () if base.startswith("llama") else ("model.kv_heads=2", "model.padded_heads=null")
    return load.scenario(base, (*MODEL, *own, MACHINES[name], "stack.collective_axes=at_once", *settings))


def simulated(scenario: Scenario) -> Volumes:
    """Bytes of a pass, as they are where each collective begins."""
    topology = machine(scenario)
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
    return ledger(scenario, to.at, to.lengths, to.closes).volumes


@pytest.mark.parametrize("workload", WORKLOADS, ids=["prefill", "decode"])
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_bytes_of_every_collective_are_those_of_the_ledger(preset: str, name: str, workload: str) -> None:
    refused = 0
    for residual, attention, overlap in itertools.product(
        SCHEMES, ("heads", "batch"), ("none", "collective_matmul", "chunked_matmul")
    ):
        block = "parallel" if residual == "parallel" else "serial"
        layout = f"{{ffn: {preset}, attention: {attention}, residual: {residual}, block: {block}, overlap: {overlap}}}"
        try:
            scenario = on(name, f"layout={layout}", f"workload={workload}")
            program = simulated(scenario)
        except InputError:
            refused += 1
            continue
        form = counted(scenario)
        assert form == pytest.approx(program, rel=1e-12), (residual, attention, overlap)
    print("refused", preset, name, refused)
    assert refused < 24
