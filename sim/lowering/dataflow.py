"""Dataflow interpreter that emits tasks on the machine's compute and link resources.

An operation waits for its inputs and for the last operation of its stream (`sim.lowering.streams`). What overlaps is
therefore said by the layout alone: a looped collective matmul cuts the matmul into pieces, piece i waits for the
arrival of its shard, and the next shard moves under it (Pope et al. section 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sim.collectives.loop import closes
from sim.layouts import sharding
from sim.layouts.collective_matmul import chunks_of_pieces, gathered_axes
from sim.layouts.dataflow import WHOLE, Cache, Exchange, Reduction
from sim.layouts.forward import LayerKind
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.attention import AttentionLowering
from sim.lowering.costs import Work
from sim.lowering.emitter import Emitter, Value, producers
from sim.lowering.exchange import Way, in_turn
from sim.lowering.experts import ExpertLowering
from sim.lowering.loops import gathering_loop, is_loopable, loop_form, scattering_loop, weight_loop
from sim.lowering.pieces import (
    Gathered,
    column_pieces,
    gathered_group_sizes,
    gathered_input_pieces,
    gathered_pieces,
    scattered_pieces,
    scattered_sum_pieces,
)
from sim.lowering.sizes import compute_sizes, d_model_divisor
from sim.lowering.streams import Tasks
from sim.lowering.work import (
    TOP_K,
    MatmulKernels,
    matmul_work,
    sum_of_products,
    through_memory,
)
from sim.specs import Scenario
from sim.specs.uses import Axes, Uses
from sim.topology.chip import Chip
from sim.topology.graph import Topology

if TYPE_CHECKING:
    from sim.lowering.kv_transfer import KvTransfer

_ROUNDING = 1e-9
"""Share of the rows that sums of expected rows may be off."""


class Lowering:
    """Turns the operations of `sim.layouts.dataflow` into tasks, and collects what is kept in memory."""

    def __init__(self, scenario: Scenario, topology: Topology, uses: Uses, transfer: KvTransfer | None = None) -> None:
        self.scenario, self.topology, self.uses, self.transfer = scenario, topology, uses, transfer
        self.emitter = Emitter(scenario, topology, transfer.other_links if transfer else ())
        self.mesh = self.emitter.mesh
        self.builder = self.emitter.builder
        self.weights: dict[str, Sharded] = {}
        """Weights as stored, by name."""
        self.stored: dict[LayerKind | None, dict[str, float]] = {}
        """Bytes per chip of the weights, by the kind of layer and by name; None for the ends."""
        self.kind: LayerKind | None = None
        """Kind of the layer that is lowered next; None for the ends."""
        self.notes: list[str] = []
        self.kernels = MatmulKernels(topology.chip.on_chip_bytes, scenario.workload.operands)
        self.sent_bytes = 0.0
        """Bytes per chip of the activations that leave the stage."""
        group_size = self.emitter.group_size
        self.attends = AttentionLowering(self)
        self.experts = ExpertLowering(scenario, topology, self.emitter, self.kernels)
        self._sizes = compute_sizes(scenario, uses, group_size, topology.total_chips)
        if (width := self._sizes["E"]) != scenario.model.d_model:
            chips = d_model_divisor(uses, group_size)
            self.note(f"d_model {scenario.model.d_model} is padded to {width}, which {chips} chips divide")

    def tensor(self, notation: str, dtype: str | None = None) -> Sharded:
        """Returns an activation (or other `dtype`) of the scenario's sizes, sharded as the notation says."""
        return sharding.from_notation(notation, self._sizes, self.mesh, dtype or self.scenario.workload.activations)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def weight(self, name: str, used: str, stored: str) -> Value:
        workload = self.scenario.workload
        dtype = (workload.expert_weights if name.endswith("_experts") else None) or workload.weights
        tensor = self.weights[name] = self.tensor(stored, dtype)
        self.stored.setdefault(self.kind, {})[name] = tensor.local_bytes
        return Value(self.tensor(used, dtype), stored=tensor if stored != used else None)

    def stored_bytes(self, kind: LayerKind | None) -> float:
        """Returns the bytes per chip of the weights of a layer of a kind; None: of embedding and logits."""
        return float(sum(self.stored.get(kind, {}).values()))

    # --- collectives -------------------------------------------------------------------------------------------------

    def all_gather(self, values: Sequence[tuple[Value, str]], axes: Axes, name: str) -> tuple[Value, ...]:
        results = [sharding.all_gather(value.tensor, dim, axes) for value, dim in values]
        size = sum(t.local_bytes for t in results)
        return self.collective("all_gather", axes, size, name, [value for value, _ in values], results)

    def reduce_scatter(self, values: Sequence[tuple[Value, str]], axes: Axes, name: str) -> tuple[Value, ...]:
        results = [sharding.reduce_scatter(value.tensor, axes, into) for value, into in values]
        size = sum(value.tensor.local_bytes for value, _ in values)
        return self.collective("reduce_scatter", axes, size, name, [value for value, _ in values], results)

    def all_reduce(self, values: Sequence[Value], axes: Axes, name: str) -> tuple[Value, ...]:
        results = [sharding.all_reduce(value.tensor, axes) for value in values]
        return self.collective("all_reduce", axes, sum(t.local_bytes for t in results), name, values, results)

    def all_to_all(self, value: Value, axes: Axes, split: str, concat: str, name: str) -> Value:
        result = sharding.all_to_all(value.tensor, axes, split, concat)
        return self.collective("all_to_all", axes, result.local_bytes, name, [value], [result])[0]

    def local_slice(self, value: Value, dim: str, axes: Axes) -> Value:
        return Value(sharding.local_slice(value.tensor, dim, axes), value.after)

    def collective(
        self, kind: str, axes: Axes, size: float, name: str, inputs: Sequence[Value], results: Sequence[Sharded]
    ) -> tuple[Value, ...]:
        done = producers(inputs)
        for over, part in in_turn(self.scenario.stack, self.topology, kind, axes, size):
            done = self.emitter.collective(kind, over, part, name, done, results[0].dtype)
        return tuple(Value(result, done) for result in results)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Value, weights: Sequence[Value], name: str) -> tuple[Value, ...]:
        return self._products(x, weights, name)

    def _products(self, x: Value, weights: Sequence[Value], name: str, axes: Axes = ()) -> tuple[Value, ...]:
        results = [sharding.matmul(x.tensor, weight.tensor) for weight in weights]
        done = self._multiply(name, [(x.tensor, weights)], results, x.after, axes)
        return tuple(Value(t, done) for t in results)

    def mean_square(self, x: Value, dim: str, name: str) -> Value:
        dims = tuple(d for d in x.tensor.dims if d.name != dim)
        result = Sharded(dims, x.tensor.mesh, "f32", x.tensor.dim(dim).axes)
        return self.elementwise(f"{name} mean_square", [x], result)

    def scale(self, x: Value, mean_square: Value, gain: Value, name: str) -> Value:
        return self.elementwise(f"{name} scale", [x, mean_square, gain], x.tensor)

    def norm(self, x: Value, plus: Sequence[Value], gain: Value, name: str, dim: str = "E") -> tuple[Value, Value]:
        result = sharding.norm(x.tensor, [value.tensor for value in plus], dim)
        summed = self.uses.whole and self.emitter.group_size(self.uses.summed) > 1
        if plus and summed and self.scenario.layout.fused_norm:  # by the kernel that summed
            done = Value(result, producers([x, *plus]))
            return done, done
        if self.topology.chip.fuses_elementwise:
            for value in plus:
                x = self.add(x, value, "residual")
            return x, self.scale(x, self.mean_square(x, dim, name), gain, name)
        written = [result, result] if plus else [result]
        done = self.elementwise(name, [x, *plus, gain], result, written)
        return (done if plus else x), done

    def activate(self, inputs: Sequence[Value], name: str) -> Value:
        if inputs[0].tensor.has("Y"):
            return Value(inputs[0].tensor, self.experts.activate(list(inputs), name))
        return self.elementwise(name, inputs, inputs[0].tensor)

    def add(self, x: Value, y: Value, name: str) -> Value:
        return self.elementwise(f"{name} add", [x, y], sharding.add(x.tensor, y.tensor))

    def keep_partial(self, partial: Value) -> Value:
        return Value(sharding.keep_partial(partial.tensor), partial.after)

    def as_mean_partial(self, x: Value, axes: Axes) -> Value:
        return Value(sharding.as_mean_partial(x.tensor, axes), x.after)

    def split(self, x: Value, dim: str, sizes: Sequence[int]) -> tuple[Value, ...]:
        return tuple(Value(tensor, x.after) for tensor in sharding.split(x.tensor, dim, sizes))

    def join(self, parts: Sequence[Value], dim: str) -> Value:
        return Value(sharding.join([part.tensor for part in parts], dim), producers(parts))

    def to_cache(self, q: Value, k: Value, v: Value, name: str) -> tuple[Value, Value, Value]:
        if self.topology.chip.fuses_elementwise:  # into the matmuls that put them out
            return q, k, v
        tensors = [q.tensor, k.tensor, v.tensor]
        done = self.elementwise(name, [q, k, v], q.tensor, tensors).after
        return Value(q.tensor, done), Value(k.tensor, done), Value(v.tensor, done)

    def attention(
        self, q: Value, k: Value, v: Value, name: str, cache: Cache = WHOLE, window: int | None = None
    ) -> Value:
        return self.attends.attend(q, k, v, name, cache, window)

    def ring_attention(self, q: Value, k: Value, v: Value, axes: Axes, name: str) -> Value:
        return self.attends.ring(q, k, v, axes, name)

    def latent_attention(
        self,
        queries: tuple[Value, Value],
        cached: tuple[Value, Value],
        expansion: tuple[Value, ...],
        name: str,
        cache: Cache = WHOLE,
    ) -> Value:
        return self.attends.latent(queries, cached, expansion, name, cache)

    # --- mixture of experts ------------------------------------------------------------------------------------------

    def grouped_matmul(self, x: Value, weights: Sequence[Value], over: str, name: str) -> tuple[Value, ...]:
        if over == "Y":
            return self.experts.matmul(x, list(weights), name)
        results = [sharding.matmul(x.tensor, weight.tensor, over) for weight in weights]
        groups = x.tensor.local_shape[x.tensor.index(over)]
        work = matmul_work([(x.tensor, [weight.tensor for weight in weights])], results, (), self.kernels)
        work = replace(work, columns=work.columns / groups, products=groups)
        done = self.emitter.compute(name, work, x.after)
        return tuple(Value(tensor, done) for tensor in results)

    def route(self, y: Value, weight: Value, name: str) -> Value:
        (logits,) = self._products(y, [weight], name)
        return self.elementwise(f"{name} top k", [logits], logits.tensor)

    def dispatch(self, y: Value, shares: Value, exchange: Exchange, name: str) -> Value:
        stack, kernel = self.scenario.stack, self.scenario.exchange_kernel
        lines = self.experts.topology.has_lines
        gathers = stack.named_scheme(self.scenario.layout.experts) == "all_gather"
        if kernel not in stack.exchange and not (gathers or lines) and self.emitter.group_size(exchange.tokens) > 1:
            self.note(
                f"dispatch and combine take the latencies and bandwidths of the links alone: stack {stack.name} has no "
                f"kernel '{kernel}' for them; published kernels take 10 to 35 us more for launch and signals"
            )
        rows = self.experts.dispatch(y, producers([y, shares]), exchange, name)
        capacity = self.scenario.layout.experts.capacity
        if capacity is not None and (dropped := self.experts.dropped_share) > _ROUNDING:
            self.note(f"experts drop what is beyond {capacity:g} times their mean rows: {dropped:.1%} of all")
        return rows

    def combine(self, rows: Value, shares: Value, like: Value, exchange: Exchange, name: str) -> Value:
        return self.experts.combine(rows, like, exchange, name)

    def receive_rows(self, rows: Value, way: Way, exchange: Exchange, name: str) -> Value:
        return Value(rows.tensor, self.experts.receive(way, exchange, name, rows.after))

    def embed(self, table: Value, rows: str, name: str, after: Value | None = None, length: int | None = None) -> Value:
        tokens = self.tensor(rows)
        dims = tuple(replace(dim, size=length) if length and dim.name == "L" else dim for dim in tokens.dims)
        result = Sharded(dims, tokens.mesh, tokens.dtype, table.tensor.dim("V").axes)
        return self.elementwise(name, [], result, after=after.after if after else ())

    def rename(self, x: Value, dim: str, name: str) -> Value:
        return Value(sharding.rename(x.tensor, dim, name), x.after)

    def pad(self, values: Sequence[Value], name: str) -> tuple[Value, ...]:
        return self._repack_rows(values, self._sizes["B"], self._sizes["L"], name)

    def unpad(self, values: Sequence[Value], name: str) -> tuple[Value, ...]:
        return self._repack_rows(values, 1, self.scenario.packed_rows or 0, name)

    def _repack_rows(self, values: Sequence[Value], batch: int, length: int, name: str) -> tuple[Value, ...]:
        results = [sharding.repack(value.tensor, batch, length) for value in values]
        done = self.elementwise(name, values, results[0], results).after
        return tuple(Value(result, done) for result in results)

    def receive(self, notation: str, packed: bool, differs: Axes = ()) -> Value:
        tensor = replace(self.tensor(notation), differs=differs)
        return Value(sharding.repack(tensor, 1, self.scenario.packed_rows or 0) if packed else tensor)

    def send(self, x: Value) -> None:
        self.sent_bytes = float(x.tensor.local_bytes)

    def last_position(self, x: Value) -> Value:
        chips = x.tensor.group_size(x.tensor.dim("L").axes)
        sizes = {"L": chips, "B": self.scenario.workload.batch}  # a chunk that is not a prompt's last gives no token
        dims = tuple(replace(dim, size=sizes.get(dim.name, dim.size)) for dim in x.tensor.dims)
        return Value(replace(x.tensor, dims=dims), x.after)

    def sample(self, logits: Value, name: str) -> Value:
        sequences, axes = logits.tensor.dim("B"), logits.tensor.dim("V").axes
        for step, read, written in TOP_K if self.scenario.workload.sampling == "top_k" else ():
            size = logits.tensor.local_elements * ITEM_BYTES["f32"]
            done = self.emitter.compute(f"{name} {step}", Work(0.0, (read + written) * size), logits.after)
            logits = Value(logits.tensor, done)
        best = self.elementwise(name, [logits], logits.tensor, ())
        pair = ITEM_BYTES["f32"] + ITEM_BYTES["int32"]  # each chip's largest logit and its token
        result = Sharded(logits.tensor.dims[:-1], logits.tensor.mesh, "int32")
        size = sequences.size // self.emitter.group_size(sequences.axes) * pair * self.emitter.group_size(axes)
        return self.collective("all_gather", axes, size, name, [best], [result])[0]

    def elementwise(
        self,
        op: str,
        inputs: Sequence[Value],
        result: Sharded,
        written: Sequence[Sharded] | None = None,
        after: Tasks = (),
    ) -> Value:
        """Appends a norm, activation or add that reads or writes each tensor once. It is an operation only if the
        compiler does not fuse it, or if memory on the chip does not hold the tensors.

        Fused, the compute stream's next operation does it as well, and then waits for all its inputs, and for `after`.
        """
        tasks = (*producers(inputs), *after)
        tensors = [*(value.tensor for value in inputs), *([result] if written is None else written)]
        moved = sum(through_memory(t.local_bytes, self.kernels.on_chip) for t in tensors)
        if self.topology.chip.fuses_elementwise and (self.kernels.on_chip is None or not moved):
            streams = self.emitter.streams
            return Value(result, (*streams.last("compute"), *streams.not_awaited("compute", tasks)))
        return Value(result, self.emitter.compute(op, Work(0.0, moved), tasks))

    def _multiply(
        self,
        name: str,
        factors: Sequence[tuple[Sharded, Sequence[Value]]],
        outputs: Sequence[Sharded],
        inputs: Tasks,
        activations: Axes = (),
    ) -> Tasks:
        """Appends a fused matmul, after the gather of its weights or looped with it.

        Args:
            activations: axes over which its input is gathered or its output scattered.
        """
        gathers = self.emitter.group_size(activations) > 1
        chip = self.topology.chip.in_collective_matmuls if gathers else self.matmul_chip
        inputs = self.quantize(name, [x for x, _ in factors], inputs)
        used = [(x, [weight.tensor for weight in weights]) for x, weights in factors]
        gathered = [(x, weight.tensor, weight.stored) for x, weights in factors for weight in weights if weight.stored]
        axes = gathered_axes(*gathered[0]) if gathered else ()
        gather_axes = tuple(axis for axis in axes if self.emitter.group_size((axis,)) > 1)
        if not gather_axes:
            return self.emitter.compute(name, matmul_work(used, outputs, (), self.kernels), inputs, chip)
        if self.scenario.overlap == "none" or not all(closes(self.topology, axis) for axis in gather_axes):
            used_bytes = sum(weight.local_bytes for _, weight, _ in gathered)
            dtype = self.scenario.workload.weights
            arrived = self.emitter.buffers.claim(used_bytes)
            for over, size in in_turn(self.scenario.stack, self.topology, "all_gather", axes, used_bytes):
                arrived = self.emitter.collective("all_gather", over, size, f"{name} weights", arrived, dtype)
            done = self.emitter.compute(name, matmul_work(used, outputs, (), self.kernels), (*inputs, *arrived))
            self.emitter.buffers.release(done)
            return done
        stored_bytes = sum(stored.local_bytes for _, _, stored in gathered)
        self.emitter.buffers.claim_shards(stored_bytes, prod(self.emitter.group_size((axis,)) for axis in gather_axes))
        group_sizes = {
            dim: count for _, weight, stored in gathered for dim, count in gathered_group_sizes(weight, stored).items()
        }
        pieces = Gathered(used, outputs, group_sizes, self.kernels).pieces()
        return weight_loop(self.emitter, name, pieces, stored_bytes, gather_axes, inputs)

    # --- looped collective matmul ------------------------------------------------------------------------------------

    def all_gather_matmul(self, factors: Sequence[tuple[Value, str, Value]], axes: Axes, name: str) -> Value:
        inputs = [value for value, _, _ in factors]
        if self._is_looped(axes, [weight for _, _, weight in factors]):
            factors_gathered = [
                (sharding.all_gather(value.tensor, dim, axes), dim, weight.tensor) for value, dim, weight in factors
            ]
            product = sum_of_products(name, [(x, weight) for x, _, weight in factors_gathered])
            pieces = gathered_pieces(factors_gathered, product, self.chunks(axes), self.kernels)
            size = sum(x.local_bytes for x, _, _ in factors_gathered)
            return Value(product, gathering_loop(self.emitter, name, pieces, size, axes[0], producers(inputs)))
        gathered = self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
        pairs = [(value.tensor, [weight]) for value, (_, _, weight) in zip(gathered, factors, strict=True)]
        product = sum_of_products(name, [(x, weight.tensor) for x, (weight,) in pairs])
        return Value(product, self._multiply(name, pairs, [product], producers(gathered), axes))

    def matmul_reduce_scatter(
        self, x: Value, weights: Sequence[tuple[Value, str]], axes: Axes, name: str
    ) -> tuple[Value, ...]:
        if self._is_looped(axes, [weight for weight, _ in weights]):
            products = [sharding.matmul(x.tensor, weight.tensor) for weight, _ in weights]
            results = [sharding.reduce_scatter(t, axes, into) for t, (_, into) in zip(products, weights, strict=True)]
            chunks = self.chunks(axes)[::-1]
            form = loop_form(self.emitter, axes[0])
            pieces = scattered_pieces(x.tensor, [(w.tensor, into) for w, into in weights], chunks, form, self.kernels)
            size = sum(tensor.local_bytes for tensor in products)
            done = scattering_loop(self.emitter, name, pieces, size, axes[0], x.after)
            return tuple(Value(t, done) for t in results)
        values = self._products(x, [weight for weight, _ in weights], name, axes)
        return self.reduce_scatter(
            [(value, into) for value, (_, into) in zip(values, weights, strict=True)], axes, name
        )

    def all_gather_matmuls(
        self, x: Value, dim: str, weights: Sequence[Value], axes: Axes, name: str
    ) -> tuple[Value, ...]:
        if not self._is_looped(axes, weights):
            (x,) = self.all_gather([(x, dim)], axes, name)
            return x, *self._products(x, weights, name, axes)
        gathered = sharding.all_gather(x.tensor, dim, axes)
        used = [weight.tensor for weight in weights]
        pieces = gathered_input_pieces(gathered, dim, used, self.chunks(axes), self.kernels)
        done = gathering_loop(self.emitter, name, pieces, gathered.local_bytes, axes[0], x.after)
        return tuple(Value(t, done) for t in (gathered, *(sharding.matmul(gathered, weight) for weight in used)))

    def matmul_sum(
        self, factors: Sequence[tuple[Value, str, Value]], gathered: Axes, reduction: Reduction, name: str
    ) -> Value:
        stored = any(weight.stored for _, _, weight in factors)
        if self.scenario.overlap == "chunked_matmul" and self.emitter.group_size(reduction.axes) > 1 and not stored:
            return self._multiply_in_pieces(factors, gathered, reduction, name)
        if gathered or len(reduction.scatters) != 1:
            return self._reduce(self.all_gather_matmul(factors, gathered, name), reduction)
        ((into, axes),) = reduction.scatters
        inputs, pairs = [x for x, _, _ in factors], [(x.tensor, weight.tensor) for x, _, weight in factors]
        product = sum_of_products(name, pairs)
        if self._is_looped(axes, [weight for _, _, weight in factors]):
            form = loop_form(self.emitter, axes[0])
            pieces = scattered_sum_pieces(pairs, into, self.chunks(axes)[::-1], form, self.kernels)
            done = scattering_loop(self.emitter, name, pieces, product.local_bytes, axes[0], producers(inputs))
            out = Value(sharding.reduce_scatter(product, axes, into), done)
        else:
            weighted = [(x.tensor, [weight]) for x, _, weight in factors]
            is_single = len(axes) == 1
            done = self._multiply(name, weighted, [product], producers(inputs), axes if is_single else ())
            (out,) = self.reduce_scatter([(Value(product, done), into)], axes, name if is_single else reduction.name)
        return self.all_reduce([out], reduction.replicated, reduction.name)[0]

    @property
    def matmul_chip(self) -> Chip | None:
        """The chip as matmuls of a layer find it, if other than the machine's."""
        in_layer = self.kind is not None and self.kind.has_experts
        return self.experts.matmul_chip if in_layer else None

    def quantize(self, name: str, inputs: Sequence[Sharded], tasks: Tasks) -> Tasks:
        """Appends the kernel that quantises the inputs of a matmul, if the stack has one of its own for it."""
        work = self.kernels.quantization([x.local_elements for x in inputs], inputs[0].dtype)
        if work is None or not self.topology.chip.quantizes_apart:
            return tasks
        return self.emitter.compute(f"{name} quantize", work, tasks)

    def _multiply_in_pieces(
        self, factors: Sequence[tuple[Value, str, Value]], gathered: Axes, reduction: Reduction, name: str
    ) -> Value:
        """Appends a matmul in pieces of its columns, each reduced over chips while the next is multiplied."""
        gathered_values = self.all_gather([(value, dim) for value, dim, _ in factors], gathered, name)
        weights = [weight for _, _, weight in factors]
        pairs = [(value.tensor, weight.tensor) for value, weight in zip(gathered_values, weights, strict=True)]
        product = sum_of_products(name, pairs)
        shards = self.emitter.group_size(dict(reduction.scatters).get(product.dims[-1].name, ()))
        ended: Tasks = ()
        for work, part in column_pieces(pairs, product, self.scenario.layout.matmul_chunks, shards, self.kernels):
            ended = (
                *ended,
                *self._reduce(
                    Value(part, self.emitter.compute(name, work, producers(gathered_values))), reduction
                ).after,
            )
        for dim, axes in reduction.scatters:
            product = sharding.reduce_scatter(product, axes, dim)
        return Value(sharding.all_reduce(product, reduction.replicated), ended)

    def _reduce(self, out: Value, reduction: Reduction) -> Value:
        for dim, axes in reduction.scatters:
            (out,) = self.reduce_scatter([(out, dim)], axes, reduction.name)
        return self.all_reduce([out], reduction.replicated, reduction.name)[0]

    def _is_looped(self, axes: Axes, weights: Sequence[Value]) -> bool:
        """Returns True if a collective of activations is looped with its matmul, whose weights are not gathered."""
        return is_loopable(self.emitter, axes) and not any(weight.stored for weight in weights)

    def chunks(self, axes: Axes) -> list[int]:
        return chunks_of_pieces(self.emitter.group_size(axes), loop_form(self.emitter, axes[0]))

    def matmul_add(self, x: Value, weight: Value, plus: Value | None, name: str) -> Value:
        if plus is None:
            return self.matmul(x, [weight], name)[0]
        result = sharding.add(sharding.matmul(x.tensor, weight.tensor), plus.tensor)
        work = matmul_work([(x.tensor, [weight.tensor])], [result], [plus.tensor], self.kernels)
        chip, is_reduced = self.topology.chip, self.emitter.group_size(result.partial) > 1
        if is_reduced and not chip.fuses_elementwise and (work.rows > 1 or not chip.compiles_rows):
            return self.add(self.matmul(x, [weight], name)[0], plus, name)
        inputs = self.quantize(name, [x.tensor], producers([x, plus]))
        return Value(result, self.emitter.compute(name, work, inputs))
