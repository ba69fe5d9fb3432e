"""Fields of report.json that are read back from a folder of results; others are of no concern here."""

from __future__ import annotations

from msgspec import Struct

from sim.report.spread import Spread
from sim.report.what_if import WhatIf


class _Simulated(Struct, frozen=True):
    latency_s: float


class _Engine(Struct, frozen=True):
    shortcuts: list[str]


class SavedPhase(Struct, frozen=True):
    """One phase of a report."""

    simulated: _Simulated
    engine: _Engine


class SavedBottlenecks(Struct, frozen=True):
    """Fields of one phase that `--critical-path` added."""

    phase: str
    what_if: list[WhatIf]


class SavedReport(SavedPhase, frozen=True):
    """The part of report.json that is read back."""

    phases: list[SavedPhase]
    spread: Spread | None
    critical_path: tuple[SavedBottlenecks, ...] = ()
