"""One forward pass of a tensor-parallel model: embedding, layers of a residual scheme, logits and the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic

from sim.layouts.dataflow import Dataflow, V
from sim.layouts.residual import LAYERS, SCHEMES, UNSUMMED, Stream, standard
from sim.layouts.tensor_parallel import TensorParallel
from sim.specs import Scenario

MICRO_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Pass(Generic[V]):
    """The pass, piece by piece, so that an interpreter can do something between layers."""

    layers: tuple[TensorParallel[V], ...]
    """One, or one for each part of the batch."""
    kinds: tuple[str, ...]
    """Of each layer."""
    head_split: str
    """Axes of the vocabulary in embedding and LM head, as notation."""
    every_position: bool
    tied: bool
    ends: bool = True
    """Whether it has an embedding and logits."""

    @property
    def one(self) -> TensorParallel[V]:
        return replace(self.layers[0], part="")

    @property
    def flow(self) -> Dataflow[V]:
        return self.layers[0].flow

    def begin(self) -> tuple[Stream[V], ...]:
        """The embedded tokens, for each part of the batch; of the layers alone, what comes in."""
        x = self._embedded() if self.ends else self.flow.receive("B L E", packed=False)
        if self.one.packed:
            (x,) = self.flow.unpad([x], "remove padding")
        return self._parts(x)

    def _embedded(self) -> V:
        table = self.flow.weight("embedding", *2 * (f"V{self.head_split} E",))
        x = self.flow.embed(table, "embedding")
        if self.head_split:
            (x,) = self.flow.all_reduce([x], self.one.axes, "embedding")
        if self.one.tokens:
            x = self.flow.local_slice(x, self.one.tokens, self.one.axes)
        return x

    def resume(self, scattered: bool, after: str) -> tuple[Stream[V], ...]:
        """The residual stream as the stage before left it after a layer of this kind, for each part of the batch.

        Every chip receives its own, where chips differ (desync). Scattered, every chip receives its share, and the
        chips gather them (FasterTransformer, ParallelGpt).
        """
        split = {self.one.tokens: self.one.split} if self.one.tokens else {"E": self.one.split} if scattered else {}
        notation = " ".join(dim + split.get(dim, "") for dim in "BLE")
        x = self.flow.receive(notation, self.one.packed, self.one.axes if after in UNSUMMED else ())
        if "E" in split:
            (x,) = self.flow.all_gather([(x, "E")], self.one.axes, "activations")
        return self._parts(x)

    def leave(self, streams: Sequence[Stream[V]], scattered: bool) -> None:
        """The residual stream, with everything added to it, for the next stage."""
        flow, x = self.flow, self._added(streams)
        flow.send(flow.local_slice(x, "E", self.one.axes) if scattered and not self.one.tokens else x)

    def close(self, streams: Sequence[Stream[V]]) -> V:
        """The residual stream after the last layer, padded again: what an encoder gives."""
        x = self._added(streams)
        return self.flow.pad([x], "rebuild padding")[0] if self.one.packed else x

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
        """(logits, next token of each sequence)."""
        flow, whole = self.flow, self._joined(streams)
        if self.one.packed:
            whole = streams_of([whole.shape], flow.pad(whole.values, "rebuild padding"))[0]
        if not self.one.tokens and not self.every_position:
            whole = streams_of([whole.shape], [flow.last_position(value) for value in whole.values])[0]
        _, y = self.one.norm(whole.x, whole.waiting, "final_norm")
        y = self.one.enter(y, "final_norm")
        if self.one.tokens and not self.every_position:
            y = flow.last_position(y)
        name = "embedding" if self.tied else "lm_head"
        (logits,) = flow.matmul(y, [flow.weight(name, *2 * (f"V{self.head_split} E",))], "logits")
        return logits, flow.sample(flow.last_position(logits), "token")


def of(flow: Dataflow[V], scenario: Scenario) -> Pass[V]:
    """The pass of a scenario."""
    layout, workload, axes = scenario.layout, scenario.workload, tuple(axis for axis, _ in flow.mesh)
    hybrid = layout.hybrid.ladder_layers if layout.hybrid else 0
    return Pass(
        layers=parts(
            TensorParallel(
                flow,
                scenario.model,
                axes,
                tokens=_tokens(layout.sequence_parallel, workload.tokens_per_step),
                packed=scenario.packed_rows is not None,
                chunks=layout.chunks if layout.overlap == "chunked_matmul" else 1,
            ),
            MICRO_BATCHES if layout.overlap == "micro_batches" else 1,
        ),
        kinds=SCHEMES[scenario.residual](scenario.model.layers, hybrid)[: scenario.layers],
        head_split="_" + "".join(axes) if layout.head == "sharded" else "",
        every_position=layout.logits == "every",
        tied=scenario.model.tied,
        ends=layout.logits != "none",
    )


def parts(layer: TensorParallel[V], count: int) -> tuple[TensorParallel[V], ...]:
    """The layer for each part of the batch."""
    return tuple(replace(layer, part=f" {i}") for i in range(count)) if count > 1 else (layer,)


def streams_of(shapes: Sequence[tuple[bool, bool]], values: Sequence[V]) -> tuple[Stream[V], ...]:
    """Streams from their values in a row (see `Stream.values`), by what each has waiting."""
    rest = iter(values)
    return tuple(
        Stream(next(rest), next(rest) if attention else None, next(rest) if mlp else None) for attention, mlp in shapes
    )


def _tokens(sequence_parallel: bool, positions: int) -> str:
    if not sequence_parallel:
        return ""
    return "L" if positions > 1 else "B"
