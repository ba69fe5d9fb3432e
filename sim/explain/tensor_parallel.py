"""From the usual model of tensor parallelism over its closed form per operation to the simulated step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.closed_form.tensor_parallel import per_operation, usual
from sim.explain.changes import changed
from sim.report.explanation import HALVES, Model
from sim.run import Pass, step_s, wires
from sim.specs import Scenario
from sim.units import format_list, format_seconds

WORK, WAITING = "Work it leaves out", "What formulas do not know"

FREE: dict[str, Any] = {
    "stack.stream_wait": 0.0,
    "stack.matmul_balance": None,
    "stack.compute_interference": 0.0,
    "stack.memory_interference": 0.0,
    "layout.graph_capture": True,
    "layout.overlap": "none",
}
"""Joins cost nothing, collectives slow nothing, a matmul's rate does not depend on its shape, and nothing is overlapped
that the formula does not overlap."""
_FUSED: dict[str, Any] = {
    "stack.op_overhead": 0.0,
    "stack.matmul_overhead": None,
    "stack.step_overhead": 0.0,
    "stack.elementwise": "fused",
    "stack.attention": "fused",
    "stack.l2_speed": None,
}


def formulas(scenario: Scenario) -> Iterator[Model]:
    """Models up to the closed form per operation."""
    wire = wires(scenario)
    found = usual(scenario, wire)
    compute = found.terms["compute"]
    why = "max(FLOPs at the reached rate, weights and cache at the reached bandwidth) of every half layer"
    yield Model("Half layers", HALVES.group, compute, why)
    why = "sums that the next half waits for"
    if scenario.residual in ("ladder", "hybrid") and scenario.communication_streams:
        why = "of a sum under Ladder what takes longer than the next half, and the last sum: max(half, sum)"
    yield Model("Exposed sums", HALVES.group, found.step_s, why)

    own = {path: _field(scenario, path) for path in _FUSED}
    steps: tuple[tuple[str, tuple[str, ...], str], ...] = (
        (
            "Each operation its own roofline",
            (),
            "what waits for memory in one does not hide under the FLOPs of another; activations pass through memory",
        ),
        (
            "Scores, copied keys and values",
            ("stack.attention", "stack.l2_speed"),
            "attention's scores go through memory, copies of key-value heads are read from L2",
        ),
        (
            "Norms, activations, adds",
            ("stack.elementwise",),
            "kernels of their own, each reads and writes memory",
        ),
        (
            "Overhead of operations",
            ("stack.op_overhead", "stack.matmul_overhead"),
            f"{format_seconds(scenario.stack.op_overhead.value)} beside each kernel",
        ),
        (
            "Host at the end of a step",
            ("stack.step_overhead",),
            "sampling, synchronisation and what the host does before it launches the next pass",
        ),
    )
    fused = dict(_FUSED)
    for name, paths, reason in steps:
        fused |= {path: own[path] for path in paths}
        yield Model(name, WORK, per_operation(changed(scenario, fused), wire).step_s, reason)


def simulations(part: Pass) -> Iterator[Model]:
    """Models from the closed form per operation on; the first is that of the same assumptions, simulated."""
    scenario = part.scenario
    inexact = per_operation(changed(scenario, FREE), wires(scenario)).inexact
    stack = scenario.stack
    own = {path: _field(scenario, path) for path in FREE}
    own |= {"layout.overlap": scenario.overlap, "layout.graph_capture": scenario.graph_capture}
    free = dict(FREE)
    yield Model(
        "Collectives step by step",
        WAITING,
        step_s(changed(scenario, free)),
        f"what the closed form does not know: it {format_list(inexact)}"
        if inexact
        else "none: the closed form is exact, and the simulation agrees",
    )
    wait = format_seconds(stack.stream_wait.value)
    lost = stack.compute_interference.value, stack.memory_interference.value
    effects: tuple[tuple[str, str, str], ...] = (
        ("Overlap", "layout.overlap", f"{scenario.overlap.replace('_', ' ')}: sums run under other compute"),
        ("Joins of streams", "stack.stream_wait", f"{wait} from the end of a sum to what waits for it"),
        (
            "Tiles of matmuls",
            "stack.matmul_balance",
            "waves that are not full, and operands that multiplications wait for",
        ),
        (
            "Matmuls beside collectives",
            "stack.compute_interference",
            f"limited by FLOPs, a kernel loses {lost[0]:g} multiprocessors to every busy channel",
        ),
        (
            "Other kernels beside collectives",
            "stack.memory_interference",
            f"limited by bytes, a kernel loses {lost[1]:g} multiprocessors to every busy channel",
        ),
        ("Launches from the host", "layout.graph_capture", f"{format_seconds(stack.launch.value)} each, one by one"),
    )
    for name, path, reason in effects:
        if own[path] != free[path]:
            free[path] = own[path]
            yield Model(name, WAITING, step_s(changed(scenario, free)), reason)


def _field(scenario: Scenario, path: str) -> Any:
    """A field as the specs hold it, with its source."""
    value: Any = scenario
    for name in path.split("."):
        value = getattr(value, name)
    return value
