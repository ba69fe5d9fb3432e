"""One collective by itself as it was measured: a row of the table of nccl-tests, with its closed form and its bound."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the table."""

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
    """None where no form exists; of NCCL's algorithms what its tuner predicts."""
    bound_s: float
    """No algorithm is faster."""
    form: str = "closed form"
    """Name of the closed form."""
    rings: str = ""
    """Of a ring on a graph: what it goes over."""
    notes: tuple[str, ...] = ()
    """What is not as the machine's file says and what follows from it, who chose the algorithm, what is left out."""

    @property
    def error(self) -> float | None:
        """Simulated / closed form - 1."""
        return self.time_s / self.closed_form_s - 1 if self.closed_form_s else None

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self) | {"error": self.error}
