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
    shortcuts: Literal["auto", "chips", "layers", "off"] = "auto"
    """Exact shortcuts; results are the same. chips: one chip is simulated for all that do the same; layers: layers
    until each is exactly the one before, later, and decode steps until the next take the same order; auto: both."""
    kernel: Kernel = "simpy"
    """Engine; results are the same. compiled: numba, for large programs; auto: compiled if it saves time."""

    @property
    def folds(self) -> bool:
        """Whether one chip may be simulated for all that do the same."""
        return self.shortcuts in ("auto", "chips")

    @property
    def repeats(self) -> bool:
        """Whether layers and decode steps may follow from those before."""
        return self.shortcuts in ("auto", "layers")
