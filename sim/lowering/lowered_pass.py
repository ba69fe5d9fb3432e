"""What lowering is asked for and what it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from sim.layouts.sharding import Sharded
from sim.lowering.work import AttentionWork
from sim.program import Program
from sim.program.batches import Batches


@dataclass(frozen=True, slots=True)
class StageLayers:
    """Consecutive layers of a forward pass: those of one stage."""

    first_layer: int
    layers: int
    is_first: bool
    """With the embedding."""
    is_last: bool
    """With the logits."""
    sends_shards: bool = False
    """Whether every chip sends and receives its share of the activations only, gathered where they arrive."""

    @classmethod
    def all_layers(cls, layers: int) -> Self:
        """All layers."""
        return cls(0, layers, is_first=True, is_last=True)


@dataclass(frozen=True, slots=True)
class LoweredPass:
    """A scenario as tasks, and what it keeps in memory. The tasks are one forward pass of all simulated layers, or
    those of all requests of a pipeline."""

    program: Program
    weights_bytes: float
    """Per chip, embedding included."""
    kv_cache_bytes: float
    """Per chip, after the last step."""
    gather_buffer_bytes: float
    """Per chip, most gathered weights at once."""
    notes: tuple[str, ...]
    """What the layout does otherwise than its name says."""
    sent_bytes: float = 0.0
    """Per chip, activations that leave a stage."""
    layer_bytes: float = 0.0
    """Per chip, weights of a layer."""
    batches: Batches | None = None
    """Of a pipeline."""
    stored_weights: Mapping[str, Sharded] = field(default_factory=dict)
    """Weights of a layer and of the ends as they are stored, by name."""
    attentions: Mapping[str, AttentionWork] = field(default_factory=dict)
    """By name: the operations whose work depends on the length of the cache."""
