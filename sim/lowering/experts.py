"""Lowering of a mixture of experts: exchange of tokens between chips, grouped matmuls of each expert's rows."""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np

from sim.collectives.exchange import ExchangeSpec, exchange
from sim.collectives.schedule import Timing
from sim.layouts import sharding
from sim.layouts.dataflow import Exchange
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.costs import Work
from sim.lowering.emitter import Emitter, Value
from sim.lowering.routing import Routing, Split, route
from sim.lowering.streams import Tasks
from sim.lowering.work import GroupedMatmul, MatmulKernels, through_memory
from sim.program import ExpertRows
from sim.specs import MEDIA, Scenario
from sim.specs.experts import Kernel, Scheme
from sim.specs.uses import Axes
from sim.topology.boxes import boxes
from sim.topology.folding import NotFoldableError
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_groups, mesh_positions

Way = Literal["dispatch", "combine"]


class ExpertLowering:
    """Exchanges tokens and multiplies the rows that chips then have."""

    def __init__(self, scenario: Scenario, topology: Topology, emitter: Emitter, kernels: MatmulKernels) -> None:
        self.scenario, self.topology, self.emitter, self.kernels = scenario, topology, emitter, kernels
        self.notes: list[str] = []
        self.routings: dict[tuple[sharding.Dim, ...], Routing] = {}
        """Routing by the dimensions X and T of the rows."""
        self.expert_rows: ExpertRows | None = None
        """Rows of the layer that was lowered last."""
        self._experts: dict[tuple[sharding.Dim, ...], Axes] = {}

    @property
    def kernel(self) -> Kernel:
        """Kernels of dispatch and combine."""
        return self.scenario.layout.experts.kernel or (
            "low_latency" if self.scenario.workload.phase == "decode" else "normal"
        )

    # --- the exchange ------------------------------------------------------------------------------------------------

    def dispatch(self, y: Value, inputs: Tasks, between: Exchange, name: str) -> Value:
        """Appends the rows' way to their experts."""
        experts = sharding.Dim("X", self._model.count, between.experts)
        tensor = sharding.dispatch(y.tensor, experts, between.tokens)
        key = tensor.dims[:2]
        self.routings[key] = self._route(y.tensor, between)
        self._experts[key] = between.experts
        self.expert_rows = self._expert_rows(self.routings[key], y.tensor, between)
        self._refuse_folding(self.routings[key])
        if self.emitter.group_size(between.tokens) == 1:
            return Value(tensor, self._copy(f"{name} permute", y.tensor, key, inputs))
        return Value(tensor, self._send("dispatch", y.tensor, key, between, name, inputs))

    def combine(self, rows: Value, like: Value, between: Exchange, name: str) -> Value:
        """Appends the way back of the experts' outputs, which are added up by the tokens' shares."""
        tensor = sharding.combine(rows.tensor, like.tensor, between.tokens)
        key = rows.tensor.dims[:2]
        if self.emitter.group_size(between.tokens) == 1:
            return Value(tensor, self._copy(f"{name} unpermute", like.tensor, key, rows.after))
        return Value(tensor, self._send("combine", like.tensor, key, between, name, rows.after))

    def _send(
        self,
        way: Way,
        tokens: Sharded,
        key: tuple[sharding.Dim, ...],
        between: Exchange,
        name: str,
        inputs: Tasks,
    ) -> Tasks:
        row_bytes, dtype, axes = self._row_bytes(tokens, way), self._format(tokens, way), between.tokens
        routing, scheme = self.routings[key], self._scheme(axes)
        spec = self._exchange(routing, scheme, between, way)
        size = spec.mean_rows * row_bytes
        if scheme == "all_gather":
            kind = "all_gather" if way == "dispatch" else "reduce_scatter"
            size = float(self._local_tokens(tokens) * self.emitter.group_size(axes) * row_bytes)
        elif routing.even and self.topology.has_lines:
            kind = "all_to_all"
        else:
            return self.emitter.run(exchange(self.topology, axes, spec, way), axes, size, name, inputs, dtype)
        for over, part in self.emitter.in_turn(kind, axes, size):
            inputs = self.emitter.collective(kind, over, part, f"{way} {name}", inputs, dtype)
        return inputs

    def _scheme(self, axes: Axes) -> Scheme:
        """Returns which messages a token makes."""
        given = self.scenario.layout.experts.dispatch
        kernel = self.scenario.stack.exchange.get(self.kernel)
        if given or (kernel and kernel.scheme):
            return given or kernel.scheme  # type: ignore[union-attr,return-value]
        if self.kernel == "low_latency":
            return "per_expert"
        crosses = not self.topology.has_lines and len(boxes(self.topology.unfold())) > 1
        return "per_box" if crosses and self.kernel == "normal" else "per_rank"

    @staticmethod
    def _matrix(routing: Routing, scheme: Scheme) -> np.ndarray:
        return routing.pairs if scheme == "per_expert" else routing.tokens

    def _timing(self, way: Way) -> Timing | None:
        """Returns the times of the stack's kernels."""
        kernel = self.scenario.stack.exchange.get(self.kernel)
        if kernel is None:
            return None
        times = (kernel.dispatch if way == "dispatch" else kernel.combine).value
        shares = tuple(times.share.get(medium, 1.0) for medium in MEDIA)
        return Timing(times.overhead, (0.0,) * len(MEDIA), shares, times.multiprocessors, times.least)

    def _exchange(self, routing: Routing, scheme: Scheme, between: Exchange, way: Way) -> ExchangeSpec:
        """Returns the rows of every group of chips that exchange tokens."""
        machine = self.topology.unfold()
        groups = mesh_groups(machine, between.tokens)
        holder = self._block(between.experts)
        matrix, boxed = self._matrix(routing, scheme), routing.boxed if scheme == "per_box" else None
        shared: dict[bytes, np.ndarray] = {}
        rows = []
        for members in groups:
            held = holder[members]
            rows.append(shared.setdefault(held.tobytes(), matrix[:, held]))
        return ExchangeSpec(tuple(rows), (boxed,) * len(groups), self._timing(way))

    def _expert_rows(self, routing: Routing, tokens: Sharded, between: Exchange) -> ExpertRows:
        """Returns the rows of a layer as reports and figures read them."""
        scheme, local = self._scheme(between.tokens), self._local_tokens(tokens)
        sent = self._matrix(routing, scheme)
        return ExpertRows(
            sent=np.full_like(sent, local) if scheme == "all_gather" else sent,
            held=routing.rows,
            hit=routing.hit,
            holder=self._block(between.experts),
            groups=mesh_groups(self.topology.unfold(), between.tokens).astype(np.int64),
            row_bytes={way: self._row_bytes(tokens, way) for way in ("dispatch", "combine")},
            tokens=local * len(sent),
            even=routing.even,
        )

    def _row_bytes(self, tokens: Sharded, way: Way) -> int:
        """Returns the bytes of a token as it is sent."""
        return ceil(tokens.dim("E").size * ITEM_BYTES[self._format(tokens, way)])

    def _format(self, tokens: Sharded, way: Way) -> str:
        """Returns the number format in which tokens are sent."""
        work = self.scenario.workload
        return (work.dispatch if way == "dispatch" else work.combine) or tokens.dtype

    def _route(self, tokens: Sharded, between: Exchange) -> Routing:
        """Returns the rows that a layer's tokens make."""
        sources = self.emitter.group_size(between.tokens)
        holders = self.emitter.group_size(between.experts)
        split = Split(sources, holders, self._local_tokens(tokens), self._boxes(between))
        return route(self._model, self.scenario.workload.routing, self.scenario.layout.experts, split)

    def _boxes(self, between: Exchange) -> tuple[int, ...] | None:
        """Returns [holders] the box of each chip of the first group; None in one box."""
        machine = self.topology.unfold()
        if machine.has_lines or between.tokens != between.experts:
            return None
        box_of = {chip: box for box, chips in enumerate(boxes(machine)) for chip in chips}
        members = mesh_groups(machine, between.tokens)[0]
        order = members[np.argsort(self._block(between.experts)[members])]
        numbers: dict[int, int] = {}
        result = tuple(numbers.setdefault(box_of[chip], len(numbers)) for chip in order.tolist())
        return result if len(numbers) > 1 else None

    def _block(self, axes: Axes) -> np.ndarray:
        """Returns [chips of the machine] the number of each chip along some axes."""
        machine = self.topology.unfold()
        lengths = dict(self.emitter.mesh)
        at = mesh_positions(machine, axes)
        block = np.zeros(machine.chips, dtype=np.int64)
        for column, axis in enumerate(axes):
            block = block * lengths[axis] + at[:, column]
        return block

    def _refuse_folding(self, routing: Routing) -> None:
        if self.topology.is_folded and not routing.even:
            raise NotFoldableError("chips have experts with different loads")

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, rows: Value, weights: list[Value], name: str) -> tuple[Value, ...]:
        """Appends one launch of a matmul of each expert's rows with each weight."""
        results = tuple(sharding.matmul(rows.tensor, weight.tensor, "X") for weight in weights)
        matmul = self._matmul(rows.tensor, weights, results)
        works = [matmul.work(held, hit) for held, hit in self._rows(rows.tensor.dims[:2])]
        done = self.emitter.compute(name, works[0] if len(set(works)) == 1 else works, rows.after)
        return tuple(Value(result, done) for result in results)

    def activate(self, inputs: list[Value], name: str) -> Tasks:
        """Appends the activation of the rows' hidden values."""
        size = ITEM_BYTES[inputs[0].tensor.dtype] * inputs[0].tensor.local_shape[-1] * (len(inputs) + 1)
        works = [self._elementwise(sum(held) * size) for held, _ in self._rows(inputs[0].tensor.dims[:2])]
        return self.emitter.compute(
            name, works[0] if len(set(works)) == 1 else works, tuple(ids for value in inputs for ids in value.after)
        )

    def _copy(self, name: str, tokens: Sharded, key: tuple[sharding.Dim, ...], inputs: Tasks) -> Tasks:
        """Appends a copy between a chip's tokens and the rows of its experts."""
        width = tokens.dim("E").size * ITEM_BYTES[tokens.dtype]
        works = [self._elementwise(tokens.local_bytes + sum(held) * width) for held, _ in self._rows(key)]
        return self.emitter.compute(name, works[0] if len(set(works)) == 1 else works, inputs)

    def _elementwise(self, moved: float) -> Work:
        return Work(0.0, through_memory(moved, self.kernels.on_chip))

    def _rows(self, key: tuple[sharding.Dim, ...]) -> list[tuple[tuple[float, ...], float]]:
        """Returns [chips] the rows of each of a chip's experts, and how many experts have any."""
        routing = self.routings[key]
        holder = self._block(self._experts[key])[self.topology.chip_numbers]
        return [(tuple(routing.rows[each].tolist()), float(routing.hit[each])) for each in holder.tolist()]

    def _matmul(self, x: Sharded, weights: list[Value], outputs: tuple[Sharded, ...]) -> GroupedMatmul:
        columns, operands = sum(output.local_shape[-1] for output in outputs), self.kernels.operands or x.dtype
        formats = operands, weights[0].tensor.dtype, x.dtype
        return GroupedMatmul(x.local_shape[-1], columns, *formats, self.kernels.on_chip)

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def _model(self):  # type: ignore[no-untyped-def]
        experts = self.scenario.model.experts
        assert experts is not None
        return experts

    @staticmethod
    def _local_tokens(tokens: Sharded) -> int:
        batch, length, _ = tokens.local_shape
        return batch * length
