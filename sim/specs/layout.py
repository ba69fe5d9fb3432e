"""Layouts: how a model is partitioned over a machine."""

from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from sim.specs.base import Count, Name, Strict, open_choice, wrong
from sim.specs.experts import ExpertsLayout
from sim.specs.kv_transfer import KvTransferSpec
from sim.specs.layout_uses import UsesSpec
from sim.specs.pipeline import PipelineSpec
from sim.specs.uses import PRESETS

Ffn = Annotated[
    Name,
    WithJsonSchema({"anyOf": [{"type": "string", "enum": [*PRESETS]}, {"type": "string"}], "title": "Ffn"}),
]
"""A preset of `sim.specs.uses`, or of the scenario."""

RESIDUALS = ("standard", "parallel", "ladder", "hybrid", "desync2", "desync4", "no_communication")
"""Shipped residual schemes."""

Residual = Annotated[Name, *open_choice("residual_scheme", RESIDUALS)]
"""Residual scheme: connection of a layer's halves to the residual stream (`sim.layouts.residual`)."""

UNSUMMED = ("desync2", "desync4", "no_communication")
"""Residual schemes in which the residual streams of chips differ between some halves."""

Overlap = Literal["none", "collective_matmul", "micro_batches", "token_halves", "chunked_matmul"]
IN_PARTS = ("micro_batches", "token_halves")
"""Overlaps that run a batch in two parts, which take turns: of its sequences, or of its positions if it has any."""


class PhaseLayout(Strict):
    """Settings of one phase that differ from the layout."""

    ffn: Ffn | None = None
    uses: UsesSpec | None = None
    """Use of each mesh axis, instead of `ffn`."""
    attention: Literal["heads", "batch"] | None = None
    """Dimension by which attention is split if the axes of `heads` and `d_ff` allow it: heads or batch."""
    overlap: Overlap | None = None


class Hybrid(Strict):
    """Number of layers, for the hybrid residual."""

    ladder_layers: Count
    """Layers at the end that are Ladder; those before are standard."""


class Mesh(Strict):
    """Chips of a switch or graph by what they do."""

    tensor: Count | None = None
    """Tensor-parallel chips, the machine's first; of each stage, where there are stages. Default: all."""
    pipeline: Count = 1
    """Stages: chip = stage x tensor + rank. A torus is cut into as many equal slabs along its longest axis."""


class LayoutSpec(Strict):
    """Partitioning of the model over the mesh, and overlap."""

    ffn: Ffn | None = None
    """A preset, unless `uses` says what the mesh axes do."""
    uses: UsesSpec | None = None
    """Use of each mesh axis, instead of `ffn`."""
    attention: Literal["heads", "batch"] = "heads"
    """Dimension by which attention is split if the axes of `heads` and `d_ff` allow it: heads or batch."""
    overlap: Overlap | None = None
    """Default: the stack's."""
    block: Literal["parallel", "serial"] | None = None
    """Default: the model's."""
    residual: Residual | None = None
    """Default: parallel for a parallel block, else standard."""
    hybrid: Hybrid | None = None
    """Number of layers, for `residual: hybrid`."""
    mesh: Mesh = Mesh.model_construct()
    """Chips of a tensor-parallel group and stages, where `mesh` of the scenario does not name axes."""
    sequence_parallel: bool = False
    """The residual stream and its norms split over tokens by all axes of the sums (Korthikanti et al. 2022)."""
    communication: Literal["compute_stream", "own_stream", "two_streams"] | None = None
    """Streams of collectives: in order with all operations, on a separate stream, or gathers on one and the others
    on another. Default: compute_stream on a torus, else own_stream."""
    prefetch: Annotated[int, Field(ge=0, le=64)] = 1
    """Number of matmuls ahead of the running one for which weights are gathered on a separate stream: they are
    gathered, each into a buffer of its own."""
    chunks: Annotated[int, Field(ge=2, le=64)] | None = None
    """Pieces of a matmul, for `overlap: chunked_matmul`: a piece is summed while the next one computes. Default: 4."""
    experts: ExpertsLayout = ExpertsLayout.model_construct()
    """Exchange of tokens between chips that hold different experts."""
    context: Literal["ring", "heads"] | None = None
    """Attention over positions that chips share: keys and values go around a ring under the attention to them (ring,
    zig-zag), or all-to-alls make every chip attend to all positions with some heads (heads, Ulysses). Default: ring."""
    merge: Literal["reduce_scatter", "all_to_all"] = "reduce_scatter"
    """Sum of the outputs of chips that share a cache's positions: an all-gather of the logarithms of their sums and a
    reduce-scatter (vLLM), or one all-to-all of both (Helix)."""
    latent: Literal["plain", "absorbed"] | None = None
    """Latent attention on keys and values expanded for all heads, or on the cached vectors, with the expansion absorbed
    in queries and outputs. Default: absorbed to decode, else plain."""
    fused_norm: bool = False
    """The residual add and the norm after an all-reduce are part of its kernel: every chip normalises what it has
    summed before it passes it on (TokenWeave 2025; TensorRT-LLM, FlashInfer)."""
    head: Literal["sharded", "replicated"] = "sharded"
    """Embedding and LM head split over the vocabulary, or whole on every chip."""
    logits: Literal["last", "every", "none"] = "last"
    """Positions of which a prefill computes logits: the last, or every one; none: the layers
    alone, without embedding and logits, as of an encoder."""
    kv_heads: Literal["shared", "expanded"] = "shared"
    """Query heads share keys and values, or each reads its own copy (repeat_interleave) from L2."""
    pipeline: PipelineSpec | None = None
    """Default: one request by the schedule of the stack, where the mesh has several stages."""
    kv_transfer: KvTransferSpec | None = None
    """Chips that decode, to which a prefill sends its KV cache layer by layer. Default: it stays where it is."""
    graph_capture: bool | None = None
    """A captured graph launches the ops; else the host launches one after the other (stack.launch).
    Default: as the stack does."""
    prefill: PhaseLayout = PhaseLayout.model_construct()
    """Settings of the prefill that differ: `ffn`, `uses`, `attention`, `overlap`."""
    decode: PhaseLayout = PhaseLayout.model_construct()
    """Settings of the decode steps that differ."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.residual == "hybrid") != (self.hybrid is not None):
            raise wrong(
                "hybrid", rule="must be given if, and only if, residual is 'hybrid'", hint="hybrid: {ladder_layers: 16}"
            )
        if self.overlap in IN_PARTS and self.residual not in (None, "standard"):
            raise wrong("overlap", rule=f"'{self.overlap}' requires residual: standard", got=self.residual)
        if self.fused_norm and (self.sequence_parallel or self.residual not in (None, "standard")):
            rule = "requires residual: standard and a residual stream that is whole on every chip"
            raise wrong("fused_norm", rule=rule, got=self.residual or "sequence_parallel")
        if self.overlap == "chunked_matmul" and self.residual not in (None, "standard", "ladder", "hybrid"):
            rule = "'chunked_matmul' requires residual: standard, ladder or hybrid"
            raise wrong("overlap", rule=rule, got=self.residual)
        if (self.ffn is None) == (self.uses is None):
            rule = "must name a preset, unless 'uses' says what the mesh axes do"
            raise wrong("ffn", rule=rule, got=self.ffn or "neither", hint="ffn: tensor_parallel")
        return self

    @property
    def preset(self) -> str:
        """Name of the preset; empty where `uses` says what the mesh axes do."""
        return self.ffn or ""

    @property
    def matmul_chunks(self) -> int:
        """Pieces of a matmul, for `overlap: chunked_matmul`."""
        return self.chunks or 4

    def absorbs_latent(self, phase: str) -> bool:
        """Returns True if latent attention absorbs the expansion of keys and values, in a phase."""
        return (self.latent or ("absorbed" if phase == "decode" else "plain")) == "absorbed"

    def during(self, phase: str) -> Self:
        """Returns the layout of one phase, checked like any other.

        Raises:
            ValidationError: what the phase does differently does not go with the rest.
        """
        different = self.prefill if phase == "prefill" else self.decode
        own = {name: value for name, value in different if value is not None}
        if different.ffn or different.uses:
            own = {"ffn": None, "uses": None, **own}
        shared = {"prefill": PhaseLayout.model_construct(), "decode": PhaseLayout.model_construct()}
        if not own:
            return self.model_copy(update=shared)
        return self.model_validate({**dict(self), **own, **shared})
