"""Memory of the fullest chip: weights, KV cache, gathered weights, against its capacity; activations not counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest chip."""

    weights_bytes: float
    kv_cache_bytes: float
    """After the last step."""
    capacity_bytes: float
    gather_buffer_bytes: float = 0.0
    """Gathered weights, where a layout gathers them."""

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
