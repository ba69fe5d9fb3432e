"""Decorators by which a file or module outside this package adds to it.

    from sim.plugins import preset

    @preset
    def my_layout(axes): ...

A scenario names the file: `plugins: [my.py]`. What is added stands in the same dicts as what is shipped, and is checked
when it is first used: a collective by replaying its chunks, a preset and a residual scheme by comparing what several
chips and one chip compute, a pipeline schedule by the order of its passes, a bound by the simulated time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, overload

from sim.closed_form.plugin_forms import PLUGIN_FORMS, PluginForm
from sim.collectives import COLLECTIVES, ON_ROUTES, ON_TORUS
from sim.collectives.graph.renumbering import numbered
from sim.collectives.graph.routes import Messages
from sim.collectives.pieces import in_pieces
from sim.collectives.schedule import Algorithm, Payload, Schedule
from sim.errors import InputError, guess
from sim.layouts.layer import Layer
from sim.layouts.residual import LAYERS, SCHEMES, Stream
from sim.lowering.pipeline.schedules import SCHEDULES, Plan
from sim.report.present.sections import SECTIONS
from sim.report.present.text import Line, Table
from sim.report.report import Report
from sim.specs import Scenario
from sim.specs.base import NAME, TEXT_RULES
from sim.specs.plugins import Kind, guarded, register
from sim.specs.uses import PRESETS, Axes, Preset, Uses
from sim.topology.graph import Topology

__all__ = [
    "Axes",
    "Layer",
    "Line",
    "Messages",
    "Payload",
    "Plan",
    "Report",
    "Scenario",
    "Schedule",
    "Stream",
    "Table",
    "Topology",
    "Uses",
    "closed_form",
    "collective",
    "pipeline_schedule",
    "preset",
    "report",
    "residual_scheme",
]

_ROOTED = ("broadcast", "reduce", "gather", "scatter")
"""Collectives from or to chip 0, which keeps its number."""
_UNNUMBERED = ("permute", "sendrecv")
"""Collectives of which the order of the chips is part."""


def collective(
    operation: str, needs: Literal["lines", "routes"], name: str | None = None
) -> Callable[[Algorithm], Algorithm]:
    """Registers an algorithm of a collective: a function (topology, axes) -> Schedule.

    Args:
        operation: `all_gather`, `reduce_scatter`, ...
        needs: `lines` of neighbours, as a torus has, or `routes` between any two chips. Where routes share links, the
            array is cut into pieces and chips are numbered by their links, as for the shipped algorithms.
        name: default: the function's.
    """

    def add(function: Algorithm) -> Algorithm:
        _check_choice("operation", operation, COLLECTIVES)
        _check_choice("needs", needs, ("lines", "routes"))
        algorithm, table = guarded(function), (ON_TORUS if needs == "lines" else ON_ROUTES)[operation]
        if needs == "routes" and operation not in _UNNUMBERED:
            algorithm = in_pieces(numbered(algorithm, root=0 if operation in _ROOTED else None))
        label = _checked_name(function, name)
        register("collective", f"{operation} {label}", function, (table, label, algorithm))
        return algorithm

    return add


@overload
def preset(function: Preset) -> Preset: ...
@overload
def preset(*, name: str) -> Callable[[Preset], Preset]: ...
def preset(function: Preset | None = None, *, name: str | None = None) -> Any:
    """Registers a layout preset: a function from the names of the mesh axes, first to last, to `Uses` of them."""
    return _decorator("preset", PRESETS, function, name)


def residual_scheme(
    function: Callable[[Layer[Any], Stream[Any]], Stream[Any]] | None = None,
    *,
    name: str | None = None,
    layers: Callable[[int], Sequence[str]] | None = None,
) -> Any:
    """Registers a residual scheme: a function (layer, residual stream before it) -> residual stream after it.

    Args:
        layers: from the number of layers to the kind of each, the scheme's name or a shipped kind such as `standard`;
            default: every layer is of the scheme.
    """

    def add(function: Callable[[Layer[Any], Stream[Any]], Stream[Any]]) -> Callable[..., Stream[Any]]:
        label, layer = _checked_name(function, name), guarded(function)
        kinds_of = guarded(layers) if layers else lambda count: (label,) * count

        def kinds(count: int, _: int) -> tuple[str, ...]:
            result = tuple(kinds_of(count))
            unknown = [kind for kind in result if kind not in LAYERS]
            if len(result) != count or unknown:
                rule = f"layers must return the kind of each of {count} layers, of {', '.join(LAYERS)}"
                raise InputError(rule, where=f"residual scheme {label}", got=unknown or len(result))
            return result

        register("residual_scheme", label, function, (LAYERS, label, layer), (SCHEMES, label, kinds))
        return layer

    return add(function) if function else add


@overload
def pipeline_schedule(function: Callable[[Plan], None]) -> Callable[[Plan], None]: ...
@overload
def pipeline_schedule(*, name: str) -> Callable[[Callable[[Plan], None]], Callable[[Plan], None]]: ...
def pipeline_schedule(function: Callable[[Plan], None] | None = None, *, name: str | None = None) -> Any:
    """Registers a pipeline schedule: a function of a `Plan` that runs every request through every stage."""
    return _decorator("pipeline_schedule", SCHEDULES, function, name)


def closed_form(
    function: Callable[..., float | None] | None = None, *, name: str | None = None, is_bound: bool = False
) -> Any:
    """Registers a closed form: a function of a scenario that returns seconds for all steps, or None.

    It stands beside the simulation of every scenario that names the plugin, and `predictions` of sweeps and suites may
    name it; a suite of collectives calls it with the collective's name, the number of chips and the bytes.

    Args:
        is_bound: true if no simulation may be faster.
    """

    def add(function: Callable[..., float | None]) -> Callable[..., float | None]:
        label, form = _checked_name(function, name), guarded(function)
        register("closed_form", label, function, (PLUGIN_FORMS, label, PluginForm(form, is_bound)))
        return form

    return add(function) if function else add


def report(function: Callable[[Report], Iterable[Table | Line]] | None = None, *, name: str | None = None) -> Any:
    """Registers a section of the report: a function of a `Report` that yields tables and lines."""
    return _decorator("report", SECTIONS, function, name)


def _decorator(kind: Kind, table: dict[str, Any], function: Callable[..., Any] | None, name: str | None) -> Any:
    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        entry = guarded(function)
        label = _checked_name(function, name)
        register(kind, label, function, (table, label, entry))
        return entry

    return add(function) if function else add


def _checked_name(function: Callable[..., Any], name: str | None) -> str:
    label = name or str(getattr(function, "__name__", ""))
    if not re.match(NAME, label):
        raise InputError(TEXT_RULES[NAME], where="name", got=label)
    return label


def _check_choice(field: str, got: str, known: Iterable[str]) -> None:
    if got not in known:
        raise InputError(f"{field} must be one of {', '.join(known)}", got=got, hint=guess(got, known))
