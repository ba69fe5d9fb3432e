"""Figures of the module of a model that proposes the tokens which the next step verifies."""

from __future__ import annotations

from msgspec import Struct

from sim.report.metrics import Measures
from sim.specs import Scenario


class ProposalsReport(Struct, frozen=True):
    """Multi-token prediction in one step."""

    tokens: int
    """Tokens proposed for each sequence: passes of the module."""
    parameters: float
    """Weights of the module, whose embedding and LM head are the model's."""
    active_parameters: float
    """Those that a token uses."""
    time_s: float
    """Compute and exposed communication of the module's passes on the critical chip."""
    share: float
    """Share of the step."""


def report_proposals(scenario: Scenario, measures: Measures) -> ProposalsReport | None:
    """Returns the figures of a step in which the model proposes tokens, else None."""
    if not scenario.proposals:
        return None
    ops = [op for op in measures.ops if " mtp" in op.op]
    time_s = sum(op.time_s if op.kind == "compute" else op.exposed_s for op in ops)
    return ProposalsReport(
        tokens=scenario.proposals,
        parameters=float(scenario.model.module_parameters),
        active_parameters=float(scenario.model.active_module_parameters),
        time_s=time_s,
        share=time_s / measures.makespan_s,
    )
