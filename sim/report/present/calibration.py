"""Fit of machine constants: values and their determination by the rows, errors in the sample and left out."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from msgspec import Struct, field, to_builtins

from sim.report.present.validation import Errors
from sim.specs.suite import AnyConstant

_OF_MACHINES = "in every entry of the suite's `machines:`, or in the files of those machines"
_KEPT_IN = {
    "scenarios": "in the scenario of the suite's `base:`, or in its machine's file",
    "collectives": _OF_MACHINES,
    "exchanges": _OF_MACHINES,
    "matmuls": _OF_MACHINES,
    "copies": _OF_MACHINES,
}
"""Place of fitted values by kind of suite; the other kinds have `settings`."""


class Direction(Struct, frozen=True):
    """A change of constants that the rows hardly notice."""

    changes: Mapping[str, float]
    """Change by constant, in its unit; constants that move by little are omitted."""
    rms: float
    """Root mean square of the log errors after the change, simulated."""


class Determination(Struct, frozen=True):
    """Determination of the constants of one stage by its rows."""

    constants: tuple[str, ...]
    condition_number: float
    """Condition number of the Jacobian, each constant in shares of the range between its bounds; infinite if a
    direction is free."""
    rms: float
    """Root mean square of the log errors at the fit."""
    directions: tuple[Direction, ...]
    """Directions that the rows do not determine to a quarter of the range."""


class Series(Struct, frozen=True):
    """Predicted / published - 1 of the rows of one series, by constants fitted with it and without it."""

    series: str
    fitted: Mapping[str, float]
    """By row."""
    left_out: Mapping[str, float] = field(default_factory=dict)
    """By row; empty where it was not left out."""
    reason: str = ""
    """Reason why the series could not be left out; empty if it was, or was not asked for."""

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        errors = {
            "fitted": to_builtins(Errors.of(self.fitted.values())),
            "left_out": to_builtins(Errors.of(self.left_out.values())),
        }
        return {"series": self.series, "reason": self.reason, **errors, "residuals_left_out": dict(self.left_out)}


class Fit(Struct, frozen=True):
    """Fitted constants and their residuals."""

    suite: str
    """Name or file of the suite."""
    kind: str
    """Kind of the suite."""
    constants: Mapping[str, AnyConstant]
    values: Mapping[str, float]
    """Fitted values by name, in the constant's unit."""
    standard_errors: Mapping[str, float]
    """Standard errors by name, in the constant's unit."""
    residuals: Mapping[str, float]
    """Predicted / published - 1 of each fitted measurement."""
    evaluations: int
    settled: bool
    """The search came to its end; rows that do not determine a constant keep it going."""
    determinations: tuple[Determination, ...]
    """One per stage."""
    series: tuple[Series, ...]

    @property
    def all_left_out(self) -> Errors | None:
        """Errors of all series, each by constants fitted without it; None where that was not asked for or possible."""
        errors = [error for each in self.series for error in each.left_out.values()]
        return Errors.of(errors) if errors else None

    @property
    def in_sample(self) -> Errors:
        """Errors of the fitted measurements."""
        return Errors.of(self.residuals.values())

    def settings(self) -> list[str]:
        """The fitted values as --set of `sim validate`, or of a scenario or machine."""
        return settings(self.constants, self.values)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "values": dict(self.values),
            "standard_errors": {name: _finite(value) for name, value in self.standard_errors.items()},
            "residuals": dict(self.residuals),
            "settled": self.settled,
            "in_sample": to_builtins(self.in_sample),
            "left_out": to_builtins(self.all_left_out) if self.all_left_out else None,
            "series": [each.to_dict() for each in self.series],
            "determinations": [
                to_builtins(each) | {"condition_number": _finite(each.condition_number)} for each in self.determinations
            ],
        }


def _finite(value: float) -> float | None:
    """Returns None for JSON if nothing limits the value."""
    return value if np.isfinite(value) else None


def settings(constants: Mapping[str, AnyConstant], values: Mapping[str, float], digits: int = 4) -> list[str]:
    """Returns values of constants as --set of a scenario or machine."""
    return [
        f"{field}={f'{values[name]:.{digits}g} {constant.unit}'.strip()}"
        for name, constant in constants.items()
        for field in constant.fields
    ]


def format_fit(fit: Fit) -> str:
    """Formats the fit: constants, their determination, residuals, series left out, and the settings to use it."""
    lines = [f"{'constant':<22} {'value':>10} {'+-':>9} {'unit':<4} {'bounds':>14}"]
    for name, constant in fit.constants.items():
        bounds, value = f"{constant.low:g} .. {constant.high:g}", fit.values[name]
        error = fit.standard_errors[name]
        shown = f"{error:>9.2g}" if np.isfinite(error) else f"{'any':>9}"
        line = f"{name:<22} {value:>10.4g} {shown} {constant.unit:<4} {bounds:>14}{_at_bound(constant, value)}"
        lines.append(line.rstrip())
    lines += ["", *(line for each in fit.determinations for line in _determination(fit, each)), ""]
    lines += [f"{'fitted row':<40} {'residual':>9}"]
    lines += [f"{row:<40} {residual:>+9.1%}" for row, residual in fit.residuals.items()]
    rms = float(np.sqrt(np.mean([residual**2 for residual in fit.residuals.values()])))
    lines += [f"{'root mean square':<40} {rms:>9.1%}", "", *_cross_validation(fit), ""]
    if not fit.settled:
        lines.append("the search did not settle: these rows do not determine every constant")
    lines += [
        f"{fit.evaluations} evaluations; every row with these values:",
        f"  sim validate {shlex.quote(fit.suite)} \\",
    ]
    lines.append(" \\\n".join(f"    --set {shlex.quote(setting)}" for setting in fit.settings()))
    lines.append(f"to keep them, set these fields {_KEPT_IN.get(fit.kind, 'under `settings:` of the suite')}")
    return "\n".join(lines)


def _at_bound(constant: AnyConstant, value: float) -> str:
    """Returns a remark if a value lies at a bound, to a thousandth of the range."""
    margin = (constant.high - constant.low) / 1e3
    if value - constant.low < margin:
        return "  at its lower bound: the rows ask for less"
    return "  at its upper bound: the rows ask for more" if constant.high - value < margin else ""


def _determination(fit: Fit, determination: Determination) -> list[str]:
    names = ", ".join(determination.constants)
    number = f"{determination.condition_number:.3g}" if np.isfinite(determination.condition_number) else "infinite"
    lines = [f"condition number of the scaled Jacobian ({names}): {number}"]
    for each in determination.directions:
        moves = " with ".join(
            f"{name} {change:+.3g} {fit.constants[name].unit}".rstrip() for name, change in each.changes.items()
        )
        lines.append(
            f"not determined: {moves} moves the root mean square of errors from {determination.rms:.2%} "
            f"to {each.rms:.2%}; "
            "fix a constant or add rows that notice it"
        )
    return lines


def _cross_validation(fit: Fit) -> list[str]:
    lines = [f"{'in the sample':<40} {fit.in_sample.line}   of {fit.in_sample.cases}"]
    if fit.all_left_out is None:
        return lines
    lines.append(f"{'each series by a fit without it':<40} {fit.all_left_out.line}   of {fit.all_left_out.cases}")
    for each in fit.series:
        if each.reason:
            lines.append(f"  {each.series:<38} not left out: {each.reason}")
        else:
            fitted, left_out = Errors.of(each.fitted.values()), Errors.of(each.left_out.values())
            medians = f"median {fitted.median:.1%} fitted, {left_out.median:.1%} left out"
            lines.append(f"  {each.series:<38} {medians}, worst {left_out.worst:.1%}   of {left_out.cases}")
    return lines


def named_changes(names: Sequence[str], changes: Sequence[float], shares: Sequence[float]) -> dict[str, float]:
    """Returns the changes of those constants that move by a fifth of what the most moved one does, or more.

    Args:
        shares: the same changes as shares of the constants' ranges.
    """
    most = max(map(abs, shares))
    return {name: change for name, change, share in zip(names, changes, shares, strict=True) if abs(share) >= most / 5}
