"""Lowering: from a scenario to the tasks of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from sim.layouts.block import transformer_layer
from sim.layouts.ends import embedding, unembedding
from sim.lowering.dataflow import Lowering
from sim.partition import LAYOUTS
from sim.program import Program
from sim.specs import Scenario
from sim.topology.graph import Topology


@dataclass(frozen=True, slots=True)
class Lowered:
    """A scenario as tasks, and what it keeps in memory. The tasks are one forward pass of all simulated layers."""

    program: Program
    weights_bytes: float
    """Per chip, embedding included."""
    kv_cache_bytes: float
    """Per chip, after the last step."""
    gather_buffer_bytes: float
    """Per chip, most gathered weights at once."""
    notes: tuple[str, ...]
    """What the layout does otherwise than its name says."""


def lower(scenario: Scenario, topology: Topology) -> Lowered:
    """Embedding, layers, logits and the next token as tasks: a prefill, or the decode step of mean cache length.

    Step time is linear in cache length where nothing changes from memory- to compute-bound, so the mean step is the
    mean of the steps. Layers are identical: two are lowered, and the second is repeated.

    Raises:
        LayoutError: the mesh does not divide a dimension.
        NotFoldableError: `topology` is folded and chips would do different things.
    """
    at = LAYOUTS[scenario.layout.ffn](tuple(axis.name for axis in topology.axes))
    flow = Lowering(scenario, topology, at)
    x = embedding(flow, at)
    ends = flow.stored_bytes()
    mark = 0
    for layer in range(min(scenario.layers, 2)):
        mark = len(flow.builder)
        flow.builder.layer = layer
        x = transformer_layer(flow, x, at, scenario.model, scenario.block, scenario.layout.attention)
    layer_bytes = flow.stored_bytes() - ends
    if scenario.layers > 2:
        (x,) = flow.to.repeat(mark, scenario.layers - 2, [x])
    flow.builder.layer = -1
    unembedding(flow, x, at)
    return Lowered(
        program=flow.builder.build(),
        weights_bytes=flow.stored_bytes() + (scenario.layers - 1) * layer_bytes,
        kv_cache_bytes=scenario.layers * flow.cache_bytes_per_position * scenario.workload.final_cache_length,
        gather_buffer_bytes=flow.gather_buffer_bytes,
        notes=tuple(flow.notes),
    )
