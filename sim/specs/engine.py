"""Engine of a scenario: parts to simulate, shortcuts and kernel."""

from typing import Literal

from sim.specs.base import Count, Strict

Kernel = Literal["simpy", "compiled", "auto"]


class EngineSpec(Strict):
    """Parts to simulate, shortcuts and kernel."""

    steps: Literal["each", "mean"] = "each"
    """Decode steps of a generation to simulate: each, or one of mean cache length for all."""
    layers: Count | Literal["all"] = "all"
    """Simulate only the first N layers; every figure is then of a model of N layers."""
    fold: Literal["auto", "off"] = "auto"
    """Simulate one chip for all where all chips do the same."""
    periodic: Literal["auto", "off"] = "auto"
    """Simulate layers until each is exactly the one before, later, and decode steps until the next take the same order;
    the others follow."""
    kernel: Kernel = "simpy"
    """Engine; results are the same. compiled: numba, for large programs; auto: compiled if it saves time."""
