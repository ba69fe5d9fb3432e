"""Report of a prefill and the decode steps after it, combined from the reports of both."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from sim.report.closed_form import add_forms
from sim.report.pipeline import combine_pipelines
from sim.report.report import Report, Simulated, compare_to_published, compute_rates
from sim.specs import Scenario


def combine_phases(scenario: Scenario, prefill: Report, decode: Report, notes: Sequence[str] = ()) -> Report:
    """Combines the reports of both phases. Per-op times and stages remain in the reports of the phases.

    Args:
        notes: what to say of both beside the notes of each.
    """
    first, then, steps = prefill.simulated, decode.simulated, scenario.workload.generate or 0
    latency_s = first.latency_s + then.latency_s
    pipeline, passes = None, (1, 1)
    if prefill.pipeline and decode.pipeline:
        pipeline = combine_pipelines(prefill.pipeline, decode.pipeline)
        counts = [each.passes.count for each in (prefill.pipeline, decode.pipeline) if each.passes]
        passes = counts[0], counts[1]

    def all_steps(name: str) -> float:
        """Returns the time of one request."""
        return float(getattr(first, name) / passes[0] + getattr(then, name) * steps / passes[1])

    parts = (
        "compute_s",
        "communication_s",
        "exposed_communication_s",
        "overlapped_communication_s",
        "stream_wait_s",
        "copy_wait_s",
        "bubble_s",
        "idle_s",
    )
    forms = [phase.closed_form for phase in (prefill, decode) if phase.closed_form]
    busier = max(prefill, decode, key=lambda phase: phase.links.utilisation)
    return replace(
        decode,
        simulated=Simulated(
            latency_s=latency_s,
            step_s=latency_s / scenario.workload.steps,
            ttft_s=first.latency_s,
            tpot_s=then.tpot_s,
            **compute_rates(scenario, decode.chips, latency_s, pipeline),
            **{name: all_steps(name) for name in parts},
        ),
        closed_form=add_forms(forms) if len(forms) == 2 else None,
        published=compare_to_published(scenario, latency_s),
        memory=max(decode.memory, prefill.memory, key=lambda memory: memory.used_bytes),
        links=busier.links,
        ops=(),
        pipeline=pipeline,
        waiting=None,
        experts=None,
        rests_on=prefill.rests_on,
        notes=tuple(dict.fromkeys((*prefill.notes, *decode.notes, *notes))),
        phases=(prefill, decode),
    )
