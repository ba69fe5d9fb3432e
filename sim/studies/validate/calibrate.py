"""Fit machine constants to published rows: least squares on the logarithm of the error, within bounds.

Each measurement counts once. What the rows do not determine is named, and each series is also predicted by constants
fitted without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field
from msgspec.structs import replace

from sim.errors import InputError, suggest
from sim.lowering.placement import used_chips
from sim.report.present.calibration import Determination, Direction, Fit, Series, named_changes, settings
from sim.specs import Scenario
from sim.specs.suite import AnyConstant, AnySuite, Calibration, Choice
from sim.studies.validate.cases import Case, read, with_plugins
from sim.studies.validate.measurements import calibrated_places, find_repeats, series_of, uncertainty_of
from sim.studies.validate.runs import CollectiveRun, CopyRun, ExchangeRun, MatmulRun, OperationRun, ScenarioRun
from sim.studies.validate.validate import simulate_case

_STEP = 3e-2
"""Step of the numerical derivative, as a share of the range between the bounds: well above the rounding of tasks to
picoseconds, and above what a waiter hides that polls every few milliseconds."""

_MOST_STEPS = 50
"""Largest number of steps of the search; constants that the rows determine take about ten."""

_SETTLED = 1e-4
"""Relative change of the squared errors or of the constants at which the search ends: it moves an error by less than
rows are read."""

_DETERMINED = 0.25
"""A direction counts as determined where its standard error is at most this share of the range between the bounds."""

_NOTHING = 1e-9
"""Share of the strongest effect on the rows that is rounding."""

_ROUNDING = 1e-3
"""Least scatter of a published value: three digits."""

Vector = npt.NDArray[np.float64]


class _Rows(Struct, frozen=True, dict=True):
    """The distinct measurements of a suite, and their simulated errors at settings that were asked for before."""

    cases: Sequence[Case]
    progress: Callable[[int, float], None]
    errors: dict[tuple[int, tuple[str, ...]], float] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    evaluations: list[float] = field(default_factory=list)
    """Root mean square of each evaluation."""

    def log_errors(self, places: Sequence[int], values: Sequence[str]) -> Vector:
        """Returns log(simulated / published) of some rows under settings."""
        key = tuple(values)
        if any((place, key) not in self.errors for place in places):
            for place in places:
                case = self.cases[place]
                error = np.log(simulate_case(case, *values, known=self.known) / case.published)
                self.errors[place, key] = float(error)
            errors = np.array([self.errors[place, key] for place in places])
            self.evaluations.append(_rms(errors))
            self.progress(len(self.evaluations), self.evaluations[-1])
        return np.array([self.errors[place, key] for place in places])


class _Stage(Struct, frozen=True):
    """Constants of one stage as found, and the search's Jacobian in shares of the constants' ranges."""

    constants: Mapping[str, AnyConstant]
    places: tuple[int, ...]
    point: Vector
    """[constants], 0 at the lower and 1 at the upper bound."""
    jacobian: Vector
    """[rows, constants]."""
    settled: bool

    @property
    def values(self) -> dict[str, float]:
        return values_at(self.constants, self.point)

    def jacobian_of(self, places: Sequence[int]) -> Callable[[Vector], Vector]:
        """Returns the Jacobian of some of the rows, the same at every point."""
        lines = self.jacobian[[self.places.index(place) for place in places]]
        return lambda point: lines


def values_at(constants: Mapping[str, AnyConstant], point: Vector) -> dict[str, float]:
    """Returns the values of constants at a point that is 0 at lower bounds and 1 at upper ones."""
    pairs = zip(constants.items(), point.tolist(), strict=True)
    return {name: constant.value_at(share) for (name, constant), share in pairs}


@with_plugins
def fit(
    name: str,
    rows: Path | None = None,
    progress: Callable[[int, float], None] = lambda evaluations, rms: None,
    *,
    cross_validate: bool = True,
) -> Fit:
    """Fits the constants that a suite names to its gated rows, or to those that it names.

    Args:
        name: a shipped suite or a file.
        rows: another CSV of the same columns.
        progress: called with (evaluations so far, root mean square of the log errors).
        cross_validate: also predict each series by a fit without it.

    Raises:
        InputError: the suite says nothing of calibration, names rows that are not there, or has rows of one size or one
            number of chips only.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("calibration requires scipy", hint="pip install 'collective-sim[calibrate]'") from None

    suite, cases = read(name, rows)
    if suite.calibration is None:
        raise InputError("must have a 'calibration'", where=suite.name, hint="name its constants")
    scenarios = {i: case.run.scenario() for i, case in enumerate(cases) if isinstance(case.run, ScenarioRun)}
    again = find_repeats(cases, scenarios)
    plan = [(stage, _places(suite, stage, cases, again)) for stage in _stages(suite.calibration)]
    _refuse_alike(suite, cases, scenarios, {place for _, places in plan for place in places})
    _refuse_mixed(suite, [stage for stage, _ in plan])
    data = _Rows(cases, progress)
    stages = _search(data, plan, least_squares)
    series = {place: series_of(cases[place], suite.series) for _, places in plan for place in places}
    whole_fit = _describe(data, stages, name, suite.kind, series)
    if not cross_validate:
        return whole_fit
    return _cross_validate(data, series, plan, stages, whole_fit, least_squares)


def _stages(first: Calibration | None) -> Iterator[Calibration]:
    while first is not None:
        yield first
        first = first.then


def _places(suite: AnySuite, stage: Calibration, cases: Sequence[Case], again: Mapping[int, int]) -> tuple[int, ...]:
    """Returns the distinct measurements among a stage's rows. Raises InputError for names of no row."""
    for pattern in stage.rows or ():
        if not any(fnmatchcase(case.case_id, pattern) for case in cases):
            hint = suggest(pattern, [case.case_id for case in cases])
            raise InputError("no such row", where=f"{suite.name}: calibration.rows", got=pattern, hint=hint)
    return tuple(dict.fromkeys(again.get(place, place) for place in calibrated_places(stage, cases)))


def _refuse_alike(suite: AnySuite, cases: Sequence[Case], scenarios: Mapping[int, Scenario], places: set[int]) -> None:
    """Raises InputError where rows have one size only in every phase, or one number of chips."""
    sizes: dict[str, set[object]] = {}
    chips = set()
    for place in places:
        run = cases[place].run
        if isinstance(run, CollectiveRun):
            sizes.setdefault(run.collective, set()).add(run.size_bytes)
            chips.add(run.chips)
        elif isinstance(run, ExchangeRun):
            sizes.setdefault(run.way, set()).add(run.tokens)
            chips.add(run.chips)
        elif isinstance(run, MatmulRun):
            sizes.setdefault(run.dtype, set()).add((run.rows, run.columns, run.inner))
        elif isinstance(run, CopyRun):
            sizes.setdefault("copy", set()).add(run.moved_bytes)
        elif isinstance(run, OperationRun):
            sizes.setdefault(run.operations, set()).add(run.settings)
        else:
            work = scenarios[place].workload
            sizes.setdefault(work.phase, set()).add((work.batch, work.prompt, work.context))
            chips.add(used_chips(scenarios[place]))
    missing = []
    if max(map(len, sizes.values()), default=0) < 2:
        missing.append("rows of a second size (batch, prompt, context or bytes)")
    if len(chips) < 2 and not all(isinstance(cases[place].run, MatmulRun | CopyRun | OperationRun) for place in places):
        missing.append(f"rows on another number of chips than {', '.join(map(str, chips)) or 'none'}")
    if missing:
        rule = "calibration must have rows of two sizes and of two numbers of chips"
        raise InputError(rule, where=suite.name, hint=f"add {' and '.join(missing)}")


def _refuse_mixed(suite: AnySuite, stages: Sequence[Calibration]) -> None:
    """Raises InputError where a stage has constants of a range beside choices."""
    for stage in stages:
        choices = [name for name, each in stage.constants.items() if isinstance(each, Choice)]
        if choices and len(choices) < len(stage.constants):
            rule = "constants of a stage must all have 'values', or all 'low' and 'high'"
            raise InputError(rule, where=suite.name, got=choices[0], hint="a stage of their own ('then') for choices")


Plan = Sequence[tuple[Calibration, tuple[int, ...]]]


def _search(
    data: _Rows, plan: Plan, least_squares: Callable[..., Any], start: Sequence[_Stage] = ()
) -> tuple[_Stage, ...]:
    """Fits one stage after the other, with the constants of those before as found.

    Args:
        start: a fit of more rows. The search then begins at it and keeps its Jacobian, which assumes that errors bend
            little between the two fits.
    """
    done: list[_Stage] = []
    for i, (stage, places) in enumerate(plan):
        fixed = _settings(done)
        constants = stage.constants

        # Unit-free variables, 0 at the lower and 1 at the upper bound, so that one step size suits all.
        def log_errors(
            point: Vector,
            constants: Mapping[str, AnyConstant] = constants,
            places: Sequence[int] = places,
            fixed: Sequence[str] = fixed,
        ) -> Vector:
            return data.log_errors(places, [*fixed, *settings(constants, values_at(constants, point), digits=15)])

        choices = [each for each in constants.values() if isinstance(each, Choice)]
        if choices:
            done.append(_Stage(constants, places, *_choose(log_errors, choices), settled=True))
            continue
        solution = least_squares(
            log_errors,
            start[i].point if start else np.full(len(constants), 0.5),
            jac=start[i].jacobian_of(places) if start else "2-point",
            bounds=(0, 1),
            diff_step=_STEP,
            x_scale=1.0,
            max_nfev=_MOST_STEPS,
            ftol=_SETTLED,
            xtol=_SETTLED,
        )
        done.append(_Stage(constants, places, solution.x, np.asarray(solution.jac), bool(solution.status > 0)))
    return tuple(done)


def _choose(log_errors: Callable[[Vector], Vector], choices: Sequence[Choice]) -> tuple[Vector, Vector]:
    """Returns the point of the least squared errors among all values of some choices, and the Jacobian there."""
    shares = [np.linspace(0, 1, len(each.values)) for each in choices]
    points = [np.array(each) for each in itertools.product(*shares)]
    best = min(points, key=lambda point: float(np.sum(log_errors(point) ** 2)))
    columns = []
    for i, share in enumerate(shares):
        step = np.zeros(len(choices))
        step[i] = share[1] if best[i] < 1 else -share[1]
        columns.append((log_errors(best + step) - log_errors(best)) / step[i])
    return best, np.stack(columns, axis=1)


def _settings(stages: Sequence[_Stage]) -> list[str]:
    return [text for stage in stages for text in settings(stage.constants, stage.values, digits=15)]


def _rms(errors: Vector) -> float:
    return float(np.sqrt(np.mean(errors**2))) if len(errors) else 0.0


def _describe(data: _Rows, stages: Sequence[_Stage], name: str, kind: str, series: Mapping[int, str]) -> Fit:
    residuals: dict[str, float] = {}
    standard_errors: dict[str, float] = {}
    determinations = []
    for i, stage in enumerate(stages):
        errors = data.log_errors(stage.places, _settings(stages[: i + 1]))
        residuals |= {
            data.cases[place].case_id: float(np.expm1(error)) for place, error in zip(stage.places, errors, strict=True)
        }
        stage_errors, determination = _determine(data, stages[:i], stage, errors)
        standard_errors |= stage_errors
        determinations.append(determination)
    return Fit(
        suite=name,
        kind=kind,
        constants={name: constant for stage in stages for name, constant in stage.constants.items()},
        values={name: value for stage in stages for name, value in stage.values.items()},
        standard_errors=standard_errors,
        residuals=residuals,
        evaluations=len(data.evaluations),
        settled=all(stage.settled for stage in stages),
        determinations=tuple(determinations),
        series=tuple(
            Series(each, {data.cases[place].case_id: residuals[data.cases[place].case_id] for place in places})
            for each, places in _places_by_series(series).items()
        ),
    )


def _places_by_series(series: Mapping[int, str]) -> dict[str, list[int]]:
    """Returns the places of the rows of each series."""
    found: dict[str, list[int]] = {}
    for place, name in series.items():
        found.setdefault(name, []).append(place)
    return found


def _determine(
    data: _Rows, before: Sequence[_Stage], stage: _Stage, errors: Vector
) -> tuple[dict[str, float], Determination]:
    """Returns standard errors of a stage's constants, and the directions in which its rows leave them free.

    The scatter is that of the residuals, at least how exactly the rows were read. With J = U S V', a step of d along a
    column of V adds (S d)^2 to the sum of squares, and its standard error is scatter / S.
    """
    names, ranges = list(stage.constants), np.array([each.high - each.low for each in stage.constants.values()])
    read_to = [max(uncertainty_of(data.cases[place]), _ROUNDING) for place in stage.places]
    freedom = max(1, len(errors) - len(names))
    scatter = max(float(np.sqrt(np.sum(errors**2) / freedom)), _rms(np.array(read_to)))
    _, strengths, directions = np.linalg.svd(stage.jacobian, full_matrices=True)
    strengths = np.pad(strengths, (0, len(names) - len(strengths)))
    is_free = strengths <= _NOTHING * max(strengths.max(), _NOTHING)
    spreads = np.where(is_free, np.inf, scatter / np.where(is_free, 1.0, strengths))
    stage_errors = np.sqrt(np.sum((directions[~is_free] * spreads[~is_free, None]) ** 2, axis=0)) * ranges
    stage_errors[(np.abs(directions[is_free]) > _NOTHING).any(axis=0)] = np.inf
    free = []
    for spread, direction in zip(spreads, directions, strict=True):
        if spread > _DETERMINED:
            free.append(_direction(data, before, stage, direction))
    condition = float("inf") if is_free.any() else float(strengths[0] / strengths[-1])
    return dict(zip(names, stage_errors.tolist(), strict=True)), Determination(
        tuple(names), condition, _rms(errors), tuple(free)
    )


def _direction(data: _Rows, before: Sequence[_Stage], stage: _Stage, direction: Vector) -> Direction:
    """Simulates a quarter of the range along a direction, to the side that stays further inside the bounds."""
    step = _DETERMINED * direction / np.abs(direction).max()
    points = [np.clip(stage.point + sign * step, 0, 1) for sign in (1, -1)]
    point = max(points, key=lambda each: float(np.abs(each - stage.point).sum()))
    moved, here = values_at(stage.constants, point), stage.values
    values = [*_settings(before), *settings(stage.constants, moved, digits=15)]
    changes = [moved[name] - here[name] for name in stage.constants]
    shares = (point - stage.point).tolist()
    return Direction(named_changes(list(moved), changes, shares), _rms(data.log_errors(stage.places, values)))


def _cross_validate(
    data: _Rows,
    series: Mapping[int, str],
    plan: Plan,
    stages: Sequence[_Stage],
    whole_fit: Fit,
    least_squares: Callable[..., Any],
) -> Fit:
    """Predicts each series of fitted rows by constants that are fitted to the others."""
    results = []
    for fitted, places_of_series in zip(whole_fit.series, _places_by_series(series).values(), strict=True):
        rest: Plan = [
            (stage, tuple(place for place in places if place not in places_of_series)) for stage, places in plan
        ]
        short = [stage for stage, places in rest if len(places) < len(stage.constants)]
        if short:
            reason = f"fewer rows than constants are left for {', '.join(short[0].constants)}"
            results.append(replace(fitted, reason=reason))
            continue
        again = _search(data, rest, least_squares, stages)
        left_out: dict[str, float] = {}
        for i, (_, places) in enumerate(plan):  # constants of later stages are those of other rows
            own = [place for place in places_of_series if place in places]
            errors = np.expm1(data.log_errors(own, _settings(again[: i + 1]))).tolist()
            left_out |= dict(zip((data.cases[place].case_id for place in own), errors, strict=True))
        results.append(replace(fitted, left_out={case_id: left_out[case_id] for case_id in fitted.fitted}))
    return replace(whole_fit, evaluations=len(data.evaluations), series=tuple(results))
