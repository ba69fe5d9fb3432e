"""Memory of the fullest chip: weights and KV cache against its capacity. Activations are not counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest chip."""

    weights_bytes: float
    kv_cache_bytes: float
    """After the last step."""
    capacity_bytes: float

    @property
    def used_bytes(self) -> float:
        return self.weights_bytes + self.kv_cache_bytes

    @property
    def fits(self) -> bool:
        return self.used_bytes <= self.capacity_bytes

    @property
    def excess_bytes(self) -> float:
        """By how much it does not fit; 0 when it does."""
        return max(0.0, self.used_bytes - self.capacity_bytes)
