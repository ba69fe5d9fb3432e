"""Entries of a ledger: operations, collectives, loops, and their bytes and FLOPs on one chip.

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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod
from typing import Protocol

from sim.errors import InputError
from sim.specs import DTYPE_BYTES, Scenario
from sim.specs.uses import Axes, Uses

_MICRO_BATCHES = 2
"""Parts of a batch, for each of which weights are gathered."""


class Communication(Protocol):
    """What formulas say of messages between the chips of a mesh."""

    @property
    def at(self) -> Uses:
        """What each mesh axis does."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Mesh axes and their lengths."""

    def collective(self, kind: str, axes: Axes, size: float) -> tuple[float, tuple[str, ...]]:
        """(time of a collective of `size` bytes in every group along some axes, s, why it is not exact)."""

    def hop(self, axis: str, size: float) -> tuple[float, tuple[str, ...]]:
        """(time of `size` bytes from a chip to the next along an axis, s, why a loop of these is not exact)."""

    def is_ring(self, axis: str) -> bool:
        """Whether an axis is a ring of links, around which shards go both ways."""

    def closes(self, axis: str) -> bool:
        """Whether shards can go around an axis: a ring, two chips that swap theirs, or by routes."""


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


Widths = Sequence[float]
Launch = tuple[float, Widths, Widths, tuple[bool, bool]]
"""Rows, inputs and outputs of one launch of a piece, and whether that of the first and of the later pieces adds to what
is there."""
LATER = (False, True)


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
"""What `Book.product` takes."""


def widths_of(factors: Factors, ways: int = 1) -> list[float]:
    return [each.width / ways for each in factors]


class Book:
    """The symbols above, of one chip or of the machine, and a pass as it is written down, entry by entry."""

    def __init__(self, scenario: Scenario, to: Communication) -> None:
        self.scenario, self.at, self.lengths, self.closes = scenario, to.at, to.lengths, to.closes
        at, lengths = to.at, to.lengths
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
        self.H = padded(model.computed_heads, self.ways(at.stored_heads or at.heads))
        if self.H // self.h % self.e and work.batch % self.e and self.L % self.e:
            self.H = padded(self.H, self.h * self.e)
        self.own_heads = model.kv_heads == model.heads  # every query head has keys and values of its own
        self.K = self.H if self.own_heads else model.kv_heads
        kept = 0
        while kept < len(at.heads) and self.K % self.ways(at.heads[: kept + 1]) == 0:
            kept += 1
        self.kept = at.heads[:kept]  # they split few key-value heads
        # Tokens of the stream are split by sequences where not by positions: attention needs all of these.
        in_parts = scenario.overlap == "micro_batches"
        self.by_sequence = self.L == 1 or in_parts or not set(at.tokens) <= set(at.heads)
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
        x, y = widths_of(inputs), widths_of(outputs)
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
        part = widths_of(inputs, inner), widths_of(outputs, outer)
        first, later = (self.matmul(name, rows, *part, adds) for adds in (False, True))
        pieces = [(later if i % inner else first,) for i in range(inner * outer)]
        self.entries.append(Loop("weights", tuple(pieces), volume))


def computed_d_model(scenario: Scenario, at: Uses, lengths: Mapping[str, int]) -> int:
    """d_model, padded until the chips that split the stream, and those that split the weights as stored, divide it."""
    stream, stored = (prod(lengths[axis] for axis in axes) for axes in (at.d_model + at.stream, at.stored_d_model))
    return padded(scenario.model.d_model, lcm(stream, stored))


def padded(size: int, ways: int) -> int:
    return ceil(size / ways) * ways


def _check(field: str, size: float, *ways: int) -> None:
    """A dimension that chips share must be a multiple of their number. Raises InputError."""
    for each in ways:
        if size % each:
            raise InputError(f"must be a multiple of the {each} chips that share it", where=field, got=size)
