"""Checks of a plugin's pipeline schedule: every request passes every stage once, in order, and is answered after it."""

from __future__ import annotations

from collections import Counter
from itertools import product

from sim.errors import InputError
from sim.lowering.pipeline.schedules import Plan
from sim.program.batches import Batches
from sim.program.columns import Ints
from sim.specs.plugins import owner


def check_complete(plan: Plan) -> None:
    """Raises InputError where a schedule of a plugin leaves out a pass or an answer, or makes one twice."""
    name = plan.spec.schedule
    if owner("pipeline_schedule", name) is None:
        return
    stages = len(plan.builder.stages)
    counts = Counter((each.request, each.part, each.stage) for each in plan.builder.passes_done)
    for request, part, stage in product(range(plan.count), range(plan.parts), range(stages)):
        if counts.pop((request, part, stage), 0) != 1:
            raise _refused(name, f"must run request {request}, micro-batch {part} once on stage {stage}")
    if counts:
        raise _refused(name, f"must run only requests and stages of the plan, got {next(iter(counts))}")
    for verb, tasks in (("admit", plan.requests.arrived), ("complete", plan.requests.answered)):
        if len(tasks) != plan.count:
            raise _refused(name, f"must {verb} each of {plan.count} requests once, got {len(tasks)}")


def check_order(name: str, batches: Batches, ends_ps: Ints) -> None:
    """Raises InputError where a schedule of a plugin begins a pass before its input is there.

    Args:
        ends_ps: [tasks] simulated ends.
    """
    if owner("pipeline_schedule", name) is None:
        return
    begins = {(each.request, each.part, each.stage): ends_ps[each.begin] for each in batches.passes}
    ends = {(each.request, each.part, each.stage): ends_ps[each.end] for each in batches.passes}
    last = len(batches.layers) - 1
    for (request, part, stage), begin in begins.items():
        ready = ends[request, part, stage - 1] if stage else ends_ps[[batches.arrived[request]]]
        if _is_before(begin, ready):
            source = f"it has left stage {stage - 1}" if stage else "it has arrived"
            raise _refused(name, f"must begin request {request} on stage {stage} after {source}")
        if stage == last and _is_before(ends_ps[[batches.answered[request]]], ends[request, part, stage]):
            raise _refused(name, f"must answer request {request} after its last stage")


def _is_before(begin_ps: Ints, ready_ps: Ints) -> bool:
    """True if something begins too early: rank by rank, or on all chips of a stage where the numbers differ."""
    if len(begin_ps) == len(ready_ps):
        return bool((begin_ps < ready_ps).any())
    return bool(begin_ps.min() < ready_ps.max())


def _refused(name: str, rule: str) -> InputError:
    plugin = owner("pipeline_schedule", name)
    return InputError(rule, where=f"{plugin.label}: {name}" if plugin else name)
