"""Memory of the fullest chip: weights, KV cache, gathered weights, against its capacity.

Activations, workspaces and buffers of libraries are not counted. Of two phases, one after the other, a chip holds in
each what that phase's layout stores; the larger of the two must fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor

from sim.specs import DTYPE_BYTES, Scenario


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest chip."""

    weights_bytes: float
    kv_cache_bytes: float
    """KV cache after the last step."""
    capacity_bytes: float
    gather_buffer_bytes: float = 0.0
    """Buffers of gathered weights."""
    longest_context: int | None = None
    """Positions per sequence for which the cache has room, prompt and generated tokens; None if it does not grow with
    them alike in every layer."""
    remedies: tuple[str, ...] = ()
    """Changes that would make it fit, if it does not; batch and chips are first guesses, since not everything
    scales."""

    @property
    def used_bytes(self) -> float:
        return self.weights_bytes + self.kv_cache_bytes + self.gather_buffer_bytes

    @property
    def fits(self) -> bool:
        return self.used_bytes <= self.capacity_bytes

    @property
    def excess_bytes(self) -> float:
        """Bytes beyond the capacity; 0 if it fits."""
        return max(0.0, self.used_bytes - self.capacity_bytes)

    @property
    def halved_bytes(self) -> dict[str, float]:
        """Bytes that numbers of half the size would save, by the field of the workload that sets their format."""
        return {"kv_cache": self.kv_cache_bytes / 2, "weights": (self.weights_bytes + self.gather_buffer_bytes) / 2}


def add_remedies(memory: Memory, scenario: Scenario, chips: int, other: Memory | None = None) -> Memory:
    """Returns the memory of a chip with changes that would make it fit.

    Args:
        chips: over which the model is split.
        other: memory of the run's other phase, which must fit too.
    """
    if memory.fits:
        return memory
    phases = [memory, other] if other else [memory]
    remedies = []
    batch = min(_largest_batch(phase, scenario.workload.batch) for phase in phases)
    if batch > 0:
        remedies.append(f"workload.batch of at most {batch:,}")
    for name in ("kv_cache", "weights"):
        two_bytes = DTYPE_BYTES[getattr(scenario.workload, name)] == 2
        if two_bytes and all(phase.excess_bytes <= phase.halved_bytes[name] for phase in phases):
            remedies.append(f"workload.{name}=int8")
    copied = scenario.model.kv_heads < min(scenario.model.heads, chips)
    if batch > 0 and copied and scenario.layout.attention == "heads":
        remedies.append("layout.attention=batch")  # each chip has the whole cache of few heads, however many chips
        return replace(memory, remedies=tuple(remedies))
    if batch <= 0 and scenario.memory_pool is None and not scenario.topology.lines:
        remedies.append("a memory_pool")
    remedies.append(f"about {ceil(chips * memory.used_bytes / memory.capacity_bytes):,} chips")
    return replace(memory, remedies=tuple(remedies))


def combine_memory(scenarios: Sequence[Scenario], phases: Sequence[Memory], chips: int) -> Memory:
    """Returns the memory of a run's two phases: that of the phase that needs more.

    Args:
        scenarios: of the phases.
        chips: over which the model is split.
    """
    (larger, scenario), (smaller, _) = sorted(
        zip(phases, scenarios, strict=True), key=lambda each: each[0].used_bytes, reverse=True
    )
    return add_remedies(larger, scenario, chips, smaller)


def longest_context(memory: Memory, scenario: Scenario) -> int | None:
    """Returns the positions per sequence for which the cache has room; None where windows or chunks have caches of
    other lengths, or there is no cache."""
    if scenario.model.window or scenario.workload.chunk or not memory.kv_cache_bytes:
        return None
    room = memory.capacity_bytes - memory.weights_bytes - memory.gather_buffer_bytes
    return max(0, floor(scenario.workload.final_cache_length * room / memory.kv_cache_bytes))


def _largest_batch(memory: Memory, batch: int) -> int:
    """Returns the largest batch whose cache fits beside all else; 0 if none does or there is no cache."""
    left = memory.capacity_bytes - memory.weights_bytes - memory.gather_buffer_bytes
    return floor(batch * left / memory.kv_cache_bytes) if memory.kv_cache_bytes else 0
