"""A scenario with parts of its machine replaced by ideal ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from sim.specs import Scenario, Sourced, Strict

Spec = TypeVar("Spec", bound=Strict)

IDEAL: dict[str, Any] = {
    "topology.link.latency": 0.0,
    "topology.link.efficiency": 1.0,
    "stack.collective_overhead": 0.0,
    "stack.collective_step": 0.0,
    "stack.op_overhead": 0.0,
    "stack.matmul_efficiency": 1.0,
    "stack.collective_matmul_efficiency": 1.0,
    "stack.collective_axes": "at_once",
    "stack.hbm_efficiency": 1.0,
    "stack.matmul_hbm_efficiency": None,
    "stack.roofline_overlap": 1.0,
    "stack.elementwise": "fused",
    "layout.overlap": "none",
}
"""Data sheet rates, nothing to wait for, one operation after the other."""


def with_fields(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """Returns the scenario with fields replaced, `{"topology.link.latency": 0.0}`."""
    for path, value in changes.items():
        scenario = _set(scenario, path.split("."), value)
    return scenario


def _set(spec: Spec, path: list[str], value: Any) -> Spec:
    name, *rest = path
    if isinstance(spec, dict):
        return {**spec, name: _set(spec[name], rest, value)}
    field = getattr(spec, name)
    if rest:
        value = _set(field, rest, value)
    elif isinstance(field, Sourced) and value is not None and not isinstance(value, Sourced):
        value = field.model_copy(update={"value": value})
    return spec.model_copy(update={name: value})


def read_field(scenario: Scenario, path: str) -> Any:
    """Returns a field as the specs hold it, with its source; a field that the layout leaves open as resolved."""
    if path in ("layout.overlap", "layout.graph_capture"):
        return getattr(scenario, path.partition(".")[2])
    value: Any = scenario
    for name in path.split("."):
        value = getattr(value, name)
    return value


def without_source(value: Any) -> Any:
    """Returns a value without its source."""
    return getattr(value, "value", value)


def close_rings(scenario: Scenario) -> Scenario:
    """Closes every axis to a ring, of which collectives use all links."""
    rings = {name: axis.model_copy(update={"wrap": True, "twist": {}}) for name, axis in scenario.part.lines.items()}
    return with_fields(scenario, {"topology.axes": rings, "topology.collectives": {}, "collectives": {}})
