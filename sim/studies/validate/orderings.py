"""Which of two options is faster, as measured and as predicted: pairs of rows that differ in one column."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import log

from sim.report.present.validation import RATES, Ordering, Outcome
from sim.specs.suite import AnySuite
from sim.studies.validate.cases import Case
from sim.studies.validate.csv_rows import NOT_AN_INPUT
from sim.studies.validate.measurements import uncertainty_of


def compare_options(cases: Sequence[Case], outcomes: Sequence[Outcome], suite: AnySuite) -> tuple[Ordering, ...]:
    """Compares gated measurements of one metric that differ in one of the suite's options and in no other input.

    Pairs whose published values are tied, or differ by less than they are read wrong, say nothing and are left out; so
    is a pair of measurements that another metric has compared already.
    """
    result = {
        ("engine", frozenset([outcome.case_id])): _of_speedup(case, outcome)
        for case, outcome in zip(cases, outcomes, strict=True)
        if outcome.metric == "speedup" and outcome.counts
    }
    for option in suite.options:
        groups: dict[tuple[object, ...], list[int]] = {}
        for place, case in enumerate(cases):
            if not outcomes[place].not_gated:
                inputs = {name: text for name, text in case.row.values.items() if name not in (*NOT_AN_INPUT, option)}
                groups.setdefault((case.metric, *sorted(inputs.items())), []).append(place)
        for places in groups.values():
            for pair in itertools.combinations(places, 2):
                one, other = (cases[place] for place in pair)
                if one.row.get(option) == other.row.get(option):
                    continue
                unsure = max(suite.tie, uncertainty_of(one) + uncertainty_of(other))
                if abs(log(one.published / other.published)) <= unsure:
                    continue
                measured = frozenset(outcomes[place].repeats or outcomes[place].case_id for place in pair)
                result.setdefault((option, measured), _ordering(option, *(outcomes[place] for place in pair)))
    return tuple(result.values())


def _of_speedup(case: Case, outcome: Outcome) -> Ordering:
    """Returns the comparison of the two engines of a speed-up."""
    faster, slower = (f"{outcome.case_id} with {case.row.get(column)}" for column in ("engine", "baseline"))
    published, simulated = outcome.published, outcome.simulated
    if published < 1:
        faster, slower, published, simulated = slower, faster, 1 / published, 1 / simulated
    return Ordering("engine", faster, slower, published, simulated, {})


def _ordering(option: str, one: Outcome, other: Outcome) -> Ordering:
    def times_faster(values: Mapping[str, float], others: Mapping[str, float]) -> dict[str, float]:
        rate = one.metric in RATES
        both = [name for name in values if name in others]
        return {name: values[name] / others[name] if rate else others[name] / values[name] for name in both}

    measured, slower = one, other
    if times_faster({"": one.published}, {"": other.published})[""] < 1:
        measured, slower = other, one
    figures = [{"published": each.published, "simulated": each.simulated} for each in (measured, slower)]
    ratios = times_faster(*figures)
    return Ordering(
        option=option,
        case_id=measured.case_id,
        slower_id=slower.case_id,
        published=ratios["published"],
        simulated=ratios["simulated"],
        forms=times_faster(measured.forms, slower.forms),
    )
