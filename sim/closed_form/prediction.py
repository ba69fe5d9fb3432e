"""Prediction of one forward pass by a closed form."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct


class Prediction(Struct, frozen=True):
    """Named terms of one forward pass and their total, s."""

    step_s: float
    terms: Mapping[str, float]
    inexact: tuple[str, ...]
    """Reasons why a simulation may take another time, such as `leaves out layout.overlap: micro_batches`; empty if it
    takes the same, to the rounding of its tasks."""

    @property
    def exact(self) -> bool:
        """True if the simulation takes the same time, to the rounding of its tasks."""
        return not self.inexact


PAPER_LAYOUTS = (
    "weight_stationary_1d",
    "weight_stationary_2d",
    "weight_gathered_x",
    "weight_gathered_xy",
    "weight_gathered_xyz",
)
"""Layouts that Pope et al. have formulas for; both closed forms cover these."""
