"""Layouts: how a model is partitioned over a machine."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from sim.errors import suggest
from sim.partition import LAYOUTS
from sim.specs.base import Count, Strict, wrong
from sim.specs.pipeline import PipelineSpec

TENSOR_PARALLEL = "tensor_parallel"
"""The layout of a switch or graph."""


def _known_layout(name: str) -> str:
    known = (*LAYOUTS, TENSOR_PARALLEL)
    if name not in known:
        raise wrong(rule=f"must be one of {', '.join(known)}", got=name, hint=suggest(name, known))
    return name


Ffn = Annotated[
    str,
    AfterValidator(_known_layout),
    WithJsonSchema({"type": "string", "enum": [*LAYOUTS, TENSOR_PARALLEL], "title": "Ffn"}),
]

Residual = Literal["standard", "parallel", "ladder", "hybrid", "desync2", "desync4", "no_communication"]
"""How the halves of a layer are wired to the residual stream: `sim.layouts.residual`."""

Overlap = Literal["none", "collective_matmul", "micro_batches", "chunked_matmul"]


class PhaseLayout(Strict):
    """What one phase does differently; what it does not name is as in the layout."""

    ffn: Ffn | None = None
    attention: Literal["heads", "batch"] | None = None
    overlap: Overlap | None = None


class Hybrid(Strict):
    """Of the hybrid residual."""

    ladder_layers: Count
    """Layers at the end that are Ladder; those before are standard."""


class Mesh(Strict):
    """Chips of a switch or graph by what they do."""

    tensor: Count | None = None
    """Tensor-parallel chips, the machine's first; of each stage, where there are stages. Default: all."""
    pipeline: Count = 1
    """Stages: chip = stage x tensor + rank. A torus is cut into as many equal slabs along its longest axis."""


class LayoutSpec(Strict):
    """How the model is partitioned over the mesh and what overlaps."""

    ffn: Ffn
    attention: Literal["heads", "batch"]
    overlap: Overlap | None = None
    """Default: the stack's on a torus, else none."""
    block: Literal["parallel", "serial"] | None = None
    """Default: the model's."""
    residual: Residual | None = None
    """Of tensor_parallel. Default: parallel for a parallel block, else standard."""
    hybrid: Hybrid | None = None
    """Of `residual: hybrid`."""
    mesh: Mesh = Mesh()
    sequence_parallel: bool = False
    """Of tensor_parallel: the residual stream and its norms split over tokens (Korthikanti et al. 2022)."""
    communication: Literal["compute_stream", "own_stream"] | None = None
    """Where collectives run. Default: own_stream for tensor_parallel, else compute_stream (operations in order)."""
    prefetch: Annotated[int, Field(ge=0, le=64)] = 1
    """Of gathered weights on a stream of their own: for how many matmuls ahead of the one that computes they are
    gathered, each into a buffer of its own."""
    chunks: Annotated[int, Field(ge=2, le=64)] = 4
    """Of `overlap: chunked_matmul`: pieces of a matmul whose sums are made while the next piece computes."""
    head: Literal["sharded", "replicated"] = "sharded"
    """Of tensor_parallel: embedding and LM head split over the vocabulary, or whole on every chip."""
    logits: Literal["last", "every", "none"] = "last"
    """Whether a prefill computes logits of its last position, or of every one (tensor_parallel); none: the layers
    alone, without embedding and logits, as of an encoder."""
    kv_heads: Literal["shared", "expanded"] = "shared"
    """Whether query heads share keys and values, or each reads a copy of its own (repeat_interleave), from L2."""
    pipeline: PipelineSpec | None = None
    """Default: one request by the schedule of the stack, where the mesh has several stages."""
    graph_capture: bool | None = None
    """Whether ops are launched by a captured graph; else the host launches one after the other (stack.launch).
    Default: as the stack does."""
    prefill: PhaseLayout = PhaseLayout()
    decode: PhaseLayout = PhaseLayout()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ffn != TENSOR_PARALLEL:
            if self.overlap not in (None, "none", "collective_matmul"):
                raise wrong("overlap", rule=f"'{self.overlap}' is of layout '{TENSOR_PARALLEL}'", got=self.ffn)
            if self.mesh.tensor is not None:
                raise wrong("mesh", "tensor", rule=f"is of layout '{TENSOR_PARALLEL}' only", got=self.ffn)
            for name in ("residual", "hybrid", "sequence_parallel", "head"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise wrong(name, rule=f"is of layout '{TENSOR_PARALLEL}' only", got=self.ffn)
            if self.logits == "every":
                raise wrong("logits", rule=f"'every' is of layout '{TENSOR_PARALLEL}'", got=self.ffn)
            return self
        if self.attention != "heads":
            raise wrong("attention", rule=f"layout '{TENSOR_PARALLEL}' splits heads", got=self.attention)
        if self.overlap == "collective_matmul":
            hint = "chunked_matmul, or micro_batches"
            raise wrong("overlap", rule=f"layout '{TENSOR_PARALLEL}' has no such loop", got=self.overlap, hint=hint)
        if (self.residual == "hybrid") != (self.hybrid is not None):
            raise wrong("hybrid", rule="goes with 'residual: hybrid'", hint="hybrid: {ladder_layers: 16}")
        if self.overlap == "micro_batches" and self.residual not in (None, "standard"):
            raise wrong("overlap", rule="micro_batches overlaps the standard residual", got=self.residual)
        if self.overlap == "chunked_matmul" and self.residual not in (None, "standard", "ladder", "hybrid"):
            rule = "chunked_matmul sums the last matmul of every half, each by itself"
            raise wrong("overlap", rule=rule, got=self.residual)
        if self.sequence_parallel:
            if self.overlap not in (None, "none"):
                raise wrong("overlap", rule="sequence_parallel goes with 'none'", got=self.overlap)
            if self.residual in ("desync2", "desync4", "no_communication"):
                rule = "chips that differ in the residual stream cannot split it over tokens"
                raise wrong("sequence_parallel", rule=rule, got=self.residual)
        return self

    def during(self, phase: str) -> LayoutSpec:
        """Returns the layout of one phase, checked like any other.

        Raises:
            ValidationError: what the phase does differently does not go with the rest.
        """
        own = (self.prefill if phase == "prefill" else self.decode).model_dump(exclude_none=True)
        return self.model_validate({**dict(self), **own, "prefill": PhaseLayout(), "decode": PhaseLayout()})
