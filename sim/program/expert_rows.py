"""Rows of tokens that the experts of one layer make: who sends them to whom, and how many each chip multiplies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.program.columns import Floats, Ints


class ExpertRows(Struct, frozen=True, eq=False):
    """Rows of one layer with experts, of all parts of the batch; every such layer of a pass has the same."""

    sent: Floats
    """[sources, holders] rows that a chip sends to each chip with experts, or keeps; a source is a place in a group."""
    beyond: Floats
    """[sources] rows that a chip sends to other boxes: one to a box that forwards them."""
    held: Floats
    """[holders, slots] rows of each expert that a chip has."""
    hit: Floats
    """[holders] experts of a chip that have a row, of expected rows as expected."""
    holder: Ints
    """[chips of the whole machine] number of each chip among those with different experts."""
    groups: Ints
    """[groups, sources] chips that exchange rows."""
    row_bytes: Mapping[str, int]
    """Bytes of a row, of `dispatch` and of `combine`."""
    tokens: int
    """Tokens of a group."""
    even: bool
    """True if all chips do the same."""

    def plus(self, other: ExpertRows) -> ExpertRows:
        """Returns the rows of two parts of a batch, which chips exchange one after the other."""
        held, slots = self.held + other.held, self.held.shape[1]
        expected_hit: Floats = slots * (1 - (1 - self.hit / slots) * (1 - other.hit / slots))
        return replace(
            self,
            sent=self.sent + other.sent,
            beyond=self.beyond + other.beyond,
            held=held,
            hit=expected_hit if self.even else np.count_nonzero(held, axis=1).astype(np.float64),
            tokens=self.tokens + other.tokens,
        )

    @property
    def of_chips(self) -> Floats:
        """[chips] rows that each chip multiplies."""
        rows: Floats = self.held.sum(axis=1)[self.holder]
        return rows

    def bytes_between(self, way: str) -> Floats:
        """Returns [chips, chips] the bytes from each chip to each other in the dispatches or the combines of one layer.

        Rows that another chip forwards count from where they come to where they are needed.
        """
        chips = len(self.holder)
        result = np.zeros((chips, chips))
        for members in self.groups:
            rows = self.sent[:, self.holder[members]]
            result[np.ix_(members, members)] = rows if way == "dispatch" else rows.T
        np.fill_diagonal(result, 0.0)
        return result * self.row_bytes[way]
