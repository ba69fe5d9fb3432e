"""Transformers."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.quantities import LARGEST

_NEAR = 0.1
"""Published counts are rounded, or leave out the embedding: PaLM 8B has 8.6e9 with it, 7.6e9 without."""


class Model(Strict):
    """Transformer dimensions."""

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
    causal: bool = True
    """True if a position attends only to itself and earlier ones (not in an encoder)."""
    tied: bool = True
    """True if the LM head shares the embedding's table."""
    nominal_parameters: Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)] | None = None
    """Parameters as published, within 10 % of `counted_parameters`. Default: those."""

    @model_validator(mode="after")
    def _padding_adds(self) -> Self:
        if self.padded_heads is not None and self.padded_heads < self.heads:
            raise wrong("padded_heads", rule=f"must be at least heads, {self.heads}", got=self.padded_heads)
        if self.heads % self.kv_heads:
            raise wrong("kv_heads", rule=f"must divide heads, {self.heads}", got=self.kv_heads)
        if self.kv_heads != self.heads and self.computed_heads % self.kv_heads:
            rule = f"must be a multiple of kv_heads, {self.kv_heads}: heads share keys and values in equal groups"
            raise wrong("padded_heads", rule=rule, got=self.padded_heads)
        return self

    @model_validator(mode="after")
    def _nominal_is_near(self) -> Self:
        counted, nominal = self.counted_parameters, self.nominal_parameters
        if nominal is not None and abs(nominal - counted) > _NEAR * counted:
            rule = f"must be within {_NEAR:.0%} of the {counted:.4g} parameters that the dimensions make"
            raise wrong("nominal_parameters", rule=rule, got=nominal, hint="leave it out to take those")
        return self

    @property
    def counted_parameters(self) -> int:
        """Weights of the layers' matmuls, of the embedding and of an LM head of its own, unpadded; norms left out."""
        attention = 2 * (self.heads + self.kv_heads) * self.d_head
        ffn = (3 if self.ffn == "swiglu" else 2) * self.d_ff
        return self.d_model * self.layers * (attention + ffn) + self.table_parameters

    @property
    def table_parameters(self) -> int:
        """Parameters of embedding and LM head: one table if they are tied, else two."""
        return (1 if self.tied else 2) * self.vocabulary * self.d_model

    @property
    def parameters(self) -> float:
        """Parameters that MFU counts (Pope et al. 2022, section 2): nominal_parameters, else counted_parameters."""
        return self.nominal_parameters or float(self.counted_parameters)

    @property
    def computed_heads(self) -> int:
        """Heads the machine computes: padded_heads where given, else heads."""
        return self.padded_heads or self.heads
