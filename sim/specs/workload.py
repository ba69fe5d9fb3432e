"""Workload: phase, batch, tokens and number formats."""

from math import ceil
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sim.specs.base import Count, Strict, wrong
from sim.specs.chip import Dtype, matmul_format
from sim.specs.experts import RoutingSpec
from sim.specs.quantities import Fraction


class ChunkSpec(Strict):
    """Chunk of prompts that a decode step processes beside its own tokens (chunked prefill)."""

    sequences: Count = 1
    """Prompts of which the step has a chunk."""
    tokens: Count
    """Tokens of a chunk."""
    context: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Tokens of such a prompt that are already in the KV cache."""

    @property
    def rows(self) -> int:
        """Tokens of all chunks."""
        return self.sequences * self.tokens


class SpeculationSpec(Strict):
    """Speculative decoding: a step verifies proposed tokens besides the one that follows for sure. The time that it
    takes to propose them is simulated where the model has a module that does (`model.mtp`)."""

    draft: Annotated[int, Field(gt=0, le=1000)]
    """Proposed tokens per sequence and step."""
    acceptance: Fraction
    """Probability that a proposed token is accepted if those before it are."""

    @property
    def accepted(self) -> float:
        """Expected tokens per step and sequence, 1 + p + p^2 + ... (Leviathan et al. 2023, equation 1)."""
        return sum(self.acceptance**i for i in range(self.draft + 1))


class Workload(Strict):
    """Phase, batch, tokens and number formats."""

    phase: Literal["prefill", "decode", "generate"]
    """generate: the prefill of the prompt, then the decode steps on it."""
    batch: Count
    """Sequences of a pass."""
    prompt: Count | None = None
    """Tokens per sequence of the prefill."""
    context: Count | None = None
    """Tokens per sequence already in the KV cache when the prefill or the decoding starts."""
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
    expert_operands: Dtype | None = None
    """Number format to which matmuls of experts have their inputs quantised. Default: `operands`."""
    dispatch: Dtype | None = None
    """Number format in which tokens are sent to their experts. Default: that of activations."""
    combine: Dtype | None = None
    """Number format in which experts' outputs are sent back. Default: that of activations."""
    routing: RoutingSpec = RoutingSpec.model_construct()
    """Choice of experts by the tokens."""
    chunk: ChunkSpec | None = None
    """Chunk of prompts in every decode step: one pass of both, with attention of their own. Default: none."""
    speculation: SpeculationSpec | None = None
    """Proposed tokens that every decode step verifies. Default: none, one token per step."""
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
            if self.phase == "prefill" and name == "context":
                continue  # a prefix that is already there
            if given != (name in needs):
                rule = f"is {'required' if name in needs else 'not allowed'} for phase '{self.phase}'"
                raise wrong(name, rule=rule, got=getattr(self, name))
        for name in ("chunk", "speculation"):
            if getattr(self, name) is not None and self.phase != "decode":
                raise wrong(name, rule="is of decode steps", got=self.phase, hint="workload.phase: decode")
        if self.chunk and self.speculation:
            raise wrong("chunk", rule="is not supported with speculation", hint="leave one out")
        if self.static_cache is not None and (self.chunk or self.speculation):
            raise wrong("static_cache", rule="is not supported with chunk or speculation", got=self.static_cache)
        return self

    @property
    def accepted(self) -> float:
        """Tokens per sequence that a decode step adds, expected if tokens are proposed."""
        return self.speculation.accepted if self.speculation else 1.0

    @property
    def operand_format(self) -> Dtype:
        """Number format at whose rate matmuls run whose weights are no wider than their inputs."""
        return matmul_format(self.operands or self.activations)

    @property
    def steps(self) -> int:
        """Forward passes: one for a prefill, one per generated token or accepted tokens for decoding."""
        return (self.phase != "decode") + ceil((self.generate or 0) / self.accepted)

    @property
    def tokens_per_step(self) -> int:
        """Query tokens per sequence in one forward pass of a prefill or of decoding."""
        return self.prompt or (self.speculation.draft + 1 if self.speculation else 1)

    @property
    def rows(self) -> int:
        """Sequences of a pass, and a further one for each token of a chunk beside them."""
        return self.batch + (self.chunk.rows if self.chunk else 0)

    @property
    def tokens(self) -> int:
        """Tokens processed in all steps of all sequences (Pope et al. section 2: the tokens of MFU), without proposals
        that are rejected."""
        own = self.batch * ((self.prompt or 0) + (self.generate or 0))
        return own + (self.chunk.rows * self.steps if self.chunk else 0)

    @property
    def mean_cache_length(self) -> float:
        """Tokens per sequence that attention reads in a step, the current ones included, averaged over the steps."""
        if self.static_cache is not None:
            return float(self.static_cache)
        if self.phase == "prefill":
            return float((self.context or 0) + (self.prompt or 0))
        first = (self.context or 0) + self.tokens_per_step
        return first + (self.steps - 1) * self.accepted / 2

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
        return tuple(map(self.decode_step, range(self.steps)))

    def decode_step(self, number: int) -> Self:
        """Returns the workload of one decode step, the first for number 0."""
        return self.model_copy(update={"context": (self.context or 0) + round(number * self.accepted), "generate": 1})
