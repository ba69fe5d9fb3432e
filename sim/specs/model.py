"""Transformers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.quantities import LARGEST


class Model(Strict):
    """Transformer dimensions (decoder only)."""

    name: Name
    source: str | None = None
    layers: Annotated[int, Field(gt=0, le=10_000)]
    d_model: Count
    d_ff: Count
    heads: Count
    padded_heads: Count | None = None
    """Heads the machine computes, where they are padded so that a mesh divides them."""
    kv_heads: Count
    d_head: Count
    vocabulary: Count
    ffn: Literal["swiglu", "mlp"]
    """swiglu: three matrices of width d_ff; mlp: two."""
    block: Literal["parallel", "serial"]
    tied: bool = True
    """Whether the LM head is the embedding's table."""
    nominal_parameters: Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
    """Parameters as published; MFU counts these, not the padding (Pope et al. section 2)."""

    @model_validator(mode="after")
    def _padding_adds(self) -> Self:
        if self.padded_heads is not None and self.padded_heads < self.heads:
            raise wrong("padded_heads", rule=f"must be at least heads, {self.heads}", got=self.padded_heads)
        if self.heads % self.kv_heads:
            raise wrong("kv_heads", rule=f"must divide heads, {self.heads}", got=self.kv_heads)
        return self

    @property
    def computed_heads(self) -> int:
        """Heads the machine computes: padded_heads where given, else heads."""
        return self.padded_heads or self.heads
