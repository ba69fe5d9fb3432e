"""Networks between boxes, as NCCL's messages find them."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from sim.specs.base import Name, Strict, wrong
from sim.specs.quantities import Bandwidth, Duration

Protocol = Literal["ll", "ll128", "simple"]


class NetworkSpec(Strict):
    """What a hop between two boxes takes beside its bytes, and what limits its bytes beside the adapter."""

    name: Name
    source: str
    hop: dict[Protocol, Duration]
    """From the end of sending to the receiver's use on a tree: network and proxy threads, with the wire's latency."""
    nvls_hop: Duration
    """Of reductions in the switch under a tree of boxes."""
    ll_rate: Bandwidth
    """Data per channel with protocol LL. It is measured on trees, and rings are assumed to have the same."""

    @model_validator(mode="after")
    def _protocols_are_complete(self) -> Self:
        for protocol in ("ll", "ll128", "simple"):
            if protocol not in self.hop:
                raise wrong("hop", rule=f"must say something of protocol '{protocol}'")
        return self
