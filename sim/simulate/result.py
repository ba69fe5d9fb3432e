"""What a run gives: a pass per phase with its trace, and the report of all steps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.lowering.lower import lower
from sim.lowering.lowered_pass import LoweredPass
from sim.program import Period
from sim.program.trace import Trace
from sim.report.pool import Series, memory_over_time
from sim.report.report import Report
from sim.shortcuts import periodic
from sim.shortcuts.unfold import expand_to_all_chips, expand_to_chips, keep_chips
from sim.specs import Scenario
from sim.topology.graph import Topology


@dataclass(frozen=True)
class Pass:
    """One forward pass: the prefill, or the decode step of mean cache length."""

    scenario: Scenario
    topology: Topology
    """Folded where some chips were simulated for all."""
    lowered: LoweredPass
    part: Trace
    """Of all layers, or of those that were simulated for the rest."""
    periods: tuple[Period, ...]
    """How the layers that were left out follow."""
    report: Report

    @functools.cached_property
    def trace(self) -> Trace:
        """Of all layers, made when first asked for: the report does without."""
        return periodic.unroll(self.part, self.periods)

    @property
    def makespan_ps(self) -> int:
        """End of the last task of all layers."""
        return periodic.makespan_ps(self.part, self.periods)

    def whole(self) -> tuple[Trace, Topology]:
        """The trace of all chips: each has the times of the one that was simulated for it."""
        full = self.topology.unfold()
        if not self.topology.is_folded:
            return self.trace, full
        return expand_to_all_chips(self.trace, self.topology, lower(self.scenario, full).program), full

    def of_chips(self, chips: Sequence[int]) -> tuple[Trace, Topology]:
        """The trace of some chips of the whole machine, in which tasks may wait for nothing: to look at, not to run.

        Only on a torus can a chip's part be told without the others'; elsewhere it is of all chips.
        """
        full = self.topology.unfold()
        if not full.has_lines:
            return self.whole()
        if not self.topology.is_folded:
            return periodic.unroll(keep_chips(self.part, chips), self.periods), full
        return expand_to_chips(self.trace, self.topology, chips), full

    @property
    def span(self) -> str:
        """What its trace is of: `one decode step`, `all 12 requests`."""
        return self.report.span if self.report.pipeline else f"one {self.scenario.workload.phase} step"

    def memory_of(self, chip: int) -> Series:
        """What a chip's memory holds over time: all of it throughout, but for layers that visit from a memory pool."""
        used_bytes, pool = self.report.memory.used_bytes, self.report.pool
        if pool is None:
            return np.zeros(1), np.array([used_bytes])
        return memory_over_time(self.trace, self.topology.representative_of(chip), used_bytes, pool.layer_bytes)


@dataclass(frozen=True, slots=True)
class Run:
    """What a run made: a pass per phase, and the report of all steps."""

    scenario: Scenario
    passes: tuple[Pass, ...]
    report: Report
    tasks: int
    """Simulated in all."""
    engine_s: float
    """Wall-clock time of the engine."""
    settings: tuple[str, ...] = ()
    """What `--set` changed of the scenario, `key=value` each."""
    source: str | None = None
    """The scenario's file; None where it was none."""

    @property
    def settings_text(self) -> str:
        """`with key=value, ...`, for titles; nothing where nothing was changed."""
        return f"with {', '.join(self.settings)}" if self.settings else ""

    def _repr_html_(self) -> str:
        return self.report._repr_html_()

    def suffix(self, part: Pass) -> str:
        """What tells files of a phase from those of the other: `_decode`; nothing where there is one phase."""
        return f"_{part.scenario.workload.phase}" if len(self.passes) > 1 else ""
