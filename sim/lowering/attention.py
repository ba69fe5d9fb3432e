"""Lowering of attention: to a chip's own cache, around a ring of chips, and to a cache whose positions chips share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sim.collectives.loop import closes
from sim.layouts import sharding
from sim.layouts.dataflow import WHOLE, Cache
from sim.layouts.forward import LayerKind
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.emitter import Value, producers
from sim.lowering.loops import gathering_loop
from sim.lowering.streams import Tasks
from sim.lowering.work import AttendedPart, AttentionWork, attended_parts, attention_work, latent_attention_work
from sim.specs.uses import Axes

if TYPE_CHECKING:
    from sim.lowering.dataflow import Lowering


class AttentionLowering:
    """Attention of a pass, and the caches that it keeps."""

    def __init__(self, flow: Lowering) -> None:
        self.flow = flow
        self.attentions: dict[str, AttentionWork] = {}
        """Operations by name; their work depends on the length of the cache."""
        self.caches: dict[str, Sharded] = {}
        """What a layer caches, by name."""
        self.cached: dict[LayerKind | None, dict[str, tuple[float, int]]] = {}
        """Bytes per chip and position, and positions after the last step, by the kind of layer and by the operation."""

    def cache_bytes(self, kind: LayerKind) -> float:
        """Returns the bytes per chip of the KV cache of a layer of a kind, after the last step."""
        return sum(each * min(length, kind.window or length) for each, length in self.cached.get(kind, {}).values())

    def attend(self, q: Value, k: Value, v: Value, name: str, cache: Cache = WHOLE, window: int | None = None) -> Value:
        """Appends attention to a cache of keys and values."""
        result = sharding.attention(q.tensor, k.tensor, v.tensor)
        self.caches |= {"cached keys": k.tensor, "cached values": v.tensor}
        self._transfer([k, v], window, cache.reach)
        chip, done = self.flow.topology.chip, producers([q, k, v])
        for part in attended_parts(self.flow.scenario.workload):
            work = attention_work(self.flow.scenario, chip, part.of(q.tensor), part.of(k.tensor), window)
            done = self._attend(name, cache, part, work, done)
        return self._merge(Value(result, done), cache, name)

    def ring(self, q: Value, k: Value, v: Value, axes: Axes, name: str) -> Value:
        """Attention to a chip's own keys and values, then to those that come around, piece by piece.

        Assumes positions dealt zig-zag, so that the causal mask leaves every chip and every piece as much.
        """
        chips, tensors = self.flow.emitter.group_size(axes), [k.tensor, v.tensor]
        gathered = [sharding.all_gather(tensor, "L", axes) for tensor in tensors]
        result = sharding.attention(q.tensor, *gathered)
        work = attention_work(self.flow.scenario, self.flow.topology.chip, q.tensor, gathered[0])
        work = replace(work, positions=q.tensor.dim("L").size)
        self._transfer([k, v])
        self.cached.setdefault(self.flow.kind, {})[name] = (
            work.cached / chips,
            self.flow.scenario.workload.final_cache_length,
        )
        whole = work.kernels(self.flow.scenario.workload.mean_cache_length)
        size = float(sum(tensor.local_bytes for tensor in gathered))
        inputs = producers([q, k, v])
        if len(axes) > 1 or len(whole) > 1 or not closes(self.flow.topology, axes[0]):
            inputs = self.flow.collective("all_gather", axes, size, name, [k, v], gathered)[0].after
            for suffix, kernel in whole:
                inputs = self.flow.emitter.compute(name + suffix, kernel, (*inputs, *q.after))
            return Value(result, inputs)
        chunks = self.flow.chunks(axes)
        pieces = [(work.piece(whole[0][1], count, sum(chunks)),) for count in chunks]
        return Value(result, gathering_loop(self.flow.emitter, name, pieces, size, axes[0], inputs))

    def _merge(self, out: Value, cache: Cache, name: str) -> Value:
        """Appends the sum of the outputs of chips that share the cache's positions, scattered over the heads."""
        if not cache.context:
            return out
        tensor, axes, dtype = out.tensor, cache.context, out.tensor.dtype
        sums = tensor.local_elements // tensor.local_shape[-1] * ITEM_BYTES["f32"]
        if self.flow.scenario.layout.merge == "all_to_all":
            size = tensor.local_bytes + sums
            (moved,) = self.flow.collective("all_to_all", axes, size, name, [out], [tensor])
        else:
            chips = self.flow.emitter.group_size(axes)
            (summed,) = self.flow.collective("all_gather", axes, sums * chips, f"{name} sums", [out], [tensor])
            scaled = self.flow.elementwise(f"{name} scale", [summed], tensor)
            (moved,) = self.flow.collective("reduce_scatter", axes, tensor.local_bytes, name, [scaled], [tensor])
        result = sharding.local_slice(replace(tensor, dtype=dtype), "H", axes)
        if self.flow.scenario.layout.merge == "all_to_all":
            return self.flow.elementwise(f"{name} merge", [moved], result)
        return Value(result, moved.after)

    def latent(
        self,
        queries: tuple[Value, Value],
        cached: tuple[Value, Value],
        expansion: tuple[Value, ...],
        name: str,
        cache: Cache = WHOLE,
    ) -> Value:
        """Appends attention to a cache of latent vectors."""
        weights = tuple(weight.tensor for weight in expansion)
        self.caches["cached latents"] = cached[0].tensor
        self._transfer(cached, reach=cache.reach)
        result = sharding.latent_attention(queries[0].tensor, cached[0].tensor, *weights)
        done = producers([*queries, *cached])
        for part in attended_parts(self.flow.scenario.workload):
            q, rope, latent, shared = (part.of(value.tensor) for value in (*queries, *cached))
            work = latent_attention_work(
                self.flow.scenario, self.flow.topology.chip, (q, rope), (latent, shared), weights, self.flow.kernels
            )
            done = self._attend(name, cache, part, work, done)
        return self._merge(Value(result, done), cache, name)

    def _transfer(self, cached: Sequence[Value], window: int | None = None, reach: float = 1.0) -> None:
        """Sends what a layer caches to the chips that decode, if these are others."""
        if transfer := self.flow.transfer:
            transfer.send(self.flow.emitter, [each.tensor for each in cached], producers(cached), window, reach)

    def _attend(self, name: str, cache: Cache, part: AttendedPart, work: AttentionWork, inputs: Tasks) -> Tasks:
        workload, name = self.flow.scenario.workload, name + part.suffix
        chips = self.flow.emitter.group_size(cache.context or self.flow.uses.positions)
        after, shared_by = workload.tokens_per_step * (1 - cache.reach), self.flow.emitter.group_size(cache.context)
        work = replace(work, after=after, shared_by=shared_by)
        final, length = workload.final_cache_length, workload.mean_cache_length
        if part.length is not None:
            final = length = part.length
        elif self.attentions.setdefault(name, work) != work:
            raise ValueError(f"'{name}' does different work in different places")
        self.cached.setdefault(self.flow.kind, {})[cache.name + part.suffix] = work.cached / chips, final
        for suffix, kernel in work.kernels(length):
            inputs = self.flow.emitter.compute(name + suffix, kernel, inputs)
        return inputs
