"""Operations of multi-head latent attention, plain or absorbed (DeepSeek-V2 2024, section 2.1).

A chip has h of the heads and all of the latent vectors. A query has N plain and R values with the position, a cached
vector C values and the R of the position, a head's values U. Absorbed, queries and outputs have C values in place of N
and U, and the cache is read as keys and as values at once.
"""

from __future__ import annotations

from sim.closed_form.attention_operations import AttentionBuilder, Kernel
from sim.closed_form.operations import Op
from sim.closed_form.pass_builder import Factor
from sim.specs.model import LatentSpec


class LatentBuilder(AttentionBuilder):
    """Appends the operations of latent attention."""

    @property
    def latent(self) -> LatentSpec:
        """The model's latent vectors."""
        latent = self.scenario.model.latent
        assert latent is not None
        return latent

    def add_latent_attention(self) -> Factor:
        """Appends projections to and from the latent vectors, and attention; returns its output."""
        latent, heads = self.latent, self.H / self.h
        rows, plain = self.tokens_of_chip(self.uses.heads), self.Q - latent.rope
        ranks = [latent.kv_rank, latent.rope] if latent.q_rank is None else [latent.q_rank, latent.kv_rank, latent.rope]
        self.project_stream("latents", self.uses.heads, *(Factor("latents", rank) for rank in ranks))
        if latent.q_rank is not None:
            self.add_whole_norm("q_norm", 0, rows, latent.q_rank)
        self.add_whole_norm("kv_norm", 0, rows, latent.kv_rank)
        queries = [heads * plain, heads * latent.rope]
        self.operations.append(self.make_matmul("q", rows, [latent.q_rank or self.E], queries))
        if self.scenario.stack.elementwise == "kernel":
            cached = [heads * latent.rope, latent.kv_rank, latent.rope]
            self.add_elementwise("rotary and cache", *[rows * width * self.a for width in cached] * 2)
        if self.scenario.layout.absorbs_latent(self.scenario.workload.phase):
            self._attend_absorbed(rows, heads, plain)
        else:
            self._attend_plain(rows, heads, plain)
        return Factor("o", heads * latent.d_value, self.query.gathered)

    def _attend_absorbed(self, rows: float, heads: float, plain: int) -> None:
        latent = self.latent
        self._add_per_head("q by key expansion", rows, heads, (plain, latent.kv_rank))
        vectors = rows / self.L * (latent.kv_rank + latent.rope) * self.c
        self._attend_to(rows, heads, (latent.kv_rank + latent.rope, latent.kv_rank), vectors)
        self._add_per_head("value expansion", rows, heads, (latent.kv_rank, latent.d_value))

    def _attend_plain(self, rows: float, heads: float, plain: int) -> None:
        latent, times = self.latent, self.scenario.workload.mean_cache_length / self.L
        expanded = self.make_matmul(
            "attention expansion", rows, [latent.kv_rank], [heads * plain, heads * latent.d_value]
        )
        moved = expanded.activation_bytes * times
        self.operations.append(
            self.multiplied_with(
                Op(expanded.name, expanded.flops * times, moved, expanded.read_bytes, is_tiled=rows * times > 1),
                self.scenario.workload.weights,
            )
        )
        if self.scenario.stack.elementwise == "kernel":
            copied = [heads * plain, latent.rope, heads * self.Q]
            self.add_elementwise("attention keys", *[rows * times * width * self.a for width in copied])
        widths = self.Q, latent.d_value
        self._attend_to(rows, heads, widths, rows / self.L * heads * sum(widths) * self.a)

    def _attend_to(self, rows: float, heads: float, widths: tuple[int, int], read: float) -> None:
        """Appends the kernels of scores and values; `read` bytes of the cache per position."""
        moved = self.spilled_bytes(rows * heads * sum(widths) * self.a)
        self.add_attention_kernels(Kernel("attention", rows / self.L, self.L, heads, widths, moved, read))

    def _add_per_head(self, name: str, rows: float, heads: float, sizes: tuple[int, int]) -> None:
        """Appends one launch of a matmul for each head."""
        inner, columns = sizes
        moved = self.spilled_bytes(rows * heads * inner * self.o) + self.spilled_bytes(rows * heads * columns * self.a)
        flops, read = 2 * rows * heads * inner * columns, heads * inner * columns * self.w
        op = Op(name, flops, moved, read, is_tiled=rows > 1)
        self.operations.append(self.multiplied_with(op, self.scenario.workload.weights))
