"""What formulas say of messages between the chips of a scenario's mesh: see `sim.closed_form.tally.Communication`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from math import prod

from sim import bench
from sim.closed_form import collectives
from sim.collectives import algorithm_of
from sim.placement import machine
from sim.specs import Scenario, TorusSpec
from sim.topology.group import group_of
from sim.topology.lower_bound import lower_bound
from sim.topology.mesh import mesh_groups, whole_lines
from sim.uses import Axes

Formula = tuple[float, tuple[str, ...]]
"""Time in s, and why it is not exact."""


class Communication:
    """The formulas of one scenario's machine; where a collective has none, the lower bound of its links."""

    def __init__(self, scenario: Scenario) -> None:
        self.topology = machine(scenario)
        self.lengths: Mapping[str, int] = {axis.name: axis.size for axis in self.topology.mesh}
        self.at = scenario.uses(tuple(self.lengths))
        self.collective = functools.cache(self._collective)
        self._scenario = scenario

    def is_ring(self, axis: str) -> bool:
        lines = whole_lines(self.topology, (axis,)) or ()
        return len(lines) == 1 and self.topology.axis(lines[0]).ring

    def closes(self, axis: str) -> bool:
        return self.is_ring(axis) or self.lengths[axis] == 2

    def hop(self, axis: str, size: float) -> float:
        spec = self._scenario.topology
        if not isinstance(spec, TorusSpec):
            return size / self.topology.links[0].bandwidth + self.topology.links[0].latency_s
        link = spec.link_along(axis)
        latency_s = link.latency.value + self._scenario.stack.collective_step.value
        return size / (link.bandwidth.value * link.efficiency.value) + latency_s

    def _collective(self, kind: str, axes: Axes, size: float) -> Formula:
        if self._ways(axes) == 1:
            return 0.0, ()
        spec, in_turn = self._scenario.topology, self._scenario.stack.collective_axes == "one_by_one"
        if not isinstance(spec, TorusSpec):
            return self._on_routes(kind, axes, size)
        if not in_turn or kind == "all_reduce" or len(axes) == 1:
            return self._on_lines(spec, kind, axes, size)
        # One axis after the other: of what is gathered, V_i of the size in turn i, that of the axes up to this one.
        rest = [1 if kind == "all_to_all" else self._ways(axes[turn + 1 :]) for turn in range(len(axes))]
        turns = [(axis,) for axis in axes if self._ways((axis,)) > 1]
        found = [self._on_lines(spec, kind, each, size / rest[axes.index(each[0])]) for each in turns]
        return sum(time for time, _ in found), tuple(reason for _, reasons in found for reason in reasons)

    def _ways(self, axes: Axes) -> int:
        return prod(self.lengths[axis] for axis in axes)

    def _on_lines(self, spec: TorusSpec, kind: str, over: Axes, size: float) -> Formula:
        """Of a torus, from its file alone."""
        step_s, launch_s = self._scenario.stack.collective_step.value, self._scenario.stack.collective_overhead.value
        axes, links = [spec.axes[axis] for axis in over], [spec.link_along(axis) for axis in over]
        rings = [(axis.size, axis.wrap and set(axis.twist) <= set(over)) for axis in axes]
        bandwidth = max(link.bandwidth.value * link.efficiency.value for link in links)
        latency_s = min(link.latency.value for link in links) + step_s
        algorithm = {**spec.collectives, **self._scenario.collectives}.get(kind, "multi_axis")
        twisted = any(ring and axis.twist for axis, (_, ring) in zip(axes, rings, strict=True))
        reasons: tuple[str, ...] = ()
        time = None
        if not twisted and all(link == links[0] for link in links):
            time = collectives.predict(kind, algorithm, rings, size, bandwidth, latency_s)
        if time is None:
            has = "takes twisted axes for rings in" if twisted else "has only a bound of"
            reasons = (f"{has} {kind} over {''.join(over)}",)
            time = collectives.bound(kind, rings, size, bandwidth, latency_s)
        elif not collectives.ends_together(algorithm, rings):
            reasons = (f"assumes that all chips end {kind} over {''.join(over)} together",)
        return time + collectives.starts_beside_hops(kind, rings) * step_s + launch_s, reasons

    def _on_routes(self, kind: str, axes: Axes, size: float) -> Formula:
        """Of the machine of a group's chips: of NCCL its tuner, which is not exact; else by the formula of a switch."""
        chips = tuple(mesh_groups(self.topology, axes)[0].tolist())
        group = group_of(self.topology, chips).machine
        algorithm = algorithm_of(group, kind, self._scenario.collectives.get(kind), size)
        form = bench.closed_form_s(group, kind, algorithm, tuple(axis.name for axis in group.axes), size)
        if form is None:
            bound = lower_bound(self.topology, kind, axes, size)
            return bound, (f"has only a bound of {kind} by {algorithm}",)
        if bench.of_nccl(group, kind, algorithm):
            return form, (f"has NCCL's tuner for {kind}",)
        together = algorithm in collectives.ENDS_TOGETHER_ON_SWITCH
        return form, () if together else (f"assumes that all chips end {kind} by {algorithm} together",)
