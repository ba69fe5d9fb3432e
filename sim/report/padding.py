"""What it saves to leave padding out, op by op: a pass beside the same pass with all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sim.report.metrics import OpMeasure


@dataclass(frozen=True, slots=True)
class OpSaving:
    """One op on the critical chip, all its occurrences together. Seconds."""

    op: str
    padded_s: float
    packed_s: float

    @property
    def saved_s(self) -> float:
        """Negative where packing costs."""
        return self.padded_s - self.packed_s


@dataclass(frozen=True, slots=True)
class Padding:
    """A pass without padding beside one with it."""

    padded_rows: int
    """Sequences x padded length."""
    real_rows: int
    padded_latency_s: float
    """One pass with all rows."""
    packed_latency_s: float
    ops: tuple[OpSaving, ...]

    @property
    def saved(self) -> float:
        """Share of the latency that is saved; negative where packing costs."""
        return 1 - self.packed_latency_s / self.padded_latency_s


def savings(packed: Sequence[OpMeasure], padded: Sequence[OpMeasure]) -> tuple[OpSaving, ...]:
    """Ops of both passes, in program order; an op that one of them lacks takes no time there."""
    times = [{op.op: op.time_s for op in ops} for ops in (padded, packed)]
    names = dict.fromkeys(op.op for ops in (packed, padded) for op in ops)
    return tuple(OpSaving(name, times[0].get(name, 0.0), times[1].get(name, 0.0)) for name in names)
