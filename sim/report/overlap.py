"""Note that explains why a pass is slower with its overlap than without."""

from __future__ import annotations

from collections.abc import Callable
from math import fsum

from msgspec import Struct

from sim.report.metrics import Measures, OpMeasure
from sim.units import LEAST_SHOWN_S, format_seconds

_LEAST = 1e-3
"""Smallest slowdown worth a note, as a share of the pass."""


class _Part(Struct, frozen=True):
    """A part of the critical chip's time, and the reason why an overlap makes it longer."""

    name: str
    seconds: Callable[[Measures], float]
    why: str


def _of_compute(measures: Measures, seconds: Callable[[OpMeasure], float]) -> float:
    return fsum(seconds(op) for op in measures.ops if op.kind == "compute")


def _of_waits(measures: Measures) -> float:
    waits = measures.stream_wait_s, measures.copy_wait_s, measures.bubble_s, measures.idle_s
    return float(sum(part[measures.critical_chip] for part in waits))


_PARTS = (
    _Part(
        "overhead of operations",
        lambda measures: _of_compute(measures, lambda op: op.overhead_s),
        "every piece is one",
    ),
    _Part(
        "compute",
        lambda measures: _of_compute(measures, lambda op: op.time_s - op.overhead_s),
        "pieces read operands again, leave tiles unfilled or run beside collectives that slow them",
    ),
    _Part(
        "exposed communication",
        lambda measures: float(measures.exposed_communication_s[measures.critical_chip]),
        "messages are more and smaller, or go over fewer links at once",
    ),
    _Part("waiting", _of_waits, "streams join more often"),
)
"""Parts that add up to the step, or to the time of all requests of a pipeline."""


def explain_slower_overlap(overlap: str, phase: str, overlapped: Measures, serial: Measures) -> tuple[str, ...]:
    """Returns the note; empty if the overlap pays.

    Args:
        own, plain: of the same pass with the overlap and without.
    """
    slower_s = overlapped.makespan_s - serial.makespan_s
    if slower_s < _LEAST * serial.makespan_s:
        return ()
    grown = sorted(
        ((part.seconds(overlapped) - part.seconds(serial), part) for part in _PARTS), key=lambda each: -abs(each[0])
    )
    told = [(by, part) for by, part in grown if abs(by) >= _LEAST * slower_s]
    more = [f"{format_seconds(by)} more {part.name} ({part.why})" for by, part in told if by >= LEAST_SHOWN_S]
    less = [f"{format_seconds(-by)} less {part.name}" for by, part in told if by <= -LEAST_SHOWN_S]
    times = f"{format_seconds(overlapped.makespan_s)} instead of {format_seconds(serial.makespan_s)}"
    slower = f"{slower_s / serial.makespan_s:+.1%}"
    return (f"overlap {overlap} is slower than none in {phase}, {times} ({slower}): {', '.join(more + less)}",)
