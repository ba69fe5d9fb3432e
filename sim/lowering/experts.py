"""Lowering of a mixture of experts: exchange of tokens between chips, grouped matmuls of each expert's rows."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from sim.layouts import sharding
from sim.layouts.dataflow import Exchange
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.costs import Work
from sim.lowering.emitter import Emitter, Value
from sim.lowering.exchange import TokenExchange, Way
from sim.lowering.streams import Tasks
from sim.lowering.work import GroupedMatmul, MatmulKernels, through_memory
from sim.program import ExpertRows
from sim.specs import Scenario
from sim.topology.folding import NotFoldableError
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_groups

if TYPE_CHECKING:
    from sim.lowering.routing import Routing


class ExpertLowering:
    """Exchanges tokens and multiplies the rows that chips then have."""

    def __init__(self, scenario: Scenario, topology: Topology, emitter: Emitter, kernels: MatmulKernels) -> None:
        self.scenario, self.topology, self.emitter = scenario, topology, emitter
        self.kernels = replace(kernels, operands=scenario.workload.expert_operands or kernels.operands)
        self.routings: dict[tuple[sharding.Dim, ...], Routing] = {}
        """Routing by the dimensions Y and T of the rows."""
        self.expert_rows: ExpertRows | None = None
        """Rows of the layer that was lowered last."""
        kept = scenario.kept_for_exchange
        self.matmul_chip = topology.chip.without(kept) if kept else None
        """The chip as matmuls find it, if they leave multiprocessors to the exchange."""
        self._layer: int | None = None
        """That layer."""
        self._exchanges: dict[tuple[sharding.Dim, ...], TokenExchange] = {}
        self._tokens: dict[tuple[sharding.Dim, ...], int] = {}
        """Tokens of a chip before they are sent."""

    # --- the exchange ------------------------------------------------------------------------------------------------

    def dispatch(self, y: Value, inputs: Tasks, between: Exchange, name: str) -> Value:
        """Appends the rows' way to their experts."""
        from sim.lowering.routing import route

        layout, over = self.scenario.layout.experts, self._over(between)
        spec, local, (begin, end) = self.scenario.workload.routing, self._local_tokens(y.tensor), between.part
        whole = round(local / (end - begin))
        before, split = round(begin * whole), over.split(local)
        if spec.is_drawn:  # expected rows are the same of all tokens
            split = replace(split, before=before, whole=whole)
        routing = route(self._model, spec, layout, split)
        experts = sharding.Dim("Y", self._model.count + layout.replicas, between.experts)
        tensor = sharding.dispatch(y.tensor, experts, between.tokens, f"T{before or ''}")
        key = tensor.dims[:2]
        self._exchanges[key], self.routings[key], self._tokens[key] = over, routing, local
        self._count_rows(self._expert_rows(routing, y.tensor, over))
        self._refuse_folding(routing)
        if self.emitter.group_size(between.tokens) > 1:
            into = self._format(y.tensor, "dispatch")
            elements = [float(y.tensor.local_elements)] * self.topology.chips
            inputs = self._quantize(f"{name} dispatch", elements, y.tensor.dtype, inputs, into)
            inputs = self._send("dispatch", y.tensor, key, name, inputs)
        return Value(tensor, inputs)

    def combine(self, rows: Value, like: Value, between: Exchange, name: str) -> Value:
        """Appends the way back of the experts' outputs, which are added up by the tokens' shares."""
        tensor = sharding.combine(rows.tensor, like.tensor, between.tokens)
        key = rows.tensor.dims[:2]
        outputs = self._permute("combine", f"{name} unpermute", rows)
        if self.emitter.group_size(between.tokens) > 1:
            outputs = self._send("combine", like.tensor, key, name, outputs)
        return Value(tensor, outputs)

    def receive(self, way: Way, between: Exchange, name: str, tasks: Tasks) -> Tasks:
        """Appends the kernel that receives what was sent, of the two that share an exchange's overhead."""
        if self.emitter.group_size(between.tokens) == 1:
            return tasks
        return self.emitter.kernel(f"{name} {way} receive", self._over(between).overhead_s(way) / 2, tasks)

    def _over(self, between: Exchange) -> TokenExchange:
        scenario = self.scenario
        kernel, named = scenario.exchange_kernel, scenario.collectives.get("all_to_all")
        layout = scenario.layout.experts
        return TokenExchange(self.topology, scenario.stack, layout, kernel, between.tokens, between.experts, named)

    def _send(self, way: Way, tokens: Sharded, key: tuple[sharding.Dim, ...], name: str, inputs: Tasks) -> Tasks:
        row_bytes, dtype, local = self._row_bytes(tokens, way), self._format(tokens, way), self._local_tokens(tokens)
        launched = self.scenario.in_stages
        if launched:
            inputs = self.emitter.kernel(f"{name} {way} send", self._exchanges[key].overhead_s(way) / 2, inputs)
        for part in self._exchanges[key].parts(way, self.routings[key], local, row_bytes):
            if part.plan is not None:
                inputs = self.emitter.run(part.plan, part.axes, part.size_bytes, name, inputs, dtype, launched=launched)
            else:
                op = f"{way} {name}"
                inputs = self.emitter.collective(part.kind, part.axes, part.size_bytes, op, inputs, dtype)
        return inputs

    def _count_rows(self, rows: ExpertRows) -> None:
        """Adds the rows of a part of the batch to those of the layer that is lowered."""
        before, layer = self.expert_rows, self.emitter.builder.layer
        self.expert_rows = before.plus(rows) if before is not None and layer == self._layer else rows
        self._layer = layer

    @property
    def dropped_share(self) -> float:
        """Share of the rows of the layer that was lowered last that are beyond the capacity of their experts."""
        rows = self.expert_rows
        return 1 - float(rows.held.sum()) / (rows.tokens * self._model.top_k) if rows else 0.0

    def _expert_rows(self, routing: Routing, tokens: Sharded, between: TokenExchange) -> ExpertRows:
        """Returns the rows of a dispatch as reports and figures read them."""
        local, sent = self._local_tokens(tokens), between.rows(routing)
        all_are_there = between.scheme == "all_gather" or self.emitter.group_size(between.tokens) == 1
        return ExpertRows(
            sent=np.full_like(sent, local) if all_are_there else sent,
            beyond=between.rows_beyond(routing),
            held=routing.rows,
            hit=routing.hit,
            holder=between.holder_of(),
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

    def _refuse_folding(self, routing: Routing) -> None:
        if self.topology.is_folded and not routing.even:
            raise NotFoldableError("chips have experts with different loads")

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, rows: Value, weights: list[Value], name: str) -> tuple[Value, ...]:
        """Appends one launch of a matmul of each expert's rows with each weight."""
        results = tuple(sharding.matmul(rows.tensor, weight.tensor, "Y") for weight in weights)
        matmul = self._matmul(rows.tensor, weights, results)
        held_rows = self._rows(rows.tensor.dims[:2])
        works = [matmul.work(held, hit) for held, hit in held_rows]
        from_tokens = rows.tensor.dims[-1].name == "E"
        arrived = self.scenario.workload.dispatch if from_tokens else None
        if from_tokens:
            rows = Value(rows.tensor, self._permute("dispatch", f"{name} permute", rows))
        if arrived != self.kernels.operands:
            inner = rows.tensor.local_shape[-1]
            inputs = self._quantize(name, [sum(held) * inner for held, _ in held_rows], rows.tensor.dtype, rows.after)
        else:
            inputs = rows.after
        done = self.emitter.compute(name, works[0] if len(set(works)) == 1 else works, inputs, self.matmul_chip)
        return tuple(Value(result, done) for result in results)

    def _quantize(self, name: str, elements: list[float], dtype: str, tasks: Tasks, into: str | None = None) -> Tasks:
        """Appends the kernel that quantises [chips] numbers, if the stack has one of its own for it."""
        works = [self.kernels.quantization([each], dtype, into) for each in elements]
        needed = [work for work in works if work is not None]
        if not needed or not self.topology.chip.quantizes_apart:
            return tasks
        return self.emitter.compute(f"{name} quantize", needed[0] if len(set(needed)) == 1 else needed, tasks)

    def activate(self, inputs: list[Value], name: str) -> Tasks:
        """Appends the activation of the rows' hidden values."""
        size = ITEM_BYTES[inputs[0].tensor.dtype] * inputs[0].tensor.local_shape[-1] * (len(inputs) + 1)
        works = [self._elementwise(sum(held) * size) for held, _ in self._rows(inputs[0].tensor.dims[:2])]
        return self.emitter.compute(
            name, works[0] if len(set(works)) == 1 else works, tuple(ids for value in inputs for ids in value.after)
        )

    def _permute(self, way: Way, name: str, rows: Value) -> Tasks:
        """Appends the kernel that copies between tokens as they are on a chip, each once, and the rows of its experts,
        unless other kernels of the stack do that or each expert's rows are sent by themselves."""
        key = rows.tensor.dims[:2]
        over, routing = self._exchanges[key], self.routings[key]
        dtype, arrived = rows.tensor.dtype, [float(self._tokens[key])] * self.topology.chips
        if self.emitter.group_size(over.tokens) > 1:
            if over.scheme == "per_expert" or self.scenario.stack.permute == "fused":
                return rows.after
            dtype = self._format(rows.tensor, "dispatch") if way == "dispatch" else dtype
            arrived = over.rows(routing).sum(axis=0)[over.holder_of()[self.topology.chip_numbers]].tolist()
        width = rows.tensor.local_shape[-1] * ITEM_BYTES[dtype]
        works = [
            self._elementwise((each + sum(held)) * width)
            for each, (held, _) in zip(arrived, self._rows(key), strict=True)
        ]
        return self.emitter.compute(name, works[0] if len(set(works)) == 1 else works, rows.after)

    def _elementwise(self, moved: float) -> Work:
        return Work(0.0, through_memory(moved, self.kernels.on_chip))

    def _rows(self, key: tuple[sharding.Dim, ...]) -> list[tuple[tuple[float, ...], float]]:
        """Returns [chips] the rows of each of a chip's experts, and how many experts have any."""
        routing = self.routings[key]
        holder = self._exchanges[key].holder_of()[self.topology.chip_numbers]
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
