"""One measured dispatch or combine of a mixture of experts."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict


class ExchangeResult(Struct, frozen=True):
    """One row of the table."""

    way: str
    """dispatch or combine."""
    kernel: str
    scheme: str
    """Messages of a token; for equal rows on a torus the algorithm of the machine's all-to-all."""
    chips: int
    tokens: int
    """Tokens of a chip."""
    row_bytes: int
    """Bytes of a token's row."""
    destinations: float
    """Mean number of destinations of a token: experts, chips or boxes, by the scheme, its own included."""
    time_s: float
    bandwidth: float
    """Bytes of a chip's rows to all their destinations, its own included, over the time, bytes/s: the logical bandwidth
    of DeepEP and TensorRT-LLM."""
    busiest_link: str
    busiest_link_bytes: float
    busiest_link_share: float
    """Share of the time for which that link is busy."""
    balance: float
    """Rows of experts on the mean chip over those on the fullest."""
    bound_s: float
    """Time that no exchange of these rows can beat on these links, s."""
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)
