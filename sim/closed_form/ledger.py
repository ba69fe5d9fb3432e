"""Counts the operations and collectives of one forward pass from the uses of the mesh axes (`sim.specs.uses`).

Nothing here knows how a layer is lowered. The bytes follow from five rules, of groups of chips named as in `book`:

    gather of the stream      before a half, over r (d_model) or s (tokens)
    sum over d_model          of all that a half multiplies first, over e; before its last matmul the same is gathered
    sum over heads or d_ff    of what a half puts out, over h or f: scattered over r and s, whole over the others
    gather of weights         of every matmul, over g
    attention over the batch  all-to-alls of queries, of own heads' keys and values, and of the output, over h and e

Few key-value heads are split over the outermost axes of h that divide them, and never gathered; own heads (K = H) go
the way of the queries.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sim.closed_form.book import (
    LATER,
    Book,
    Communication,
    Factor,
    Factors,
    Half,
    Launch,
    Ledger,
    Op,
    Volume,
    padded,
    widths_of,
)
from sim.closed_form.heads import key_value_heads_read
from sim.specs import Scenario
from sim.specs.uses import Axes

_SQUARE, _SCORE, _PAIR = 4, 4, 8
"""Bytes of a 32-bit mean of squares, of a 32-bit score or logit, and of a logit with its token."""
_TOP_K = ("softmax", "top k", "masked softmax", "draw")
"""Kernels of a draw, each of which goes twice through all logits."""
_WAITING = {"parallel": 1, "ladder": 2, "standard": 1, "unsummed": 1, "mlp_summed": 0}
"""Outputs that a layer leaves to be added to the stream, by its kind."""


def ledger(scenario: Scenario, to: Communication) -> Ledger:
    """The entries of one forward pass. Raises InputError: chips that do not divide what they share."""
    return _Pass(scenario, to).ledger()


class _Pass(Book):
    """A pass as it is written down, half by half."""

    # --- around matmuls ----------------------------------------------------------------------------------------------

    def read(self, name: str, half: Axes, *factors: Factor) -> None:
        """The stream's tokens gathered, times matrices: their sums over e scattered."""
        at, rows = self.at, self.rows(half)
        tokens = self.within(at.tokens, half)
        if at.d_model or at.gathers_in_matmul:
            held = self.E / (self.ways(at.stream) if at.gathers_in_matmul else self.e)
            self.volume(name, "all_gather", tokens, rows * held * self.a)
        if at.d_model:
            self.scattered(name, rows, *factors)
            return
        axes, widths = at.stream if at.gathers_in_matmul else tokens, widths_of(factors)
        volume, K = Volume(name, "all_gather", axes, rows * self.E * self.a), self.ways(axes)
        by_sums: Launch = (rows, [self.E / K], widths, LATER)
        by_rows: Launch = (rows / K, [self.E], widths, (False, False))
        launch = by_sums if at.gathers_in_matmul else by_rows
        self.around("in", volume, [launch], (name, rows, [self.stream], factors, axes))

    def scattered(self, name: str, rows: float, *factors: Factor, stays: bool = False) -> None:
        """Matrices times the stream: sums over e, scattered. `stays`: their weights are never gathered."""
        volume, E = self.over_e(name, "reduce_scatter", rows, factors), [self.E / self.e]
        parts, whole = self.cut(factors)
        launches: list[Launch] = [(rows, E, parts, LATER), (rows / self.e, E, whole, LATER)]
        stream = replace(self.stream, gathered=()) if stays else self.stream
        self.around("out", volume, launches, (name, rows, [stream], factors, volume.axes), stays)

    def over_e(self, name: str, collective: str, rows: float, factors: Factors) -> Volume:
        return Volume(name, collective, self.at.d_model, rows * sum(widths_of(factors)) * self.a)

    def cut(self, factors: Factors) -> tuple[list[float], list[float]]:
        """Widths of those that are split over e as well, and of those whose rows are."""
        return widths_of([x for x in factors if not x.by_rows], self.e), widths_of([x for x in factors if x.by_rows])

    def written(self, name: str, half: Axes, *factors: Factor) -> None:
        """Matrices into the stream, added up: what they contract is gathered over e, the sum scattered or whole."""
        rows, name = self.rows(half), "residual" if self.at.stream else name
        if self.fused and len(factors) > 1:
            for i, each in enumerate(factors):
                self.entries.append(self.matmul(each.name, rows, [each.width], [self.E], adds=i > 0))
            self.total(name, half)
            return
        op, axes = "_".join(sorted(each.name for each in factors)), self.scatters(half)
        if self.at.d_model or len(axes) != 1:
            volume, E, (parts, whole) = (
                self.over_e(op, "all_gather", rows, factors),
                [self.E / self.e],
                self.cut(factors),
            )
            launches: list[Launch] = [(rows, parts, E, LATER), (rows / self.e, whole, E, (bool(parts), bool(parts)))]
            self.around("in", volume, launches, (op, rows, factors, [self.stream], volume.axes))
            self.total(name, half)
            return
        (over,) = axes
        K, one = self.ways(over), len(over) == 1
        volume = Volume(op if one else name, "reduce_scatter", over, rows * self.E * self.a)
        by_columns: Launch = (rows, widths_of(factors), [self.E / K], LATER)
        by_rows: Launch = (rows / K, widths_of(factors), [self.E], LATER)
        launch = by_columns if over == self.at.stream else by_rows
        self.around("out", volume, [launch], (op, rows, factors, [self.stream], over if one else ()))
        self.volume(name, "all_reduce", self.same(half), volume.bytes / K)

    def scatters(self, half: Axes) -> list[Axes]:
        """Axes over which the sum of a half is scattered: in d_model, in tokens."""
        return [over for axes in (self.at.stream, self.at.tokens) if (over := self.within(axes, half))]

    def same(self, half: Axes) -> Axes:
        """Axes along which every chip has the sum of a half whole."""
        return tuple(axis for axis in half if axis not in self.at.stream + self.at.tokens)

    def total(self, name: str, half: Axes) -> None:
        """The sum of a half over its chips."""
        size = self.rows(half) * self.E / self.e * self.a
        for axes in self.scatters(half):
            self.volume(name, "reduce_scatter", axes, size)
            size /= self.ways(axes)
        self.volume(name, "all_reduce", self.same(half), size)

    # --- halves ------------------------------------------------------------------------------------------------------

    @property
    def key_values(self) -> float:
        """Key-value heads of a chip's weights."""
        return self.K / (self.h if self.own_heads else self.ways(self.kept))

    def attention(self) -> Factor:
        """Queries, keys and values of the normalised stream, and what attention makes of them."""
        if self.fused:
            self.read("qkv", self.at.heads, self.query, *[Factor("kv", self.key_values * self.Q)] * 2)
            self.attend(self.rows(self.at.heads) / self.L, self.H / self.h, self.key_values)
            return self.query
        self.read("q", self.at.heads, self.query)
        self.attend_by_choice()
        return self.query

    def ffn(self) -> Factor:
        self.read("wi", self.at.d_ff, *self.wide)
        return self.activated()

    def activated(self) -> Factor:
        """SwiGLU or GELU, on what the scatter over e left."""
        size = self.rows(self.at.d_ff) * self.hidden.width / self.e * self.a
        self.elementwise("activation", *[size] * (len(self.wide) + 1))
        return self.hidden

    def both(self) -> None:
        """Attention and FFN of one norm."""
        at, wide = self.at, self.wide
        if at.heads != at.d_ff:
            self.written("attention", at.heads, self.attention())
            self.written("mlp", at.d_ff, self.ffn())
            self.add("both")
        elif self.fused:
            self.read("qkv_wi", at.d_ff, self.query, *[Factor("kv", self.key_values * self.Q)] * 2, *wide)
            self.attend(self.rows(at.heads) / self.L, self.H / self.h, self.key_values)
            self.written("both", at.d_ff, self.query, self.activated())
        else:
            self.read("q_wi", at.d_ff, self.query, *wide)
            self.attend_by_choice()
            self.written("both", at.d_ff, self.activated(), self.query)

    def attend_by_choice(self) -> None:
        """Over the batch, where it can be split, else over heads (Pope et al. section 3.3)."""
        at, sequences = self.at, self.rows(self.at.heads) / self.L
        moved = at.heads + at.d_model if self.into == "H" else at.heads
        held = sequences / self.e if self.into == "B" else sequences
        while held % self.ways(moved):
            moved = moved[1:]  # a small batch fills the innermost ones
        if self.scenario.layout.attention == "heads" or self.ways(moved) == 1:
            self.attention_by_heads(sequences)
        else:
            self.attention_by_batch(sequences, moved)

    def values_of_own_heads(self, sequences: float) -> None:
        """Keys and values go the query's way; whole in positions where the query has only some."""
        rows, size = sequences * self.L, 2 * self.H * self.Q / self.h
        own = Factor("kv", size / 2, self.query.gathered, self.into == "B")
        if self.into == "L":
            self.product("kv", rows, [self.stream], [own] * 2)
            self.volume("kv", "all_reduce", self.at.d_model, rows * size * self.a)
        else:
            self.scattered("kv", rows, own, own)

    def few_values(self, rows: float, width: float, collective: str) -> None:
        """Keys and values of fewer heads than the query's, of some rows, summed over e as they are needed."""
        own = Factor("kv", width / 2, by_rows=True)
        if collective == "scattered":
            self.scattered("kv", rows, own, own, stays=True)
            return
        self.entries.append(self.matmul("kv", rows, [self.E / self.e], [width / 2] * 2))
        self.volume("kv", collective, self.at.d_model, rows * width * self.a)

    def attention_by_heads(self, sequences: float) -> None:
        """The chips of the last axis of h that holds copies project a part of the tokens each and gather the rest."""
        e = self.e
        heads, kv = self.H / self.h / (e if self.into == "H" else 1), self.key_values
        if self.own_heads:
            self.values_of_own_heads(sequences)
            kv = heads
        elif self.into == "B":
            self.few_values(sequences * self.L, 2 * kv * self.Q, "scattered")
        else:
            last = self.at.heads[len(self.kept) :][-1:]
            if all(tokens % self.ways(last) for tokens in (sequences, self.L)):
                last = ()
            rows = sequences * self.L / self.ways(last)
            self.few_values(rows, 2 * kv * self.Q, "all_reduce")
            self.volume("kv", "all_gather", last, sequences * self.L * 2 * kv * self.Q * self.a)
        self.attend(sequences / e if self.into == "B" else sequences, heads, kv)

    def attention_by_batch(self, sequences: float, moved: Axes) -> None:
        """Every chip attends with all heads of its own sequences (section 3.3, Figure 4(c))."""
        e, ways, rows = self.e, self.ways(moved), sequences * self.L
        queries = rows * self.H / self.h / e * self.Q * self.a
        heads, kv = self.H / self.h / (e if self.into == "H" else 1) * ways, float(self.K)
        held = sequences / e if self.into == "B" else sequences
        if self.own_heads:
            self.values_of_own_heads(sequences)
            kv = heads
            for _ in range(2):
                self.volume("kv", "all_to_all", moved, queries * (e if self.into == "L" else 1))
        elif self.into == "B":
            self.few_values(rows, 2 * kv * self.Q, "scattered")
        else:
            part = rows / self.ways(tuple(axis for axis in moved if axis not in self.at.d_model))
            self.few_values(part, 2 * kv * self.Q, "reduce_scatter" if self.into == "H" else "all_reduce")
        self.volume("q", "all_to_all", moved, queries)
        self.attend(held / ways, heads, kv)
        self.volume("attention out", "all_to_all", moved, queries)

    def attend(self, sequences: float, heads: float, kv: float) -> None:
        """Scores and values of a chip's queries: the cache is read, queries in, output out, scores out and in again.

        A fused kernel skips what the causal mask hides: the last of a chip's queries sees all C positions, each one
        before it one less. Where elementwise operations are kernels and attention is no single one, scores, softmax and
        values are three.
        """
        stack, work, model = self.scenario.stack, self.scenario.workload, self.scenario.model
        own, C = self.L / (self.e if self.into == "L" else 1), work.mean_cache_length
        query, key = (sequences * positions * n * self.Q * self.a for positions, n in ((own, heads), (self.L, kv)))
        if stack.elementwise == "kernel":
            self.elementwise("rotary and cache", *[query, key, key] * 2)
        fused = stack.attention == "fused"
        seen = C - ((own - 1) / 2 if fused and model.causal and work.static_cache is None else 0)
        cache = 2 * sequences * self.Q * self.c * C
        read = cache * key_value_heads_read(heads, self.H / self.K)
        copies = cache * heads if self.scenario.layout.kv_heads == "expanded" else 0.0
        scores, moved, vector = sequences * own * heads * seen, 2 * self.spilled(query), stack.attention_format == "f32"
        flops = 4 * scores * self.Q
        size = self.spilled(scores * (_SCORE if vector or stack.elementwise == "fused" else self.a))
        if fused or stack.elementwise == "fused":
            moved += 0.0 if fused else 2 * size
            self.entries.append(Op("attention", flops, moved, read, copies, vector=vector, apart=False))
            return
        tiled = own > 1 and not vector
        product = (flops / 2, moved / 2 + size, read / 2, copies / 2, tiled, vector)
        self.entries.append(Op("attention scores", *product, apart=False))
        self.entries.append(Op("attention softmax", 0.0, 2 * size))
        self.entries.append(Op("attention values", *product, apart=False))

    # --- the stream --------------------------------------------------------------------------------------------------

    def add(self, name: str, rows: float | None = None) -> None:
        """x + y, both of the stream."""
        width = self.E / self.ways(self.at.d_model + self.at.stream)
        self.elementwise(f"{name} add", *[(self.rows() if rows is None else rows) * width * self.a] * 3)

    def norm(self, name: str, waiting: int = 0) -> None:
        """What waits is added to the stream, and the sum normalised: split over several axes it is gathered before,
        over one it stays."""
        at, rows = self.at, self.rows()
        if not (at.d_model or at.stream):
            self.whole_norm(name, waiting, rows)
            return
        for _ in range(waiting):
            self.add("residual")
        if at.gathers_in_matmul:
            self.scale(name, rows, self.E / self.ways(at.stream), at.stream)
        else:
            self.volume("residual", "all_gather", at.stream, rows * self.E / self.e * self.a)
            self.scale(name, rows, self.E / self.e, at.d_model)

    def whole_norm(self, name: str, waiting: int, rows: float) -> None:
        """The same where d_model is whole: one kernel, unless a compiler fuses its parts."""
        tensor, gain = rows * self.E * self.a, self.E * self.w
        if self.scenario.stack.elementwise == "kernel":
            self.elementwise(name, *[tensor] * (1 + waiting + (2 if waiting else 1)), gain)
            return
        for _ in range(waiting):
            self.elementwise("residual add", *[tensor] * 3)
        self.scale(name, rows, self.E, ())

    def scale(self, name: str, rows: float, width: float, over: Axes) -> None:
        """Sums of squares over all chips that have a part; then the rows are scaled."""
        squares, tensor = rows * _SQUARE, rows * width * self.a
        self.elementwise(name, tensor, squares)
        self.volume(name, "all_reduce", over, squares)
        self.elementwise(name, tensor, tensor, squares, width * self.w)

    def embedding(self) -> None:
        """Rows of the table are looked up where they are stored, and summed: scattered like the stream."""
        size = float(self.scenario.workload.batch * self.L * self.E * self.a)
        self.elementwise("embedding", size)
        left = self.head
        for axes in self.split:
            summed = tuple(axis for axis in axes if axis in self.head)
            size /= self.ways(tuple(axis for axis in axes if axis not in summed))
            self.volume("embedding", "reduce_scatter", summed, size)
            size /= self.ways(summed)
            left = tuple(axis for axis in left if axis not in summed)
        self.volume("embedding", "all_reduce", left, size)

    def end(self, waiting: int) -> None:
        """Final norm, logits, the next token."""
        at, layout = self.at, self.scenario.layout
        if layout.logits == "none":
            for _ in range(waiting):
                self.add("residual")
            return
        every = layout.logits == "every"
        by_position = bool(at.tokens) and not self.by_sequence
        split, sequences = at.d_model + at.stream, at.gather
        if at.gather and self.by_sequence:
            sequences += at.tokens
        positions = self.L if every or by_position else 1
        rows = self.rows() / self.L * positions
        if split or sequences:
            for _ in range(waiting):
                self.add("residual", rows)
            self.volume("last position", "all_gather", split, rows * self.E * self.a)
            rows *= self.ways(sequences)
            self.volume("last position", "all_gather", sequences, rows * self.E * self.a)
            waiting = 0
        self.whole_norm("final_norm", waiting, rows)
        tokens = tuple(axis for axis in at.tokens if axis not in sequences)
        rows *= self.ways(tokens)
        self.volume("final_norm", "all_gather", tokens, rows * self.E * self.a)
        replica = self.scenario.workload.batch / self.ways(at.batch)
        columns = padded(self.scenario.model.vocabulary, prod(self.lengths.values())) // self.ways(self.head)
        self.entries.append(self.matmul("logits", replica * (self.L if every else 1), [self.E], [columns]))
        for kernel in _TOP_K if self.scenario.workload.sampling == "top_k" else ():
            self.entries.append(Op(f"token {kernel}", 0.0, 2 * replica * columns * _SCORE))
        self.elementwise("token", replica * columns * self.a)
        self.volume("token", "all_gather", self.head, replica * self.ways(self.head) * _PAIR)

    # --- the pass ----------------------------------------------------------------------------------------------------

    def close(self, hidden: bool = False) -> None:
        """The half that was written ends with its sum."""
        self.halves.append(Half(tuple(self.entries), hidden))
        self.entries = []

    def ledger(self) -> Ledger:
        scenario, at = self.scenario, self.at
        if scenario.layout.logits != "none":
            self.embedding()
            if self.head:
                self.close()
        kinds = _kinds(scenario)
        waiting, layers = 0, dict[tuple[str, int, bool, bool], list[Half]]()
        for i, kind in enumerate(kinds):
            after, before = kinds[i + 1 : i + 2] == ["ladder"], kinds[max(i - 1, 0) : i + 1] == ["ladder"] * 2
            key = kind, waiting, after, before
            if key in layers:
                self.halves += layers[key]
            else:
                written, begun = len(self.halves), bool(self.entries)
                self.layer(*key)
                layers |= {} if begun else {key: self.halves[written:]}
            waiting = _WAITING[kind]
        self.end(waiting)
        self.close()
        beside = at.heads != at.d_ff and "parallel" in kinds
        in_turn = self.fused and not beside and (at.whole or "ladder" not in kinds)
        return Ledger(tuple(self.halves), in_turn)

    def layer(self, kind: str, waiting: int, ladder_after: bool, ladder_before: bool) -> None:
        """Both halves of a layer of a residual scheme.

        Args:
            waiting: outputs of the layer before.
        """
        at, ladder, keeps = self.at, kind == "ladder", kind in ("unsummed", "mlp_summed")
        if ladder_before:
            self.add("residual attention")
        self.norm("norm", 0 if ladder else waiting)
        if kind == "parallel":
            self.both()
            self.close()
            return
        out = self.attention()
        if keeps:
            self.own(out)
        else:
            self.written("attention", at.heads, out)
        self.close(hidden=ladder and at.whole)
        if ladder and waiting:
            self.add("residual mlp")
        self.norm("ffn_norm", 0 if ladder else 1)
        out = self.ffn()
        if keeps:
            self.own(out, "mlp" if kind == "mlp_summed" else "")
        else:
            self.written("mlp", at.d_ff, out)
        self.close(hidden=ladder_after and at.whole)

    def own(self, factor: Factor, name: str = "") -> None:
        """A half of which each chip keeps its own part; with a name, the sum of it and of the stream is made."""
        self.entries.append(self.matmul(factor.name, self.rows(), [factor.width], [self.E], adds=bool(name)))
        if name:
            self.total(name, self.at.d_ff)


def _kinds(scenario: Scenario) -> list[str]:
    """Of each layer, by the residual scheme."""
    count, scheme = scenario.model.layers, scenario.residual
    kinds = ["unsummed" if scheme == "no_communication" else scheme] * count
    if scheme == "hybrid" and scenario.layout.hybrid:
        last = scenario.layout.hybrid.ladder_layers
        kinds = ["standard"] * (count - last) + ["ladder"] * last
    elif scheme in ("desync2", "desync4"):
        every = 1 if scheme == "desync2" else 2
        kept = [(i + 1) % every == 0 or i + 1 == count for i in range(count)]
        kinds = ["mlp_summed" if keep else "unsummed" for keep in kept]
    return kinds[: scenario.layers]
