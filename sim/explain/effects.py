"""Effects that simulations have and closed forms do not, in the order in which they are switched on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sim.explain.changes import IDEAL, field_of, plain
from sim.report.explanation import HALVES, PAPERS
from sim.report.explanation import Words as Captions
from sim.specs import Scenario
from sim.units import format_seconds

CONTENTION = "Contention"
MACHINE = "A machine below its data sheet"
WAITING = "Latency and overheads"
OVERLAP = "Overlap"
UNKNOWN = "What formulas do not know"

Words = Callable[[Scenario, Any, float], str]
"""(scenario, the machine's value, what it adds to the step, s) -> why."""


@dataclass(frozen=True, slots=True)
class Effect:
    """One field of a scenario at its own value, in place of that of a walk's base."""

    name: str
    group: str
    field: str
    words: Words


@dataclass(frozen=True, slots=True)
class Walk:
    """From a closed form to the simulated step."""

    base: Mapping[str, Any]
    """Fields that change the scenario to what the closed form knows, by their path."""
    first: tuple[str, str]
    """(name, group) of the bar between the closed form and its simulation."""
    effects: tuple[Effect, ...]
    words: Captions


def _matmul(scenario: Scenario, value: float, _: float) -> str:
    peak = scenario.topology.chip.peak[scenario.workload.activations].value
    return f"large matmuls reach {value:.1%} of {peak / 1e12:.0f} TFLOP/s"


def _with_collectives(_: Scenario, value: float, __: float) -> str:
    return f"matmuls whose input is gathered or whose output is scattered over an axis reach {value:.1%} of that"


def _in_turn(_: Scenario, __: str, ___: float) -> str:
    return "a collective over several axes is one on each, over the links of that axis alone"


def _memory(scenario: Scenario, value: float, _: float) -> str:
    return f"streaming reads reach {value:.1%} of {scenario.topology.chip.hbm_bandwidth.value / 1e9:.0f} GB/s"


def _tiled(scenario: Scenario, value: float, _: float) -> str:
    rate = scenario.topology.chip.hbm_bandwidth.value / 1e9
    return f"matmuls of more than one row, whose weights are read in tiles, reach {value:.1%} of {rate:.0f} GB/s"


def _beside(_: Scenario, value: float, __: float) -> str:
    return f"{1 - value:.0%} of the shorter of FLOPs and memory in an operation does not pass under the longer"


def _link(scenario: Scenario, value: float, _: float) -> str:
    bandwidth = plain(field_of(scenario, "topology.link.bandwidth"))
    return f"long transfers reach {value:.1%} of {bandwidth / 1e9:.0f} GB/s a link"


def _hops(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} a hop, {added / value:,.0f} hops after each other"


def _steps(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} to start a message, {added / value:,.0f} messages after each other"


def _launches(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} to start each of {added / value:,.0f} collectives"


def _kernels(_: Scenario, value: str, __: float) -> str:
    return "norms, activations and residual adds read and write memory by themselves"


def _ops(_: Scenario, value: float, added: float) -> str:
    return f"{format_seconds(value)} beside each of {added / value:,.0f} matmuls and attentions"


def _wait(_: Scenario, value: float, __: float) -> str:
    return f"{format_seconds(value)} from the end of a sum to what waits for it"


def _overlap(_: Scenario, value: str, __: float) -> str:
    return f"{value.replace('_', ' ')}: sums run under other compute"


def _balance(_: Scenario, __: float, ___: float) -> str:
    return "waves that are not full, and operands that multiplications wait for"


def _interference(limit: str) -> Words:
    return lambda _, value, __: f"limited by {limit}, a kernel loses {value:g} multiprocessors to every busy channel"


def _host(scenario: Scenario, _: bool, __: float) -> str:
    return f"{format_seconds(scenario.stack.launch.value)} each, one by one"


PAPER_WALK = Walk(
    IDEAL,
    ("Shared links", CONTENTION),
    (
        Effect("Memory bandwidth reached", MACHINE, "stack.hbm_efficiency", _memory),
        Effect("Memory bandwidth of matmuls", MACHINE, "stack.matmul_hbm_efficiency", _tiled),
        Effect("Matmul rate reached", MACHINE, "stack.matmul_efficiency", _matmul),
        Effect("Matmuls with collectives", MACHINE, "stack.collective_matmul_efficiency", _with_collectives),
        Effect("FLOPs and memory in turn", MACHINE, "stack.roofline_overlap", _beside),
        Effect("Link bandwidth reached", MACHINE, "topology.link.efficiency", _link),
        Effect("Axes one after the other", MACHINE, "stack.collective_axes", _in_turn),
        Effect("Norms and activations apart", MACHINE, "stack.elementwise", _kernels),
        Effect("Hop latency", WAITING, "topology.link.latency", _hops),
        Effect("Steps of collectives", WAITING, "stack.collective_step", _steps),
        Effect("Launches of collectives", WAITING, "stack.collective_overhead", _launches),
        Effect("Launches of operations", WAITING, "stack.op_overhead", _ops),
    ),
    PAPERS,
)
"""Of the paper's layouts on a torus, from an ideal machine on."""
USUAL_WALK = Walk(
    {
        "stack.stream_wait": 0.0,
        "stack.matmul_balance": None,
        "stack.compute_interference": 0.0,
        "stack.memory_interference": 0.0,
        "layout.graph_capture": True,
        "layout.overlap": "none",
    },
    ("Collectives step by step", UNKNOWN),
    (
        Effect("Overlap", UNKNOWN, "layout.overlap", _overlap),
        Effect("Joins of streams", UNKNOWN, "stack.stream_wait", _wait),
        Effect("Tiles of matmuls", UNKNOWN, "stack.matmul_balance", _balance),
        Effect("Matmuls beside collectives", UNKNOWN, "stack.compute_interference", _interference("FLOPs")),
        Effect("Other kernels beside collectives", UNKNOWN, "stack.memory_interference", _interference("bytes")),
        Effect("Launches from the host", UNKNOWN, "layout.graph_capture", _host),
    ),
    HALVES,
)
"""Of all others, where joins cost nothing, collectives slow nothing, a matmul's rate does not depend on its shape, and
nothing is overlapped that the formula does not overlap."""
