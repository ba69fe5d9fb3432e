"""One measured collective: a row of nccl-tests' table, with its closed form and its bound."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from msgspec.structs import asdict


class CollectiveResult(Struct, frozen=True):
    """One row of the table."""

    collective: str
    algorithm: str
    group: int
    """Chips of a group."""
    size_bytes: float
    time_s: float
    algbw: float
    """Size / time, bytes/s."""
    busbw: float
    """algbw scaled to what a link carries (nccl-tests), bytes/s."""
    closed_form_s: float | None
    """Time by the closed form, or NCCL's prediction for its algorithms; None if no form exists."""
    bound_s: float
    """Lower bound of every algorithm, s."""
    form: str = "closed form"
    """Name of the closed form."""
    rings: str = ""
    """Links that a ring on a graph uses."""
    notes: tuple[str, ...] = ()
    """Deviations from the machine's file and their consequences, who chose the algorithm, omissions."""

    @property
    def error(self) -> float | None:
        """Simulated / closed form - 1."""
        return self.time_s / self.closed_form_s - 1 if self.closed_form_s else None

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self) | {"error": self.error}
