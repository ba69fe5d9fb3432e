"""Fit a few machine constants to a few published rows: least squares on the logarithm of the error, within bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from sim.errors import InputError, suggest
from sim.measurements import chosen
from sim.specs import Calibration, Constant
from sim.suite import AnyCase, read
from sim.validate import simulated

_STEP = 3e-2
"""Step of the numerical derivative, as a share of the range between the bounds: well above the rounding of tasks to
picoseconds, and above what a waiter hides that polls every few milliseconds."""

_MOST_STEPS = 50
"""Of the search; constants that the rows determine take about ten."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted constants and what they leave over."""

    calibration: Calibration
    values: Mapping[str, float]
    """By name, in the constant's unit."""
    residuals: Mapping[str, float]
    """Predicted / published - 1 of each fitted row."""
    evaluations: int
    settled: bool
    """Whether the search came to its end; rows that do not determine a constant keep it going."""

    def settings(self) -> list[str]:
        """The fitted values as --set of a scenario or machine."""
        return settings(self.calibration, self.values)


def settings(calibration: Calibration, values: Mapping[str, float], digits: int = 4) -> list[str]:
    """Values of constants as --set of a scenario or machine."""
    return [
        f"{field}={_text(values[name], constant, digits)}"
        for name, constant in calibration.constants.items()
        for field in constant.fields
    ]


def fit(
    name: str, rows: Path | None = None, progress: Callable[[int, float], None] = lambda evaluations, rms: None
) -> Fit:
    """Fit the constants that a suite names to the rows that it names.

    Args:
        name: a shipped suite or a file.
        rows: another CSV of the same columns.
        progress: called with (evaluations so far, root mean square of the log errors).

    Raises:
        InputError: the suite says nothing of calibration, or names rows that are not there.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("calibrating needs scipy", hint="pip install 'collective-sim[calibrate]'") from None

    suite, cases = read(name, rows)
    found: Fit | None = None
    for stage in _stages(suite.calibration):
        for pattern in stage.rows or ():
            if not any(fnmatchcase(case.case_id, pattern) for case in cases):
                where = f"{suite.name}: calibration.rows"
                hint = suggest(pattern, [case.case_id for case in cases])
                raise InputError("no such row", where=where, got=pattern, hint=hint)
        found = _fit(stage, [cases[place] for place in chosen(stage, cases)], found, progress, least_squares)
    if found is None:
        raise InputError("the suite has no 'calibration'", where=suite.name, hint="name its rows and constants")
    return found


def _stages(first: Calibration | None) -> Iterator[Calibration]:
    while first is not None:
        yield first
        first = first.then


def _fit(
    stage: Calibration,
    chosen: Sequence[AnyCase],
    before: Fit | None,
    progress: Callable[[int, float], None],
    least_squares: Callable[..., Any],
) -> Fit:
    """One stage, with the constants of those before as found."""
    names, constants = list(stage.constants), list(stage.constants.values())
    low, high = (np.array([getattr(constant, end) for constant in constants]) for end in ("low", "high"))
    fixed = settings(before.calibration, before.values, digits=15) if before else []
    evaluations = before.evaluations if before else 0

    def log_errors(point: np.ndarray) -> np.ndarray:
        nonlocal evaluations
        evaluations += 1
        values = settings(stage, dict(zip(names, point.tolist(), strict=True)), digits=15)
        known: dict[str, float] = {}
        errors = np.array([np.log(simulated(case, *fixed, *values, known=known) / case.published) for case in chosen])
        progress(evaluations, float(np.sqrt(np.mean(errors**2))))
        return errors

    # Unit-free variables, 0 at the lower and 1 at the upper bound, so that one step size suits all.
    found = least_squares(
        lambda unit: log_errors(low + unit * (high - low)),
        np.full(len(names), 0.5),
        bounds=(0, 1),
        diff_step=_STEP,
        x_scale=1.0,
        max_nfev=_MOST_STEPS,
    )
    point = low + found.x * (high - low)
    values = dict(zip(names, point.tolist(), strict=True))
    residuals = {case.case_id: float(np.expm1(error)) for case, error in zip(chosen, log_errors(point), strict=True)}
    settled = bool(found.status > 0)
    if before is None:
        return Fit(stage, values, residuals, evaluations, settled)
    both = stage.model_copy(update={"constants": {**before.calibration.constants, **stage.constants}})
    return Fit(
        both, {**before.values, **values}, {**before.residuals, **residuals}, evaluations, settled and before.settled
    )


def report(found: Fit) -> str:
    """The fit as text: constants, bounds, residuals, and the settings to use them."""
    lines = [f"{'constant':<22} {'value':>10} {'unit':<4} {'bounds':>14}"]
    for name, constant in found.calibration.constants.items():
        bounds = f"{constant.low:g} .. {constant.high:g}"
        lines.append(f"{name:<22} {found.values[name]:>10.4g} {constant.unit:<4} {bounds:>14}")
    lines += ["", f"{'fitted row':<34} {'residual':>9}"]
    lines += [f"{row:<34} {residual:>+9.1%}" for row, residual in found.residuals.items()]
    rms = float(np.sqrt(np.mean([residual**2 for residual in found.residuals.values()])))
    lines += [f"{'root mean square':<34} {rms:>9.1%}", ""]
    if not found.settled:
        lines.append("the search did not settle: these rows do not determine every constant")
    lines.append(f"{found.evaluations} evaluations; to use it:")
    lines += [f"  --set '{setting}'" for setting in found.settings()]
    return "\n".join(lines)


def _text(value: float, constant: Constant, digits: int) -> str:
    return f"{value:.{digits}g} {constant.unit}".strip()
