"""Result of a run: a pass per phase with its trace, and the report of all steps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.lowering.lower import lower
from sim.lowering.lowered_pass import LoweredPass
from sim.program import Period
from sim.program.trace import Trace
from sim.report.headline import list_brief_figures, to_html
from sim.report.report import Report
from sim.shortcuts import periodic
from sim.shortcuts.unfold import expand_to_all_chips, expand_to_chips, keep_chips
from sim.specs import Scenario
from sim.topology.graph import Topology
from sim.units import format_count, format_seconds

if TYPE_CHECKING:
    from sim.report.critical_path import Shares
    from sim.report.pool import Series


def describe_settings(settings: Sequence[str]) -> str:
    """Returns `with key=value, ...` for titles; nothing where nothing was changed."""
    return f"with {', '.join(settings)}" if settings else ""


class Pass(Struct, frozen=True, dict=True):
    """One forward pass: the prefill, or the decode step of mean cache length."""

    scenario: Scenario
    topology: Topology
    """Machine, folded to its representative chips if the pass was."""
    lowered: LoweredPass
    part: Trace
    """Trace of the simulated layers."""
    periods: tuple[Period, ...]
    """Steady states of the repeated blocks whose copies were not simulated."""
    report: Report
    chosen_chips: tuple[int, ...] = ()
    """Chips that figures draw beside those they would draw, as the whole machine numbers them."""

    def __repr__(self) -> str:
        return f"Pass({self.span} of {self.scenario.name}: {self.part!r} on {self.topology!r})"

    @functools.cached_property
    def trace(self) -> Trace:
        """Trace of all layers, made on first use; the report does not need it."""
        return periodic.unroll(self.part, self.periods)

    @property
    def makespan_ps(self) -> int:
        """End of the last task of all layers."""
        return periodic.makespan_ps(self.part, self.periods)

    def whole(self) -> tuple[Trace, Topology]:
        """Returns the trace of all chips: each has the times of its representative."""
        full = self.topology.unfold()
        return (periodic.unroll(self._part_of_all(), self.periods) if self.topology.is_folded else self.trace), full

    def _part_of_all(self) -> Trace:
        """Returns the trace of the simulated layers on all chips."""
        if not self.topology.is_folded:
            return self.part
        skipped = self.part.program.skipped
        lowered = lower(self.scenario, self.topology.unfold(), skipped[0].kept if skipped else None)
        return expand_to_all_chips(self.part, self.topology, lowered.program)

    def of_chips(self, chips: Sequence[int]) -> tuple[Trace, Topology]:
        """Returns the trace of some chips of the full machine, in which tasks may lack their dependencies: to look at,
        not to run.
        """
        full = self.topology.unfold()
        if self.topology.is_folded and full.has_lines:
            return expand_to_chips(self.trace, self.topology, chips), full
        return periodic.unroll(keep_chips(self._part_of_all(), full, chips), self.periods), full

    @property
    def span(self) -> str:
        """Span of the trace: `one decode step`, `all 12 requests`."""
        return self.report.span if self.report.pipeline else f"one {self.scenario.workload.phase} step"

    @property
    def chip_roles(self) -> dict[int, str]:
        """Chips to look at and why, in order, as the whole machine numbers them: the chosen ones, those that `perturb`
        names, the one with the most rows of experts, the first that only receives, then one of each stage of a
        pipeline."""
        differing, staged = (*self._perturbed, *self._busiest, *[*self._receiving][:1]), self._staged
        named = {self.report.critical_chip, *self.chosen_chips, *differing}
        first = {chips[0] for chips in self.lowered.batches.chips} if self.lowered.batches else set()
        others = [chip for chip in staged if chip in named | first]  # the other ranks of a stage do the same
        roles = self.every_role
        return {chip: roles.get(chip, "chosen") for chip in dict.fromkeys((*self.chosen_chips, *differing, *others))}

    @property
    def every_role(self) -> dict[int, str]:
        """Roles of all chips that have one, as the whole machine numbers them: what `perturb` does to them, the most
        rows of experts, that they receive the cache, and their stage and rank in a pipeline."""
        every = self._perturbed, self._busiest, self._receiving, self._staged
        chips = dict.fromkeys(chip for roles in every for chip in roles)
        return {chip: ", ".join(roles[chip] for roles in every if chip in roles) for chip in chips}

    @property
    def _perturbed(self) -> dict[int, str]:
        perturb = self.scenario.perturb
        if perturb is None:
            return {}
        roles = {chip: "straggler" for each in perturb.stragglers for chip in each.chips}
        slow = {name for each in perturb.slow_links for name in each.links}
        for link in self.topology.links:
            chip = next((end for end in (link.src, link.dst) if end < self.topology.chips), None)
            if chip is not None and (link.name in slow or link.index in self.topology.failed):
                roles.setdefault(chip, "slow link" if link.name in slow else "failed link")
        return roles

    @property
    def _busiest(self) -> dict[int, str]:
        experts = self.report.experts
        return {experts.busiest_chip: "most rows of experts"} if experts and not experts.is_even else {}

    @property
    def _receiving(self) -> dict[int, str]:
        transfer = self.lowered.transfer
        return {} if transfer is None else dict.fromkeys(transfer.receivers.tolist(), "only receives the cache")

    @property
    def _staged(self) -> dict[int, str]:
        batches = self.lowered.batches
        return {
            chip: f"stage {stage}" + (f" rank {rank}" if len(chips) > 1 else "")
            for stage, chips in enumerate(batches.chips if batches else ())
            for rank, chip in enumerate(chips)
        }

    def attribute_step(self) -> Shares:
        """Attributes the step to causes, operations, links and chips along its critical path."""
        from sim.report.critical_path import attribute_step

        return attribute_step(self.trace, self.topology, self.every_role)

    def memory_of(self, chip: int) -> Series:
        """Returns a chip's memory over time: constant, except for layers of a memory pool."""
        used_bytes, pool = self.report.memory.used_bytes, self.report.pool
        if pool is None:
            return np.zeros(1), np.array([used_bytes])
        from sim.report.pool import memory_over_time

        return memory_over_time(self.trace, self.topology.representative_of(chip), used_bytes, pool.layer_bytes)


class Run(Struct, frozen=True):
    """Result of a run: a pass per phase, and the report of all steps."""

    scenario: Scenario
    passes: tuple[Pass, ...]
    report: Report
    tasks: int
    """Number of tasks simulated."""
    engine_s: float
    """Wall-clock time of the engine."""
    settings: tuple[str, ...] = ()
    """Settings of `--set`, `key=value` each."""
    source: str | None = None
    """File of the scenario; None if it came from no file."""

    def __repr__(self) -> str:
        lines = [f"Run of {self.scenario.name} {self.settings_text}".rstrip(), f"  {self.report!r}"]
        return "\n".join([*lines, *(f"  {part!r}" for part in self.passes)])

    @property
    def settings_text(self) -> str:
        """`with key=value, ...`, for titles; nothing where nothing was changed."""
        return describe_settings(self.settings)

    @property
    def machine_text(self) -> str:
        """Name of the machine and the chips used, `dgx_h100_x2, 8 of 16 chips`."""
        used, chips = self.report.chips, self.scenario.topology.chip_count
        return f"{self.report.machine}, {f'{used} of ' if used < chips else ''}{format_count(chips, 'chip')}"

    def _repr_html_(self) -> str:
        """Returns what was simulated, for a notebook; the report shows the figures."""
        rows = [("scenario", " ".join((self.scenario.name, self.settings_text))), ("machine", self.report.machine)]
        rows += [(label, value) for label, value in list_brief_figures(self.report)]
        rows += [(part.span, repr(part.part)) for part in self.passes]
        rows += [("shortcut", text) for text in self.report.shortcuts]
        rows += [("tasks simulated", f"{self.tasks:,} in {format_seconds(self.engine_s)}")]
        return to_html(f"run of {self.scenario.name}", rows)

    def choose_chips(self, chips: Sequence[int]) -> Self:
        """Returns the run whose timelines draw these chips too, as the whole machine numbers them."""
        return replace(self, passes=tuple(replace(part, chosen_chips=tuple(chips)) for part in self.passes))

    def suffix(self, part: Pass) -> str:
        """Returns the suffix of a phase's files: `_decode`; empty if there is one phase."""
        return f"_{part.scenario.workload.phase}" if len(self.passes) > 1 else ""
