"""Proof of a layout or residual scheme from outside: on several chips it computes what it computes on one.

The scenario's pass runs on real shards with random weights: on a mesh of the same axes with few chips each, and on a
single chip. The tests of this package prove that the executor itself is right.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import prod

import numpy as np
from msgspec.structs import replace
from pydantic import TypeAdapter

from sim.errors import InputError
from sim.layouts.forward import build_pass
from sim.layouts.numpy_executor import NumpyExecutor
from sim.layouts.numpy_shards import Array
from sim.layouts.residual import SCHEMES
from sim.specs import Scenario, TopologySpec
from sim.specs.engine import EngineSpec
from sim.specs.plugins import naming, owner
from sim.specs.uses import Uses
from sim.topology import build
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_of_pieces, row_major

_LAYERS = 3
_RELATIVE = 1e-9
"""Sums of a few hundred numbers in another order differ by less."""
_CHIP = {"name": "chip", "peak": {"bf16": "1 TFLOP/s"}, "hbm_bandwidth": "1 TB/s", "hbm_capacity": "1 GiB"}
_LINK = {"name": "link", "bandwidth": "1 GB/s", "latency": "1 us"}
_proven: set[Hashable] = set()


def prove(scenario: Scenario, topology: Topology) -> None:
    """Proves the preset and the residual scheme of a plugin on the scenario's mesh axes, when they are first used.

    Raises:
        InputError: several chips compute something else than one; the message names the plugin.
    """
    owners = {
        scenario.layout.preset: owner("preset", scenario.layout.preset),
        scenario.residual: owner("residual_scheme", scenario.residual),
    }
    used = [(name, plugin) for name, plugin in owners.items() if plugin]
    if not used:
        return
    most = 4 if len(topology.mesh) < 3 else 2
    axes = tuple((axis.name, min(axis.size, most)) for axis in topology.mesh)
    uses = scenario.uses(dict(axes))
    small = _shrink(scenario, prod(size for _, size in axes))
    key = axes, uses, SCHEMES[small.residual], small.layout.model_dump_json(), small.model, small.overlap
    if key in _proven:
        return
    name, plugin = used[-1]
    with naming(plugin):
        expected = _run(small, tuple((axis, 1) for axis, _ in axes), Uses())
        try:
            results = _run(small, axes, uses)
        except AssertionError:
            raise InputError("chips that must hold the same values differ", where=name) from None
    for result, one_chip in zip(results, expected, strict=True):
        if not np.allclose(result, one_chip, rtol=_RELATIVE, atol=_RELATIVE * float(np.abs(one_chip).max())):
            mesh = ", ".join(f"{axis}: {size}" for axis, size in axes)
            rule = f"must compute on mesh {{{mesh}}} what it computes on one chip, and the logits differ"
            raise InputError(rule, where=f"{plugin.label}: {name}")
    _proven.add(key)


def _shrink(scenario: Scenario, chips: int) -> Scenario:
    """Returns the scenario with a model that the chips divide."""
    model = scenario.model
    heads = 2 * chips
    kv_heads = {1: 1, model.heads: heads}.get(model.kv_heads, 2)
    sizes = {"d_model": 16 * chips, "d_ff": 32 * chips, "heads": heads, "kv_heads": kv_heads, "vocabulary": 6 * chips}
    update = {**sizes, "layers": _LAYERS, "d_head": 4, "padded_heads": None, "name": "small", "source": None}
    layout = scenario.layout.model_copy(update={"logits": "last"})
    return scenario.model_copy(
        update={"model": model.model_copy(update=update), "layout": layout, "padding": None, "engine": EngineSpec()}
    )


def _run(scenario: Scenario, axes: tuple[tuple[str, int], ...], uses: Uses) -> list[Array]:
    """Returns the logits of the last position of a prefill, or of two decode steps after each other."""
    chips, model = prod(size for _, size in axes), scenario.model
    box = {"name": "box", "kind": "switch", "chip": _CHIP, "chips": chips, "link": _LINK}
    machine = build(TypeAdapter[TopologySpec](TopologySpec).validate_python(box))
    machine = replace(machine, mesh=mesh_of_pieces(machine.axes, row_major(axes)))
    prefill = scenario.workload.tokens_per_step > 1
    positions, batch = model.heads // 2 if prefill else 1, model.heads
    sizes = {"B": batch, "L": positions, "E": model.d_model, "F": model.d_ff, "H": model.heads, "K": model.kv_heads}
    sizes |= {"Q": model.d_head, "V": model.vocabulary}
    flow = NumpyExecutor(machine, sizes, "one_way" if scenario.overlap == "collective_matmul" else None)
    random = np.random.default_rng(1)

    def draw(**shapes: str) -> dict[str, Array]:
        return {name: random.normal(size=[sizes[dim] for dim in dims]) / 3 for name, dims in shapes.items()}

    inputs = {"w_up": "EF"} | ({"w_gate": "EF"} if model.ffn == "swiglu" else {})
    attention = {"w_q": "EHQ", "w_k": "EKQ", "w_v": "EKQ", "w_o": "HQE"}
    layers = [draw(norm="E", ffn_norm="E", **attention, **inputs, w_down="FE") for _ in range(_LAYERS)]
    ends = draw(embedding="VE", lm_head="VE", final_norm="E")
    forward_pass = build_pass(flow, uses, scenario)
    logits = []
    for _ in range(1 if prefill else 2):
        flow.tokens, flow.weights = random.integers(sizes["V"], size=(batch, positions)), ends
        streams = forward_pass.embed_tokens()
        for layer, kind in enumerate(forward_pass.kinds):
            flow.layer, flow.weights = layer, layers[layer]
            streams = forward_pass.layer(kind, streams)
        flow.weights = ends
        logits.append(flow.collect(forward_pass.compute_logits(streams)[1])[:, -1:])
    return logits
