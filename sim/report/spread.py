"""Spread of the latencies of repeated runs with jitter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct


class Spread(Struct, frozen=True):
    """Latencies of runs that differ only by the seed of their jitter, seconds."""

    runs: int
    median_s: float
    lowest_s: float
    lower_quartile_s: float
    upper_quartile_s: float
    highest_s: float

    @classmethod
    def of(cls, latencies_s: Sequence[float]) -> Spread:
        """Returns the quartiles, linear between two runs."""
        lowest, lower, median, upper, highest = (float(q) for q in np.percentile(latencies_s, (0, 25, 50, 75, 100)))
        return cls(len(latencies_s), median, lowest, lower, upper, highest)
