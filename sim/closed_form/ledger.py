"""What one forward pass does, counted from what the mesh axes do (`sim.uses`): operations of a chip, and collectives.

Nothing here knows how a layer is lowered. The bytes follow from five rules, of groups of chips named as in the table:

    gather of the stream      before a half, over r (d_model) or s (tokens)
    sum over d_model          of all that a half multiplies first, over e; before its last matmul the same is gathered
    sum over heads or d_ff    of what a half puts out, over h or f: scattered over r and s, whole over the others
    gather of weights         of every matmul, over g
    attention over the batch  all-to-alls of queries, of own heads' keys and values, and of the output, over h and e

| symbol | meaning | | symbol | meaning |
|---|---|---|---|---|
| B, L | sequences of a replica, positions in this pass | | e | chips that split d_model of weights in use |
| C | cached positions that attention reads | | h, f | chips that split heads, d_ff |
| E, F, Q, V | d_model computed, d_ff, d_head, vocabulary | | g | chips over which weights are gathered |
| H, K | heads computed, key-value heads | | r, s | those that split d_model, tokens of the stream |
| a, w, c | bytes of an activation, a weight, a cached value | | m | matrices into the FFN, 2 for SwiGLU |

Few key-value heads are split over the outermost axes of h that divide them, and never gathered; own heads (K = H) go
the way of the queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, lcm, prod

from sim.closed_form.heads import key_value_heads_read
from sim.errors import InputError
from sim.specs import DTYPE_BYTES, Scenario
from sim.uses import Axes, Uses

_SQUARE, _SCORE, _PAIR = 4, 4, 8
"""Bytes of a 32-bit mean of squares, of a 32-bit score or logit, and of a logit with its token."""
_MICRO_BATCHES = 2
"""Parts of a batch, for each of which weights are gathered."""
_TOP_K = ("softmax", "top k", "masked softmax", "draw")
"""Kernels of a draw, each of which goes twice through all logits."""


@dataclass(frozen=True, slots=True)
class Op:
    """One launch on one chip."""

    name: str
    flops: float
    moved: float
    """Bytes of activations through memory."""
    read: float = 0.0
    """Bytes of weights or cache, read once."""
    copies: float = 0.0
    """Bytes of copied keys and values, read from L2."""
    tiled: bool = False
    """A matmul of several rows."""
    vector: bool = False
    """Products of 32-bit floats on the vector units."""
    converts: bool = False
    """A matmul whose weights are smaller numbers than its activations."""
    collective: bool = False
    """A matmul whose input is gathered, or whose output is scattered, over an axis."""
    apart: bool = True
    """Whether the usual model leaves it out: a norm, an activation, an add."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One collective in every group of chips along some axes."""

    name: str
    collective: str
    axes: Axes
    bytes: float
    """Of the whole gathered, summed or scattered array, and of the local buffer of an all-to-all."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A matmul in pieces, and a collective that passes shards from chip to chip meanwhile (Pope et al. section 3.5)."""

    moves: str
    """`in`: each piece waits for its shard; `out`: each sends its sum on; `weights`: each passes its weights on."""
    pieces: tuple[tuple[Op, ...], ...]
    """Launches of each."""
    volume: Volume


Entry = Op | Volume | Loop


def volume_of(entry: Entry) -> Volume | None:
    """The collective of an entry, looped or not."""
    return entry.volume if isinstance(entry, Loop) else entry if isinstance(entry, Volume) else None


@dataclass(frozen=True, slots=True)
class Half:
    """What is between two sums over the chips, one after the other."""

    entries: tuple[Entry, ...]
    hidden: bool = False
    """Whether the next half need not wait for the last entry, the sum of this one."""


@dataclass(frozen=True, slots=True)
class Ledger:
    """One forward pass."""

    halves: tuple[Half, ...]
    in_turn: bool
    """Whether everything needs what is before it, but for hidden sums: else collectives on a stream of their own may
    run beside other operations than the ledger says."""

    @property
    def volumes(self) -> dict[tuple[str, Axes], float]:
        """Bytes of all collectives over the same axes, of those between more than one chip."""
        found: dict[tuple[str, Axes], float] = {}
        for entry in (entry for half in self.halves for entry in half.entries):
            if volume := volume_of(entry):
                key = volume.collective, tuple(sorted(volume.axes))
                found[key] = found.get(key, 0.0) + volume.bytes
        return found


def ledger(scenario: Scenario, at: Uses, lengths: Mapping[str, int], closes: Callable[[str], bool]) -> Ledger:
    """The entries of one forward pass.

    Args:
        lengths: of the mesh axes.
        closes: whether shards can go around an axis.

    Raises:
        InputError: chips that do not divide what they share.
    """
    return _Pass(scenario, at, lengths, closes).ledger()


Widths = Sequence[float]
Launch = tuple[float, Widths, Widths, tuple[bool, bool]]
"""Rows, inputs and outputs of one launch of a piece, and whether that of the first and of the later pieces adds to what
is there."""
_LATER = (False, True)


@dataclass(frozen=True, slots=True)
class Factor:
    """A matrix beside others in one matmul: its dimension that is split over heads or d_ff."""

    name: str
    width: float
    """Of one chip."""
    gathered: Axes = ()
    """Axes that split this dimension as stored only."""
    by_rows: bool = False
    """Whether its sums over e are scattered in tokens, not in this dimension."""


Factors = Sequence[Factor]
Whole = tuple[str, float, Factors, Factors, Axes]
"""What `_Pass.product` takes."""


def _widths(factors: Factors, ways: int = 1) -> list[float]:
    return [each.width / ways for each in factors]


class _Pass:
    """The symbols above, of one chip or of the machine, and a pass as it is written down, entry by entry."""

    def __init__(self, scenario: Scenario, at: Uses, lengths: Mapping[str, int], closes: Callable[[str], bool]) -> None:
        self.scenario, self.at, self.lengths, self.closes = scenario, at, lengths, closes
        self.halves: list[Half] = []
        self.entries: list[Entry] = []
        """Of the half that is being written."""
        model, work, layout = scenario.model, scenario.workload, scenario.layout
        self.a, self.w, self.c = (DTYPE_BYTES[each] for each in (work.activations, work.weights, work.kv_cache))
        self.e, self.h, self.f = (self.ways(axes) for axes in (at.d_model, at.heads, at.d_ff))
        self.B, self.L = work.batch / self.ways(at.batch + at.gather), work.tokens_per_step
        self.E, self.Q = computed_d_model(scenario, at, lengths), model.d_head
        # Heads are padded until the chips that store their weights divide them; where nothing else can be split over e,
        # until these chips do as well.
        self.H = _padded(model.computed_heads, self.ways(at.stored_heads or at.heads))
        if self.H // self.h % self.e and work.batch % self.e and self.L % self.e:
            self.H = _padded(self.H, self.h * self.e)
        self.own_heads = model.kv_heads == model.heads  # every query head has keys and values of its own
        self.K = self.H if self.own_heads else model.kv_heads
        kept = 0
        while kept < len(at.heads) and self.K % self.ways(at.heads[: kept + 1]) == 0:
            kept += 1
        self.kept = at.heads[:kept]  # they split few key-value heads
        # Tokens of the stream are split by sequences where not by positions: attention needs all of these.
        self.by_sequence = self.L == 1 or not set(at.tokens) <= set(at.heads)
        held = self.B / (self.ways(at.tokens) if self.by_sequence else 1)
        # Where the query's sum over e goes: heads if there are enough for all chips, else sequences or positions.
        places = {"H": self.H / self.h, "B": held, "L": self.L}
        self.into = next((place for place, size in places.items() if size % self.e == 0), "H")
        # Whether all that reads the normalised stream is one matmul: nothing is between them.
        self.fused = at.plain and layout.attention == "heads"
        self.head = at.weights if layout.head == "sharded" else ()  # axes that split the vocabulary
        self.stream = Factor("E", self.E / self.e, self._gathered_over(at.stored_d_model, at.d_model))
        heads = self._gathered_over(at.stored_heads, at.heads)
        self.query = Factor("o", self.H * self.Q / self.h, heads, self.into != "H")
        self.hidden = Factor("wo", model.d_ff / self.f, self._gathered_over(at.stored_d_ff, at.d_ff))
        self.wide = [self.hidden] * (2 if model.ffn == "swiglu" else 1)
        sequences, positions = (at.tokens, ()) if self.by_sequence else ((), at.tokens)
        self.split = (at.batch + at.gather + sequences, positions, at.d_model + at.stream)  # B, L, E of the stream
        _check("workload.batch", work.batch, self.ways(self.split[0]))
        _check("tokens per sequence", self.L, self.ways(positions))
        _check("model.d_ff", model.d_ff, self.f * self.e, self.ways(at.stored_d_ff))

    def ways(self, axes: Axes) -> int:
        """Chips of a group."""
        return prod(self.lengths[axis] for axis in axes)

    def _gathered_over(self, stored: Axes, used: Axes) -> Axes:
        return stored[len(used) :][::-1] if self.at.gather else ()

    def within(self, axes: Axes, half: Axes) -> Axes:
        """Those of `axes` over which a half is summed."""
        return tuple(axis for axis in axes if axis in half)

    def rows(self, half: Axes = ()) -> float:
        """Tokens of a chip in a half that is split over these axes."""
        return self.B * self.L / self.ways(self.at.tokens) * self.ways(self.within(self.at.tokens, half))

    # --- entries -----------------------------------------------------------------------------------------------------

    def spilled(self, size: float) -> float:
        """Bytes of an activation that memory on the chip does not hold; all, where it holds none."""
        memory = self.scenario.topology.chip.on_chip_memory
        return max(0.0, size - memory.value) if memory else size

    def elementwise(self, name: str, *sizes: float) -> None:
        """A kernel that reads or writes each of these bytes, unless the compiler fuses it and memory on the chip holds
        them."""
        moved = sum(map(self.spilled, sizes))
        if self.scenario.stack.elementwise == "kernel" or (self.scenario.topology.chip.on_chip_memory and moved):
            self.entries.append(Op(name, 0.0, moved))

    def volume(self, name: str, collective: str, axes: Axes, size: float) -> None:
        """A collective; none of one chip."""
        if self.ways(axes) > 1:
            self.entries.append(Volume(name, collective, axes, size))

    def looped(self, axes: Axes) -> bool:
        """Whether matmuls are looped with collectives over these axes, around each of them."""
        longer = [axis for axis in axes if self.lengths[axis] > 1]
        return self.scenario.overlap == "collective_matmul" and bool(longer) and all(map(self.closes, longer))

    def matmul(self, name: str, rows: float, x: Widths, y: Widths, adds: bool = False, collective: bool = False) -> Op:
        """[rows, each width of x] x [x, each width of y]; `adds`: to what is there."""
        moved = sum(self.spilled(rows * width * self.a) for width in (*x, *y, *(y if adds else ())))
        flops, read, converts = 2 * rows * sum(x) * sum(y), sum(x) * sum(y) * self.w, self.w < self.a
        return Op(name, flops, moved, read, 0.0, rows > 1, False, converts, collective, apart=False)

    def around(self, moves: str, volume: Volume, launches: Sequence[Launch], whole: Whole, stays: bool = False) -> None:
        """A matmul in pieces of these launches, looped with a collective of activations; else whole, before or after.

        Args:
            stays: the weights are never gathered; else only where none are gathered in this layout.
        """
        if len(volume.axes) == 1 and self.looped(volume.axes) and (stays or not self.at.gather):
            pieces = tuple(
                tuple(
                    self.matmul(volume.name, rows, x, y, adds[min(i, 1)], collective=True)
                    for rows, x, y, adds in launches
                    if x and y
                )
                for i in range(self.ways(volume.axes))
            )
            self.entries.append(Loop(moves, pieces, volume))
            return
        if moves == "out":
            self.product(*whole)
        self.volume(volume.name, volume.collective, volume.axes, volume.bytes)
        if moves == "in":
            self.product(*whole)

    def product(self, name: str, rows: float, inputs: Factors, outputs: Factors, activations: Axes = ()) -> None:
        """A matmul after its weights are gathered, or looped with that, over the axes of what is summed first.

        Args:
            activations: axes over which the input is gathered or the output scattered.
        """
        x, y = _widths(inputs), _widths(outputs)
        pairs = [(own, out) for own in inputs for out in outputs if own.gathered or out.gathered]
        summed, kept = (pairs[0][0].gathered, pairs[0][1].gathered) if pairs else ((), ())
        if self.ways(summed + kept) == 1:
            self.entries.append(self.matmul(name, rows, x, y, collective=self.ways(activations) > 1))
            return
        size = sum(own.width * out.width for own, out in pairs) * self.w
        volume = Volume(f"{name} weights", "all_gather", summed + kept, size)
        if not self.looped(summed + kept):
            parts = _MICRO_BATCHES if self.scenario.overlap == "micro_batches" else 1
            self.entries += [*[volume] * parts, self.matmul(name, rows, x, y)]
            return
        inner, outer = self.ways(summed), self.ways(kept)
        part = _widths(inputs, inner), _widths(outputs, outer)
        first, later = (self.matmul(name, rows, *part, adds) for adds in (False, True))
        pieces = [(later if i % inner else first,) for i in range(inner * outer)]
        self.entries.append(Loop("weights", tuple(pieces), volume))

    # --- around matmuls ----------------------------------------------------------------------------------------------

    def read(self, name: str, half: Axes, *factors: Factor) -> None:
        """The stream's tokens gathered, times matrices: their sums over e scattered."""
        at, rows = self.at, self.rows(half)
        tokens = self.within(at.tokens, half)
        if at.d_model and not at.gathers_in_matmul:
            self.volume(name, "all_gather", tokens, rows * self.E / self.e * self.a)
            self.scattered(name, rows, *factors)
            return
        axes, widths = at.stream if at.gathers_in_matmul else tokens, _widths(factors)
        volume, K = Volume(name, "all_gather", axes, rows * self.E * self.a), self.ways(axes)
        by_sums: Launch = (rows, [self.E / K], widths, _LATER)
        by_rows: Launch = (rows / K, [self.E], widths, (False, False))
        launch = by_sums if at.gathers_in_matmul else by_rows
        self.around("in", volume, [launch], (name, rows, [self.stream], factors, axes))

    def scattered(self, name: str, rows: float, *factors: Factor, stays: bool = False) -> None:
        """Matrices times the stream: sums over e, scattered. `stays`: their weights are never gathered."""
        volume, E = self.over_e(name, "reduce_scatter", rows, factors), [self.E / self.e]
        parts, whole = self.cut(factors)
        launches: list[Launch] = [(rows, E, parts, _LATER), (rows / self.e, E, whole, _LATER)]
        stream = replace(self.stream, gathered=()) if stays else self.stream
        self.around("out", volume, launches, (name, rows, [stream], factors, volume.axes), stays)

    def over_e(self, name: str, collective: str, rows: float, factors: Factors) -> Volume:
        return Volume(name, collective, self.at.d_model, rows * sum(_widths(factors)) * self.a)

    def cut(self, factors: Factors) -> tuple[list[float], list[float]]:
        """Widths of those that are split over e as well, and of those whose rows are."""
        return _widths([x for x in factors if not x.by_rows], self.e), _widths([x for x in factors if x.by_rows])

    def written(self, name: str, half: Axes, *factors: Factor) -> None:
        """Matrices into the stream, added up: what they contract is gathered over e, the sum scattered or whole."""
        rows = self.rows(half)
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
            launches: list[Launch] = [(rows, parts, E, _LATER), (rows / self.e, whole, E, (bool(parts), bool(parts)))]
            self.around("in", volume, launches, (op, rows, factors, [self.stream], volume.axes))
            self.total(name, half)
            return
        ((over, _),) = axes
        K, one = self.ways(over), len(over) == 1
        volume = Volume(op if one else self.total_name(name), "reduce_scatter", over, rows * self.E * self.a)
        by_columns: Launch = (rows, _widths(factors), [self.E / K], _LATER)
        by_rows: Launch = (rows / K, _widths(factors), [self.E], _LATER)
        launch = by_columns if over == self.at.stream else by_rows
        self.around("out", volume, [launch], (op, rows, factors, [self.stream], over if one else ()))
        self.volume(self.total_name(name), "all_reduce", self.same(half), volume.bytes / K)

    def scatters(self, half: Axes) -> list[tuple[Axes, str]]:
        """Axes over which the sum of a half is scattered, and what."""
        over = ((self.within(self.at.stream, half), "E"), (self.within(self.at.tokens, half), "tokens"))
        return [each for each in over if each[0]]

    def same(self, half: Axes) -> Axes:
        """Axes along which every chip has the sum of a half whole."""
        return tuple(axis for axis in half if axis not in self.at.stream + self.at.tokens)

    def total_name(self, name: str) -> str:
        return "residual" if self.at.stream else name

    def total(self, name: str, half: Axes) -> None:
        """The sum of a half over its chips."""
        size = self.rows(half) * self.E / self.e * self.a
        for axes, _ in self.scatters(half):
            self.volume(self.total_name(name), "reduce_scatter", axes, size)
            size /= self.ways(axes)
        self.volume(self.total_name(name), "all_reduce", self.same(half), size)

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
        columns = _padded(self.scenario.model.vocabulary, prod(self.lengths.values())) // self.ways(self.head)
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


_WAITING = {"parallel": 1, "ladder": 2, "standard": 1, "unsummed": 1, "mlp_summed": 0}
"""Outputs that a layer leaves to be added to the stream, by its kind."""


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


def computed_d_model(scenario: Scenario, at: Uses, lengths: Mapping[str, int]) -> int:
    """d_model, padded until the chips that split the stream, and those that split the weights as stored, divide it."""
    stream, stored = (prod(lengths[axis] for axis in axes) for axes in (at.d_model + at.stream, at.stored_d_model))
    return _padded(scenario.model.d_model, lcm(stream, stored))


def _padded(size: int, ways: int) -> int:
    return ceil(size / ways) * ways


def _check(field: str, size: float, *ways: int) -> None:
    """A dimension that chips share must be a multiple of their number. Raises InputError."""
    for each in ways:
        if size % each:
            raise InputError(f"must be a multiple of the {each} chips that share it", where=field, got=size)
