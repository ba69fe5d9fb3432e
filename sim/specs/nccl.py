"""Constants of NCCL: those that its tuner calculates with, and measured times of its kernels."""

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from sim.specs.base import Count, Name, Strict, complete, wrong
from sim.specs.link import MEDIA, Medium
from sim.specs.network import ByProtocol, Protocol
from sim.specs.quantities import Bandwidth, Duration, Fraction, Size, Sourced

_ByBoxes = Annotated[list[Bandwidth], Field(min_length=3, max_length=3)]
"""Values on one box, on two, on more."""

_Factors = Annotated[list[Fraction], Field(min_length=1)]
_Kernel = Literal["ring", "tree"]
_InsideBox = Literal["nvlink", "pci"]
_Latencies = Annotated[dict[_Kernel, ByProtocol[Duration]], complete(get_args(_Kernel))]
_InsideBoxes = complete(get_args(_InsideBox))


class CountedNvls(Strict):
    """Constants of the tuner for reductions in the switch (NVLink SHARP)."""

    latency: Duration
    """Latency of the reduction inside a box."""
    hop: Duration
    """Latency of one hop between boxes in a tree of boxes (NVLSTree)."""
    efficiency: Fraction
    """Share of a channel's speed."""
    tree_ceiling: _ByBoxes
    """Bandwidth of a channel in a tree of boxes."""


class CountedSpec(Strict):
    """Constants of NCCL's tuner, by which it chooses algorithm and protocol."""

    base: _Latencies
    step: Annotated[dict[Medium, _Latencies], complete(MEDIA)]
    net_overhead: Duration
    intra_speeds: Annotated[list[Bandwidth], Field(min_length=1)]
    """Speeds of one channel that the search for rings tries inside a box, fastest first."""
    inter_speeds: Annotated[list[Bandwidth], Field(min_length=1)]
    ll_ceiling: _ByBoxes
    ring_ll128_share: Sourced[Fraction]
    """Share of the bus bandwidth."""
    ring_ll128_ceiling: _ByBoxes
    tree_ll128_ceiling: _ByBoxes
    tree_ceiling: _ByBoxes
    tree_correction: ByProtocol[_Factors]
    nvls: CountedNvls | None = None


class ProtocolTimes(Strict):
    """Times of rings and trees with one protocol inside a box."""

    base: Duration
    """Fixed time, launch included."""
    step: Annotated[dict[_InsideBox, Duration], _InsideBoxes]
    """Time of one dependent step, by the slowest kind of link on the route, the link's latency included."""
    share: Annotated[dict[_InsideBox, Fraction], _InsideBoxes]
    """Share of the links' bandwidth that data gets."""
    channel_rate: Bandwidth
    """Data rate of one channel."""
    chunk: Size
    """Data that a channel of a tree forwards in one step."""
    empty_step: Fraction = 1.0
    """Share of a step's time if the array has less than a line of 8 bytes per GPU."""


class PeersSpec(Strict):
    """Times of messages to all peers at once."""

    floor: Duration = 0.0
    """Smallest time before the first byte."""
    base: Duration = 0.0
    per_peer: Duration
    """Time per peer in addition to `base`."""
    share: Fraction
    """Share of the bandwidth of NVLinks."""


class PointToPointSpec(Strict):
    """Sends and receives of one group: all peers are served at once."""

    many_from: Size
    """Message from which several channels serve a peer."""
    few: PeersSpec
    many: PeersSpec


class NvlsTimes(Strict):
    """Times of a reduction in the switch."""

    base: Duration
    per_chip: Duration
    chunk: Duration
    """Synchronisation of one chunk, on its channel."""
    share: Fraction
    """Share of the port's bandwidth, without that synchronisation."""


class MeasuredSpec(Strict):
    """Measured times of NCCL's kernels."""

    source: str
    startup: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Fixed time of every kernel in addition to its own."""
    wire: Annotated[dict[Medium, Duration], complete(MEDIA)]
    """Latency of the links from GPU to GPU that is part of the steps."""
    ll: ProtocolTimes
    ll128: ProtocolTimes
    simple: ProtocolTimes
    point_to_point: PointToPointSpec
    nvls: NvlsTimes | None = None

    def of(self, protocol: Protocol) -> ProtocolTimes:
        """Returns the times of a protocol."""
        times: ProtocolTimes = getattr(self, protocol)
        return times

    def added(self, medium: Medium, step: float) -> float:
        """Returns the time that a step adds to the latency of the links, s."""
        return max(0.0, step - self.wire[medium])


class NvlsSpec(Strict):
    """Pieces into which reductions in the switch (NVLink SHARP) cut the array."""

    channels: Count
    heads: Count
    """Largest number of GPUs that each sum a part."""
    chunk: Size
    """Largest data of one channel and one head in one round."""
    least_chunk: Size
    least_size: Size | None = None
    """Smallest array that is reduced in the switch. Default: NCCL's tuner decides."""
    least_chips: Count = 2
    """Smallest group that is reduced in the switch."""


class NcclSpec(Strict):
    """NCCL on one generation of GPUs. The choice of a kernel uses `counted`, its duration `measured`."""

    name: Name
    source: str
    generation: Literal["volta", "ampere", "hopper", "blackwell"]
    channel_bytes: ByProtocol[Size]
    """Data per channel below which one channel fewer is used."""
    counted: CountedSpec
    measured: MeasuredSpec
    nvls: NvlsSpec | None = None

    @model_validator(mode="after")
    def _nvls_is_complete(self) -> Self:
        parts = (self.nvls, self.counted.nvls, self.measured.nvls)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise wrong("nvls", rule="must be given together with counted.nvls and measured.nvls, or none of the three")
        return self
