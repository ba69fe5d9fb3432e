"""Closed forms beside a simulation: the paper's formula or the usual model, and the form per operation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sim.report.headline import to_html
from sim.units import format_seconds

PER_OPERATION = "closed form, per operation"
"""Name of the detailed closed form in tables and figures."""


class FormKind(Enum):
    """First closed form of a scenario, by its name in tables and figures."""

    PAPER = "closed form, the paper's"
    PER_SUBLAYER = "closed form, per sublayer"


class ClosedForm(Struct, frozen=True):
    """Times of all steps by formulas, seconds."""

    latency_s: float
    """Latency by the paper's formula, or per sublayer for layouts that the paper does not have."""
    terms: Mapping[str, float]
    detailed_latency_s: float
    """Latency per operation: each operation and collective at its cost on its own links, one after the other; a looped
    matmul is one operation, and Ladder's sums overlap the next sublayer."""
    detailed_terms: Mapping[str, float]
    inexact: tuple[str, ...] = ()
    """Reasons why the simulation may differ from `detailed_latency_s`, such as `leaves out layout.overlap:
    micro_batches`; empty if it takes the same time, to the rounding of its tasks."""
    kind: FormKind = FormKind.PAPER

    @property
    def name(self) -> str:
        """Name of the first form in tables and figures."""
        return self.kind.value

    @property
    def is_exact(self) -> bool:
        """True if the simulation takes `detailed_latency_s`, to the rounding of its tasks."""
        return not self.inexact

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        return {
            "latency_s": self.latency_s,
            "terms": dict(self.terms),
            "per_axis_latency_s": self.detailed_latency_s,
            "per_axis_terms": dict(self.detailed_terms),
            "inexact": list(self.inexact),
            "name": self.name,
            "per_axis_name": PER_OPERATION.removeprefix("closed form, "),
            "per_axis_exact": self.is_exact,
        }

    def _repr_html_(self) -> str:
        rows = [(name, format_seconds(time_s)) for name, time_s in self.terms.items()]
        return to_html(f"{self.name}: {format_seconds(self.latency_s)} for all steps", rows)


def add_forms(forms: Sequence[ClosedForm]) -> ClosedForm:
    """Returns the closed form of phases that follow each other; a term of both phases is added up."""

    def add_terms(all_terms: Sequence[Mapping[str, float]]) -> dict[str, float]:
        names = {name: None for terms in all_terms for name in terms}
        return {name: sum(terms.get(name, 0.0) for terms in all_terms) for name in names}

    return replace(
        forms[0],
        latency_s=sum(form.latency_s for form in forms),
        terms=add_terms([form.terms for form in forms]),
        detailed_latency_s=sum(form.detailed_latency_s for form in forms),
        detailed_terms=add_terms([form.detailed_terms for form in forms]),
        inexact=tuple(dict.fromkeys(reason for form in forms for reason in form.inexact)),
    )
