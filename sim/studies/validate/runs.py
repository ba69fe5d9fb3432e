"""What rows of measurements ran: a forward pass, a collective, an exchange, a matmul, an operation of a pass."""

from __future__ import annotations

from msgspec import Struct

from sim.lowering.exchange import Way
from sim.specs import Scenario, load
from sim.specs.suite import HostTimes


class ScenarioRun(Struct, frozen=True):
    """A forward pass, a generation, or a step of training."""

    base: str
    """Scenario that the row changes."""
    settings: tuple[str, ...]
    """Changes of the row, as in --set."""
    variant: str = ""
    """Residual scheme or engine as the row calls it."""
    setting: str = ""
    """Inputs that rows of other variants share with this one."""
    recomputed: float | None = None
    """Share of the forward pass that the backward pass of a training step computes again; None for inference."""
    baseline: tuple[str, ...] | None = None
    """Changes of the pass that this one is compared with, for a speed-up."""

    def scenario(self, *settings: str) -> Scenario:
        """Loads the scenario with further settings. Raises InputError."""
        return load.scenario(self.base, [*self.settings, *settings])


class CollectiveRun(Struct, frozen=True):
    """A collective by itself."""

    machine: str
    settings: tuple[str, ...]
    """Changes of the machine, as in --set."""
    chips: int
    collective: str
    size_bytes: float
    algorithm: str | None
    """None for the machine's default."""
    host: HostTimes | None
    """None where the GPUs alone take the time."""
    setting: str
    """Machine and chips."""


class ExchangeRun(Struct, frozen=True):
    """A dispatch or a combine by itself."""

    machine: str
    settings: tuple[str, ...]
    """Changes of the machine, and of the model, workload and layout of the exchange, as in --set."""
    chips: int
    way: Way
    tokens: int
    """Tokens of a chip."""


class MatmulRun(Struct, frozen=True):
    """Matmuls in one launch, [rows, inner] x [inner, columns]."""

    machine: str
    """The machine whose chip runs them."""
    settings: tuple[str, ...]
    """Changes of the machine and its stack, as in --set."""
    rows: int
    columns: int
    inner: int
    products: int
    """Number of matmuls."""
    dtype: str
    spread: float | None = None
    """Share of `rows` by which those of the experts of a grouped matmul differ from it; None for equal matmuls."""


class CopyRun(Struct, frozen=True):
    """A copy in a chip's memory."""

    machine: str
    """The machine whose chip runs it."""
    settings: tuple[str, ...]
    """Changes of the machine and its stack, as in --set."""
    moved_bytes: float
    """Bytes read and written."""


class OperationRun(Struct, frozen=True):
    """Operations of a forward pass."""

    base: str
    """Scenario that the row changes."""
    settings: tuple[str, ...]
    """Changes of the row, as in --set."""
    operations: str
    """Patterns of their names, with commas between."""

    def scenario(self, *settings: str) -> Scenario:
        """Loads the scenario with further settings. Raises InputError."""
        return load.scenario(self.base, [*self.settings, *settings])


Run = ScenarioRun | CollectiveRun | ExchangeRun | MatmulRun | CopyRun | OperationRun
