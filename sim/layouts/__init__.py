"""Layouts by name: one function each, from the residual stream before a layer to the residual stream after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.errors import LayoutError, suggest
from sim.layouts.weight_stationary import weight_stationary_2d
from sim.specs import LayoutSpec

Layout = Callable[..., Any]
"""(flow, x, model, block, attention) -> x, generic in the flow's values."""

LAYOUTS: dict[str, Layout] = {
    "weight_stationary_2d": weight_stationary_2d,
}


def layout_of(spec: LayoutSpec) -> Layout:
    """The layout a scenario names. Raises LayoutError with a suggestion."""
    if spec.ffn not in LAYOUTS:
        raise LayoutError(f"no layout '{spec.ffn}'", where="layout.ffn", hint=suggest(spec.ffn, LAYOUTS))
    return LAYOUTS[spec.ffn]
