"""Decode steps of a generation: the same tasks, except for attention over a cache one position longer each time.

A step is simulated; in the next ones every task takes its resources in the same order, which is checked for each
(`sim.shortcuts.task_order`), so their times follow without the engine, and so does how their layers repeat
(`sim.shortcuts.periodic`). The first step that has another order is simulated again. Equal steps are done once. In
every run the second step is lowered, too: where its tasks are not those that follow from the first, every step is
simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.lowering.costs import Work, launch_columns
from sim.program import Ints, Program
from sim.program.perturb import apply_perturbations, keep_links_in_use
from sim.shortcuts.periodic import steady_states
from sim.shortcuts.task_order import TaskOrder
from sim.simulate.forward_pass import Simulated, lower_pass, simulate_pass
from sim.specs import Scenario
from sim.topology import build
from sim.units import PS_PER_S

_FIRST_BATCH = 8
"""Steps that are first derived from a simulated one; the number then doubles."""
_LARGEST_BATCH = 256
_TASK_STEPS = 2**20
"""Tasks x steps computed at once: columns of 8 MiB."""


class Steps(Struct, frozen=True):
    """Steps one after the other."""

    times_s: tuple[float, ...] = ()
    """[steps] time, s."""
    tasks: int = 0
    """Number of tasks that the engine simulated."""
    engine_s: float = 0.0
    """Wall-clock time of the engine."""
    shortcuts: tuple[str, ...] = ()
    """Sentence that says which steps were simulated."""

    @property
    def latency_s(self) -> float:
        """Time of all steps, s."""
        return fsum(self.times_s)


def simulate_steps(steps: Sequence[Scenario], progress: Callable[[int, int], None] = lambda done, total: None) -> Steps:
    """Simulates decode steps that differ in the length of the cache alone.

    Args:
        progress: called with (steps done, steps in all).
    """
    times_s: list[float] = []
    tasks, engine_s, simulated = 0, 0.0, 0
    differs = False  # a followed step is not what lowering it gives
    while len(times_s) < len(steps):
        progress(len(times_s), len(steps))
        step = simulate_pass(steps[len(times_s)])
        times_s.append(step.step_s)
        tasks, engine_s, simulated = tasks + len(step.trace.program), engine_s + step.engine_s, simulated + 1
        follow = None if differs else _Followers.of(step)
        if follow and simulated == 1 and len(steps) > 1 and not _matches_lowering(step, steps[1]):
            differs, follow = True, None
        count = _FIRST_BATCH
        while follow and len(times_s) < len(steps):
            count = min(2 * count, follow.most)
            ahead = steps[len(times_s) : len(times_s) + count]
            makespans_ps = follow.makespans_ps([step.workload.mean_cache_length for step in ahead])
            times_s += [time_ps / PS_PER_S for time_ps in makespans_ps]
            progress(len(times_s), len(steps))
            if len(makespans_ps) < len(ahead):
                break
    shortcuts: tuple[str, ...] = ()
    if simulated < len(steps):
        others = "the others run the same tasks in the same order with longer caches"
        shortcuts = (f"simulated {simulated} of {len(steps)} steps ({others})",)
    elif differs:
        shortcuts = ("simulated every step (the second has other tasks than the first; please report this scenario)",)
    return Steps(tuple(times_s), tasks, engine_s, shortcuts)


def _matches_lowering(simulated_pass: Simulated, step: Scenario) -> bool:
    """Returns True if the program derived for the cache of `step` is the one that lowering `step` gives."""
    skipped = simulated_pass.lowered.program.skipped
    _, lowered, _ = lower_pass(step, skipped[0].kept if skipped else None)
    return with_cache(simulated_pass, step.workload.mean_cache_length).equals(lowered.program)


def with_cache(simulated_pass: Simulated, length: float) -> Program:
    """Returns the program of a simulated step without jitter for a cache of another length, as lowering that step gives
    it."""
    program, perturb = simulated_pass.lowered.program, simulated_pass.scenario.perturb
    columns: dict[str, Any] = {}
    changes = np.zeros(len(program), dtype=np.bool_)
    for name, work in _attention_work(simulated_pass, length).items():
        tasks = program.compute_tasks(name)
        for column, value in _launch_columns(simulated_pass, work).items():
            columns.setdefault(column, getattr(program, column).copy())[tasks] = value
        changes[tasks] = True
    changed = replace(program, **columns)
    if not perturb:
        return changed
    applied = keep_links_in_use(
        perturb, build(simulated_pass.scenario.part, simulated_pass.scenario.stack), simulated_pass.topology
    )
    busy_ps = apply_perturbations(changed, simulated_pass.topology, applied).busy_ps
    return replace(changed, busy_ps=np.where(changes, busy_ps, program.busy_ps))


def _attention_work(simulated_pass: Simulated, length: float) -> Mapping[str, Work]:
    """Returns the work of the operations that depend on the length of the cache, by name."""
    attentions = simulated_pass.lowered.attentions.items()
    return {name + more: work for name, attention in attentions for more, work in attention.kernels(length)}


def _launch_columns(simulated_pass: Simulated, work: Work) -> Mapping[str, float]:
    return launch_columns(simulated_pass.topology.chip, work, simulated_pass.scenario.workload.activations)


class _Followers(Struct, frozen=True, eq=False):
    """Steps whose tasks run in the order of one that was simulated."""

    simulated_pass: Simulated
    order: TaskOrder

    @classmethod
    def of(cls, simulated_pass: Simulated) -> _Followers | None:
        """Returns None if times do not follow from the order alone: with jitter, which is drawn anew in each step, or
        if the steps of a pipeline's requests overlap."""
        perturb = simulated_pass.scenario.perturb
        if (
            not simulated_pass.scenario.engine.repeats
            or simulated_pass.scenario.pipeline
            or (perturb and perturb.jitter)
        ):
            return None
        order = TaskOrder.from_trace(simulated_pass.trace)
        return cls(simulated_pass, order) if order else None

    @property
    def most(self) -> int:
        """Number of steps computed at once."""
        return int(np.clip(_TASK_STEPS // len(self.order.program), 1, _LARGEST_BATCH))

    def _yields(self, length: float) -> list[float]:
        return [
            _launch_columns(self.simulated_pass, work)["yields_ppm"]
            for work in _attention_work(self.simulated_pass, length).values()
        ]

    def makespans_ps(self, lengths: Sequence[float]) -> list[int]:
        """Returns the makespans of the steps with caches of these lengths, up to the first that does not follow, ps.

        Operations that come to be limited by the other of their bytes and FLOPs lose another share to collectives.
        """
        distinct: dict[tuple[int, ...], int] = {}  # steps of equal durations are one
        columns: list[Ints] = []
        distinct_index = []
        yields = self._yields(self.simulated_pass.scenario.workload.mean_cache_length)
        for length in lengths:
            if self._yields(length) != yields:
                break
            works = _attention_work(self.simulated_pass, length).values()
            durations = tuple(int(_launch_columns(self.simulated_pass, work)["busy_ps"]) for work in works)
            if durations not in distinct:
                distinct[durations] = len(columns)
                columns.append(with_cache(self.simulated_pass, length).busy_ps)
            distinct_index.append(distinct[durations])
        if not columns:
            return []
        times, follows = self.order.retime(np.stack(columns, axis=1))
        makespan_ps = times[3].max(axis=0, initial=0)
        for block, (after, period) in zip(
            self.order.program.skipped, steady_states(self.order.program, times), strict=True
        ):
            follows &= after >= 0
            makespan_ps += block.count * period
        followed = follows[distinct_index]
        upto = len(followed) if followed.all() else int(followed.argmin())
        return [int(time_ps) for time_ps in makespan_ps[distinct_index][:upto]]
