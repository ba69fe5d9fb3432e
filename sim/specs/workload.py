"""Workload: phase, batch, tokens and number formats."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Strict, wrong
from sim.specs.chip import Dtype
from sim.specs.experts import RoutingSpec


class Workload(Strict):
    """Phase, batch, tokens and number formats."""

    phase: Literal["prefill", "decode", "generate"]
    """generate: the prefill of the prompt, then the decode steps on it."""
    batch: Count
    """Sequences of a pass."""
    prompt: Count | None = None
    """Tokens per sequence of the prefill."""
    context: Count | None = None
    """Tokens per sequence already in the KV cache when decoding starts."""
    generate: Annotated[int, Field(gt=0, le=10**6)] | None = None
    """Decode steps, each of which is timed where the cache grows."""
    weights: Dtype
    """Number format of the stored weights."""
    activations: Dtype = "bf16"
    """Number format of activations and of what collectives carry."""
    kv_cache: Dtype = "bf16"
    """Number format of the KV cache."""
    operands: Dtype | None = None
    """Number format to which matmuls of layers have their inputs quantised. Default: that of activations."""
    expert_weights: Dtype | None = None
    """Number format of the stored weights of experts. Default: `weights`."""
    dispatch: Dtype | None = None
    """Number format in which tokens are sent to their experts. Default: that of activations."""
    combine: Dtype | None = None
    """Number format in which experts' outputs are sent back. Default: that of activations."""
    routing: RoutingSpec = RoutingSpec()
    """Choice of experts by the tokens."""
    sampling: Literal["greedy", "top_k"] = "greedy"
    """Sampling of the next token; top_k: softmax, top-k and a draw, each over the full vocabulary."""
    static_cache: Count | None = None
    """Positions of a cache of fixed length, all of which every pass attends to, masked. Default: as long as filled."""

    @model_validator(mode="after")
    def _static_cache_holds_all(self) -> Self:
        needed = (self.prompt or 0) + (self.context or 0) + (self.generate or 0)
        if self.static_cache is not None and self.static_cache < needed:
            raise wrong("static_cache", rule=f"must hold all {needed} tokens of a sequence", got=self.static_cache)
        return self

    @model_validator(mode="after")
    def _phase_has_its_tokens(self) -> Self:
        phases = {"prefill": ("prompt",), "decode": ("context", "generate"), "generate": ("prompt", "generate")}
        needs = phases[self.phase]
        for name in ("prompt", "context", "generate"):
            given = getattr(self, name) is not None
            if given != (name in needs):
                rule = f"is {'required' if name in needs else 'not allowed'} for phase '{self.phase}'"
                raise wrong(name, rule=rule, got=getattr(self, name))
        return self

    @property
    def steps(self) -> int:
        """Forward passes: one for a prefill, one per generated token for decoding."""
        return (self.phase != "decode") + (self.generate or 0)

    @property
    def tokens_per_step(self) -> int:
        """Query tokens per sequence in one forward pass of a prefill or of decoding."""
        return self.prompt or 1

    @property
    def tokens(self) -> int:
        """Tokens processed in all steps of all sequences (Pope et al. section 2: the tokens of MFU)."""
        return self.batch * ((self.prompt or 0) + (self.generate or 0))

    @property
    def mean_cache_length(self) -> float:
        """Tokens per sequence that attention reads in a step, the current ones included, averaged over the steps."""
        if self.static_cache is not None:
            return float(self.static_cache)
        if self.phase == "prefill":
            return float(self.prompt or 0)
        return (self.context or 0) + ((self.generate or 1) + 1) / 2

    @property
    def final_cache_length(self) -> int:
        """Tokens per sequence for which the KV cache has room after the last step."""
        return self.static_cache or (self.prompt or 0) + (self.context or 0) + (self.generate or 0)

    @property
    def phases(self) -> tuple[Self, ...]:
        """The prefill and the decoding of `generate`, else this workload alone."""
        if self.phase != "generate":
            return (self,)
        prefill = self.model_copy(update={"phase": "prefill", "generate": None})
        return prefill, self.model_copy(update={"phase": "decode", "context": self.prompt, "prompt": None})

    @property
    def each_step(self) -> tuple[Self, ...]:
        """One workload per decode step, each with the cache as long as it then is."""
        return tuple(
            self.model_copy(update={"context": (self.context or 0) + step, "generate": 1})
            for step in range(self.generate or 0)
        )
