"""Time that padding removal saves, op by op."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from sim.report.metrics import OpMeasure


class OpSaving(Struct, frozen=True):
    """Time of one op's occurrences on the critical chip, with and without padding; seconds."""

    op: str
    padded_s: float
    packed_s: float

    @property
    def saved_s(self) -> float:
        """Negative where packing costs."""
        return self.padded_s - self.packed_s


class Padding(Struct, frozen=True):
    """Pass without padding beside the same pass with padding."""

    padded_rows: int
    """Sequences x padded length."""
    real_rows: int
    padded_latency_s: float
    """Latency of one pass with all rows."""
    packed_latency_s: float
    ops: tuple[OpSaving, ...]

    @property
    def saved(self) -> float:
        """Share of the latency that is saved; negative where packing costs."""
        return 1 - self.packed_latency_s / self.padded_latency_s


def compare_ops(packed: Sequence[OpMeasure], padded: Sequence[OpMeasure]) -> tuple[OpSaving, ...]:
    """Compares the ops of both passes in program order; an op that one pass lacks takes no time there."""
    padded_s, packed_s = ({op.op: op.time_s for op in ops} for ops in (padded, packed))
    names = {**packed_s, **padded_s}
    return tuple(OpSaving(name, padded_s.get(name, 0.0), packed_s.get(name, 0.0)) for name in names)
