"""The constants of NCCL."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.link import MEDIA, Medium
from sim.specs.quantities import Bandwidth, Duration, Fraction, Size, Sourced

Protocol = Literal["ll", "ll128", "simple"]
PROTOCOLS: tuple[Protocol, ...] = ("ll", "ll128", "simple")
_Latencies = dict[Protocol, Duration]
_ByBoxes = Annotated[list[Bandwidth], Field(min_length=3, max_length=3)]
"""On one box, on two, on more."""

_Factors = Annotated[list[Fraction], Field(min_length=1)]


class ProtocolSpec(Strict):
    """How NCCL puts data on the wire."""

    payload: Fraction
    """Share of the bytes on the wire that are data."""
    chunk: Size
    """Data that a channel of a ring passes on in one step."""
    tree_chunk: Size
    """Data that a channel of a tree passes on in one step."""
    channel_bytes: Size
    """Data per channel below which a channel less is used."""


class NvlsSpec(Strict):
    """Reduction and multicast in the switch (NVLink SHARP)."""

    latency: Duration
    efficiency: Fraction
    """Share of a channel's speed that the tuner counts on."""
    bandwidth_share: Sourced[Fraction]
    """Share of the links' bandwidth that the kernel reaches."""
    channels: Count
    chunk: Size
    """Largest data of one channel and one part of the array in one round."""
    least_chunk: Size
    least_size: Size | None = None
    """Smallest array that is reduced in the switch; None where NCCL's tuner alone decides."""
    least_chips: Count = 2
    """Smallest group that is reduced in the switch."""


class NcclSpec(Strict):
    """NCCL on one generation of GPUs: the constants of its tuner, and what they leave out."""

    name: Name
    source: str
    generation: Literal["volta", "ampere", "hopper", "blackwell"]
    protocols: dict[Protocol, ProtocolSpec]
    startup: dict[Protocol, Sourced[Duration]]
    """Measured fixed time beside `base`; the tuner does not know of it."""
    base: dict[Literal["ring", "tree"], _Latencies]
    step: dict[Medium, dict[Literal["ring", "tree"], _Latencies]]
    net_overhead: Duration
    intra_speeds: Annotated[list[Bandwidth], Field(min_length=1)]
    """Of one channel, fastest first: what the search for rings tries inside a box."""
    inter_speeds: Annotated[list[Bandwidth], Field(min_length=1)]
    ll_ceiling: _ByBoxes
    ring_ll128_ceiling: _ByBoxes
    tree_ll128_ceiling: _ByBoxes
    tree_ceiling: _ByBoxes
    tree_correction: dict[Protocol, _Factors]
    nvls: NvlsSpec | None = None

    @model_validator(mode="after")
    def _protocols_are_complete(self) -> Self:
        tables: dict[str, Any] = {
            "protocols": self.protocols,
            "startup": self.startup,
            "tree_correction": self.tree_correction,
            **{f"base.{name}": self.base.get(name, {}) for name in ("ring", "tree")},
            **{f"step.{m}.{name}": self.step.get(m, {}).get(name, {}) for m in MEDIA for name in ("ring", "tree")},
        }
        for table, given in tables.items():
            for protocol in PROTOCOLS:
                if protocol not in given:
                    raise wrong(*table.split("."), rule=f"must say something of protocol '{protocol}'")
        return self
