"""The dataflow interpreter that emits tasks on the machine's compute and link resources.

Program order: a chip runs one operation at a time, the next when the last has ended, as a compiler without
asynchronous collectives does. What overlaps is inside a looped collective matmul (Pope et al. section 3.5): the matmul
is cut into pieces, piece i waits for the arrival of its shard, and the next shard moves under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from sim import sharding, units
from sim.collectives import schedule
from sim.collectives.emit import emit
from sim.collectives.loop import LoopForm, all_gather_loop, reduce_scatter_loop
from sim.collectives.schedule import Schedule
from sim.costs import Work, duration_ps
from sim.errors import LayoutError
from sim.looped import gathered_axes, loop_shares, piece_of_arrival, shift_after
from sim.partition import Axes, Partition
from sim.program import Ids, Kind, ProgramBuilder
from sim.sharding import ITEM_BYTES, Sharded
from sim.specs import Scenario
from sim.topology.graph import Topology


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor on the machine; program order says when it is there."""

    tensor: Sharded
    stored: Sharded | None = None
    """A weight's sharding in memory, where it is gathered for use."""


class Lowering:
    """See `sim.layouts.dataflow` for what each operation means. Collects the tasks and what is kept in memory."""

    def __init__(self, scenario: Scenario, topology: Topology, at: Partition) -> None:
        self.scenario, self.topology = scenario, topology
        self.mesh = tuple((axis.name, axis.size) for axis in topology.axes)
        compute = [f"{chip}:compute" for chip in range(topology.chips)]
        self.builder = ProgramBuilder([*compute, *(link.name for link in topology.links)])
        self.weights: dict[str, Sharded] = {}
        """Weights as stored, by name."""
        self.cache_bytes_per_position = 0.0
        """KV cache of one layer, per chip and cached position."""
        self.gather_buffer_bytes = 0.0
        """Most bytes of gathered weights that a chip holds at once."""
        self.notes: list[str] = []
        self._chips = np.arange(topology.chips, dtype=np.int32)
        self._previous: tuple[Ids, ...] = ()
        """Tasks that end each chip's last operation, [chips] each."""
        model, workload = scenario.model, scenario.workload
        heads = self._heads(at)
        self._sizes = {
            "B": workload.batch,
            "L": workload.tokens_per_step,
            "E": model.d_model,
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
        return Placed(self.tensor(used, dtype), self.weights[name] if stored != used else None)

    def _heads(self, at: Partition) -> int:
        """Heads computed: padded until the chips that store their weights divide them.

        Where neither the heads left to each of these, nor sequences, nor positions can be split over e, they are padded
        until all chips divide them, as PaLM 540B's are.
        """
        workload, e = self.scenario.workload, self._ways(at.e)
        heads = padded(self.scenario.model.computed_heads, self._ways(at.stored_f or at.f))
        if all(size % e for size in (heads // self._ways(at.f), workload.batch, workload.tokens_per_step)):
            heads = padded(heads, self._ways(at.f) * e)
        return heads

    def stored_bytes(self) -> float:
        """Bytes of the weights named so far, per chip."""
        return float(sum(tensor.local_bytes for tensor in self.weights.values()))

    def repeat(self, start: int, count: int) -> None:
        """Append `count` copies of the tasks from `start` on, one after the other."""
        shift = self.builder.repeat(start, len(self.builder), count)
        self._previous = tuple(ids + shift for ids in self._previous)

    # --- collectives -------------------------------------------------------------------------------------------------

    def all_gather(self, values: Sequence[tuple[Placed, str]], axes: Axes, name: str) -> tuple[Placed, ...]:
        results = [sharding.all_gather(value.tensor, dim, axes) for value, dim in values]
        self._collective("all_gather", axes, sum(t.local_bytes for t in results), name)
        return tuple(Placed(t) for t in results)

    def reduce_scatter(self, values: Sequence[tuple[Placed, str]], axes: Axes, name: str) -> tuple[Placed, ...]:
        results = [sharding.reduce_scatter(value.tensor, axes, into) for value, into in values]
        self._collective("reduce_scatter", axes, sum(value.tensor.local_bytes for value, _ in values), name)
        return tuple(Placed(t) for t in results)

    def all_reduce(self, values: Sequence[Placed], axes: Axes, name: str) -> tuple[Placed, ...]:
        results = [sharding.all_reduce(value.tensor, axes) for value in values]
        self._collective("all_reduce", axes, sum(t.local_bytes for t in results), name)
        return tuple(Placed(t) for t in results)

    def all_to_all(self, value: Placed, axes: Axes, split: str, concat: str, name: str) -> Placed:
        result = sharding.all_to_all(value.tensor, axes, split, concat)
        self._collective("all_to_all", axes, result.local_bytes, name)
        return Placed(result)

    def local_slice(self, value: Placed, dim: str, axes: Axes) -> Placed:
        return Placed(sharding.local_slice(value.tensor, dim, axes))

    def _collective(self, kind: str, axes: Axes, size: float, name: str) -> None:
        if self._ways(axes) > 1:
            plan = schedule(self.topology, kind, axes, self.scenario.collectives.get(kind))
            op = self._label(kind, axes, name)
            self._previous = (emit(self.builder, self.topology, plan, size, op, self._previous).end,)

    def _label(self, kind: str, axes: Axes, name: str) -> str:
        return f"{kind}({''.join(axis for axis, _ in self.mesh if axis in axes)}) {name}"

    def _ways(self, axes: Axes) -> int:
        return prod(length for axis, length in self.mesh if axis in axes)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Placed, weights: Sequence[Placed], name: str) -> tuple[Placed, ...]:
        results = [sharding.matmul(x.tensor, weight.tensor) for weight in weights]
        self._multiply(name, [(x.tensor, weight) for weight in weights], results)
        return tuple(Placed(t) for t in results)

    def mean_square(self, x: Placed, dim: str, name: str) -> Placed:
        dims = tuple(d for d in x.tensor.dims if d.name != dim)
        result = Sharded(dims, x.tensor.mesh, "f32", x.tensor.dim(dim).axes)
        self._elementwise(f"{name} mean_square", [x.tensor, result])
        return Placed(result)

    def scale(self, x: Placed, mean_square: Placed, gain: Placed, name: str) -> Placed:
        self._elementwise(f"{name} scale", [x.tensor, mean_square.tensor, gain.tensor, x.tensor])
        return Placed(x.tensor)

    def activate(self, inputs: Sequence[Placed], name: str) -> Placed:
        self._elementwise(name, [*(value.tensor for value in inputs), inputs[0].tensor])
        return Placed(inputs[0].tensor)

    def add(self, x: Placed, y: Placed, name: str) -> Placed:
        if x.tensor != y.tensor:
            raise LayoutError(f"add of {x.tensor} and {y.tensor}: both must be sharded alike")
        self._elementwise(f"{name} add", [x.tensor, y.tensor, x.tensor])
        return Placed(x.tensor)

    def attention(self, q: Placed, k: Placed, v: Placed, name: str) -> Placed:
        result = sharding.attention(q.tensor, k.tensor, v.tensor)
        workload, chip = self.scenario.workload, self.topology.chip
        batch, _, heads, _ = k.tensor.local_shape
        per_head = 2 * batch * self._sizes["Q"] * ITEM_BYTES[workload.kv_cache]
        self.cache_bytes_per_position = per_head * heads
        read = per_head * sharding.key_value_heads_used(q.tensor, k.tensor) * workload.mean_cache_length
        scores = q.tensor.local_elements // self._sizes["Q"] * workload.mean_cache_length
        moved = read + q.tensor.local_bytes + result.local_bytes
        if not chip.fuses_attention:
            moved += 2 * scores * ITEM_BYTES["f32"]  # scores written, and read again for the values
        self._compute(name, Work(2 * 2 * scores * self._sizes["Q"], moved))
        return Placed(result)

    def embed(self, table: Placed, name: str) -> Placed:
        axes = table.tensor.dim("V").axes
        tokens = self.tensor("B L E")
        self._elementwise(name, [tokens])
        return Placed(Sharded(tokens.dims, tokens.mesh, tokens.dtype, axes))

    def last_position(self, x: Placed) -> Placed:
        dims = tuple(sharding.Dim("L", 1) if dim.name == "L" else dim for dim in x.tensor.dims)
        return Placed(Sharded(dims, x.tensor.mesh, x.tensor.dtype))

    def sample(self, logits: Placed, name: str) -> Placed:
        batch, axes = logits.tensor.dim("B").size, logits.tensor.dim("V").axes
        self._elementwise(name, [logits.tensor])
        pair = ITEM_BYTES["f32"] + ITEM_BYTES["int32"]  # each chip's largest logit and its token
        self._collective("all_gather", axes, batch * pair * self._ways(axes), name)
        return Placed(Sharded(logits.tensor.dims[:-1], logits.tensor.mesh, "int32"))

    def _elementwise(self, op: str, tensors: Sequence[Sharded]) -> None:
        """Reads and writes of a norm, activation or add: an op of its own only where the compiler does not fuse it."""
        if not self.topology.chip.fuses_elementwise:
            self._compute(op, Work(0.0, sum(t.local_bytes for t in tensors)))

    def _multiply(self, name: str, pairs: Sequence[tuple[Sharded, Placed]], outputs: Sequence[Sharded]) -> None:
        """A fused matmul, after or looped with the gathering of its weights."""
        work = _matmul_work([(x, weight.tensor) for x, weight in pairs], outputs)
        gathered = [(x, weight.tensor, weight.stored) for x, weight in pairs if weight.stored]
        if not gathered:
            self._compute(name, work)
            return
        axes = gathered_axes(*gathered[0])
        stored_bytes = sum(stored.local_bytes for _, _, stored in gathered)
        used_bytes = sum(used.local_bytes for _, used, _ in gathered)
        longer = tuple(axis for axis in axes if self._ways((axis,)) > 1)
        if self.scenario.layout.overlap == "none" or not all(self.topology.axis(axis).ring for axis in longer):
            self.gather_buffer_bytes = max(self.gather_buffer_bytes, used_bytes)
            self._collective("all_gather", axes, used_bytes, f"{name} weights")
            self._compute(name, work)
        else:
            self.gather_buffer_bytes = max(self.gather_buffer_bytes, 2 * stored_bytes)
            self._weight_loop(name, work, stored_bytes, longer)

    def _compute(self, op: str, work: Work, after: Sequence[Ids] | None = None, share: float = 1.0) -> Ids:
        """One launch on every chip, of a share of the work; the chip's next operation waits for it."""
        duration = duration_ps(self.topology.chip, work, self.scenario.workload.activations, share)
        ids = self.builder.add(
            op,
            Kind.COMPUTE,
            self._chips,
            busy_ps=duration,
            resource=self._chips,
            deps=self._previous if after is None else after,
            bytes=work.bytes * share,
            flops=work.flops * share,
        )
        self._previous = (ids,)
        return ids

    # --- looped collective matmul ------------------------------------------------------------------------------------

    def all_gather_matmul(self, factors: Sequence[tuple[Placed, str, Placed]], axes: Axes, name: str) -> Placed:
        if self._loops(axes):
            return self._gathering_loop(factors, axes[0], name)
        gathered = self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
        pairs = [(value.tensor, weight) for value, (_, _, weight) in zip(gathered, factors, strict=True)]
        product = _sum_of_products(name, [(x, weight.tensor) for x, weight in pairs])
        self._multiply(name, pairs, [product])
        return Placed(product)

    def _gathering_loop(self, factors: Sequence[tuple[Placed, str, Placed]], axis: str, name: str) -> Placed:
        gathered = [sharding.all_gather(value.tensor, dim, (axis,)) for value, dim, _ in factors]
        pairs = [(tensor, weight.tensor) for tensor, (_, _, weight) in zip(gathered, factors, strict=True)]
        product = _sum_of_products(name, pairs)
        work = _matmul_work(pairs, [product])
        form, length = self._loop_form(), self._ways((axis,))
        plan = all_gather_loop(self.topology, axis, form)
        size = sum(tensor.local_bytes for tensor in gathered)
        sent = emit(
            self.builder, self.topology, plan, size, self._label("all_gather", (axis,), name), self._previous
        ).sends
        needed_by = piece_of_arrival(plan, form, length)
        for piece, share in enumerate(loop_shares(length, form)):
            lanes = [(needed_by == piece) & (plan.direction == direction) for direction in (1, -1)]
            arrivals = [self._per_chip(plan, sent, lane) for lane in lanes if lane.any()]
            self._compute(name, work, (*self._previous, *arrivals), share)
        return Placed(product)

    def matmul_reduce_scatter(
        self, x: Placed, weights: Sequence[tuple[Placed, str]], axes: Axes, name: str
    ) -> tuple[Placed, ...]:
        if self._loops(axes):
            return self._scattering_loop(x, weights, axes[0], name)
        values = self.matmul(x, [weight for weight, _ in weights], name)
        return self.reduce_scatter(
            [(value, into) for value, (_, into) in zip(values, weights, strict=True)], axes, name
        )

    def _scattering_loop(
        self, x: Placed, weights: Sequence[tuple[Placed, str]], axis: str, name: str
    ) -> tuple[Placed, ...]:
        pairs = [(x.tensor, weight.tensor) for weight, _ in weights]
        products = [sharding.matmul(*pair) for pair in pairs]
        results = [sharding.reduce_scatter(t, (axis,), into) for t, (_, into) in zip(products, weights, strict=True)]
        work = _matmul_work(pairs, products)
        form = self._loop_form()
        plan = reduce_scatter_loop(self.topology, axis, form)
        shares = reversed(loop_shares(self._ways((axis,)), form))
        pieces = np.stack([self._compute(name, work, share=share) for share in shares])
        size = sum(tensor.local_bytes for tensor in products)
        op = self._label("reduce_scatter", (axis,), name)
        # A chip enters once it has something to send; the send of step i carries what piece i computed.
        sent = emit(self.builder, self.topology, plan, size, op, [pieces[0]], needs=pieces[plan.step, plan.src])
        self._previous = (pieces[-1], sent.end)
        return tuple(Placed(t) for t in results)

    def _weight_loop(self, name: str, work: Work, size: float, axes: Axes) -> None:
        """Pieces that each multiply with one shard of `size` bytes, while it moves on to the next chip of a ring.

        Loops are nested, the first axis innermost. Only the innermost shift runs under a piece: an outer one is between
        two runs of the loop inside it, and a compiler that runs collectives in program order waits for it.
        """
        lengths = [self._ways((axis,)) for axis in axes]
        count = prod(lengths)
        op = self._label("all_gather", axes, f"{name} weights")
        overhead = units.to_ps(self.topology.collective_overhead_s)
        instance = self.builder.new_collective()
        begin = self.builder.add(
            op, Kind.BEGIN, self._chips, flight_ps=overhead, deps=self._previous, collective=instance
        )
        here: tuple[Ids, ...] = ()  # arrivals of the shards in hand
        for piece in range(count):
            before = self._previous
            self._compute(name, work, (*before, *here), 1 / count)
            along = shift_after(piece, lengths)
            if along is None:
                break
            waits = (begin, *(before if along == 0 else self._previous), *here)
            here = (self._shift(op, axes[along], size, waits, instance),)
        end = self.builder.add(op, Kind.END, self._chips, deps=(begin, *here), collective=instance)
        self._previous = (*self._previous, end)

    def _shift(self, op: str, axis: str, size: float, after: Sequence[Ids], instance: int) -> Ids:
        """Every chip sends `size` bytes one hop on; [chips] tasks that bring each chip its arrival."""
        plan = schedule(self.topology, "permute", (axis,))
        links = [self.topology.links[link] for link in plan.link.tolist()]
        sends = self.builder.add(
            op,
            Kind.SEND,
            plan.src,
            peer=plan.dst,
            busy_ps=[link.busy_ps(size) for link in links],
            flight_ps=[link.latency_ps for link in links],
            resource=self.topology.chips + plan.link,
            deps=[ids[plan.src] for ids in after],
            bytes=size,
            collective=instance,
        )
        return self._per_chip(plan, sends, np.ones(len(plan), dtype=np.bool_))

    def _per_chip(self, plan: Schedule, sends: Ids, mask: np.ndarray) -> Ids:
        """[chips] the masked send that arrives at each chip, -1 for none."""
        result = np.full(len(self._chips), -1, dtype=np.int32)
        result[plan.dst[mask]] = sends[mask]
        return result

    def _loops(self, axes: Axes) -> bool:
        """Whether a collective over `axes` is looped with its matmul: around one ring; a line has none to go around."""
        looped = self.scenario.layout.overlap == "collective_matmul" and len(axes) == 1 and self._ways(axes) > 1
        return looped and self.topology.axis(axes[0]).ring

    def _loop_form(self) -> LoopForm:
        """The released code uses the latency form to decode and the throughput form to prefill (Pope et al. 3.5)."""
        default = "bidirectional_latency" if self.scenario.workload.phase == "decode" else "bidirectional_throughput"
        form: LoopForm = self.scenario.collectives.get("collective_matmul", default)  # type: ignore[assignment]
        return form


def padded(size: int, ways: int) -> int:
    """The next size that `ways` divides."""
    return ceil(size / ways) * ways


def _sum_of_products(name: str, pairs: Sequence[tuple[Sharded, Sharded]]) -> Sharded:
    products = [sharding.matmul(x, weight) for x, weight in pairs]
    if any(product != products[0] for product in products):
        raise LayoutError(f"{name}: products to be added must be sharded alike: {', '.join(map(str, products))}")
    return products[0]


def _matmul_work(pairs: Sequence[tuple[Sharded, Sharded]], outputs: Sequence[Sharded]) -> Work:
    """A fused matmul: each input, weight and output crosses HBM once."""
    flops = sum(sharding.matmul_flops(x, weight) for x, weight in pairs)
    inputs = {id(x): x for x, _ in pairs}.values()
    moved = [*inputs, *(weight for _, weight in pairs), *outputs]
    return Work(float(flops), float(sum(tensor.local_bytes for tensor in moved)))
