"""Links and what they are made of."""

from typing import Literal

from sim.specs.base import Name, Strict
from sim.specs.network import NetworkSpec
from sim.specs.quantities import Bandwidth, Duration, Fraction, Sourced

Medium = Literal["nvlink", "pci", "net"]
"""Kinds of links that NCCL distinguishes: between GPUs, PCI Express and beyond it, networks between boxes."""

MEDIA: tuple[Medium, ...] = ("nvlink", "pci", "net")
"""Kinds of links, from the nearest to the farthest."""


class LinkSpec(Strict):
    """One direction of one link."""

    name: Name
    medium: Medium = "nvlink"
    bandwidth: Sourced[Bandwidth]
    efficiency: Sourced[Fraction] = Sourced[Fraction].model_construct(value=1.0)
    """Reached share of `bandwidth` in a long transfer."""
    latency: Sourced[Duration]
    """Time from the end of sending to the receiver's use of the message, per hop."""
    network: NetworkSpec | None = None
    """NCCL's costs of messages over a link of medium `net`. Default: the constants of NCCL's tuner."""
