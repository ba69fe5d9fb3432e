"""Transformers."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.experts import ExpertsSpec
from sim.specs.quantities import LARGEST

_NEAR = 0.1
"""Published counts are rounded, or leave out the embedding: PaLM 8B has 8.6e9 with it, 7.6e9 without."""


class LatentSpec(Strict):
    """Multi-head latent attention (DeepSeek-V2 2024, section 2.1): keys and values of all heads from one vector."""

    q_rank: Count | None = None
    """Width of the queries' latent vector. Default: queries are projected from d_model."""
    kv_rank: Count
    """Width of the latent vector of keys and values, which is cached."""
    rope: Count
    """Values of a query and a key that carry the position; in keys all heads share them, and they are cached."""
    d_value: Count
    """Width of a head's values."""


class WindowSpec(Strict):
    """Layers that attend to the latest positions only."""

    size: Count
    """Positions that a query sees, its own included."""
    full_every: Count
    """The last of every so many layers attends to all positions."""


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
    experts: ExpertsSpec | None = None
    """Mixture of experts in place of the FFN. Default: none."""
    latent: LatentSpec | None = None
    """Latent attention; d_head is then a query's width, rope included, and kv_heads must be heads. Default: none."""
    mtp: Annotated[int, Field(ge=0, le=1)] = 0
    """Modules for multi-token prediction, each with a projection and a layer of its own: with `workload.speculation`
    it proposes the tokens that the next step verifies."""
    window: WindowSpec | None = None
    """Layers with a sliding window. Default: every layer attends to all positions."""
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

    @model_validator(mode="after")
    def _latent_fits(self) -> Self:
        if self.latent is not None:
            if self.kv_heads != self.heads:
                raise wrong("kv_heads", rule=f"must be heads, {self.heads}, in latent attention", got=self.kv_heads)
            if self.latent.rope >= self.d_head:
                raise wrong("latent", "rope", rule=f"must be less than d_head, {self.d_head}", got=self.latent.rope)
        return self

    def _count(self, routed: int) -> int:
        """Returns the weights of all matmuls if a layer has so many routed experts, of embedding and LM head; norms
        left out."""
        matrices, experts = 3 if self.ffn == "swiglu" else 2, self.experts
        mixed = sum(experts.in_layer(layer) for layer in range(self.layers)) if experts else 0
        total = self.layers * self._attention_parameters + (self.layers - mixed) * matrices * self.d_model * self.d_ff
        if experts:
            each = matrices * self.d_model * experts.d_ff
            total += mixed * ((routed + experts.shared) * each + self.d_model * experts.count)
        return total + self.table_parameters

    @property
    def _attention_parameters(self) -> int:
        """Weights of one layer's attention."""
        if self.latent is None:
            return self.d_model * 2 * (self.heads + self.kv_heads) * self.d_head
        latent, plain = self.latent, self.d_head - self.latent.rope
        queries = self.heads * self.d_head
        q = self.d_model * queries if latent.q_rank is None else latent.q_rank * (self.d_model + queries)
        kv = self.d_model * (latent.kv_rank + latent.rope) + latent.kv_rank * self.heads * (plain + latent.d_value)
        return q + kv + self.heads * latent.d_value * self.d_model

    def _count_module(self, routed: int) -> int:
        """Returns the weights of the module for multi-token prediction: projection and a layer like the last."""
        if not self.mtp:
            return 0
        one_less = self.model_copy(update={"layers": self.layers - 1})
        return 2 * self.d_model**2 + self._count(routed) - one_less._count(routed)

    @property
    def counted_parameters(self) -> int:
        """Weights of the layers' matmuls, of the embedding and of an LM head of its own, unpadded; norms left out."""
        return self._count(self.experts.count if self.experts else 0) + self.module_parameters

    @property
    def module_parameters(self) -> int:
        """Those of them of the module for multi-token prediction, whose embedding and LM head are the model's."""
        return self._count_module(self.experts.count if self.experts else 0)

    @property
    def active_module_parameters(self) -> int:
        """Those of the module that one token uses."""
        return self._count_module(self.experts.top_k if self.experts else 0)

    @property
    def active_parameters(self) -> int:
        """Those that one token uses: of routed experts, top_k; without a module for multi-token prediction."""
        return self._count(self.experts.top_k if self.experts else 0)

    @property
    def table_parameters(self) -> int:
        """Parameters of embedding and LM head: one table if they are tied, else two."""
        return (1 if self.tied else 2) * self.vocabulary * self.d_model

    @property
    def parameters(self) -> float:
        """Parameters that a token uses, which MFU counts (Pope et al. 2022, section 2): as published, else counted."""
        if self.experts:
            return float(self.active_parameters)
        return self.nominal_parameters or float(self.counted_parameters)

    @property
    def cached_values(self) -> int:
        """Values that all layers cache for a token."""
        each = 2 * self.kv_heads * self.d_head if self.latent is None else self.latent.kv_rank + self.latent.rope
        return self.layers * each

    def window_of(self, layer: int) -> int | None:
        """Returns the positions that a query of a layer sees at most; None for all."""
        return None if self.window is None or (layer + 1) % self.window.full_every == 0 else self.window.size

    @property
    def computed_heads(self) -> int:
        """Heads the machine computes: padded_heads where given, else heads."""
        return self.padded_heads or self.heads
