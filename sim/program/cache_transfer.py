"""Transfer of a prefill's KV cache to chips that decode: who sends and who receives."""

from __future__ import annotations

from dataclasses import dataclass

from sim.program.columns import Ids


@dataclass(frozen=True, slots=True, eq=False)
class CacheTransfer:
    """Chips of a transfer, and the op of its messages."""

    op: str
    senders: Ids
    """Chips that prefill."""
    receivers: Ids
    """Chips that decode: they take no part but as ends of messages."""
