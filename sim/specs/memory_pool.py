"""Weights that live in another memory."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Strict, wrong
from sim.specs.link import LinkSpec


class MemoryPoolSpec(Strict):
    """Layers that live in another memory and are fetched ahead of use (PMEP)."""

    offload_every: Annotated[int, Field(ge=2)]
    """The last of so many layers lives elsewhere."""
    to: Literal["peer", "host"]
    """Memory that keeps the layers: the host's, or peer chips'."""
    link: LinkSpec | None = None
    """One direction of the way there. Default, of a peer: the machine's best way to a chip that the mesh leaves out."""
    prefetch_layers: Count = 2
    """Number of layers by which a layer is fetched ahead."""
    evict: Literal["when_computed", "at_once"] = "when_computed"
    """Time of eviction: after a layer has been computed, or already while it computes."""

    @model_validator(mode="after")
    def _host_has_a_link(self) -> Self:
        if self.to == "host" and self.link is None:
            raise wrong("link", rule="must be the link to the host's memory", hint="link: pcie_gen4_x16")
        return self
