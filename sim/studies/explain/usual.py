"""From the usual model of a layout to its closed form per operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.closed_form.pass_time import predict_per_operation, predict_per_sublayer
from sim.report.present.explanation import PER_SUBLAYER, Model
from sim.simulate.communication import Communication
from sim.specs import Scenario
from sim.studies.explain.changes import read_field, with_fields
from sim.units import format_seconds

WORK = "Work it leaves out"

_ALONE = "what waits for memory in one does not hide under the FLOPs of another; activations pass through memory"
_SCORES = "attention's scores go through memory, copies of key-value heads are read from L2"
_HOST = "sampling, synchronisation and what the host does before it launches the next pass"
_OVERHEADS: dict[str, Any] = {
    "stack.op_overhead": 0.0,
    "stack.matmul_overhead": None,
    "stack.grouped_overhead": None,
    "stack.attention_overhead": None,
}
_FUSED: dict[str, Any] = {
    **_OVERHEADS,
    "stack.step_overhead": 0.0,
    "stack.elementwise": "fused",
    "stack.attention": "fused",
    "stack.l2_speed": None,
}


def list_models(scenario: Scenario) -> Iterator[Model]:
    """Models up to the closed form per operation."""
    to = Communication(scenario)
    prediction = predict_per_sublayer(scenario, to)
    compute = prediction.terms["compute"]
    why = "max(FLOPs at the reached rate, weights and cache at the reached bandwidth) of every sublayer"
    yield Model("Sublayers", PER_SUBLAYER.group, compute, why)
    exchanged = sum(time for name, time in prediction.terms.items() if name.startswith(("dispatch ", "combine ")))
    why = "sums that the next sublayer waits for"
    if scenario.residual in ("ladder", "hybrid") and scenario.communication_streams:
        why = "the part of a sum that exceeds the next sublayer under Ladder, and the last sum: max(sublayer, sum)"
    yield Model("Exposed sums", PER_SUBLAYER.group, prediction.step_s - exchanged, why)
    why = "dispatch and combine of tokens, beyond the shared experts that run meanwhile"
    yield Model("Exposed exchange of tokens", PER_SUBLAYER.group, prediction.step_s, why)

    launch = format_seconds(scenario.stack.op_overhead.value)
    fused = dict(_FUSED)
    for name, paths, reason in (
        ("Each operation its own roofline", (), _ALONE),
        ("Scores, copied keys and values", ("stack.attention", "stack.l2_speed"), _SCORES),
        ("Norms, activations, adds", ("stack.elementwise",), "kernels of their own, each reads and writes memory"),
        ("Overhead of operations", tuple(_OVERHEADS), f"{launch} beside each kernel, unless its kind has its own"),
        ("Host at the end of a step", ("stack.step_overhead",), _HOST),
    ):
        fused |= {path: read_field(scenario, path) for path in paths}
        yield Model(name, WORK, predict_per_operation(with_fields(scenario, fused), to).step_s, reason)
