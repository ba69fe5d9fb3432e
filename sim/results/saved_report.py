"""Fields of report.json and explain.json that are read back from a folder of results."""

from __future__ import annotations

from pydantic import TypeAdapter

from sim.report.present.explanation import Explanation
from sim.report.spread import Spread
from sim.report.what_if import WhatIf
from sim.results.readable import Readable


class _Simulated(Readable):
    latency_s: float


class _Engine(Readable):
    shortcuts: list[str]


class SavedPhase(Readable):
    """One phase of a report."""

    simulated: _Simulated
    engine: _Engine


class SavedBottlenecks(Readable):
    """Fields of one phase that `--critical-path` added."""

    phase: str
    what_if: list[WhatIf]


class SavedReport(SavedPhase):
    """The part of report.json that is read back."""

    phases: list[SavedPhase]
    spread: Spread | None
    critical_path: tuple[SavedBottlenecks, ...] = ()


REPORT = TypeAdapter(SavedReport)
EXPLANATIONS = TypeAdapter(list[Explanation], config=Readable.model_config)
