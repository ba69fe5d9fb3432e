"""Operations of attention: projections of queries, keys and values, all-to-alls, and the kernels of scores and
values."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sim.closed_form.heads import key_value_heads_read
from sim.closed_form.operations import Op
from sim.closed_form.pass_builder import Factor, PassBuilder, Product
from sim.specs.uses import Axes

SCORE_BYTES = 4
"""Bytes of a 32-bit score or logit."""


class Kernel(Struct, frozen=True):
    """Attention of a chip's queries to its cache."""

    name: str
    sequences: float
    positions: float
    """New positions of a sequence."""
    heads: float
    widths: tuple[float, float]
    """Of a key and of a value."""
    moved: float
    """Bytes of queries and outputs through memory."""
    read: float
    """Bytes of keys and values that are read, per position."""
    copies: float = 0.0
    """Bytes of copied heads that are read from L2, per position."""


class AttentionBuilder(PassBuilder):
    """Appends the operations of attention over heads or over the batch."""

    @property
    def kv_heads_of_chip(self) -> float:
        """Key-value heads in a chip's weights."""
        return self.K / (self.h if self.is_multi_head else self.group_size(self.kv_axes))

    def add_attention(self) -> Factor:
        """Appends the projections of queries, keys and values, and attention; returns its output."""
        if self.is_fused:
            self.project_stream("qkv", self.uses.heads, self.query, *[Factor("kv", self.kv_heads_of_chip * self.Q)] * 2)
            self.attend(self.tokens_of_chip(self.uses.heads) / self.L, self.H / self.h, self.kv_heads_of_chip)
            return self.query
        self.project_stream("q", self.uses.heads, self.query)
        self.attend_by_layout()
        return self.query

    def attend_by_layout(self) -> None:
        """Appends attention over the batch where it can be split, else over heads (Pope et al. section 3.3)."""
        uses, sequences = self.uses, self.tokens_of_chip(self.uses.heads) / self.L
        moved = uses.heads + uses.d_model if self.query_dim == "H" else uses.heads
        held = sequences / self.e if self.query_dim == "B" else sequences
        while held % self.group_size(moved):
            moved = moved[1:]  # a small batch fills the innermost ones
        if self.scenario.layout.attention == "heads" or self.group_size(moved) == 1:
            self._attend_by_heads(sequences)
        else:
            self._attend_by_batch(sequences, moved)

    def _project_multi_head_values(self, sequences: float) -> None:
        """Projects keys and values sharded like the query, but never split over positions."""
        rows, size = sequences * self.L, 2 * self.H * self.Q / self.h
        key_or_value = Factor("kv", size / 2, self.query.gathered, self.query_dim == "B")
        if self.query_dim == "L":
            self.add_product(Product("kv", rows, [self.stream], [key_or_value] * 2))
            self.add_collective("kv", "all_reduce", self.uses.d_model, rows * size * self.a)
        else:
            self.add_scattered_product("kv", rows, key_or_value, key_or_value)

    def _project_few_values(self, rows: float, width: float, collective: str) -> None:
        """Projects keys and values of fewer heads than the query's for some rows, and sums them over e."""
        key_or_value = Factor("kv", width / 2, by_rows=True)
        if collective == "scattered":
            self.add_scattered_product("kv", rows, key_or_value, key_or_value, keeps_weights=True)
            return
        self.operations.append(self.make_matmul("kv", rows, [self.E / self.e], [width / 2] * 2))
        self.add_collective("kv", collective, self.uses.d_model, rows * width * self.a)

    def _attend_by_heads(self, sequences: float) -> None:
        """Attends with each chip's heads; chips that would repeat a projection share its tokens and gather the rest."""
        e = self.e
        heads, kv = self.H / self.h / (e if self.query_dim == "H" else 1), self.kv_heads_of_chip
        if self.is_multi_head:
            self._project_multi_head_values(sequences)
            kv = heads
        elif self.query_dim == "B":
            self._project_few_values(sequences * self.L, 2 * kv * self.Q, "scattered")
        else:
            last = self.uses.heads[len(self.kv_axes) :][-1:]
            if all(tokens % self.group_size(last) for tokens in (sequences, self.L)):
                last = ()
            rows = sequences * self.L / self.group_size(last)
            self._project_few_values(rows, 2 * kv * self.Q, "all_reduce")
            self.add_collective("kv", "all_gather", last, sequences * self.L * 2 * kv * self.Q * self.a)
        self.attend(sequences / e if self.query_dim == "B" else sequences, heads, kv)

    def _attend_by_batch(self, sequences: float, moved: Axes) -> None:
        """Attends on every chip with all heads of its own sequences (section 3.3, Figure 4(c))."""
        e, parts, rows = self.e, self.group_size(moved), sequences * self.L
        queries = rows * self.H / self.h / e * self.Q * self.a
        heads, kv = self.H / self.h / (e if self.query_dim == "H" else 1) * parts, float(self.K)
        held = sequences / e if self.query_dim == "B" else sequences
        if self.is_multi_head:
            self._project_multi_head_values(sequences)
            kv = heads
            for _ in range(2):
                self.add_collective("kv", "all_to_all", moved, queries * (e if self.query_dim == "L" else 1))
        elif self.query_dim == "B":
            self._project_few_values(rows, 2 * kv * self.Q, "scattered")
        else:
            rows_projected = rows / self.group_size(tuple(axis for axis in moved if axis not in self.uses.d_model))
            self._project_few_values(
                rows_projected, 2 * kv * self.Q, "reduce_scatter" if self.query_dim == "H" else "all_reduce"
            )
        self.add_collective("q", "all_to_all", moved, queries)
        self.attend(held / parts, heads, kv)
        self.add_collective("attention out", "all_to_all", moved, queries)

    def attend(self, sequences: float, heads: float, kv: float) -> None:
        """Appends the kernels of scores and values, which read the cache and the queries and write the output."""
        positions = self.L / (self.e if self.query_dim == "L" else 1)
        query, key = (sequences * length * n * self.Q * self.a for length, n in ((positions, heads), (self.L, kv)))
        if self.scenario.stack.elementwise == "kernel":
            self.add_elementwise("rotary and cache", *[query, key, key] * 2)
        per_head = 2 * sequences * self.Q * self.c
        read = per_head * key_value_heads_read(heads, self.H / self.K)
        copies = per_head * heads if self.scenario.layout.kv_heads == "expanded" else 0.0
        name = "attention" if self.window is None else f"attention to {self.window:,}"
        moved = 2 * self.spilled_bytes(query)
        self.add_attention_kernels(Kernel(name, sequences, positions, heads, (self.Q, self.Q), moved, read, copies))

    def add_attention_kernels(self, kernel: Kernel) -> None:
        """Appends one kernel, or three: the scores, their softmax, and the values.

        A fused kernel skips positions that the causal mask or a window hides. A kernel that is not fused writes the
        scores and reads them again; if elementwise operations are kernels, scores, softmax and values are three.
        """
        stack, work, C = self.scenario.stack, self.scenario.workload, self.scenario.workload.mean_cache_length
        reached = C if self.window is None else min(C, self.window + kernel.positions - 1)
        is_fused, vector = stack.attention == "fused", stack.attention_format == "f32"
        skips = is_fused and self.scenario.model.causal and work.static_cache is None
        seen = seen_positions(C, kernel.positions, self.window) if skips else reached
        scores = kernel.sequences * kernel.positions * kernel.heads * seen
        by_keys, by_values = (2 * scores * width for width in kernel.widths)
        read, copies, moved = kernel.read * reached, kernel.copies * reached, kernel.moved
        size = self.spilled_bytes(scores * (SCORE_BYTES if vector or stack.elementwise == "fused" else self.a))
        one = Op(kernel.name, by_keys + by_values, moved, read, copies, on_vector_units=vector, is_elementwise=False)
        if is_fused or stack.elementwise == "fused":
            written = 0.0 if is_fused else 2 * size
            self.operations.append(replace(one, activation_bytes=moved + written, kernel="attention"))
            return
        half = replace(
            one,
            activation_bytes=moved / 2 + size,
            read_bytes=read / 2,
            l2_bytes=copies / 2,
            is_tiled=kernel.positions > 1 and not vector,
        )
        self.operations.append(replace(half, name=f"{kernel.name} scores", flops=by_keys))
        self.operations.append(Op(f"{kernel.name} softmax", 0.0, 2 * size))
        self.operations.append(replace(half, name=f"{kernel.name} values", flops=by_values))


def seen_positions(C: float, positions: float, window: int | None) -> float:
    """Returns the positions that a chip's query sees, on average: the last one C, each before it one less, and none
    more than a window."""
    first = C - positions + 1
    if window is None or window >= C:
        return (first + C) / 2
    if window <= first:
        return window
    growing = window - first  # queries that see first, first + 1, ... window - 1
    return (growing * (first + window - 1) / 2 + (positions - growing) * window) / positions
