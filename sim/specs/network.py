"""Networks between boxes, as NCCL's messages find them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, get_args

from sim.specs.base import Name, Strict, complete
from sim.specs.quantities import Bandwidth, Duration

Protocol = Literal["ll", "ll128", "simple"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
T = TypeVar("T")
ByProtocol = Annotated[dict[Protocol, T], complete(PROTOCOLS, "protocol ")]


class NetworkSpec(Strict):
    """What a hop between two boxes takes beside its bytes, and what limits its bytes beside the adapter."""

    name: Name
    source: str
    hop: ByProtocol[Duration]
    """From the end of sending to the receiver's use on a tree: network and proxy threads, with the wire's latency."""
    nvls_hop: Duration
    """Of reductions in the switch under a tree of boxes."""
    ll_rate: Bandwidth
    """Data per channel with protocol LL. It is measured on trees, and rings are assumed to have the same."""
