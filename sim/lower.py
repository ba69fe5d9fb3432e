"""Lowering: a scenario's layout, interpreted as tasks on the machine's compute and link resources.

Program order: a chip runs one operation at a time, the next when the last has ended, as a compiler without
asynchronous collectives does. What overlaps is inside a looped collective matmul (Pope et al. section 3.5): the matmul
is cut into pieces, piece i waits for the arrival of its shard, and the next shard moves under it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import numpy as np

from sim import sharding
from sim.collectives import schedule
from sim.collectives.emit import emit
from sim.collectives.loop import all_gather_loop, reduce_scatter_loop
from sim.collectives.schedule import Schedule
from sim.costs import Work, duration_ps
from sim.errors import LayoutError
from sim.layouts import layout_of
from sim.program import Ids, Kind, Program, ProgramBuilder
from sim.sharding import ITEM_BYTES, Axes, Sharded
from sim.specs import Scenario
from sim.topology.graph import Topology


@dataclass(frozen=True, slots=True)
class Lowered:
    """A scenario as tasks, and what it keeps in memory. The tasks are one forward pass of all simulated layers."""

    program: Program
    weights_bytes: float
    """Per chip, embedding included."""
    kv_cache_bytes: float
    """Per chip, after the last step."""


def lower(scenario: Scenario, topology: Topology) -> Lowered:
    """One forward pass as tasks: a prefill, or the decode step whose cache has its mean length.

    Step time is linear in cache length where nothing changes from memory- to compute-bound, so the mean step is the
    mean of the steps. Layers are identical: two are lowered, and the second is repeated.

    Raises:
        LayoutError: no such layout, or the mesh does not divide a dimension.
    """
    run = layout_of(scenario.layout)
    flow = Lowering(scenario, topology)
    names = "".join(name for name, _ in flow.mesh)
    x = Placed(flow.tensor(f"B L E_{names}"))
    mark = 0
    for layer in range(min(scenario.layers, 2)):
        mark = len(flow.builder)
        flow.builder.layer = layer
        x = run(flow, x, scenario.model, scenario.block, scenario.layout.attention)
    if scenario.layers > 2:
        flow.builder.repeat(mark, len(flow.builder), scenario.layers - 2)
    model, chips = scenario.model, topology.mesh_chips
    embedding = ceil(model.vocabulary * model.d_model / chips) * ITEM_BYTES[scenario.workload.weights]
    return Lowered(
        program=flow.builder.build(),
        weights_bytes=scenario.layers * sum(w.local_bytes for w in flow.weights.values()) + embedding,
        kv_cache_bytes=scenario.layers * flow.cache_bytes_per_position * scenario.workload.final_cache_length,
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor on the machine; program order says when it is there."""

    tensor: Sharded


class Lowering:
    """The dataflow interpreter that emits tasks (see `sim.layouts.dataflow` for what each operation means)."""

    def __init__(self, scenario: Scenario, topology: Topology) -> None:
        self.scenario, self.topology = scenario, topology
        self.mesh = tuple((axis.name, axis.size) for axis in topology.axes)
        compute = [f"{chip}:compute" for chip in range(topology.chips)]
        self.builder = ProgramBuilder([*compute, *(link.name for link in topology.links)])
        self.weights: dict[str, Sharded] = {}
        self.cache_bytes_per_position = 0.0
        """KV cache of one layer, per chip and cached position."""
        self._chips = np.arange(topology.chips, dtype=np.int32)
        self._previous: tuple[Ids, ...] = ()
        """Tasks that end each chip's last operation, [chips] each."""
        model, workload = scenario.model, scenario.workload
        self._sizes = {
            "B": workload.batch,
            "L": workload.tokens_per_step,
            "E": model.d_model,
            "F": model.d_ff,
            "H": model.computed_heads,
            "K": model.kv_heads,
            "Q": model.d_head,
        }

    def tensor(self, notation: str, dtype: str | None = None) -> Sharded:
        """An activation (or other `dtype`) of the scenario's sizes, sharded as the notation says."""
        return sharding.sharded(notation, self._sizes, self.mesh, dtype or self.scenario.workload.activations)

    def weight(self, name: str, notation: str) -> Placed:
        tensor = self.tensor(notation, self.scenario.workload.weights)
        self.weights[name] = tensor
        return Placed(tensor)

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
            op = f"{kind}({''.join(axes)}) {name}"
            self._previous = (emit(self.builder, self.topology, plan, size, op, self._previous).end,)

    def _ways(self, axes: Axes) -> int:
        return prod(length for axis, length in self.mesh if axis in axes)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Placed, weights: Sequence[Placed], name: str) -> tuple[Placed, ...]:
        results = [sharding.matmul(x.tensor, weight.tensor) for weight in weights]
        self._compute(name, _matmul_work([x.tensor], [(x.tensor, w.tensor) for w in weights], results))
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
        workload = self.scenario.workload
        positions = k.tensor.dim("L").size
        cached = 2 * (k.tensor.local_elements // positions) * ITEM_BYTES[workload.kv_cache]
        self.cache_bytes_per_position = cached
        flops = 2 * 2 * q.tensor.local_elements * workload.mean_cache_length  # scores, then values
        moved = cached * workload.mean_cache_length + q.tensor.local_bytes + result.local_bytes
        self._compute(name, Work(flops, moved))
        return Placed(result)

    def _elementwise(self, op: str, tensors: Sequence[Sharded]) -> None:
        """Reads and writes of a norm, activation or add: an op of its own only where the compiler does not fuse it."""
        if not self.topology.chip.fuses_elementwise:
            self._compute(op, Work(0.0, sum(t.local_bytes for t in tensors)))

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
        gathered = [sharding.all_gather(value.tensor, dim, axes) for value, dim, _ in factors]
        products = [
            sharding.matmul(tensor, weight.tensor) for tensor, (_, _, weight) in zip(gathered, factors, strict=True)
        ]
        if any(product != products[0] for product in products):
            raise LayoutError(f"{name}: products to be added must be sharded alike: {', '.join(map(str, products))}")
        pairs = [(tensor, weight.tensor) for tensor, (_, _, weight) in zip(gathered, factors, strict=True)]
        work = _matmul_work(gathered, pairs, products[:1])
        if not self._loops(axes):
            self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
            self._compute(name, work)
            return Placed(products[0])

        form = self._loop_form()
        plan = all_gather_loop(self.topology, axes[0], form)
        op = f"all_gather({axes[0]}) {name}"
        size = sum(tensor.local_bytes for tensor in gathered)
        sent = emit(self.builder, self.topology, plan, size, op, self._previous)
        needed_by = piece_of_arrival(plan, form, self._ways(axes))
        for piece, share in enumerate(loop_shares(self._ways(axes), form)):
            arrivals = [
                _per_chip(plan, sent.sends, mask, len(self._chips)) for mask in _lanes(plan, needed_by == piece)
            ]
            self._compute(name, work, (*self._previous, *arrivals), share)
        return Placed(products[0])

    def matmul_reduce_scatter(
        self, x: Placed, weights: Sequence[tuple[Placed, str]], axes: Axes, name: str
    ) -> tuple[Placed, ...]:
        products = [sharding.matmul(x.tensor, weight.tensor) for weight, _ in weights]
        if not self._loops(axes):
            values = self.matmul(x, [weight for weight, _ in weights], name)
            return self.reduce_scatter(
                [(value, into) for value, (_, into) in zip(values, weights, strict=True)], axes, name
            )
        results = [sharding.reduce_scatter(t, axes, into) for t, (_, into) in zip(products, weights, strict=True)]
        work = _matmul_work([x.tensor], [(x.tensor, weight.tensor) for weight, _ in weights], products)
        form = self._loop_form()
        plan = reduce_scatter_loop(self.topology, axes[0], form)
        shares = loop_shares(self._ways(axes), form)
        pieces = np.stack([self._compute(name, work, share=share) for share in reversed(shares)])
        op = f"reduce_scatter({axes[0]}) {name}"
        size = sum(tensor.local_bytes for tensor in products)
        # A chip enters once it has something to send; the send of step i carries what piece i computed.
        sent = emit(self.builder, self.topology, plan, size, op, [pieces[0]], needs=pieces[plan.step, plan.src])
        self._previous = (pieces[-1], sent.end)
        return tuple(Placed(t) for t in results)

    def _loops(self, axes: Axes) -> bool:
        return self.scenario.layout.overlap == "collective_matmul" and len(axes) == 1 and self._ways(axes) > 1

    def _loop_form(self) -> str:
        """The released code uses the latency form to decode and the throughput form to prefill (Pope et al. 3.5)."""
        default = "bidirectional_latency" if self.scenario.workload.phase == "decode" else "bidirectional_throughput"
        return self.scenario.collectives.get("collective_matmul", default)


def loop_shares(length: int, form: str) -> list[float]:
    """Share of the matmul in each piece of an all-gather loop over a ring of `length` chips; reduce-scatter reversed.

    One chunk a piece, or two in the latency form; on an odd ring that leaves one, the chip's own.
    """
    if form != "bidirectional_latency":
        return [1 / length] * length
    return [1 / length] * (length % 2) + [2 / length] * (length // 2)


def piece_of_arrival(plan: Schedule, form: str, length: int) -> Ids:
    """[sends] which piece of an all-gather loop needs each arrival: the one after the hop that brought it.

    The latency form multiplies two chunks a piece. On an even ring its first piece takes the own chunk and the first
    from behind, so the arrivals of the + direction are needed one piece earlier.
    """
    early = (plan.direction > 0) & (form == "bidirectional_latency" and length % 2 == 0)
    return (plan.step + 1 - early).astype(np.int32)


def _lanes(plan: Schedule, mask: np.ndarray) -> list[np.ndarray]:
    """The masked sends split by direction, so that each chip receives at most one in each."""
    return [lane for direction in (1, -1) if (lane := mask & (plan.direction == direction)).any()]


def _per_chip(plan: Schedule, sends: Ids, mask: np.ndarray, chips: int) -> Ids:
    """[chips] the masked send that arrives at each chip, -1 for none."""
    result = np.full(chips, -1, dtype=np.int32)
    result[plan.dst[mask]] = sends[mask]
    return result


def _matmul_work(
    inputs: Sequence[Sharded], pairs: Sequence[tuple[Sharded, Sharded]], outputs: Sequence[Sharded]
) -> Work:
    """A fused matmul: each input, weight and output crosses HBM once."""
    flops = sum(sharding.matmul_flops(x, weight) for x, weight in pairs)
    moved = [*inputs, *(weight for _, weight in pairs), *outputs]
    return Work(float(flops), float(sum(tensor.local_bytes for tensor in moved)))
