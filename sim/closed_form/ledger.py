"""Times of the operations, collectives and loops of one layer on a torus, one after the other.

A looped matmul (Pope et al. 2022, section 3.5) of pieces of p and shards that take s to the next chip, o overlap:

    T = p + (K-1) (max(p, s) + (1 - o) min(p, s))

on a ring of K chips; the formulas below also have a first piece that reads no sums, and a launch. A shard is V/(2K) of
the gathered bytes each way, V/K where there is one way only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import mul

from sim.closed_form import collectives
from sim.closed_form.prediction import Prediction, torus_of
from sim.closed_form.scope import Known, left_out
from sim.specs import Scenario

Axes = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """Bytes of one launch."""

    weights: float
    """Of weights and cache."""
    activations: Sequence[float]
    """Of each input, output and sum."""


class Ledger:
    """The terms of one layer, s, one entry per operation and collective."""

    def __init__(self, scenario: Scenario) -> None:
        self.terms: dict[str, float] = {}
        self.torus, self.stack = torus_of(scenario), scenario.stack
        self.inexact: dict[str, None] = {}
        """What of the collectives is not exact."""
        self._algorithms = {**self.torus.collectives, **scenario.collectives}
        self._dtype, self._overlap = scenario.workload.activations, scenario.overlap
        self._beside = 1 - self.stack.roofline_overlap.value
        default = "bidirectional_latency" if scenario.workload.phase == "decode" else "bidirectional_throughput"
        self._form = scenario.collectives.get("collective_matmul", self.stack.loop_form or default)

    def ways(self, axes: Axes) -> int:
        """Chips of a group."""
        return prod(self.torus.axes[axis].size for axis in axes)

    def spilled(self, size: float) -> float:
        """Bytes of an activation that memory on the chip does not hold; all, where it holds none."""
        memory = self.torus.chip.on_chip_memory
        return max(0.0, size - memory.value) if memory else size

    def time(self, flops: float, moved: Moved, *, tiled: bool = False, collective: bool = False) -> float:
        """FLOPs at the reached rate or bytes at the reached memory bandwidth, whichever takes longer, what of the
        other does not pass under it, and the overhead.

        Args:
            tiled: a matmul of more than one row.
            collective: a matmul whose input is gathered, or whose output is scattered, over an axis.
        """
        chip, stack = self.torus.chip, self.stack
        reached = stack.matmul_hbm_efficiency if tiled and stack.matmul_hbm_efficiency else stack.hbm_efficiency
        rate = chip.peak[self._dtype].value * stack.matmul_efficiency.value
        compute = flops / (rate * (stack.collective_matmul_efficiency.value if collective else 1.0))
        memory = (moved.weights + sum(map(self.spilled, moved.activations))) / (
            chip.hbm_bandwidth.value * reached.value
        )
        return max(compute, memory) + self._beside * min(compute, memory) + stack.op_overhead.value

    def op(self, name: str, flops: float, moved: Moved, *, tiled: bool = False, collective: bool = False) -> None:
        """One launch."""
        self._add(name, self.time(flops, moved, tiled=tiled, collective=collective))

    def elementwise(self, name: str, *activations: float) -> None:
        """A norm, activation or add where it is a kernel of its own, or goes through memory as it does not fit."""
        held = self.torus.chip.on_chip_memory and not any(map(self.spilled, activations))
        if self.stack.elementwise == "kernel" or not (held or self.torus.chip.on_chip_memory is None):
            self.op(name, 0.0, Moved(0.0, activations))

    def loops(self, over: Axes) -> bool:
        """Whether matmuls are looped with collectives over these axes: around a ring, or between two chips."""
        axes = [self.torus.axes[axis] for axis in over if self.ways((axis,)) > 1]
        closed = all((axis.wrap and not axis.twist) or axis.size == 2 for axis in axes)
        return self._overlap == "collective_matmul" and bool(axes) and closed

    def gathering(self, name: str, pieces: Sequence[float], over: Axes, size: float) -> None:
        """An all-gather of `size` bytes looped with a matmul of so many pieces, s: each waits for its shard."""
        shift, launch = self._shift(over, size), self.stack.collective_overhead.value
        done, arrived = 0.0, launch
        for last, piece in zip([*[False] * (len(pieces) - 1), True], pieces, strict=True):
            held = 0.0 if last else self._held(piece, shift)
            done = max(done, 0.0 if arrived == launch else arrived) + piece + held
            arrived += shift + held
        self._add(name, done)

    def scattering(self, name: str, pieces: Sequence[float], over: Axes, size: float) -> None:
        """A matmul of so many pieces, s, looped with the reduce-scatter of its `size` bytes: a piece is sent on, added
        to what came, under the next."""
        shift = self._shift(over, size)
        done, arrived = pieces[0], pieces[0] + self.stack.collective_overhead.value
        for piece in pieces[1:]:
            held = self._held(piece, shift)
            arrived = max(arrived, done) + shift + held
            done += piece + held
        self._add(name, max(done, arrived))

    def weight_loop(self, name: str, pieces: Sequence[float], over: Axes, size: float) -> None:
        """Pieces, s, that each multiply with a shard of `size` bytes while it moves on, first along the first axis."""
        axes = [axis for axis in over if self.ways((axis,)) > 1]
        periods = list(accumulate((self.ways((axis,)) for axis in axes), mul))
        total, launch = 0.0, self.stack.collective_overhead.value
        for number, piece in enumerate(pieces[:-1], start=1):
            along = axes[next(i for i, period in enumerate(periods) if number % period)]
            link = self.torus.link_along(along)
            shift = size / (link.bandwidth.value * link.efficiency.value) + self._latency(along)
            total += max(piece, shift + (launch if number == 1 else 0.0)) + self._held(piece, shift)
        self._add(name, total + pieces[-1])

    def _shift(self, over: Axes, size: float) -> float:
        """Time of one hop of a shard of a loop over one axis, s."""
        (along,) = over
        axis, link = self.torus.axes[along], self.torus.link_along(along)
        two_way = axis.wrap and self._form != "one_way"
        if axis.wrap and self._form == "bidirectional_latency":
            self.inexact["takes loops of bidirectional_latency for bidirectional_throughput"] = None
        each = size / axis.size / (2 if two_way else 1)
        return each / (link.bandwidth.value * link.efficiency.value) + self._latency(along)

    def _latency(self, along: str) -> float:
        return self.torus.link_along(along).latency.value + self.stack.collective_step.value

    def _held(self, piece: float, shift: float) -> float:
        """What a piece and the shift beside it take longer."""
        return self._beside * min(piece, shift)

    def wire(self, name: str, collective: str, over: Axes, size: float) -> None:
        """A collective of `size` bytes, as `collectives.predict` counts them; a group of one chip needs none.

        One axis after the other, where the stack says so, a gather has V_i of the size in turn i: that of the axes up
        to this one. On axes that have no closed form together, its lower bound.
        """
        if self.ways(over) == 1:
            return
        if self.stack.collective_axes == "one_by_one" and collective != "all_reduce" and len(over) > 1:
            for turn, axis in enumerate(over):
                rest = 1 if collective == "all_to_all" else self.ways(over[turn + 1 :])
                self.wire(name, collective, (axis,), size / rest)
            return
        axes = [self.torus.axes[axis] for axis in over]
        rings = [(axis.size, axis.wrap and set(axis.twist) <= set(over)) for axis in axes]
        links = [self.torus.link_along(axis) for axis in over]
        bandwidth = max(link.bandwidth.value * link.efficiency.value for link in links)
        latency = min(link.latency.value for link in links) + self.stack.collective_step.value
        algorithm = self._algorithms.get(collective, "multi_axis")
        twisted = any(ring and axis.twist for axis, (_, ring) in zip(axes, rings, strict=True))
        has_form = not twisted and all(link == links[0] for link in links)
        time = collectives.predict(collective, algorithm, rings, size, bandwidth, latency) if has_form else None
        if time is None:
            has = "takes twisted axes for rings in" if twisted else "has only a bound of"
            self.inexact[f"{has} {collective} over {''.join(over)}"] = None
            time = collectives.bound(collective, rings, size, bandwidth, latency)
        elif not collectives.ends_together(algorithm, rings):
            self.inexact[f"assumes that all chips end {collective} over {''.join(over)} together"] = None
        starts = collectives.starts_beside_hops(collective, rings) * self.stack.collective_step.value
        self._add(f"{name} {collective.replace('_', '-')}", time + starts + self.stack.collective_overhead.value)

    def prediction(self, scenario: Scenario, known: Known) -> Prediction:
        """The terms as those of one pass of the scenario, added up."""
        return Prediction(sum(self.terms.values()), self.terms, (*left_out(scenario, known), *self.inexact))

    def _add(self, name: str, time: float) -> None:
        self.terms[name] = self.terms.get(name, 0.0) + time
