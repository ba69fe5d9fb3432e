"""Records of lowering: the layers of one stage as input, the tasks and memory of a pass as output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

from msgspec import Struct, field

from sim.layouts.sharding import Sharded
from sim.lowering.work import AttentionWork
from sim.program import CacheTransfer, ExpertRows, Program
from sim.units import format_bytes

if TYPE_CHECKING:
    from sim.program.batches import Batches


class StageLayers(Struct, frozen=True):
    """Consecutive layers of a forward pass, those of one stage."""

    first_layer: int
    layers: int
    is_first: bool
    """True if the stage embeds the tokens."""
    is_last: bool
    """True if the stage computes the logits."""
    sends_shards: bool = False
    """True if chips send and receive shards of the activations, which are gathered on arrival."""

    @classmethod
    def all_layers(cls, layers: int) -> Self:
        """Returns the layers of a pass without stages."""
        return cls(0, layers, is_first=True, is_last=True)


class LoweredPass(Struct, frozen=True):
    """Tasks and memory of one forward pass of all simulated layers, or of all requests of a pipeline."""

    program: Program
    weights_bytes: float
    """Bytes per chip, embedding included."""
    kv_cache_bytes: float
    """Bytes per chip after the last step."""
    gather_buffer_bytes: float
    """Bytes per chip of the most gathered weights at once."""
    notes: tuple[str, ...]
    """Ways in which the layout differs from its name."""
    sent_bytes: float = 0.0
    """Bytes per chip of the activations sent to the next stage."""
    layer_bytes: float = 0.0
    """Bytes per chip of a layer's weights."""
    batches: Batches | None = None
    """Batches of a pipeline."""
    stored_weights: Mapping[str, Sharded] = field(default_factory=dict)
    """Sharding as stored of the weights of a layer and of the ends, by name."""
    caches: Mapping[str, Sharded] = field(default_factory=dict)
    """Sharding of what a layer caches, by name; of the tokens of this pass alone."""
    expert_rows: ExpertRows | None = None
    """Rows of a layer's experts; None without experts, in a pipeline, and where the cache is sent to other chips."""
    transfer: CacheTransfer | None = None
    """Chips of a transfer of the cache."""
    attentions: Mapping[str, AttentionWork] = field(default_factory=dict)
    """Operations whose work depends on the length of the cache, by name."""

    def __repr__(self) -> str:
        weights, cache = format_bytes(self.weights_bytes), format_bytes(self.kv_cache_bytes)
        return f"LoweredPass({self.program!r}, weights {weights} and KV cache {cache} per chip)"
