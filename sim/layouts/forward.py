"""One forward pass: embedding, layers of a residual scheme, logits and the next token."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice
from math import gcd, lcm, prod
from typing import Generic

from msgspec import Struct
from msgspec.structs import replace

from sim.errors import InputError
from sim.layouts.dataflow import Dataflow, V
from sim.layouts.experts import Sent
from sim.layouts.layer import Layer
from sim.layouts.residual import LAYERS, SCHEMES, UNSUMMED, Stream, standard
from sim.specs import Model, Scenario
from sim.specs.layout import IN_PARTS
from sim.specs.uses import Axes, Uses, named

PARTS = 2
"""Parts of a batch that takes turns with itself."""
_TILE_ROWS = 256
"""Rows of the largest tile of a matmul (`sim.lowering.costs`)."""


class LayerKind(Struct, frozen=True):
    """What one layer of a model has that others may not have."""

    residual: str
    """Name in `sim.layouts.residual.LAYERS`."""
    has_experts: bool = False
    window: int | None = None
    """Positions that a query sees at most; None for all."""
    proposes: bool = False
    """True for the layer of a module that proposes tokens (`sim.layouts.multi_token`)."""


class ForwardPass(Struct, Generic[V], frozen=True):
    """Parts of a forward pass, called one by one so that an interpreter can act between layers."""

    layers: tuple[Layer[V], ...]
    """One layer, or one for each part of the batch."""
    kinds: tuple[LayerKind, ...]
    """[layers] of the model."""
    head: Axes
    """Axes that split the vocabulary in embedding and LM head."""
    every_position: bool
    tied: bool
    has_logits: bool = True
    """True if the pass has an embedding and logits; an encoder has neither."""

    @property
    def batch_layer(self) -> Layer[V]:
        """The layer for the batch before it is split."""
        return replace(self.layers[0], part="")

    @property
    def flow(self) -> Dataflow[V]:
        return self.layers[0].flow

    def embed_tokens(self) -> tuple[Stream[V], ...]:
        """Returns the embedded tokens, or the received input of an encoder, for each part of the batch."""
        if not self.has_logits:
            return self._split_batch(self._without_padding(self.flow.receive(self._notation(), packed=False)))
        if self.batch_layer.split_dim == "L" and (self.batch_layer.uses.tokens or self.batch_layer.uses.positions):
            # Halves of the positions, each of which the chips share.
            x = self._look_up("", dims="B")
            return tuple(Stream(self._deal_tokens(part)) for part in self.flow.split(x, "L", self._sizes))
        return self._split_batch(self._without_padding(self._deal_tokens(self._look_up(""))))

    def embed(self, part: str, after: V, length: int | None) -> V:
        """Returns embedded tokens of each sequence, all or `length` of them, once `after`, the last of them, is
        there."""
        return self._deal_tokens(self._look_up(part, after, length), part)

    def _look_up(self, part: str, after: V | None = None, length: int | None = None, dims: str = "BL") -> V:
        """Looks up tokens: of `dims` the chip's own, but for chips that have other rows of the table."""
        table = f"V_{named(self.head)} E"
        own = {dim: tuple(axis for axis in self.batch_layer.stream[dim] if axis not in self.head) for dim in dims}
        rows = f"B_{named(own['B'])} L_{named(own.get('L', ()))} E"
        return self.flow.embed(self.flow.weight("embedding", table, table), rows, "embedding" + part, after, length)

    def _without_padding(self, x: V) -> V:
        return self.flow.unpad([x], "remove padding")[0] if self.batch_layer.packed else x

    def _deal_tokens(self, x: V, part: str = "") -> V:
        """Reduces the rows that each chip has looked up to the residual stream's sharding."""
        flow = self.flow
        for dim, axes in self.batch_layer.stream.items():
            summed = tuple(axis for axis in axes if axis in self.head)
            done = x.tensor.dim(dim).axes
            x = flow.local_slice(x, dim, tuple(axis for axis in axes if axis not in (*summed, *done)))
            (x,) = flow.reduce_scatter([(x, dim)], summed, "embedding" + part)
        return flow.all_reduce([x], tuple(x.tensor.partial), "embedding" + part)[0]

    def receive_stream(self, scattered: bool, after: LayerKind) -> tuple[Stream[V], ...]:
        """Receives the residual stream from the previous stage, for each part of the batch.

        Args:
            scattered: every chip receives a shard of what all chips hold, and the chips gather them (FasterTransformer,
                ParallelGpt).
            after: kind of the previous stage's last layer; after an unsummed layer every chip receives its own stream.
        """
        shard_axes = self._replicated_axes if scattered else ()
        differs = self.batch_layer.uses.summed if after.residual in UNSUMMED else ()
        x = self.flow.receive(self._notation(shard_axes), self.batch_layer.packed, differs)
        (x,) = self.flow.all_gather([(x, "E")], shard_axes, "activations")
        return self._split_batch(x)

    def send_stream(self, streams: Sequence[Stream[V]], scattered: bool) -> None:
        """Sends the residual stream, with all pending outputs added, to the next stage."""
        x = self._add_outputs(self._join_parts(streams))
        self.flow.send(self.flow.local_slice(x, "E", self._replicated_axes) if scattered else x)

    def finish_stream(self, streams: Sequence[Stream[V]]) -> V:
        """Returns the residual stream after the last layer of an encoder, padded again."""
        x = self._add_outputs(self._join_parts(streams))
        return self.flow.pad([x], "rebuild padding")[0] if self.batch_layer.packed else x

    @property
    def _replicated_axes(self) -> Axes:
        """Axes of the sums along which every chip holds the same stream."""
        uses = self.batch_layer.uses
        return tuple(axis for axis in uses.summed if axis not in uses.stream + uses.tokens)

    def _notation(self, shard_axes: Axes = ()) -> str:
        """Returns the residual stream's sharding, with d_model split further over `shard_axes`."""
        over = {**self.batch_layer.stream, "E": self.batch_layer.stream["E"] + shard_axes}
        return " ".join(f"{dim}_{named(axes)}" for dim, axes in over.items())

    def _add_outputs(self, stream: Stream[V]) -> V:
        x = stream.x
        for out in stream.pending:
            x = self.flow.add(x, out, "residual")
        return x

    def _split_batch(self, x: V) -> tuple[Stream[V], ...]:
        if len(self.layers) == 1:
            return (Stream(x),)
        return tuple(Stream(part) for part in self.flow.split(x, self.layers[0].split_dim, self._sizes))

    @property
    def _sizes(self) -> list[int]:
        """Sizes of the parts of the batch."""
        return [layer.size for layer in self.layers]

    def _join_parts(self, streams: Sequence[Stream[V]]) -> Stream[V]:
        streams = [stream.settle(layer) for layer, stream in zip(self.layers, streams, strict=True)]
        if len(streams) == 1:
            return streams[0]
        parts = [part.values for part in streams]
        joined = [self.flow.join(values, self.layers[0].split_dim) for values in zip(*parts, strict=True)]
        return build_streams([streams[0].shape], joined)[0]

    def layer(self, kind: LayerKind, streams: Sequence[Stream[V]]) -> tuple[Stream[V], ...]:
        layers = [replace(layer, has_experts=kind.has_experts, window=kind.window) for layer in self.layers]
        if len(streams) > 1:
            return standard(layers, streams)
        return (LAYERS[kind.residual](layers[0], streams[0].settle(layers[0])),)

    @property
    def proposing_kind(self) -> LayerKind:
        """Kind of the layer of a module that proposes tokens: that of the last layer, with all its sums."""
        last = self.kinds[-1]
        return replace(last, residual="parallel" if last.residual == "parallel" else "standard", proposes=True)

    def compute_logits(self, streams: Sequence[Stream[V]]) -> tuple[V, V, V]:
        """Returns the normalised stream, the logits and the next token of each sequence."""
        return self.apply_head(self._join_parts(streams))

    def apply_head(self, stream: Stream[V], part: str = "") -> tuple[V, V, V]:
        """Returns the normalised stream, the logits and the next token of each sequence; of a proposal `part`, of the
        last position alone.

        The stream is gathered over the axes that split it, except for the sequences of replicas, then normalised and
        multiplied with each chip's part of the LM head.
        """
        flow, batch_layer, every_position = self.flow, self.batch_layer, self.every_position and not part
        if batch_layer.packed:
            stream = build_streams([stream.shape], flow.pad(stream.values, "rebuild padding"))[0]
        positions = batch_layer.uses.positions + (batch_layer.uses.tokens if batch_layer.token_dim == "L" else ())
        by_position = bool(positions)
        if not every_position and (batch_layer.uses.positions or not by_position):
            stream = build_streams([stream.shape], [flow.last_position(value) for value in stream.values])[0]
        uses = batch_layer.uses
        sequences = uses.gather + uses.tokens if uses.gather and batch_layer.token_dim == "B" else uses.gather
        y, pending = stream.x, stream.pending
        if batch_layer.stream["E"] or sequences:
            (y,) = flow.all_gather([(self._add_outputs(stream), "E")], batch_layer.stream["E"], "last position")
            (y,), pending = flow.all_gather([(y, "B")], sequences, "last position"), ()
        gain = flow.weight("mtp_final_norm" if part else "final_norm", "E", "E")
        _, y = flow.norm(y, pending, gain, "final_norm" + part)
        normed = y
        for dim, axes in (("L", positions), ("B", () if batch_layer.token_dim == "L" else uses.tokens)):
            left = tuple(axis for axis in axes if axis not in sequences)
            (y,) = flow.all_gather([(y, dim)], left, "final_norm" + part)
        if by_position and not every_position:
            y = flow.last_position(y)
        head = f"V_{named(self.head)} E"
        (logits,) = flow.matmul(y, [flow.weight("embedding" if self.tied else "lm_head", head, head)], "logits" + part)
        return normed, logits, flow.sample(flow.last_position(logits), "token" + part)


def build_pass(flow: Dataflow[V], uses: Uses, scenario: Scenario) -> ForwardPass[V]:
    """Builds the forward pass of a scenario on a dataflow interpreter."""
    layout, workload = scenario.layout, scenario.workload
    hybrid = layout.hybrid.ladder_layers if layout.hybrid else 0
    halves = scenario.overlap == "token_halves" and workload.tokens_per_step > 1
    # Micro-batches are of the same sequences in prefill and decode, so these are split in both.
    by_sequence = workload.tokens_per_step == 1 or scenario.overlap == "micro_batches"
    by_sequence = by_sequence or not set(uses.tokens) <= set(uses.heads)
    return ForwardPass(
        layers=split_layer(
            Layer(
                flow,
                scenario.model,
                uses,
                layout.attention,
                token_dim="B" if by_sequence else "L",
                packed=scenario.packed_rows is not None,
                absorbs=layout.absorbs_latent(workload.phase),
                shared_experts=layout.experts.shared,
                in_stages=scenario.in_stages,
                split_dim="L" if halves else "B",
                context=layout.context or "ring",
            ),
            part_sizes(flow, scenario, uses, halves=halves),
        ),
        kinds=kinds_of(scenario.model, SCHEMES[scenario.residual](scenario.model.layers, hybrid))[: scenario.layers],
        head=uses.weights if layout.head == "sharded" else (),
        every_position=layout.logits == "every" or workload.speculation is not None,
        tied=scenario.model.tied,
        has_logits=layout.logits != "none",
    )


def kinds_of(model: Model, residuals: Sequence[str]) -> tuple[LayerKind, ...]:
    """Returns the kind of each layer, given its residual connections."""
    experts = model.experts
    return tuple(
        LayerKind(residual, experts is not None and experts.in_layer(i), model.window_of(i))
        for i, residual in enumerate(residuals)
    )


def cycle_of(model: Model) -> int:
    """Returns the number of layers after which the kinds of layers come again."""
    return lcm(model.experts.every if model.experts else 1, model.window.full_every if model.window else 1)


def part_sizes(flow: Dataflow[V], scenario: Scenario, uses: Uses, *, halves: bool) -> tuple[int, ...]:
    """Returns the sizes of the parts of a batch: of sequences, or of the positions of each; none if it is not split.

    Halves of the tokens are whole tiles of a matmul where they are long enough, so that both together take no more
    waves of tiles than they must (TokenWeave 2025, section 3.1), and as many on every chip that shares them.
    """
    workload, lengths = scenario.workload, dict(flow.mesh)
    if scenario.overlap not in IN_PARTS:
        return ()
    size = workload.tokens_per_step if halves else workload.rows
    if size < PARTS:
        what = "tokens in a pass" if scenario.overlap == "token_halves" else "sequences"
        raise InputError(f"'{scenario.overlap}' requires at least {PARTS} {what}", where="layout.overlap", got=size)
    if scenario.overlap == "micro_batches":
        return (size // PARTS,) * PARTS
    shared_by = prod(lengths[axis] for axis in (uses.positions + uses.tokens if halves else uses.batch + uses.gather))
    if size < PARTS * shared_by:
        rule = f"'{scenario.overlap}' requires at least {PARTS} tokens of each of the {shared_by} chips that share them"
        raise InputError(rule, where="layout.overlap", got=size, hint=f"{PARTS * shared_by} or more")
    tile = lcm(_TILE_ROWS // gcd(_TILE_ROWS, workload.rows if halves else 1), shared_by)
    step = tile if size >= 2 * tile else shared_by
    first = max(1, round(size / PARTS / step)) * step
    return (first, size - first)


def split_layer(layer: Layer[V], sizes: Sequence[int]) -> tuple[Layer[V], ...]:
    """Returns the layer for each part of the batch of these sizes."""
    ends = list(accumulate(sizes))
    parts = zip(sizes, ends, strict=True)
    return tuple(
        replace(layer, part=f" {i}", size=size, reach=end / ends[-1], begin=(end - size) / ends[-1])
        for i, (size, end) in enumerate(parts)
    ) or (layer,)


def build_streams(shapes: Sequence[tuple[int, ...]], values: Sequence[V]) -> tuple[Stream[V], ...]:
    """Builds streams from a flat list of their values (see `Stream.values`), by the shape of each."""
    rest = iter(values)
    streams: list[Stream[V]] = []
    for *pending, sent in shapes:
        x = next(rest)
        attention, mlp, shared = (next(rest) if has else None for has in pending)
        on_their_way = Sent.of(tuple(islice(rest, sent))) if sent else None
        streams.append(Stream(x, attention, mlp, shared, on_their_way))
    return tuple(streams)
