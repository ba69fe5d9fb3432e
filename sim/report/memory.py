"""Memory of the fullest chip: weights, KV cache, gathered weights, against its capacity.

Activations, workspaces and buffers of libraries are not counted. Of two phases, one after the other, a chip holds in
each what that phase's layout stores; the larger of the two must fit.
"""

from __future__ import annotations

from math import floor

from msgspec import Struct

from sim.specs import Scenario


class Memory(Struct, frozen=True):
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
    """Changes that were tried and make it fit, if it does not, or say by how much they help."""

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


def longest_context(memory: Memory, scenario: Scenario) -> int | None:
    """Returns the positions per sequence for which the cache has room; None where windows or chunks have caches of
    other lengths, or there is no cache."""
    if scenario.model.window or scenario.workload.chunk or not memory.kv_cache_bytes:
        return None
    room = memory.capacity_bytes - memory.weights_bytes - memory.gather_buffer_bytes
    return max(0, floor(scenario.workload.final_cache_length * room / memory.kv_cache_bytes))
