"""One forward pass: embedding, layers of a residual scheme, logits and the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic

from sim.layouts.dataflow import Dataflow, V
from sim.layouts.layer import Layer
from sim.layouts.residual import LAYERS, SCHEMES, UNSUMMED, Stream, standard
from sim.specs import Scenario
from sim.specs.uses import Axes, Uses, named

MICRO_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Pass(Generic[V]):
    """The pass, piece by piece, so that an interpreter can do something between layers."""

    layers: tuple[Layer[V], ...]
    """One, or one for each part of the batch."""
    kinds: tuple[str, ...]
    """Of each layer."""
    head: Axes
    """Axes that split the vocabulary in embedding and LM head."""
    every_position: bool
    tied: bool
    ends: bool = True
    """Whether it has an embedding and logits."""

    @property
    def one(self) -> Layer[V]:
        """The layer of the whole batch."""
        return replace(self.layers[0], part="")

    @property
    def flow(self) -> Dataflow[V]:
        return self.layers[0].flow

    def begin(self) -> tuple[Stream[V], ...]:
        """The embedded tokens, for each part of the batch; of the layers alone, what comes in."""
        x = self._embedded() if self.ends else self.flow.receive(self._notation(), packed=False)
        if self.one.packed:
            (x,) = self.flow.unpad([x], "remove padding")
        return self._parts(x)

    def _embedded(self) -> V:
        """Each chip looks up the rows it stores; the sum over the chips is made where the stream is not split."""
        flow, table = self.flow, f"V_{named(self.head)} E"
        x = flow.embed(flow.weight("embedding", table, table), "embedding")
        for dim, axes in self.one.stream.items():
            summed = tuple(axis for axis in axes if axis in self.head)
            x = flow.local_slice(x, dim, tuple(axis for axis in axes if axis not in summed))
            (x,) = flow.reduce_scatter([(x, dim)], summed, "embedding")
        return flow.all_reduce([x], tuple(x.tensor.partial), "embedding")[0]

    def resume(self, scattered: bool, after: str) -> tuple[Stream[V], ...]:
        """The residual stream as the stage before left it after a layer of this kind, for each part of the batch.

        Every chip receives its own, where chips differ (desync). Scattered, every chip receives its share of what all
        have, and the chips gather them (FasterTransformer, ParallelGpt).
        """
        share = self._same if scattered else ()
        differs = self.one.at.summed if after in UNSUMMED else ()
        x = self.flow.receive(self._notation(share), self.one.packed, differs)
        (x,) = self.flow.all_gather([(x, "E")], share, "activations")
        return self._parts(x)

    def leave(self, streams: Sequence[Stream[V]], scattered: bool) -> None:
        """The residual stream, with everything added to it, for the next stage."""
        x = self._added(streams)
        self.flow.send(self.flow.local_slice(x, "E", self._same) if scattered else x)

    def close(self, streams: Sequence[Stream[V]]) -> V:
        """The residual stream after the last layer, padded again: what an encoder gives."""
        x = self._added(streams)
        return self.flow.pad([x], "rebuild padding")[0] if self.one.packed else x

    @property
    def _same(self) -> Axes:
        """Axes of the sums along which every chip has the same stream."""
        at = self.one.at
        return tuple(axis for axis in at.summed if axis not in at.stream + at.tokens)

    def _notation(self, share: Axes = ()) -> str:
        """The residual stream's sharding, of whose d_model every chip along `share` has a part."""
        over = {**self.one.stream, "E": self.one.stream["E"] + share}
        return " ".join(f"{dim}_{named(axes)}" for dim, axes in over.items())

    def _added(self, streams: Sequence[Stream[V]]) -> V:
        whole = self._joined(streams)
        x = whole.x
        for out in whole.waiting:
            x = self.flow.add(x, out, "residual")
        return x

    def _parts(self, x: V) -> tuple[Stream[V], ...]:
        if len(self.layers) == 1:
            return (Stream(x),)
        return tuple(Stream(part) for part in self.flow.split(x, "B", len(self.layers)))

    def _joined(self, streams: Sequence[Stream[V]]) -> Stream[V]:
        if len(streams) == 1:
            return streams[0]
        parts = [part.values for part in streams]
        joined = [self.flow.join(values, "B") for values in zip(*parts, strict=True)]
        return streams_of([streams[0].shape], joined)[0]

    def layer(self, kind: str, streams: Sequence[Stream[V]]) -> tuple[Stream[V], ...]:
        if len(streams) > 1:
            return standard(self.layers, streams)
        return (LAYERS[kind](self.layers[0], streams[0]),)

    def end(self, streams: Sequence[Stream[V]]) -> tuple[V, V]:
        """(logits, next token of each sequence): the stream is gathered where it is split, but for the
        sequences of replicas, normalised and multiplied with each chip's part of the LM head."""
        flow, whole, one = self.flow, self._joined(streams), self.one
        if one.packed:
            whole = streams_of([whole.shape], flow.pad(whole.values, "rebuild padding"))[0]
        by_position = one.token_dim == "L" and bool(one.at.tokens)
        if not by_position and not self.every_position:
            whole = streams_of([whole.shape], [flow.last_position(value) for value in whole.values])[0]
        at = one.at
        sequences = at.gather + at.tokens if at.gather and one.token_dim == "B" else at.gather
        y, waiting = whole.x, whole.waiting
        if one.stream["E"] or sequences:
            (y,) = flow.all_gather([(self._added([whole]), "E")], one.stream["E"], "last position")
            (y,), waiting = flow.all_gather([(y, "B")], sequences, "last position"), ()
        _, y = flow.norm(y, waiting, flow.weight("final_norm", "E", "E"), "final_norm")
        tokens = tuple(axis for axis in at.tokens if axis not in sequences)
        (y,) = flow.all_gather([(y, one.token_dim)], tokens, "final_norm")
        if by_position and not self.every_position:
            y = flow.last_position(y)
        head = f"V_{named(self.head)} E"
        (logits,) = flow.matmul(y, [flow.weight("embedding" if self.tied else "lm_head", head, head)], "logits")
        return logits, flow.sample(flow.last_position(logits), "token")


def of(flow: Dataflow[V], at: Uses, scenario: Scenario) -> Pass[V]:
    """The pass of a scenario."""
    layout, workload = scenario.layout, scenario.workload
    hybrid = layout.hybrid.ladder_layers if layout.hybrid else 0
    count = MICRO_BATCHES if scenario.overlap == "micro_batches" else 1
    # Parts of the batch are of the same sequences in prefill and decode, so these are split in both.
    by_sequence = workload.tokens_per_step == 1 or count > 1 or not set(at.tokens) <= set(at.heads)
    return Pass(
        layers=parts(
            Layer(
                flow,
                scenario.model,
                at,
                layout.attention,
                token_dim="B" if by_sequence else "L",
                packed=scenario.packed_rows is not None,
            ),
            count,
        ),
        kinds=SCHEMES[scenario.residual](scenario.model.layers, hybrid)[: scenario.layers],
        head=at.weights if layout.head == "sharded" else (),
        every_position=layout.logits == "every",
        tied=scenario.model.tied,
        ends=layout.logits != "none",
    )


def parts(layer: Layer[V], count: int) -> tuple[Layer[V], ...]:
    """The layer for each part of the batch."""
    return tuple(replace(layer, part=f" {i}") for i in range(count)) if count > 1 else (layer,)


def streams_of(shapes: Sequence[tuple[bool, bool]], values: Sequence[V]) -> tuple[Stream[V], ...]:
    """Streams from their values in a row (see `Stream.values`), by what each has waiting."""
    rest = iter(values)
    return tuple(
        Stream(next(rest), next(rest) if attention else None, next(rest) if mlp else None) for attention, mlp in shapes
    )
