"""Networks between boxes, as NCCL's messages find them."""

from typing import Annotated, Literal, TypeVar, get_args

from sim.specs.base import Name, Strict, complete
from sim.specs.quantities import Bandwidth, Duration, Fraction

Protocol = Literal["ll", "ll128", "simple"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
T = TypeVar("T")
ByProtocol = Annotated[dict[Protocol, T], complete(PROTOCOLS, "protocol ")]


class NetworkSpec(Strict):
    """Times of a hop between two boxes in addition to its bytes, and limits of its rate besides the adapter."""

    name: Name
    source: str
    hop: ByProtocol[Duration]
    """Time from the end of sending to use at the receiver on a tree: network and proxy threads, latency included."""
    nvls_hop: Duration
    """The same for reductions in the switch in a tree of boxes."""
    ll_rate: Bandwidth
    """Data per channel with protocol LL. It is measured on trees, and rings are assumed to have the same."""
    peers_start: Duration = 0.0
    """Time before messages to all peers flow, in addition to that of the kernel."""
    peers_share: Fraction = 1.0
    """Share of the adapters' bandwidth that messages to all peers keep with every doubling of the boxes beyond two."""
