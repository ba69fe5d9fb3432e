"""Memory of the fullest chip: weights, KV cache, gathered weights, against its capacity; activations not counted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor

from sim.specs import DTYPE_BYTES, TENSOR_PARALLEL, Scenario


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest chip."""

    weights_bytes: float
    kv_cache_bytes: float
    """After the last step."""
    capacity_bytes: float
    gather_buffer_bytes: float = 0.0
    """Gathered weights, where a layout gathers them."""
    remedies: tuple[str, ...] = ()
    """What would make it fit, if it does not; of batch and chips a first guess, since not everything scales."""

    @property
    def used_bytes(self) -> float:
        return self.weights_bytes + self.kv_cache_bytes + self.gather_buffer_bytes

    @property
    def fits(self) -> bool:
        return self.used_bytes <= self.capacity_bytes

    @property
    def excess_bytes(self) -> float:
        """By how much it does not fit; 0 when it does."""
        return max(0.0, self.used_bytes - self.capacity_bytes)


def with_remedies(memory: Memory, scenario: Scenario, chips: int) -> Memory:
    """The memory of a chip of the scenario, with what would make it fit.

    Args:
        chips: over which the model is split.
    """
    if memory.fits:
        return memory
    work, fixed = scenario.workload, memory.weights_bytes + memory.gather_buffer_bytes
    found = []
    batch = floor(work.batch * (memory.capacity_bytes - fixed) / memory.kv_cache_bytes) if memory.kv_cache_bytes else 0
    if batch > 0:
        found.append(f"workload.batch of at most {batch:,}")
    halves = {"kv_cache": memory.kv_cache_bytes / 2, "weights": fixed / 2}
    for name, saved in halves.items():
        if DTYPE_BYTES[getattr(work, name)] == 2 and memory.excess_bytes <= saved:
            found.append(f"workload.{name}=int8")
    tensor, model = scenario.layout.ffn == TENSOR_PARALLEL, scenario.model
    if batch > 0 and not tensor and scenario.layout.attention == "heads" and model.kv_heads < model.heads:
        found.append("layout.attention=batch")  # each chip has the whole cache of few heads, however many chips
        return replace(memory, remedies=tuple(found))
    if tensor and batch <= 0 and scenario.memory_pool is None:
        found.append("a memory_pool")
    found.append(f"about {ceil(chips * memory.used_bytes / memory.capacity_bytes):,} chips")
    return replace(memory, remedies=tuple(found))
