"""The report of a run: simulated figures beside the closed form, the published value, memory and links."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.report.memory import Memory
from sim.report.metrics import Measures, OpMeasure, measure
from sim.specs import Scenario
from sim.topology.graph import Topology
from sim.trace import Trace

_LINKS_NAMED = 4


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """What the formulas predict for all steps, seconds."""

    latency_s: float
    """The paper's own formula."""
    terms: Mapping[str, float]
    per_axis_latency_s: float
    """The variant in which a collective over several axes is a sequence of alpha-beta rings, one per axis."""
    per_axis_terms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Simulated:
    """Simulated figures. Times other than the latency are of one step on the critical chip, seconds."""

    latency_s: float
    """All steps."""
    step_s: float
    tokens_per_s: float
    """Of all sequences together."""
    mfu: float
    """2 x unpadded parameters x tokens / (chips x peak x latency), Pope et al. section 2."""
    compute_s: float
    communication_s: float
    exposed_communication_s: float
    overlapped_communication_s: float
    idle_s: float


@dataclass(frozen=True, slots=True)
class Published:
    """A published latency, seconds, and how far the simulation is from it."""

    value: float
    error: float
    """Simulated / published - 1."""
    tolerance: float
    source: str


@dataclass(frozen=True, slots=True)
class LinkLoad:
    """Links in one step."""

    busiest: tuple[str, ...]
    """The first few of the links with the most busy time."""
    tied: int
    """How many links have that busy time."""
    utilisation: float
    """Busy time / step time of the busiest link."""
    bytes: float
    """Sent over the busiest link."""
    mean_utilisation: float
    total_bytes: float
    """Sent over all links; a message counts on every hop."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run says about itself in numbers."""

    scenario: str
    machine: str
    chips: int
    critical_chip: int
    simulated: Simulated
    closed_form: ClosedForm | None
    """None where no formula covers the scenario."""
    published: Published | None
    memory: Memory
    links: LinkLoad
    ops: tuple[OpMeasure, ...]
    """One step on the critical chip, in program order."""
    tasks: int
    layers_simulated: int
    layers: int
    """Of the whole model."""
    folded: bool

    @property
    def difference(self) -> float | None:
        """Simulated latency / closed-form latency - 1."""
        return self.simulated.latency_s / self.closed_form.latency_s - 1 if self.closed_form else None

    @property
    def per_axis_difference(self) -> float | None:
        """Simulated latency / per-axis closed-form latency - 1."""
        return self.simulated.latency_s / self.closed_form.per_axis_latency_s - 1 if self.closed_form else None

    @property
    def between_closed_forms(self) -> float | None:
        """Per-axis closed-form latency / the paper's - 1: what the choice of formula alone makes."""
        return self.closed_form.per_axis_latency_s / self.closed_form.latency_s - 1 if self.closed_form else None

    def to_dict(self, wall_s: float | None = None) -> dict[str, Any]:
        """The report as JSON data.

        Args:
            wall_s: wall-clock time of the run, for a terminal. Leave it out of files: without it the same scenario
                always gives the same bytes.
        """
        plain = dataclasses.asdict
        closed_form = None
        if self.closed_form:
            closed_form = plain(self.closed_form) | {
                "per_axis_difference": self.per_axis_difference,
                "per_axis_over_paper": self.between_closed_forms,
            }
        memory = plain(self.memory) | {"fits": self.memory.fits, "excess_bytes": self.memory.excess_bytes}
        engine: dict[str, Any] = {
            "tasks": self.tasks,
            "layers_simulated": self.layers_simulated,
            "folded": self.folded,
        }
        return {
            "scenario": self.scenario,
            "topology": {"name": self.machine, "chips": self.chips},
            "simulated": plain(self.simulated) | {"critical_chip": self.critical_chip},
            "closed_form": closed_form,
            "difference": self.difference,
            "published": plain(self.published) if self.published else None,
            "memory": memory,
            "links": plain(self.links),
            "ops": [plain(op) for op in self.ops],
            "engine": engine if wall_s is None else engine | {"wall_s": wall_s},
        }


def build(
    scenario: Scenario,
    topology: Topology,
    trace: Trace,
    memory: Memory,
    closed_form: ClosedForm | None,
    *,
    folded: bool = False,
) -> Report:
    """The report of `trace`, one step of `scenario` on `topology`.

    Every figure is of a model of the layers simulated, so that a run of some layers only is not set beside a
    published latency of all.
    """
    measures = measure(trace, topology)
    step_s, steps, tokens = measures.makespan_s, scenario.workload.steps, scenario.workload.tokens
    latency_s = step_s * steps
    parameters = scenario.model.nominal_parameters * scenario.layers / scenario.model.layers
    peak = topology.chip.peak_flops[scenario.workload.activations]
    reference, critical = scenario.reference, measures.critical_chip
    published = None
    if reference and scenario.layers == scenario.model.layers:
        error = latency_s / reference.latency - 1
        published = Published(reference.latency, error, reference.tolerance, reference.source)
    return Report(
        scenario=scenario.name,
        machine=topology.name,
        chips=topology.chips,
        critical_chip=critical,
        simulated=Simulated(
            latency_s=latency_s,
            step_s=step_s,
            tokens_per_s=tokens / latency_s,
            mfu=2 * parameters * tokens / (topology.chips * peak * latency_s),
            compute_s=float(measures.compute_s[critical]),
            communication_s=float(measures.communication_s[critical]),
            exposed_communication_s=float(measures.exposed_communication_s[critical]),
            overlapped_communication_s=float(measures.overlapped_communication_s[critical]),
            idle_s=float(measures.idle_s[critical]),
        ),
        closed_form=closed_form,
        published=published,
        memory=memory,
        links=_load(measures),
        ops=measures.ops,
        tasks=len(trace.program),
        layers_simulated=scenario.layers,
        layers=scenario.model.layers,
        folded=folded,
    )


def _load(measures: Measures) -> LinkLoad:
    """The links' part of the report."""
    if not measures.busiest_links:
        return LinkLoad((), 0, 0.0, 0.0, 0.0, 0.0)
    busiest = int(measures.link_busy_s.argmax())
    return LinkLoad(
        busiest=measures.busiest_links[:_LINKS_NAMED],
        tied=len(measures.busiest_links),
        utilisation=float(measures.link_utilisation[busiest]),
        bytes=float(measures.link_bytes[busiest]),
        mean_utilisation=float(measures.link_utilisation.mean()),
        total_bytes=float(measures.link_bytes.sum()),
    )
