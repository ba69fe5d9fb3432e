"""Published measurements: how rows of a CSV are run, how close they must come, and what is fitted to them."""

import itertools
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator

from sim.specs.base import Count, Name, Strict
from sim.specs.prediction import Prediction
from sim.specs.quantities import Duration, Fraction, Size

Settings = dict[str, Any]
"""Values by dotted field, as in --set."""


class Tolerance(Strict):
    """Largest absolute errors that pass."""

    median: Fraction
    nine_in_ten: Fraction
    worst: Fraction


class Constant(Strict):
    """One fitted number: the fields that take it, and the range of what is physically plausible."""

    fields: Annotated[list[str], Field(min_length=1)]
    unit: str = ""
    low: float
    high: float

    def value_at(self, share: float) -> float:
        """Returns the value at a share of the range, 0 at its lower and 1 at its upper bound."""
        return self.low + share * (self.high - self.low)


class Choice(Strict):
    """One fitted number of a few, such as a count: the fields that take it, and the values to try, ascending."""

    fields: Annotated[list[str], Field(min_length=1)]
    unit: str = ""
    values: Annotated[list[float], Field(min_length=2)]

    @property
    def low(self) -> float:
        """Least value."""
        return self.values[0]

    @property
    def high(self) -> float:
        """Largest value."""
        return self.values[-1]

    @field_validator("values")
    @classmethod
    def _ascend(cls, values: list[float]) -> list[float]:
        if any(low >= high for low, high in itertools.pairwise(values)):
            raise ValueError(f"must ascend, got {values}")
        return values

    def value_at(self, share: float) -> float:
        """Returns the value at a share of the list, 0 at its first and 1 at its last one: the nearest."""
        return self.values[round(share * (len(self.values) - 1))]


def _constant_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else vars(value)
    return "choice" if "values" in given else "constant"


AnyConstant = Annotated[
    Annotated[Constant, Tag("constant")] | Annotated[Choice, Tag("choice")], Discriminator(_constant_kind)
]


class Calibration(Strict):
    """Constants that `sim calibrate` fits, and rows to fit them to."""

    rows: Annotated[list[str], Field(min_length=1)] | None = None
    """Patterns of case ids; default: all gated rows."""
    constants: Annotated[dict[str, AnyConstant], Field(min_length=1)]
    """A stage fits constants of a range, or chooses one of a few values."""
    then: "Calibration | None" = None
    """Next fit, with the constants found before."""


class Speedup(Strict):
    """Rates against those of one option of rows that differ in nothing else."""

    baseline: str
    """Pattern of the variant or engine."""
    tolerance: Tolerance
    """Tolerance of the difference of predicted and published speed-up, as a share of the baseline's rate."""


class _Rows(Strict):
    name: Name
    description: str = ""
    rows: str
    """CSV file, relative to this file."""
    tolerance: Tolerance
    not_gated: dict[str, str] = {}
    """Reason by pattern of the case id: shown, not held against the tolerance."""
    calibration: Calibration | None = None
    fitted: list[str] = []
    """Patterns of case ids that constants were fitted to in another way than by `calibration`."""
    series: list[str] = ["source"]
    """Columns that tell the series of measurements apart."""
    options: list[str] = []
    """Columns of which rows that differ in nothing else are compared: which of the options is faster."""
    tie: Fraction = 0.0
    """Options whose published values are no further apart than this, or than they are read wrong, are not compared."""
    not_checked: list[str] = []
    """Constants that these rows do not determine."""
    speedup: Speedup | None = None
    """Speed-ups of generations or requests, held against a tolerance of their own. Default: not compared."""
    plugins: list[str] = []
    """Python files, as seen from this one, entry points or modules, for the scenarios of all rows."""
    predictions: dict[str, Prediction] = {}
    """User predictions by name, beside the simulation and the closed forms."""


class Suite(_Rows):
    """Rules that turn rows of a CSV into scenarios, and tolerances."""

    kind: Literal["scenarios"] = "scenarios"
    base: str
    """Scenario that the rows change. Rows of its machine's mesh run on that machine as its file says."""
    wrap_multiple: Count | None = None
    """Axes wrap if every length is a multiple of this, for a row with another mesh than the base's machine.
    Default: such a mesh is a part of that machine, and an axis cut short has no wraparound."""
    systems: dict[str, Settings] = {}
    """Machine by pattern of the row's system; the first match counts. Rows without one run on the base's machine."""
    sources: dict[str, Settings] = {}
    """Settings by pattern of the row's source; the first match counts."""
    models: dict[str, Settings]
    """Settings by pattern of the row's model; the first match counts."""
    at_chips: dict[str, dict[int, Settings]] = {}
    """Settings by pattern of the row's model and by its number of chips."""
    layouts: dict[str, Settings] = {}
    """Settings by pattern of the row's FFN layout; the first match counts."""
    gated_up_to: Fraction = 1.0
    """Largest reading error (column reading_error_pct) of a row that is held against the tolerance."""


class HostBound(Strict):
    """Rows whose time is that of the host that launches them."""

    up_to: Size
    """Largest array of such a row."""
    reason: str


class HostTimes(Strict):
    """Time that the host of a laboratory takes to launch a collective, beside that of the GPUs."""

    source: str
    enqueue: Duration = 0.0
    """Least time between collectives, without that of channels: the GPUs wait for the host where it is longer."""
    per_channel: Duration = 0.0
    """Time to enqueue a channel on all GPUs. All GPUs wait for the last, so it is beside the longer of the two."""
    channels: Count = 1
    """Largest number of channels."""
    channel_bytes: Size = 1
    """Bytes of the array per channel, as long as there are fewer channels than that number."""
    call: Duration = 0.0
    """Time from the call to the start of the GPUs, which is measured with theirs."""

    def total_s(self, gpus_s: float, size_bytes: float) -> float:
        """Returns the measured time of a collective for which the GPUs take `gpus_s`."""
        channels = min(float(self.channels), size_bytes / self.channel_bytes)
        return max(self.call + gpus_s, self.enqueue) + self.per_channel * channels


class CollectiveSuite(_Rows):
    """Rules that turn rows of a CSV into single collectives, and tolerances."""

    kind: Literal["collectives"]
    machines: dict[str, Annotated[Settings, Field(min_length=1)]]
    """Machine by pattern of the row's `system gpus=GPUS`, or of its system; the first match counts: `topology`, a name
    or path, and settings of it. Of a machine with more chips the first ones are used."""
    algorithms: dict[str, str] = {}
    """Algorithm by pattern of the case id; the first match counts. Default: the machine's."""
    host_bound: dict[str, HostBound] = {}
    """Patterns of case ids that are shown but not held against the tolerance."""
    hosts: dict[str, HostTimes] = {}
    """Tolerance by pattern of the case id; the first match counts."""


class ExchangeSuite(_Rows):
    """Rules that turn rows of a CSV into single dispatches and combines of a mixture of experts, and tolerances."""

    kind: Literal["exchanges"]
    model: str
    """Model whose number of experts, groups and d_model the rows change."""
    machines: dict[str, Annotated[Settings, Field(min_length=1)]]
    """Machine by pattern of the row's `system gpus=GPUS`, or of its system; the first match counts: `topology`, a name
    or path, and settings of it. Of a machine with more chips the first ones are used."""
    kernels: dict[str, Settings]
    """Settings by pattern of the row's `kernel on system`, or of its kernel; the first match counts: the stack, and
    fields of the workload and the layout."""


class MatmulSuite(_Rows):
    """Rules that turn rows of a CSV into single matmuls, and tolerances."""

    kind: Literal["matmuls"]
    machines: dict[str, Annotated[Settings, Field(min_length=1)]]
    """Machine by pattern of the row's system; the first match counts: `topology`, a name or path of a machine with its
    chip, and settings of it, such as `stack`."""
    grouped: dict[str, Annotated[float, Field(ge=0, lt=1)]] = {}
    """Patterns of the row's kernel: grouped matmuls of experts, each with other weights. The rows of the experts lie
    evenly between m less this share and m plus it, rounded down."""


class CopySuite(_Rows):
    """Rules that turn rows of a CSV into single copies in a chip's memory, and tolerances."""

    kind: Literal["copies"]
    machines: dict[str, Annotated[Settings, Field(min_length=1)]]
    """Machine by pattern of the row's system; the first match counts: `topology`, a name or path of a machine with its
    chip, and settings of it, such as `stack`."""


class _ServingRows(_Rows):
    """Rows that name a system and a model."""

    base: str
    """Scenario that the rows change."""
    settings: Settings = {}
    """Settings of every row."""
    systems: dict[str, Settings]
    """Settings by pattern of the row's system, as the suite's kind writes it; the first match counts."""
    models: dict[str, Settings]
    """Settings by pattern of the row's model; the first match counts."""


class GenerationSuite(_ServingRows):
    """Rules that turn rows of a CSV into prompts and generations under residual schemes, and tolerances.

    A system is written `system p2p=P2P tp=TP`.
    """

    kind: Literal["generations"]
    variants: dict[str, Settings]
    """Settings by the row's variant."""


class _EngineRows(_ServingRows):
    """Rows that name an engine besides."""

    engines: dict[str, Settings]
    """Settings by the row's engine."""
    left_out: dict[str, str] = {}
    """Reason by pattern of the case id: rows that no scenario stands for."""


class RequestSuite(_EngineRows):
    """Rules that turn rows of a CSV into requests to a serving engine, or steps of training, and tolerances."""

    kind: Literal["requests"]
    lengths: dict[str, str] = {}
    """CSV file of the real lengths in each padded batch, relative to this file, by pattern of the row's model."""


class StepSuite(_EngineRows):
    """Rules that turn rows of a CSV into single steps of a deployment, and tolerances.

    A system is written `system gpus=GPUS`. A row of metric `speedup` also names the engine that it is compared with.
    """

    kind: Literal["steps"]


class OperationSuite(_ServingRows):
    """Rules that turn rows of a CSV into operations of a layer, and tolerances. The base simulates one layer.

    A row's time is from the start of the first of its operations to the end of the last. A system is written `KERNEL on
    SYSTEM`, or as the system.
    """

    kind: Literal["operations"]


def _suite_kind(value: Any) -> str:
    given = value.get("kind", "scenarios") if isinstance(value, dict) else getattr(value, "kind", "scenarios")
    return str(given)


AnySuite = Annotated[
    Annotated[Suite, Tag("scenarios")]
    | Annotated[CollectiveSuite, Tag("collectives")]
    | Annotated[ExchangeSuite, Tag("exchanges")]
    | Annotated[MatmulSuite, Tag("matmuls")]
    | Annotated[CopySuite, Tag("copies")]
    | Annotated[OperationSuite, Tag("operations")]
    | Annotated[GenerationSuite, Tag("generations")]
    | Annotated[RequestSuite, Tag("requests")]
    | Annotated[StepSuite, Tag("steps")],
    Discriminator(_suite_kind),
]
