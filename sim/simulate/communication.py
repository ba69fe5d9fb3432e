"""Formulas for collectives on a scenario's mesh, as `sim.closed_form.operations.CommunicationModel` asks for them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from math import prod

from sim.closed_form import collectives
from sim.closed_form.pass_time import loop_form
from sim.collectives import algorithm_of
from sim.collectives.loop import closes
from sim.collectives.predict import closed_form_s, of_nccl
from sim.lowering.placement import computing_part
from sim.specs import Scenario
from sim.specs.uses import Axes
from sim.topology.boxes import boxes
from sim.topology.group import group_of
from sim.topology.lower_bound import lower_bound
from sim.topology.mesh import joined, mesh_groups, whole_lines

Formula = tuple[float, tuple[str, ...]]
"""Time in s, and why it is not exact."""


class Communication:
    """Formulas of one scenario's machine; for a collective without one, the lower bound of its links."""

    def __init__(self, scenario: Scenario) -> None:
        self.topology = computing_part(scenario)
        self.lengths: Mapping[str, int] = {axis.name: axis.size for axis in self.topology.mesh}
        self.uses = scenario.uses(self.lengths)
        self.collective = functools.cache(self._collective)
        self._scenario = scenario

    def is_ring(self, axis: str) -> bool:
        line = self._line(axis)
        return bool(line) and self.topology.axis(line).ring

    def closes(self, axis: str) -> bool:
        return closes(self.topology, axis)

    def hop(self, axis: str, size: float) -> Formula:
        if line := self._line(axis):
            link, step_s = self._scenario.topology.line_links[line], self._scenario.stack.collective_step.value
            return size / (link.bandwidth.value * link.efficiency.value) + link.latency.value + step_s, ()
        on_switch = self.topology.has_ports and loop_form(self._scenario) == "one_way"
        reasons = () if on_switch else (f"approximates a loop over {axis} by a one-way ring",)
        return lower_bound(self.topology, "permute", (axis,), size), reasons

    def _line(self, axis: str) -> str:
        """Returns the torus axis that a mesh axis is; empty if shards go around the mesh axis by routes."""
        lines = whole_lines(self.topology, (axis,)) if self.topology.has_lines else None
        longer = [line for line in lines or () if self.topology.axis(line).size > 1]
        return longer[0] if len(longer) == 1 else ""

    def _collective(self, kind: str, axes: Axes, size: float) -> Formula:
        if self._group_size(axes) == 1:
            return 0.0, ()
        in_turn = self._scenario.stack.collective_axes == "one_by_one"
        if kind in ("dispatch", "combine"):  # as much to every chip
            if not self.topology.has_lines:
                return self._exchange_on_routes(kind, axes, size)
            kind = "all_to_all"
        if not self.topology.has_lines:
            return self._time_on_routes(kind, axes, size)
        if not in_turn or kind == "all_reduce" or len(axes) == 1:
            return self._time_on_lines(kind, axes, size)
        # One axis after the other: of what is gathered, V_i of the size in turn i, that of the axes up to this one.
        turns = [
            self._time_on_lines(
                kind, (axis,), size / (1 if kind == "all_to_all" else self._group_size(axes[turn + 1 :]))
            )
            for turn, axis in enumerate(axes)
            if self.lengths[axis] > 1
        ]
        return sum(time for time, _ in turns), tuple(reason for _, reasons in turns for reason in reasons)

    def _group_size(self, axes: Axes) -> int:
        return prod(self.lengths[axis] for axis in axes)

    def _time_on_lines(self, kind: str, group: Axes, size: float) -> Formula:
        """Returns the time over axes of a torus, from its file alone."""
        if (torus_axes := whole_lines(self.topology, group)) is None:
            bound = lower_bound(self.topology, kind, group, size)
            return bound, (f"uses a lower bound for {kind} over {joined(group)}",)
        spec, stack = self._scenario.topology, self._scenario.stack
        step_s, launch_s = stack.collective_step.value, stack.collective_overhead.value
        axes = [self._scenario.part.lines[axis] for axis in torus_axes]
        links = [spec.line_links[axis] for axis in torus_axes]
        sizes = [self.topology.axis(axis).size for axis in torus_axes]
        rings = [
            (size, size == axis.size and axis.wrap and set(axis.twist) <= set(torus_axes))
            for size, axis in zip(sizes, axes, strict=True)
        ]
        bandwidth = max(link.bandwidth.value * link.efficiency.value for link in links)
        latency_s = min(link.latency.value for link in links) + step_s
        algorithm = {**spec.collectives, **self._scenario.collectives}.get(kind, "multi_axis")
        twisted = any(ring and axis.twist for axis, (_, ring) in zip(axes, rings, strict=True))
        time, reasons = None, tuple[str, ...]()
        if not twisted and all(link == links[0] for link in links):
            time = collectives.predict(kind, algorithm, rings, size, bandwidth, latency_s)
        if time is None:
            reason = "approximates twisted axes by rings for" if twisted else "uses a lower bound for"
            reasons = (f"{reason} {kind} over {joined(torus_axes)}",)
            time = collectives.bound(kind, rings, size, bandwidth, latency_s)
        elif not collectives.ends_together(algorithm, rings):
            reasons = (f"assumes that all chips end {kind} over {joined(torus_axes)} together",)
        return time + collectives.starts_beside_hops(kind, rings) * step_s + launch_s, reasons

    def _exchange_on_routes(self, kind: str, axes: Axes, size: float) -> Formula:
        """Returns the time of messages from every chip to every other of its group, without that of the kernel."""
        has_kernel = self._scenario.exchange_kernel in self._scenario.stack.exchange
        left_out = ("leaves out stack.exchange",) if has_kernel else ()
        chips = tuple(mesh_groups(self.topology, axes)[0].tolist())
        group = group_of(self.topology, chips).machine
        form = closed_form_s(group, "all_to_all", "one_shot", tuple(axis.name for axis in group.axes), size)
        if form is None:
            bound = lower_bound(self.topology, "all_to_all", axes, size)
            return bound, (*left_out, f"uses a lower bound for {kind} over {joined(axes)}")
        return form, left_out

    def count_boxes(self, axes: Axes) -> int:
        if self.topology.has_lines:
            return 1
        members = set(mesh_groups(self.topology, axes)[0].tolist())
        return sum(not members.isdisjoint(chips) for chips in boxes(self.topology))

    def _time_on_routes(self, kind: str, axes: Axes, size: float) -> Formula:
        """Returns the time among a group's chips on a switch or graph: by NCCL's tuner, which is not exact, or a
        formula."""
        chips = tuple(mesh_groups(self.topology, axes)[0].tolist())
        group = group_of(self.topology, chips).machine
        algorithm = algorithm_of(group, kind, self._scenario.collectives.get(kind), size)
        form = closed_form_s(group, kind, algorithm, tuple(axis.name for axis in group.axes), size)
        if form is None:
            bound = lower_bound(self.topology, kind, axes, size)
            return bound, (f"uses a lower bound for {kind} by {algorithm}",)
        if of_nccl(group, kind, algorithm):
            return form, (f"uses NCCL's tuner for {kind}",)
        ends_together = algorithm in collectives.ENDS_TOGETHER_ON_SWITCH
        return form, () if ends_together else (f"assumes that all chips end {kind} by {algorithm} together",)
