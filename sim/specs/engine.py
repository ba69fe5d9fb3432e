"""What is simulated, and by which engine."""

from __future__ import annotations

from typing import Literal

from sim.specs.base import Count, Strict

Kernel = Literal["simpy", "compiled", "auto"]


class EngineSpec(Strict):
    """What is simulated."""

    steps: Literal["each", "mean"] = "each"
    """Whether each decode step of a generation is simulated, or the one of mean cache length for all."""
    layers: Count | Literal["all"] = "all"
    """Simulate only the first N layers; every figure is then of a model of N layers."""
    fold: Literal["auto", "off"] = "auto"
    """Simulate one chip for all where all chips do the same."""
    periodic: Literal["auto", "off"] = "auto"
    """Simulate layers until each is exactly the one before, later, and decode steps until the next take the same order;
    the others follow."""
    kernel: Kernel = "simpy"
    """Which engine runs; the results are the same. compiled: numba, for large programs; auto: where it pays."""
