"""Which rows of a suite are one measurement, which series they belong to, and how exactly they were read.

A row repeats another where both follow from the same passes: an MFU is a latency in other words, tokens per second of a
generation are the times of its prefill and of its decoding. What a row measures is told by its scenario, not by its
name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import log

from sim.specs import Scenario
from sim.specs.suite import AnySuite, Calibration
from sim.studies.validate.cases import Case

_UNCERTAINTIES = ("reading_error_pct", "run_to_run_pct")
"""Columns that say how exact a value is, %."""


def series_of(case: Case, columns: Sequence[str]) -> str:
    """Returns the values of a row in the columns that tell series apart, in one text; numbers with their column."""
    values = {column: case.row.get(column) for column in columns}
    return ", ".join(f"{name} {text}" if text.isdigit() else text for name, text in values.items() if text)


def uncertainty_of(case: Case) -> float:
    """Returns how exact a row's value is said to be, as a share of it; 0 where nothing is said. Raises InputError."""
    row = case.row
    return max(row.real(column, zero=True) if row.get(column) else 0.0 for column in _UNCERTAINTIES) / 100


def find_repeats(cases: Sequence[Case], scenarios: Mapping[int, Scenario]) -> dict[int, int]:
    """Finds rows that repeat the measurement of another row.

    Args:
        scenarios: those of `cases`, by their place; a collective has none.

    Returns:
        By the place of a row that repeats, the place of the row whose measurement it repeats. Of rows of the same
        passes the most exactly read one counts, and further ones of its metric that differ by more than they are read
        wrong: they were measured again.
    """
    groups: dict[frozenset[str], dict[str, list[int]]] = {}
    for place in sorted(scenarios, key=lambda place: uncertainty_of(cases[place])):
        passes = frozenset(_pass_key(phase) for phase in scenarios[place].phases)
        groups.setdefault(passes, {}).setdefault(cases[place].metric, []).append(place)
    repeats: dict[int, int] = {}
    for passes, by_metric in groups.items():
        alone = [groups.get(frozenset([each])) for each in passes] if len(passes) > 1 else [None]
        kept = max((_distinct(places, cases) for places in by_metric.values()), key=len)
        if all(alone):
            kept = [min(place for group in alone for places in (group or {}).values() for place in places)]
        for places in by_metric.values():
            repeats |= {place: _nearest(place, kept, cases) for place in places if place not in kept}
    return repeats


def _distinct(places: Sequence[int], cases: Sequence[Case]) -> list[int]:
    """Returns the rows of one metric without those that publish the value of an earlier one again."""
    kept: list[int] = []
    for place in places:
        if not any(_agree(cases[place], cases[other]) for other in kept):
            kept.append(place)
    return kept


def _agree(one: Case, other: Case) -> bool:
    """Tells if two values of a metric are equal as far as they were read."""
    return abs(log(one.published / other.published)) <= uncertainty_of(one) + uncertainty_of(other)


def _nearest(place: int, kept: Sequence[int], cases: Sequence[Case]) -> int:
    """Returns the kept row of the same source, else the first."""
    same = [other for other in kept if cases[other].source == cases[place].source]
    return (same or kept)[0]


def _pass_key(phase: Scenario) -> str:
    """Returns a text that is equal for passes that are the same but for their names."""
    unnamed = {"name": "", "description": "", "reference": None, "sweep": None, "figure": None}
    return phase.model_copy(update=unnamed).model_dump_json()


def fitted_places(suite: AnySuite, cases: Sequence[Case]) -> frozenset[int]:
    """Returns the places of the rows that constants were fitted to, in any stage or by hand."""
    places = frozenset(_fitting(cases, suite.fitted))
    stage = suite.calibration
    while stage is not None:
        places |= frozenset(calibrated_places(stage, cases))
        stage = stage.then
    return places


def calibrated_places(stage: Calibration, cases: Sequence[Case]) -> list[int]:
    """Returns the places of the rows that a stage of a calibration fits: those it names, else all that are gated."""
    if stage.rows is None:
        return [place for place, case in enumerate(cases) if not case.not_gated]
    return _fitting(cases, stage.rows)


def _fitting(cases: Sequence[Case], patterns: Sequence[str]) -> list[int]:
    return [
        place for place, case in enumerate(cases) if any(fnmatchcase(case.case_id, pattern) for pattern in patterns)
    ]
