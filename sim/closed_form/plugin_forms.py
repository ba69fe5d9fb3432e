"""Closed forms of plugins: times of a whole scenario by their own formulas, and bounds below which none may fall."""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

from sim.errors import InputError
from sim.specs import Scenario
from sim.specs.plugins import names_of, owner

_ROUNDED = 1e-6
"""Share by which a simulation, which counts picoseconds, may be faster than a bound."""


class PluginForm(Struct, frozen=True):
    """A closed form from outside."""

    function: Callable[..., float | None]
    """Called with the scenario; returns seconds for all steps, None for a scenario that it does not cover."""
    is_bound: bool
    """True if no simulation may be faster."""


PLUGIN_FORMS: dict[str, PluginForm] = {}
"""Closed forms by name."""


def seconds(name: str, value: float | None) -> float | None:
    """Returns what a closed form returned. Raises InputError where that is no time."""
    if value is None:
        return None
    try:
        time_s = float(value)
    except (TypeError, ValueError):
        time_s = math.nan
    if not 0 < time_s < math.inf:
        plugin = owner("closed_form", name)
        where = f"{plugin.label}: {name}" if plugin else name
        raise InputError("must return seconds above 0, or None where it does not apply", where=where, got=value)
    return time_s


def predict_plugin_forms(scenario: Scenario) -> dict[str, float]:
    """Returns the times of the closed forms of the scenario's plugins that cover it, seconds for all steps."""
    names = names_of("closed_form", scenario.plugins)
    times = {name: seconds(name, PLUGIN_FORMS[name].function(scenario)) for name in names}
    return {name: time_s for name, time_s in times.items() if time_s is not None}


def check_bounds(forms: dict[str, float], latency_s: float) -> None:
    """Raises InputError where a simulation is faster than a bound of a plugin."""
    for name, bound_s in forms.items():
        if PLUGIN_FORMS[name].is_bound and latency_s < bound_s * (1 - _ROUNDED):
            plugin = owner("closed_form", name)
            where = f"{plugin.label}: {name}" if plugin else name
            rule = f"a bound must be at most the simulated latency, {latency_s:.6g} s"
            raise InputError(rule, where=where, got=f"{bound_s:.6g} s")
