"""Effects that simulations have and closed forms do not, in the order in which they are switched on."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

from msgspec import Struct

from sim.report.present.explanation import PAPERS, PER_SUBLAYER, Words
from sim.specs import Scenario
from sim.specs.experts import RoutingSpec
from sim.studies.explain.changes import IDEAL, read_field, without_source
from sim.units import format_seconds

CONTENTION = "Contention"
MACHINE = "A machine below its data sheet"
WAITING = "Latency and overheads"
OVERLAP = "Overlap"
UNKNOWN = "What formulas do not know"


class Effect(Struct, frozen=True):
    """One field of a scenario at its own value, in place of that of a walk's base."""

    name: str
    group: str
    field: str
    words: str
    """Why it takes longer, with the names of `why` in braces."""

    def why(self, scenario: Scenario, added_s: float) -> str:
        """The words for a scenario whose step takes so much longer."""
        chip, value = scenario.topology.chip, without_source(read_field(scenario, self.field))
        number = value if isinstance(value, float) and value else nan
        link = getattr(scenario.topology, "link", None)
        return self.words.format(
            value=value.replace("_", " ") if isinstance(value, str) else value,
            rest=1 - number,
            each=format_seconds(number) if number > 0 else "",
            times=added_s / number,
            launch=format_seconds(scenario.stack.launch.value),
            peak=scenario.matmul_peak.value / 1e12,
            memory=chip.hbm_bandwidth.value / 1e9,
            link=link.bandwidth.value / 1e9 if link else nan,
        )


class Walk(Struct, frozen=True):
    """From a closed form to the simulated step."""

    base: Mapping[str, Any]
    """Fields that change the scenario to what the closed form knows, by their path."""
    first: tuple[str, str]
    """(name, group) of the bar between the closed form and its simulation."""
    effects: tuple[Effect, ...]
    words: Words


def _effects(group: str, *rows: tuple[str, str, str]) -> tuple[Effect, ...]:
    return tuple(Effect(name, group, field, words) for name, field, words in rows)


_TILES = "matmuls of more than one row, whose weights are read in tiles, reach {value:.1%} of {memory:.0f} GB/s"
_LOOPED = "matmuls whose input is gathered or whose output is scattered over an axis reach {value:.1%} of that"
_BESIDE = "{rest:.0%} of the shorter of FLOPs and memory in an operation does not pass under the longer"
_LINKS = "long transfers reach {value:.1%} of {link:.0f} GB/s a link"
_IN_TURN = "a collective over several axes is one on each, over the links of that axis alone"
_APART = "norms, activations and residual adds read and write memory by themselves"
_STARTS = "{each} to start a message, {times:,.0f} messages after each other"
_LOSES = "a kernel loses {value:g} multiprocessors to every busy channel"
_QUERIES = "tiles of queries start and end, and positions are split over multiprocessors that would be idle"
_WAVES = "waves that are not full, and operands that multiplications wait for"

_AT_WORK = _effects(
    MACHINE,
    ("Memory bandwidth reached", "stack.hbm_efficiency", "streaming reads reach {value:.1%} of {memory:.0f} GB/s"),
    ("Memory bandwidth of matmuls", "stack.matmul_hbm_efficiency", _TILES),
    ("Matmul rate reached", "stack.matmul_efficiency", "large matmuls reach {value:.1%} of {peak:.0f} TFLOP/s"),
    ("Matmuls with collectives", "stack.collective_matmul_efficiency", _LOOPED),
    ("FLOPs and memory in turn", "stack.roofline_overlap", _BESIDE),
    ("Link bandwidth reached", "topology.link.efficiency", _LINKS),
    ("Axes one after the other", "stack.collective_axes", _IN_TURN),
    ("Norms and activations apart", "stack.elementwise", _APART),
)
_WAITS = _effects(
    WAITING,
    ("Hop latency", "topology.link.latency", "{each} a hop, {times:,.0f} hops after each other"),
    ("Steps of collectives", "stack.collective_step", _STARTS),
    ("Launches of collectives", "stack.collective_overhead", "{each} to start each of {times:,.0f} collectives"),
    ("Launches of operations", "stack.op_overhead", "{each} beside each of {times:,.0f} matmuls and attentions"),
)
PAPER_WALK = Walk(IDEAL, ("Shared links", CONTENTION), _AT_WORK + _WAITS, PAPERS)
"""Effects of the paper's layouts on a torus, from an ideal machine on."""
USUAL_WALK = Walk(
    {
        "stack.stream_wait": 0.0,
        "stack.matmul_balance": None,
        "stack.compute_interference": 0.0,
        "stack.memory_interference": 0.0,
        "layout.graph_capture": True,
        "layout.overlap": "none",
        "workload.routing": RoutingSpec(),
        "stack.exchange": {},
        "stack.attention_startup": None,
    },
    ("Collectives step by step", UNKNOWN),
    _effects(
        UNKNOWN,
        ("Overlap", "layout.overlap", "{value}: sums run under other compute"),
        ("Joins of streams", "stack.stream_wait", "{each} from the end of a sum to what waits for it"),
        ("Tiles of matmuls", "stack.matmul_balance", _WAVES),
        ("Matmuls beside collectives", "stack.compute_interference", f"limited by FLOPs, {_LOSES}"),
        ("Other kernels beside collectives", "stack.memory_interference", f"limited by bytes, {_LOSES}"),
        ("Launches from the host", "layout.graph_capture", "{launch} each, one by one"),
        ("Kernels of dispatch and combine", "stack.exchange", "what they reach of the links, and their fixed times"),
        ("Uneven loads of experts", "workload.routing", "all wait for the chips with the most rows"),
        ("Attention in tiles", "stack.attention_startup", _QUERIES),
    ),
    PER_SUBLAYER,
)
"""Effects of all other layouts, for which joins cost nothing, collectives slow nothing, a matmul's rate does not depend
on its shape, and only what the formula overlaps is overlapped."""
