"""Building blocks of a pass: sizes of shards, matmuls with their collectives, and projections from and to the stream.

| symbol | meaning | | symbol | meaning |
|---|---|---|---|---|
| B, L | sequences of a replica, positions in this pass | | e | chips that split d_model of weights in use |
| C | cached positions that attention reads | | h, f | chips that split heads, d_ff |
| E, F, Q, V | d_model computed, d_ff, d_head, vocabulary | | g | chips over which weights are gathered |
| H, K | heads computed, key-value heads | | r, s | those that split d_model, tokens of the stream |
| a, w, c | bytes of an activation, a weight, a cached value | | m | matrices into the FFN, 2 for SwiGLU |
| o | bytes of a matmul's input as it is read | | | |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, lcm, prod
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from sim.closed_form.operations import (
    CollectiveOp,
    CommunicationModel,
    LoopedMatmul,
    Op,
    Operation,
    Sublayer,
)
from sim.errors import InputError
from sim.specs import DTYPE_BYTES, Scenario
from sim.specs.chip import matmul_format
from sim.specs.uses import Axes, Uses, dividing_axes

_SQUARE = 4
"""Bytes of a 32-bit mean of squares."""
_MICRO_BATCHES = 2
"""Parts of a batch, for each of which weights are gathered."""


Widths = Sequence[float]
Launch = tuple[float, Widths, Widths, tuple[bool, bool]]
"""Rows, input widths and output widths of one launch of a piece; True for the first and for the later pieces if they
add to sums of earlier pieces."""
LATER_ADD = (False, True)


class Factor(Struct, frozen=True):
    """One of the matrices of a fused matmul, by its dimension that is split over heads or d_ff."""

    name: str
    width: float
    """Width on one chip."""
    gathered: Axes = ()
    """Axes over which this dimension is gathered for use."""
    by_rows: bool = False
    """True if its sums over e are scattered in tokens, not in this dimension."""


Factors = Sequence[Factor]


class Product(NamedTuple):
    """One matmul of `rows` tokens: [rows, inputs] x [inputs, outputs]."""

    name: str
    rows: float
    inputs: Factors
    outputs: Factors
    activation_axes: Axes = ()
    """Axes over which the input is gathered or the output scattered."""


def widths_of(factors: Factors, parts: int = 1) -> list[float]:
    """Returns the widths of the factors, each divided by `parts`."""
    return [factor.width / parts for factor in factors]


class PassBuilder:
    """Sizes by the symbols above, and the operations of a pass as they are appended."""

    def __init__(self, scenario: Scenario, communication: CommunicationModel) -> None:
        self.scenario, self.closes = scenario, communication.closes
        self.uses, self.lengths = uses, lengths = communication.uses, communication.lengths
        self.sublayers: list[Sublayer] = []
        self.operations: list[Operation] = []
        """Operations of the current sublayer."""
        self.window: int | None = None
        """Positions that a query of the current layer sees at most; None for all."""
        model, work, layout = scenario.model, scenario.workload, scenario.layout
        self.a, self.w, self.c = (DTYPE_BYTES[dtype] for dtype in (work.activations, work.weights, work.kv_cache))
        self.o = DTYPE_BYTES[work.operands or work.activations]
        self.e, self.h, self.f = (self.group_size(axes) for axes in (uses.d_model, uses.heads, uses.d_ff))
        self.B, self.L = work.batch / self.group_size(uses.batch + uses.gather), work.tokens_per_step
        self.E, self.Q = computed_d_model(scenario, uses, lengths), model.d_head
        # Heads are padded until the chips that store their weights divide them; where nothing else can be split over e,
        # until these chips do as well.
        self.H = pad_to_multiple(model.computed_heads, self.group_size(uses.stored_heads or uses.heads))
        if self.H // self.h % self.e and work.batch % self.e and self.L % self.e:
            self.H = pad_to_multiple(self.H, self.h * self.e)
        self.is_multi_head = model.kv_heads == model.heads  # every query head has keys and values of its own
        self.K = self.H if self.is_multi_head else model.kv_heads
        self.kv_axes = dividing_axes(uses.heads, self.K, self.lengths)
        # Tokens of the stream are split by sequences where attention would need the positions of other chips.
        in_parts = scenario.overlap == "micro_batches"
        self.splits_sequences = self.L == 1 or in_parts or not set(uses.tokens) <= set(uses.heads)
        sequences_held = self.B / (self.group_size(uses.tokens) if self.splits_sequences else 1)
        # The query's sum over e is scattered into heads if there are enough for all chips, else sequences or positions.
        sizes = {"H": self.H / self.h, "B": sequences_held, "L": self.L}
        self.query_dim = next((dim for dim, size in sizes.items() if size % self.e == 0), "H")
        # One matmul reads the normalised stream.
        self.is_fused = uses.plain and layout.attention == "heads"
        self.count_boxes = communication.count_boxes
        self.vocabulary_axes = uses.weights if layout.head == "sharded" else ()
        self.stream = Factor("E", self.E / self.e, self._gathered_over(uses.stored_d_model, uses.d_model))
        heads = self._gathered_over(uses.stored_heads, uses.heads)
        self.query = Factor("o", self.H * self.Q / self.h, heads, self.query_dim != "H")
        self.ffn_hidden = Factor("wo", model.d_ff / self.f, self._gathered_over(uses.stored_d_ff, uses.d_ff))
        self.ffn_inputs = [self.ffn_hidden] * (2 if model.ffn == "swiglu" else 1)
        sequences, positions = (uses.tokens, ()) if self.splits_sequences else ((), uses.tokens)
        self.stream_axes = uses.batch + uses.gather + sequences, positions, uses.d_model + uses.stream
        """Axes that split B, L and E of the stream."""
        check_multiple("workload.batch", work.batch, self.group_size(self.stream_axes[0]))
        check_multiple("tokens per sequence", self.L, self.group_size(positions))
        check_multiple("model.d_ff", model.d_ff, self.f * self.e, self.group_size(uses.stored_d_ff))

    def group_size(self, axes: Axes) -> int:
        """Returns the number of chips in a group along `axes`."""
        return prod(self.lengths[axis] for axis in axes)

    def _gathered_over(self, stored: Axes, used: Axes) -> Axes:
        return stored[len(used) :][::-1] if self.uses.gather else ()

    def tokens_of_chip(self, sum_axes: Axes = ()) -> float:
        """Returns the tokens that a chip computes in a sublayer whose output is summed over `sum_axes`."""
        gathered = self.group_size(_common(self.uses.tokens, sum_axes))
        return self.B * self.L / self.group_size(self.uses.tokens) * gathered

    # --- operations --------------------------------------------------------------------------------------------------

    def spilled_bytes(self, size: float) -> float:
        """Returns the bytes of an activation that memory on the chip does not hold."""
        memory = self.scenario.topology.chip.on_chip_memory
        return max(0.0, size - memory.value) if memory else size

    def add_elementwise(self, name: str, *sizes: float) -> None:
        """Appends a kernel that reads or writes each of `sizes` bytes, unless it is fused and held on the chip."""
        moved = sum(map(self.spilled_bytes, sizes))
        if self.scenario.stack.elementwise == "kernel" or (self.scenario.topology.chip.on_chip_memory and moved):
            self.operations.append(Op(name, 0.0, moved))

    def add_whole_norm(self, name: str, pending: int, rows: float, width: float) -> None:
        """Appends adds and norm of rows that are not split: one kernel, unless a compiler fuses its parts."""
        tensor, gain = rows * width * self.a, width * self.w
        if self.scenario.stack.elementwise == "kernel":
            self.add_elementwise(name, *[tensor] * (1 + pending + (2 if pending else 1)), gain)
            return
        for _ in range(pending):
            self.add_elementwise("residual add", *[tensor] * 3)
        self.add_scaling(name, rows, width, ())

    def add_scaling(self, name: str, rows: float, width: float, over: Axes) -> None:
        """Appends sums of squares over the chips that split d_model, then the scaling of the rows."""
        squares, tensor = rows * _SQUARE, rows * width * self.a
        self.add_elementwise(name, tensor, squares)
        self.add_collective(name, "all_reduce", over, squares)
        self.add_elementwise(name, tensor, tensor, squares, width * self.w)

    def add_collective(self, name: str, kind: str, axes: Axes, size: float) -> None:
        """Appends a collective, unless its groups are single chips."""
        if self.group_size(axes) > 1:
            self.operations.append(CollectiveOp(name, kind, axes, size))

    def is_looped(self, axes: Axes) -> bool:
        """Returns True if matmuls are looped with collectives over these axes."""
        rings = [axis for axis in axes if self.lengths[axis] > 1]
        return self.scenario.overlap == "collective_matmul" and bool(rings) and all(map(self.closes, rings))

    def make_matmul(
        self, name: str, rows: float, x: Widths, y: Widths, *, adds: bool = False, with_collective: bool = False
    ) -> Op:
        """Returns [rows, each width of x] x [x, each width of y], which `adds` to sums in memory or writes them."""
        moved = sum(self.spilled_bytes(rows * width * self.o) for width in x)
        moved += sum(self.spilled_bytes(rows * width * self.a) for width in (*y, *(y if adds else ())))
        flops = 2 * rows * sum(x) * sum(y)
        op = Op(name, flops, moved, sum(x) * sum(y) * self.w, is_tiled=rows > 1, with_collective=with_collective)
        return self.multiplied_with(op, self.scenario.workload.weights)

    def multiplied_with(self, op: Op, weights: str) -> Op:
        """Returns a matmul at the rate of its operands, with weights of a number format."""
        work = self.scenario.workload
        return replace(
            op,
            converts_weights=DTYPE_BYTES[weights] < self.o,
            rate_format=matmul_format(work.operands or work.activations, weights),
            is_elementwise=False,
        )

    def add_product_with_collective(
        self,
        moves: str,
        collective: CollectiveOp,
        launches: Sequence[Launch],
        product: Product,
        *,
        keeps_weights: bool = False,
    ) -> None:
        """Appends a matmul and a collective of its activations, looped in pieces of `launches` or one after the other.

        Args:
            keeps_weights: the weights of this matmul are not gathered even if the layout gathers weights.
        """
        axes = collective.axes
        if len(axes) == 1 and self.is_looped(axes) and (keeps_weights or not self.uses.gather):
            pieces = tuple(
                tuple(
                    self.make_matmul(collective.name, rows, x, y, adds=adds[min(i, 1)], with_collective=True)
                    for rows, x, y, adds in launches
                    if x and y
                )
                for i in range(self.group_size(axes))
            )
            self.operations.append(LoopedMatmul(moves, pieces, collective))
            return
        if moves == "out":
            self.add_product(product)
        self.add_collective(collective.name, collective.kind, axes, collective.bytes)
        if moves == "in":
            self.add_product(product)

    def add_product(self, product: Product) -> None:
        """Appends a matmul after the gather of its weights, or looped with it; axes that are contracted come first."""
        name, rows, inputs, outputs, activation_axes = product
        x, y = widths_of(inputs), widths_of(outputs)
        pairs = [(input_, output) for input_ in inputs for output in outputs if input_.gathered or output.gathered]
        contracted, kept = (pairs[0][0].gathered, pairs[0][1].gathered) if pairs else ((), ())
        if self.group_size(contracted + kept) == 1:
            with_collective = self.group_size(activation_axes) > 1
            self.operations.append(self.make_matmul(name, rows, x, y, with_collective=with_collective))
            return
        size = sum(input_.width * output.width for input_, output in pairs) * self.w
        gather = CollectiveOp(f"{name} weights", "all_gather", contracted + kept, size)
        if not self.is_looped(contracted + kept):
            parts = _MICRO_BATCHES if self.scenario.overlap == "micro_batches" else 1
            self.operations += [*[gather] * parts, self.make_matmul(name, rows, x, y)]
            return
        inner, outer = self.group_size(contracted), self.group_size(kept)
        shard = widths_of(inputs, inner), widths_of(outputs, outer)
        first, later = (self.make_matmul(name, rows, *shard, adds=adds) for adds in (False, True))
        pieces = [(later if i % inner else first,) for i in range(inner * outer)]
        self.operations.append(LoopedMatmul("weights", tuple(pieces), gather))

    # --- projections -------------------------------------------------------------------------------------------------

    def project_stream(self, name: str, sum_axes: Axes, *factors: Factor) -> None:
        """Multiplies the stream's gathered tokens with matrices, whose sums over e are scattered."""
        uses, rows = self.uses, self.tokens_of_chip(sum_axes)
        tokens = _common(uses.tokens, sum_axes)
        if uses.d_model or uses.gathers_in_matmul:
            held = self.E / (self.group_size(uses.stream) if uses.gathers_in_matmul else self.e)
            self.add_collective(name, "all_gather", tokens, rows * held * self.a)
        if uses.d_model:
            self.add_scattered_product(name, rows, *factors)
            return
        axes, widths = uses.stream if uses.gathers_in_matmul else tokens, widths_of(factors)
        gather, K = CollectiveOp(name, "all_gather", axes, rows * self.E * self.a), self.group_size(axes)
        by_sums: Launch = (rows, [self.E / K], widths, LATER_ADD)
        by_rows: Launch = (rows / K, [self.E], widths, (False, False))
        launch = by_sums if uses.gathers_in_matmul else by_rows
        self.add_product_with_collective("in", gather, [launch], Product(name, rows, [self.stream], factors, axes))

    def add_scattered_product(self, name: str, rows: float, *factors: Factor, keeps_weights: bool = False) -> None:
        """Multiplies the stream with matrices and reduce-scatters the sums over e; `keeps_weights`: without a
        gather."""
        scatter, E = self._collective_over_e(name, "reduce_scatter", rows, factors), [self.E / self.e]
        columns, row_columns = self._split_widths(factors)
        launches: list[Launch] = [(rows, E, columns, LATER_ADD), (rows / self.e, E, row_columns, LATER_ADD)]
        stream = replace(self.stream, gathered=()) if keeps_weights else self.stream
        product = Product(name, rows, [stream], factors, scatter.axes)
        self.add_product_with_collective("out", scatter, launches, product, keeps_weights=keeps_weights)

    def _collective_over_e(self, name: str, kind: str, rows: float, factors: Factors) -> CollectiveOp:
        return CollectiveOp(name, kind, self.uses.d_model, rows * sum(widths_of(factors)) * self.a)

    def _split_widths(self, factors: Factors) -> tuple[list[float], list[float]]:
        """Returns the widths of factors that are split over e in columns, and of those that are split in rows."""
        return widths_of([x for x in factors if not x.by_rows], self.e), widths_of([x for x in factors if x.by_rows])

    def write_stream(self, name: str, sum_axes: Axes, *factors: Factor) -> None:
        """Multiplies inputs, gathered over e, with matrices into the stream, adds the products and reduces the sum."""
        rows, name = self.tokens_of_chip(sum_axes), "residual" if self.uses.stream else name
        if self.is_fused and len(factors) > 1:
            for i, factor in enumerate(factors):
                self.add_product_of(factor, sum_axes, adds=i > 0)
            self.add_reduction(name, sum_axes)
            return
        op, scatters = "_".join(sorted(factor.name for factor in factors)), self._scatter_axes(sum_axes)
        if self.uses.d_model or len(scatters) != 1:
            gather, E = self._collective_over_e(op, "all_gather", rows, factors), [self.E / self.e]
            columns, row_columns = self._split_widths(factors)
            adds = bool(columns), bool(columns)
            launches: list[Launch] = [(rows, columns, E, LATER_ADD), (rows / self.e, row_columns, E, adds)]
            product = Product(op, rows, factors, [self.stream], gather.axes)
            self.add_product_with_collective("in", gather, launches, product)
            self.add_reduction(name, sum_axes)
            return
        (axes,) = scatters
        K, is_single = self.group_size(axes), len(axes) == 1
        scatter = CollectiveOp(op if is_single else name, "reduce_scatter", axes, rows * self.E * self.a)
        by_columns: Launch = (rows, widths_of(factors), [self.E / K], LATER_ADD)
        by_rows: Launch = (rows / K, widths_of(factors), [self.E], LATER_ADD)
        launch = by_columns if axes == self.uses.stream else by_rows
        product = Product(op, rows, factors, [self.stream], axes if is_single else ())
        self.add_product_with_collective("out", scatter, [launch], product)
        self.add_collective(name, "all_reduce", self._replicated_axes(sum_axes), scatter.bytes / K)

    def add_product_of(self, factor: Factor, sum_axes: Axes, *, adds: bool) -> None:
        """Appends a matmul into the whole stream, and the add of its product to another sum, if it `adds`: a kernel of
        its own if chips reduce the sum, unless a compiler fuses it."""
        rows, stack = self.tokens_of_chip(sum_axes), self.scenario.stack
        is_compiled = stack.elementwise == "fused" or (stack.row_matmul == "compiled" and rows <= 1)
        apart = adds and self.group_size(sum_axes) > 1 and not is_compiled
        matmul = self.make_matmul(factor.name, rows, [factor.width], [self.E], adds=adds and not apart)
        self.operations.append(matmul)
        if apart:
            self.add_elementwise(f"{factor.name} add", *[rows * self.E * self.a] * 3)

    def _scatter_axes(self, sum_axes: Axes) -> list[Axes]:
        """Returns the axes over which a sublayer's sum is scattered in d_model, and those in tokens, if any."""
        return [common for axes in (self.uses.stream, self.uses.tokens) if (common := _common(axes, sum_axes))]

    def _replicated_axes(self, sum_axes: Axes) -> Axes:
        """Returns the axes along which every chip holds the same sum of a sublayer."""
        return tuple(axis for axis in sum_axes if axis not in self.uses.stream + self.uses.tokens)

    def add_reduction(self, name: str, sum_axes: Axes) -> None:
        """Appends the collectives that reduce a sublayer's sum to the stream's sharding."""
        size = self.tokens_of_chip(sum_axes) * self.E / self.e * self.a
        for axes in self._scatter_axes(sum_axes):
            self.add_collective(name, "reduce_scatter", axes, size)
            size /= self.group_size(axes)
        self.add_collective(name, "all_reduce", self._replicated_axes(sum_axes), size)


def computed_d_model(scenario: Scenario, uses: Uses, lengths: Mapping[str, int]) -> int:
    """Returns d_model, padded to a multiple of the chips that split the stream and of those that store the weights."""
    stream, stored = (
        prod(lengths[axis] for axis in axes) for axes in (uses.d_model + uses.stream, uses.stored_d_model)
    )
    return pad_to_multiple(scenario.model.d_model, lcm(stream, stored))


def pad_to_multiple(size: int, divisor: int) -> int:
    """Returns the smallest multiple of `divisor` that is at least `size`."""
    return ceil(size / divisor) * divisor


def _common(axes: Axes, others: Axes) -> Axes:
    return tuple(axis for axis in axes if axis in others)


def check_multiple(field: str, size: float, *group_sizes: int) -> None:
    """Raises InputError where a dimension is no multiple of the chips that share it."""
    for chips in group_sizes:
        if size % chips:
            raise InputError(f"must be a multiple of the {chips} chips that share it", where=field, got=size)
