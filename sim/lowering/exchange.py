"""Dispatch and combine of a mixture of experts: rows of a routing as collectives on a machine, with a kernel's times.

A step's layers and a single exchange (`sim.studies.bench.exchange`) are made of the same collectives.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim.collectives.exchange import ExchangeSpec, exchange
from sim.collectives.schedule import Schedule, Timing
from sim.specs import MEDIA
from sim.specs.experts import ExchangeTimes, ExpertsLayout, Kernel, Scheme
from sim.specs.stack import Software
from sim.specs.uses import Axes
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_axis, mesh_groups, mesh_positions

if TYPE_CHECKING:
    from sim.lowering.routing import Routing, Split

Floats = npt.NDArray[np.float64]
Way = Literal["dispatch", "combine"]


class Part(Struct, frozen=True):
    """One collective of an exchange; the next begins when it has ended."""

    kind: str
    axes: Axes
    size_bytes: float
    plan: Schedule | None = None
    """Messages; None for the machine's own algorithm of this kind."""


class TokenExchange(Struct, frozen=True):
    """Chips that send tokens to their experts and get the outputs back."""

    topology: Topology
    """The machine, or the folded one."""
    stack: Software
    layout: ExpertsLayout
    kernel: Kernel
    tokens: Axes
    """Mesh axes along which chips have different tokens, which they exchange."""
    experts: Axes
    """Mesh axes along which chips have different experts."""
    algorithm: str | None = None
    """All-to-all of a torus. Default: the machine's."""

    @property
    def scheme(self) -> Scheme:
        """Messages of a token: the layout's, the stack's, else by the kernel and the machine."""
        if named := self.stack.named_scheme(self.layout):
            return named
        if self.kernel == "low_latency":
            return "per_expert"
        crosses = not self.topology.has_lines and len(boxes(self.topology.unfold())) > 1
        return "per_box" if crosses and self.kernel == "normal" else "per_rank"

    def split(self, tokens: int) -> Split:
        """Returns how tokens and experts are dealt out, where a chip has so many tokens."""
        from sim.lowering.routing import Split

        return Split(group_size(self.topology, self.tokens), self.holders, tokens, self._boxes())

    @property
    def holders(self) -> int:
        """Number of chips with different experts."""
        return group_size(self.topology, self.experts)

    def holder_of(self) -> npt.NDArray[np.int64]:
        """Returns [chips of the whole machine] the number of each chip among those with different experts."""
        machine = self.topology.unfold()
        at = mesh_positions(machine, self.experts)
        block = np.zeros(machine.chips, dtype=np.int64)
        for column, axis in enumerate(self.experts):
            block = block * group_size(self.topology, (axis,)) + at[:, column]
        return block

    def rows(self, routing: Routing) -> Floats:
        """Returns [sources, holders] the rows that a chip sends to each chip or keeps."""
        return routing.pairs if self.scheme == "per_expert" else routing.tokens

    def rows_beyond(self, routing: Routing) -> Floats:
        """Returns [sources] the rows that a chip sends to other boxes: one to a box that forwards them."""
        members = mesh_groups(self.topology.unfold(), self.tokens)[0]
        box = np.array(self._boxes() or (0,) * self.holders)
        own, there = box[self.holder_of()[members]], box
        if self.scheme == "per_box" and routing.boxed is not None:
            there = np.arange(routing.boxed.shape[1])
        beyond: Floats = (self.destinations(routing) * (there != own[:, None])).sum(axis=1)
        return beyond

    def destinations(self, routing: Routing) -> Floats:
        """Returns [sources, destinations] the rows that a chip sends to each destination: a chip, or a box."""
        boxed = routing.boxed if self.scheme == "per_box" else None
        return self.rows(routing) if boxed is None else boxed

    def parts(self, way: Way, routing: Routing, tokens: int, row_bytes: int) -> list[Part]:
        """Returns the collectives of a dispatch or a combine, one after the other.

        Equal rows of all chips on a torus are the machine's all-to-all.

        Args:
            tokens: tokens of a chip.
            row_bytes: bytes of one token's row.
        """
        spec, kind = self._spec(way, routing, row_bytes), "all_to_all"
        size = spec.mean_rows * row_bytes
        if self.scheme == "all_gather":
            kind = "all_gather" if way == "dispatch" else "reduce_scatter"
            size = float(tokens * group_size(self.topology, self.tokens) * row_bytes)
        elif not (routing.even and self.topology.has_lines):
            stages = self._stages(spec)
            return [
                Part(way, axes, each.mean_rows * row_bytes, exchange(self.topology, axes, each, way))
                for axes, each in (stages if way == "dispatch" else stages[::-1])
            ]
        turns = in_turn(self.stack, self.topology, kind, self.tokens, size)
        return [Part(kind, axes, share) for axes, share in turns]

    def _spec(self, way: Way, routing: Routing, row_bytes: int) -> ExchangeSpec:
        """Returns the rows of every group of chips that exchange tokens, and the times of the stack's kernel."""
        groups = mesh_groups(self.topology.unfold(), self.tokens)
        holder, matrix = self.holder_of(), self.rows(routing)
        boxed = routing.boxed if self.scheme == "per_box" else None
        shared: dict[bytes, Floats] = {}
        rows, handled = [], np.zeros(groups.size)
        for members in groups:
            held = holder[members]
            own = shared.setdefault(held.tobytes(), matrix[:, held])
            handled[members] = np.maximum(own.sum(axis=1), own.sum(axis=0))
            rows.append(own)
        return ExchangeSpec(tuple(rows), (boxed,) * len(groups), self.algorithm, self._timing(way, handled, row_bytes))

    def _stages(self, spec: ExchangeSpec) -> list[tuple[Axes, ExchangeSpec]]:
        """Returns (axes, rows) of a dispatch that goes along all axes at once, or along one after the other.

        Along an axis a chip sends all rows that are for chips at another position there, also those that it was sent.
        """
        turns = [axes for axes, _ in in_turn(self.stack, self.topology, "all_to_all", self.tokens, 0.0)]
        if len(turns) == 1:
            return [(self.tokens, spec)]
        machine, sizes = self.topology.unfold(), [group_size(self.topology, axes) for axes in turns]
        groups = mesh_groups(machine, self.tokens)
        held = [rows.reshape(*sizes, *sizes) for rows in spec.rows]  # from where rows are to where they are to go
        result = []
        for turn, axes in enumerate(turns):
            size, beyond = sizes[turn], [len(sizes) + axis for axis in range(len(sizes)) if axis != turn]
            sent = np.empty((machine.chips, size))
            for members, rows in zip(groups, held, strict=True):
                sent[members] = rows.sum(axis=tuple(beyond)).reshape(-1, size)
            lines = mesh_groups(machine, axes)
            result.append((axes, replace(spec, rows=tuple(sent[line] for line in lines), boxed=(None,) * len(lines))))
            there = np.expand_dims(np.eye(size), [axis for axis in range(2 * len(sizes)) if axis % len(sizes) != turn])
            held = [rows.sum(axis=turn, keepdims=True) * there for rows in held]
        return result

    def _timing(self, way: Way, handled: Floats, row_bytes: int) -> Timing | None:
        """Returns the times of the stack's kernel, where each chip sends or receives so many rows [chips]."""
        times = self._times(way)
        if times is None:
            return None
        if self.layout.multiprocessors:
            times = times.model_copy(update={"multiprocessors": self.layout.multiprocessors})
        fastest = {link.medium: link.bandwidth for link in sorted(self.topology.links, key=lambda link: link.bandwidth)}
        shares = tuple(times.share_of(medium, fastest.get(medium, 0.0), row_bytes) for medium in MEDIA)
        peers = group_size(self.topology, self.tokens) - 1
        least = tuple(times.least_s(peers, rows, row_bytes) for rows in handled.tolist())
        same = least[0] if len(set(least)) == 1 else least
        return Timing(self.overhead_s(way), (0.0,) * len(MEDIA), shares, times.multiprocessors, same)

    def overhead_s(self, way: Way) -> float:
        """Returns the time of the stack's kernel besides its rows; 0 if it has none."""
        times = self._times(way)
        return times.overhead_s(group_size(self.topology, self.tokens) - 1) if times else 0.0

    def _times(self, way: Way) -> ExchangeTimes | None:
        kernel = self.stack.exchange.get(self.kernel)
        return (kernel.dispatch if way == "dispatch" else kernel.combine).value if kernel else None

    def _boxes(self) -> tuple[int, ...] | None:
        """Returns [holders] the box of each chip of the first group; None in one box."""
        machine = self.topology.unfold()
        if machine.has_lines or self.tokens != self.experts:
            return None
        box_of = {chip: box for box, chips in enumerate(boxes(machine)) for chip in chips}
        members = mesh_groups(machine, self.tokens)[0]
        order = members[np.argsort(self.holder_of()[members])]
        numbers: dict[int, int] = {}
        result = tuple(numbers.setdefault(box_of[chip], len(numbers)) for chip in order.tolist())
        return result if len(numbers) > 1 else None


def group_size(topology: Topology, axes: Axes) -> int:
    """Returns the number of chips in a group along mesh axes."""
    return prod(mesh_axis(topology, name).size for name in axes)


def in_turn(stack: Software, topology: Topology, kind: str, axes: Axes, size: float) -> list[tuple[Axes, float]]:
    """Returns (axes, bytes) of the collectives that one over `axes` is made of: itself, or one for each of its axes of
    several chips.

    What is gathered over the last axis is all there is; over those before, a part of it. A reduce-scatter goes the
    other way, and an all-to-all has the same buffer on every axis.
    """
    apart = stack.collective_axes == "one_by_one" and kind != "all_reduce"
    if not apart or not topology.has_lines:
        return [(axes, size)]
    axes = tuple(axis for axis in axes if group_size(topology, (axis,)) > 1)
    sizes = [group_size(topology, (axis,)) for axis in axes]
    shares = [1.0] * len(axes) if kind == "all_to_all" else [1 / prod(sizes[i + 1 :]) for i in range(len(axes))]
    turns: list[tuple[Axes, float]] = [((axis,), size * share) for axis, share in zip(axes, shares, strict=True)]
    return turns[::-1] if kind == "reduce_scatter" else turns
