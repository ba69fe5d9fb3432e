"""The dataflow interpreter that emits tasks on the machine's compute and link resources.

An operation waits for its inputs and for the last operation of its stream (`sim.lowering.streams`). What overlaps is
therefore said by the layout alone: a looped collective matmul cuts the matmul into pieces, piece i waits for the
arrival of its shard, and the next shard moves under it (Pope et al. section 3.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import lcm, prod

from sim.collectives.loop import closes
from sim.layouts import sharding
from sim.layouts.collective_matmul import chunks_of_pieces, gathered_axes
from sim.layouts.dataflow import Sum
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.costs import Work
from sim.lowering.emitter import Emitter, Placed
from sim.lowering.loops import gathering_loop, loop_form, loops, scattering_loop, weight_loop
from sim.lowering.pieces import (
    Gathered,
    column_pieces,
    gathered_input_pieces,
    gathered_pieces,
    gathered_ways,
    scattered_pieces,
    scattered_sum_pieces,
)
from sim.lowering.streams import Tasks
from sim.lowering.work import TOP_K, AttentionWork, matmul_work, padded, sum_of_products, through_memory
from sim.specs import Scenario
from sim.specs.uses import Axes, Uses
from sim.topology.graph import Topology


class Lowering:
    """See `sim.layouts.dataflow` for what each operation means. Collects the tasks and what is kept in memory."""

    def __init__(self, scenario: Scenario, topology: Topology, at: Uses) -> None:
        self.scenario, self.topology = scenario, topology
        self.to = Emitter(scenario, topology)
        self.mesh = self.to.mesh
        self.builder = self.to.builder
        self.weights: dict[str, Sharded] = {}
        """Weights as stored, by name."""
        self._cache_bytes: dict[str, float] = {}
        self.attentions: dict[str, AttentionWork] = {}
        """By name; what they do depends on the length of the cache."""
        self.notes: list[str] = []
        self.on_chip = topology.chip.on_chip_bytes
        self.sent_bytes = 0.0
        """Bytes per chip of the activations that leave the stage."""
        model, workload = scenario.model, scenario.workload
        heads = self._heads(at)
        self._sizes = {
            "B": workload.batch,
            "L": workload.tokens_per_step,
            "E": self._width(at),
            "F": model.d_ff,
            "H": heads,
            "K": heads if model.kv_heads == model.heads else model.kv_heads,
            "Q": model.d_head,
            "V": padded(model.vocabulary, topology.mesh_chips),
        }

    def tensor(self, notation: str, dtype: str | None = None) -> Sharded:
        """An activation (or other `dtype`) of the scenario's sizes, sharded as the notation says."""
        return sharding.sharded(notation, self._sizes, self.mesh, dtype or self.scenario.workload.activations)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def weight(self, name: str, used: str, stored: str) -> Placed:
        dtype = self.scenario.workload.weights
        self.weights[name] = self.tensor(stored, dtype)
        return Placed(self.tensor(used, dtype), stored=self.weights[name] if stored != used else None)

    def _heads(self, at: Uses) -> int:
        """Heads computed: padded until the chips that store their weights divide them.

        Where neither the heads left to each of these, nor sequences, nor positions can be split over e, they are padded
        until all chips divide them, as PaLM 540B's are.
        """
        workload, e = self.scenario.workload, self.to.ways(at.d_model)
        heads = padded(self.scenario.model.computed_heads, self.to.ways(at.stored_heads or at.heads))
        if all(size % e for size in (heads // self.to.ways(at.heads), workload.batch, workload.tokens_per_step)):
            heads = padded(heads, self.to.ways(at.heads) * e)
        return heads

    def _width(self, at: Uses) -> int:
        """d_model computed: padded until the chips that split the residual stream, or the weights as stored, divide it.

        A smaller shard would be waited for as long: the largest sets the time.
        """
        width = self.scenario.model.d_model
        ways = lcm(self.to.ways(at.d_model + at.stream), self.to.ways(at.stored_d_model))
        whole = padded(width, ways)
        if whole != width:
            self.note(f"d_model {width} is padded to {whole}, which {ways} chips divide")
        return whole

    def stored_bytes(self) -> float:
        """Bytes of the weights named so far, per chip."""
        return float(sum(tensor.local_bytes for tensor in self.weights.values()))

    @property
    def cache_bytes_per_position(self) -> float:
        """KV cache of one layer, per chip and cached position."""
        return sum(self._cache_bytes.values())

    # --- collectives -------------------------------------------------------------------------------------------------

    def all_gather(self, values: Sequence[tuple[Placed, str]], axes: Axes, name: str) -> tuple[Placed, ...]:
        results = [sharding.all_gather(value.tensor, dim, axes) for value, dim in values]
        size = sum(t.local_bytes for t in results)
        return self._collective("all_gather", axes, size, name, [value for value, _ in values], results)

    def reduce_scatter(self, values: Sequence[tuple[Placed, str]], axes: Axes, name: str) -> tuple[Placed, ...]:
        results = [sharding.reduce_scatter(value.tensor, axes, into) for value, into in values]
        size = sum(value.tensor.local_bytes for value, _ in values)
        return self._collective("reduce_scatter", axes, size, name, [value for value, _ in values], results)

    def all_reduce(self, values: Sequence[Placed], axes: Axes, name: str) -> tuple[Placed, ...]:
        results = [sharding.all_reduce(value.tensor, axes) for value in values]
        return self._collective("all_reduce", axes, sum(t.local_bytes for t in results), name, values, results)

    def all_to_all(self, value: Placed, axes: Axes, split: str, concat: str, name: str) -> Placed:
        result = sharding.all_to_all(value.tensor, axes, split, concat)
        return self._collective("all_to_all", axes, result.local_bytes, name, [value], [result])[0]

    def local_slice(self, value: Placed, dim: str, axes: Axes) -> Placed:
        return Placed(sharding.local_slice(value.tensor, dim, axes), value.after)

    def _collective(
        self, kind: str, axes: Axes, size: float, name: str, inputs: Sequence[Placed], results: Sequence[Sharded]
    ) -> tuple[Placed, ...]:
        done = _tasks(inputs)
        for over, part in self.to.in_turn(kind, axes, size):
            done = self.to.collective(kind, over, part, name, done, results[0].dtype)
        return tuple(Placed(result, done) for result in results)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Placed, weights: Sequence[Placed], name: str) -> tuple[Placed, ...]:
        return self._products(x, weights, name)

    def _products(self, x: Placed, weights: Sequence[Placed], name: str, axes: Axes = ()) -> tuple[Placed, ...]:
        results = [sharding.matmul(x.tensor, weight.tensor) for weight in weights]
        done = self._multiply(name, [(x.tensor, weights)], results, x.after, axes)
        return tuple(Placed(t, done) for t in results)

    def mean_square(self, x: Placed, dim: str, name: str) -> Placed:
        dims = tuple(d for d in x.tensor.dims if d.name != dim)
        result = Sharded(dims, x.tensor.mesh, "f32", x.tensor.dim(dim).axes)
        return self._elementwise(f"{name} mean_square", [x], result)

    def scale(self, x: Placed, mean_square: Placed, gain: Placed, name: str) -> Placed:
        return self._elementwise(f"{name} scale", [x, mean_square, gain], x.tensor)

    def norm(self, x: Placed, plus: Sequence[Placed], gain: Placed, name: str) -> tuple[Placed, Placed]:
        result = sharding.norm(x.tensor, [value.tensor for value in plus], "E")
        if self.topology.chip.fuses_elementwise:
            for value in plus:
                x = self.add(x, value, "residual")
            return x, self.scale(x, self.mean_square(x, "E", name), gain, name)
        written = [result, result] if plus else [result]
        done = self._elementwise(name, [x, *plus, gain], result, written)
        return (done if plus else x), done

    def activate(self, inputs: Sequence[Placed], name: str) -> Placed:
        return self._elementwise(name, inputs, inputs[0].tensor)

    def add(self, x: Placed, y: Placed, name: str) -> Placed:
        return self._elementwise(f"{name} add", [x, y], sharding.add(x.tensor, y.tensor))

    def own_part(self, partial: Placed) -> Placed:
        return Placed(sharding.own_part(partial.tensor), partial.after)

    def share(self, x: Placed, axes: Axes) -> Placed:
        return Placed(sharding.share(x.tensor, axes), x.after)

    def split(self, x: Placed, dim: str, parts: int) -> tuple[Placed, ...]:
        return (Placed(sharding.split(x.tensor, dim, parts), x.after),) * parts

    def join(self, parts: Sequence[Placed], dim: str) -> Placed:
        return Placed(sharding.join(parts[0].tensor, dim, len(parts)), _tasks(parts))

    def to_cache(self, q: Placed, k: Placed, v: Placed, name: str) -> tuple[Placed, Placed, Placed]:
        if self.topology.chip.fuses_elementwise:  # into the matmuls that put them out
            return q, k, v
        tensors = [q.tensor, k.tensor, v.tensor]
        done = self._elementwise(name, [q, k, v], q.tensor, tensors).after
        return Placed(q.tensor, done), Placed(k.tensor, done), Placed(v.tensor, done)

    def attention(self, q: Placed, k: Placed, v: Placed, name: str) -> Placed:
        result = sharding.attention(q.tensor, k.tensor, v.tensor)
        workload, chip = self.scenario.workload, self.topology.chip
        batch, _, heads, _ = k.tensor.local_shape
        per_head = 2 * batch * self._sizes["Q"] * ITEM_BYTES[workload.kv_cache]
        self._cache_bytes[name] = per_head * heads
        work = AttentionWork(
            read=per_head * sharding.key_value_heads_used(q.tensor, k.tensor),
            copied=per_head * q.tensor.local_shape[2] if self.scenario.layout.kv_heads == "expanded" else 0,
            scores=q.tensor.local_elements // self._sizes["Q"],
            d_head=self._sizes["Q"],
            moved=sum(through_memory(t.local_bytes, self.on_chip) for t in (q.tensor, result)),
            masked=(q.tensor.local_shape[1] - 1) / 2 if self._skips_masked else 0.0,
            products=q.tensor.local_elements // (self._sizes["Q"] * q.tensor.local_shape[1]),
            score_bytes=ITEM_BYTES["f32" if chip.fuses_elementwise or chip.attends_in_f32 else workload.activations],
            vector=chip.attends_in_f32,
            on_chip=self.on_chip,
            form="fused" if chip.fuses_attention else "one kernel" if chip.fuses_elementwise else "three kernels",
        )
        if self.attentions.setdefault(name, work) != work:
            raise ValueError(f"'{name}' does different work in different places")
        done = _tasks([q, k, v])
        for suffix, part in work.kernels(workload.mean_cache_length):
            done = self.to.compute(name + suffix, part, done)
        return Placed(result, done)

    @property
    def _skips_masked(self) -> bool:
        """True if attention computes only the scores that the causal mask leaves, as FlashAttention does.

        A query then sees the cache up to its own position: L of them see (L - 1) / 2 positions less than the last, on
        average. Where positions are split over chips, the last ones are on one chip, for which the others wait; this
        assumes that all take as long. Unfused kernels compute the whole rectangle, as a mask over a static cache makes
        any kernel do; an encoder's layers have no causal mask.
        """
        scenario = self.scenario
        causal = scenario.model.causal and scenario.workload.static_cache is None
        return causal and self.topology.chip.fuses_attention

    def embed(self, table: Placed, name: str) -> Placed:
        axes = table.tensor.dim("V").axes
        tokens = self.tensor("B L E")
        return self._elementwise(name, [], Sharded(tokens.dims, tokens.mesh, tokens.dtype, axes))

    def pad(self, values: Sequence[Placed], name: str) -> tuple[Placed, ...]:
        return self._with_rows(values, self._sizes["B"], self._sizes["L"], name)

    def unpad(self, values: Sequence[Placed], name: str) -> tuple[Placed, ...]:
        return self._with_rows(values, 1, self.scenario.packed_rows or 0, name)

    def _with_rows(self, values: Sequence[Placed], batch: int, length: int, name: str) -> tuple[Placed, ...]:
        results = [sharding.rows(value.tensor, batch, length) for value in values]
        done = self._elementwise(name, values, results[0], results).after
        return tuple(Placed(result, done) for result in results)

    def receive(self, notation: str, packed: bool, differs: Axes = ()) -> Placed:
        tensor = replace(self.tensor(notation), differs=differs)
        return Placed(sharding.rows(tensor, 1, self.scenario.packed_rows or 0) if packed else tensor)

    def send(self, x: Placed) -> None:
        self.sent_bytes = float(x.tensor.local_bytes)

    def last_position(self, x: Placed) -> Placed:
        dims = tuple(sharding.Dim("L", 1) if dim.name == "L" else dim for dim in x.tensor.dims)
        return Placed(replace(x.tensor, dims=dims), x.after)

    def sample(self, logits: Placed, name: str) -> Placed:
        sequences, axes = logits.tensor.dim("B"), logits.tensor.dim("V").axes
        for step, read, written in TOP_K if self.scenario.workload.sampling == "top_k" else ():
            size = logits.tensor.local_elements * ITEM_BYTES["f32"]
            done = self.to.compute(f"{name} {step}", Work(0.0, (read + written) * size), logits.after)
            logits = Placed(logits.tensor, done)
        best = self._elementwise(name, [logits], logits.tensor, ())
        pair = ITEM_BYTES["f32"] + ITEM_BYTES["int32"]  # each chip's largest logit and its token
        result = Sharded(logits.tensor.dims[:-1], logits.tensor.mesh, "int32")
        size = sequences.size // self.to.ways(sequences.axes) * pair * self.to.ways(axes)
        (token,) = self._collective("all_gather", axes, size, name, [best], [result])
        return Placed(token.tensor, self.to.end_step("host at the end of a step", token.after))

    def _elementwise(
        self, op: str, inputs: Sequence[Placed], result: Sharded, written: Sequence[Sharded] | None = None
    ) -> Placed:
        """A norm, activation or add, each tensor read or written once: an op only where the compiler does not fuse it,
        or where memory on the chip does not hold the tensors.

        Fused, the compute stream's next operation does it as well, and then waits for all its inputs.
        """
        tasks = _tasks(inputs)
        tensors = [*(value.tensor for value in inputs), *([result] if written is None else written)]
        moved = sum(through_memory(t.local_bytes, self.on_chip) for t in tensors)
        if self.topology.chip.fuses_elementwise and (self.on_chip is None or not moved):
            streams = self.to.streams
            return Placed(result, (*streams.last("compute"), *streams.missing("compute", tasks)))
        return Placed(result, self.to.compute(op, Work(0.0, moved), tasks))

    def _multiply(
        self,
        name: str,
        factors: Sequence[tuple[Sharded, Sequence[Placed]]],
        outputs: Sequence[Sharded],
        inputs: Tasks,
        activations: Axes = (),
    ) -> Tasks:
        """A fused matmul, after or looped with the gathering of its weights.

        Args:
            activations: axes over which its input is gathered or its output scattered.
        """
        chip = self.topology.chip.in_collective_matmuls if self.to.ways(activations) > 1 else None
        used = [(x, [weight.tensor for weight in weights]) for x, weights in factors]
        gathered = [(x, weight.tensor, weight.stored) for x, weights in factors for weight in weights if weight.stored]
        axes = gathered_axes(*gathered[0]) if gathered else ()
        longer = tuple(axis for axis in axes if self.to.ways((axis,)) > 1)
        if not longer:
            return self.to.compute(name, matmul_work(used, outputs, (), self.on_chip), inputs, chip)
        if self.scenario.overlap == "none" or not all(closes(self.topology, axis) for axis in longer):
            used_bytes = sum(weight.local_bytes for _, weight, _ in gathered)
            dtype = self.scenario.workload.weights
            arrived = self.to.buffers.claim(used_bytes)
            for over, size in self.to.in_turn("all_gather", axes, used_bytes):
                arrived = self.to.collective("all_gather", over, size, f"{name} weights", arrived, dtype)
            done = self.to.compute(name, matmul_work(used, outputs, (), self.on_chip), (*inputs, *arrived))
            self.to.buffers.release(done)
            return done
        stored_bytes = sum(stored.local_bytes for _, _, stored in gathered)
        self.to.buffers.claim_shards(stored_bytes, prod(self.to.ways((axis,)) for axis in longer))
        ways = {dim: count for _, weight, stored in gathered for dim, count in gathered_ways(weight, stored).items()}
        pieces = Gathered(used, outputs, ways, self.on_chip).pieces()
        return weight_loop(self.to, name, pieces, stored_bytes, longer, inputs)

    # --- looped collective matmul ------------------------------------------------------------------------------------

    def all_gather_matmul(self, factors: Sequence[tuple[Placed, str, Placed]], axes: Axes, name: str) -> Placed:
        inputs = [value for value, _, _ in factors]
        if self._looped(axes, [weight for _, _, weight in factors]):
            gathered = [
                (sharding.all_gather(value.tensor, dim, axes), dim, weight.tensor) for value, dim, weight in factors
            ]
            product = sum_of_products(name, [(x, weight) for x, _, weight in gathered])
            pieces = gathered_pieces(gathered, product, self._chunks(axes), self.on_chip)
            size = sum(x.local_bytes for x, _, _ in gathered)
            return Placed(product, gathering_loop(self.to, name, pieces, size, axes[0], _tasks(inputs)))
        whole = self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
        placed = [(value.tensor, [weight]) for value, (_, _, weight) in zip(whole, factors, strict=True)]
        product = sum_of_products(name, [(x, weight.tensor) for x, (weight,) in placed])
        return Placed(product, self._multiply(name, placed, [product], _tasks(whole), axes))

    def matmul_reduce_scatter(
        self, x: Placed, weights: Sequence[tuple[Placed, str]], axes: Axes, name: str
    ) -> tuple[Placed, ...]:
        if self._looped(axes, [weight for weight, _ in weights]):
            products = [sharding.matmul(x.tensor, weight.tensor) for weight, _ in weights]
            results = [sharding.reduce_scatter(t, axes, into) for t, (_, into) in zip(products, weights, strict=True)]
            chunks = self._chunks(axes)[::-1]
            pieces = scattered_pieces(x.tensor, [(w.tensor, into) for w, into in weights], chunks, self.on_chip)
            size = sum(tensor.local_bytes for tensor in products)
            done = scattering_loop(self.to, name, pieces, size, axes[0], x.after)
            return tuple(Placed(t, done) for t in results)
        values = self._products(x, [weight for weight, _ in weights], name, axes)
        return self.reduce_scatter(
            [(value, into) for value, (_, into) in zip(values, weights, strict=True)], axes, name
        )

    def all_gather_matmuls(
        self, x: Placed, dim: str, weights: Sequence[Placed], axes: Axes, name: str
    ) -> tuple[Placed, ...]:
        if not self._looped(axes, weights):
            (whole,) = self.all_gather([(x, dim)], axes, name)
            return whole, *self._products(whole, weights, name, axes)
        gathered = sharding.all_gather(x.tensor, dim, axes)
        used = [weight.tensor for weight in weights]
        pieces = gathered_input_pieces(gathered, dim, used, self._chunks(axes), self.on_chip)
        done = gathering_loop(self.to, name, pieces, gathered.local_bytes, axes[0], x.after)
        return tuple(Placed(t, done) for t in (gathered, *(sharding.matmul(gathered, weight) for weight in used)))

    def matmul_sum(self, factors: Sequence[tuple[Placed, str, Placed]], gathered: Axes, to: Sum, name: str) -> Placed:
        stored = any(weight.stored for _, _, weight in factors)
        if self.scenario.overlap == "chunked_matmul" and self.to.ways(to.axes) > 1 and not stored:
            return self._in_pieces(factors, gathered, to, name)
        if gathered or len(to.scattered) != 1:
            return self._summed(self.all_gather_matmul(factors, gathered, name), to)
        ((into, axes),) = to.scattered
        inputs, pairs = [x for x, _, _ in factors], [(x.tensor, weight.tensor) for x, _, weight in factors]
        product = sum_of_products(name, pairs)
        if self._looped(axes, [weight for _, _, weight in factors]):
            pieces = scattered_sum_pieces(pairs, into, self._chunks(axes)[::-1], self.on_chip)
            done = scattering_loop(self.to, name, pieces, product.local_bytes, axes[0], _tasks(inputs))
            out = Placed(sharding.reduce_scatter(product, axes, into), done)
        else:
            placed = [(x.tensor, [weight]) for x, _, weight in factors]
            one = len(axes) == 1
            done = self._multiply(name, placed, [product], _tasks(inputs), axes if one else ())
            (out,) = self.reduce_scatter([(Placed(product, done), into)], axes, name if one else to.name)
        return self.all_reduce([out], to.whole, to.name)[0]

    def _in_pieces(self, factors: Sequence[tuple[Placed, str, Placed]], gathered: Axes, to: Sum, name: str) -> Placed:
        """A matmul in pieces of its columns, each summed over chips while the next is multiplied."""
        whole = self.all_gather([(value, dim) for value, dim, _ in factors], gathered, name)
        weights = [weight for _, _, weight in factors]
        pairs = [(value.tensor, weight.tensor) for value, weight in zip(whole, weights, strict=True)]
        product = sum_of_products(name, pairs)
        shards = self.to.ways(dict(to.scattered).get(product.dims[-1].name, ()))
        done: Tasks = ()
        for work, part in column_pieces(pairs, product, self.scenario.layout.chunks, shards, self.on_chip):
            done = (*done, *self._summed(Placed(part, self.to.compute(name, work, _tasks(whole))), to).after)
        for dim, axes in to.scattered:
            product = sharding.reduce_scatter(product, axes, dim)
        return Placed(sharding.all_reduce(product, to.whole), done)

    def _summed(self, out: Placed, to: Sum) -> Placed:
        for dim, axes in to.scattered:
            (out,) = self.reduce_scatter([(out, dim)], axes, to.name)
        return self.all_reduce([out], to.whole, to.name)[0]

    def _looped(self, axes: Axes, weights: Sequence[Placed]) -> bool:
        """Whether a collective of activations is looped with its matmul: not where the weights are gathered for it."""
        return loops(self.to, axes) and not any(weight.stored for weight in weights)

    def _chunks(self, axes: Axes) -> list[int]:
        return chunks_of_pieces(self.to.ways(axes), loop_form(self.to, axes[0]))

    def matmul_add(self, x: Placed, weight: Placed, plus: Placed | None, name: str) -> Placed:
        if plus is None:
            return self.matmul(x, [weight], name)[0]
        result = sharding.add(sharding.matmul(x.tensor, weight.tensor), plus.tensor)
        work = matmul_work([(x.tensor, [weight.tensor])], [result], [plus.tensor], self.on_chip)
        return Placed(result, self.to.compute(name, work, _tasks([x, plus])))


def _tasks(values: Sequence[Placed]) -> Tasks:
    return tuple(ids for value in values for ids in value.after)
