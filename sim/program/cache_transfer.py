"""Transfer of a prefill's KV cache to chips that decode: who sends and who receives."""

from __future__ import annotations

from msgspec import Struct

from sim.program.columns import Ids


class CacheTransfer(Struct, frozen=True, eq=False):
    """Chips of a transfer, and the op of its messages."""

    op: str
    senders: Ids
    """Chips that prefill."""
    receivers: Ids
    """Chips that decode: they take no part but as ends of messages."""
