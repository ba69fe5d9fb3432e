"""Layouts by name: how the mesh axes are used, and the layer that follows from it."""

from __future__ import annotations

from sim.errors import LayoutError, suggest
from sim.layouts.partition import LAYOUTS, Partition
from sim.sharding import Axes


def partition(name: str, axes: Axes) -> Partition:
    """The partition a layout's name stands for. Raises LayoutError with a suggestion."""
    if name not in LAYOUTS:
        raise LayoutError(f"no layout '{name}'", where="layout.ffn", hint=suggest(name, LAYOUTS))
    return LAYOUTS[name](axes)
