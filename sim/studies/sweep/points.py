"""The points of a sweep: every combination of its axes, each as settings on the scenario's file."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from sim.errors import InputError
from sim.specs import Scenario
from sim.terminal import printable

MOST_POINTS = 100_000
"""Hours on one processor, and more than a figure shows."""

NO_SWEEP = ("sweep=null", "figure=null")
"""Settings that make of a scenario with a sweep a plain one."""


class Point(Struct, frozen=True):
    """One combination."""

    choices: Mapping[str, str]
    """The label of what is chosen on each axis."""
    settings: tuple[str, ...]
    """`key=value` as in `--set`; what the user set comes last and wins."""


def list_points(scenario: Scenario, settings: Sequence[str] = ()) -> list[Point]:
    """Returns all combinations, the last axis fastest.

    Args:
        settings: those that `scenario` was loaded with.

    Raises:
        InputError: there is no sweep, or the settings leave nothing of it.
    """
    axes = swept_axes(scenario, settings)
    if not axes:
        hint = "the settings choose all of it; " if scenario.sweep else ""
        raise InputError("must have an axis to sweep", where="sweep", hint=f"{hint}use 'sim run'")
    count = math.prod(map(len, axes.values()))
    if count > MOST_POINTS:
        rule = f"must have at most {MOST_POINTS:,} points"
        raise InputError(
            rule, where="sweep", got=count, hint="sweep fewer values, or one part after the other with --set"
        )
    kept = settings_of_points(settings)
    return [
        Point(
            {axis: label for axis, (label, _) in zip(axes, chosen, strict=True)},
            (*NO_SWEEP, *(setting for _, fields in chosen for setting in fields), *kept),
        )
        for chosen in itertools.product(*(_options(axis, values) for axis, values in axes.items()))
    ]


def settings_of_points(settings: Sequence[str]) -> tuple[str, ...]:
    """Returns the settings of every point: all but those of the sweep itself and of its figure."""
    return tuple(setting for setting in settings if _key(setting).partition(".")[0] not in ("sweep", "figure"))


def swept_axes(scenario: Scenario, settings: Sequence[str] = ()) -> dict[str, list[Any] | dict[str, dict[str, Any]]]:
    """Returns the axes that the settings leave: an axis all of whose fields are set is no longer swept."""
    keys = [_key(setting) for setting in settings]

    def free(field: str) -> bool:
        return not any(f"{field}.".startswith(f"{key}.") for key in keys)

    return {axis: values for axis, values in (scenario.sweep or {}).items() if any(map(free, _fields(axis, values)))}


def refuse_sweep(scenario: Scenario, settings: Sequence[str] = ()) -> None:
    """Raises InputError for a scenario that is a sweep of several runs."""
    axes = swept_axes(scenario, settings)
    if axes:
        fields = dict.fromkeys(field for axis, values in axes.items() for field in _fields(axis, values))
        hint = f"use 'sim sweep', or choose one with --set {'=... --set '.join(fields)}=..."
        raise InputError("must be one run, not a sweep of several", where="sweep", hint=hint)


def format_label(value: Any) -> str:
    """Formats a swept value: text as it prints, a mapping as `key=value, ...`, anything else as in the file."""
    if isinstance(value, dict):
        return ", ".join(f"{format_label(key)}={format_label(part)}" for key, part in value.items())
    return " ".join(printable(value).split()) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _options(axis: str, values: list[Any] | dict[str, dict[str, Any]]) -> list[tuple[str, tuple[str, ...]]]:
    """Returns label and settings of each choice on an axis."""
    if isinstance(values, dict):
        return [
            (format_label(name), tuple(_setting(*field) for field in fields.items())) for name, fields in values.items()
        ]
    return [(format_label(value), (_setting(axis, value),)) for value in values]


def _fields(axis: str, values: list[Any] | dict[str, dict[str, Any]]) -> list[str]:
    """Returns the fields that an axis changes."""
    return [field for fields in values.values() for field in fields] if isinstance(values, dict) else [axis]


def _setting(field: str, value: Any) -> str:
    return f"{field}={json.dumps(value, ensure_ascii=False)}"  # JSON is YAML


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()
