"""Report of a run: simulated figures beside the closed form, the published value, memory and links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field, to_builtins

from sim.closed_form import pope
from sim.report.closed_form import ClosedForm
from sim.report.experts import ExpertsReport, report_experts
from sim.report.headline import list_brief_figures, list_headline_figures, to_html
from sim.report.memory import Memory
from sim.report.metrics import Measures, OpMeasure, PassTrace, measure
from sim.report.proposals import ProposalsReport, report_proposals
from sim.report.transfer import TransferReport, report_transfer
from sim.shortcuts import periodic
from sim.specs import DTYPE_BYTES, Scenario
from sim.specs.basis import RestsOn, rests_on
from sim.topology.graph import Topology
from sim.units import format_count

if TYPE_CHECKING:
    from sim.report.padding import Padding
    from sim.report.pipeline import PipelineReport
    from sim.report.pool import Pool
    from sim.report.spread import Spread
    from sim.report.waiting import Waiting

_LINKS_NAMED = 4


class Simulated(Struct, frozen=True):
    """Simulated figures. Times other than latencies are of one step on the critical chip, seconds.

    For a prefill and decode steps together they are of all steps, and `step_s` is their mean.
    """

    latency_s: float
    """Latency of all steps."""
    step_s: float
    ttft_s: float | None
    """Time to first token: that of the prefill; None if there is none."""
    tpot_s: float | None
    """Time per output token: decode latency / generated tokens; None if nothing is generated."""
    tokens_per_s: float
    """Tokens of all sequences per second; padding is not counted."""
    mfu: float
    """2 x unpadded parameters x tokens / (chips x peak x time), Pope et al. section 2."""
    chip_s_per_token: float
    """Cost: chips x time / tokens, Pope et al. section 4.4."""
    compute_s: float
    communication_s: float
    exposed_communication_s: float
    overlapped_communication_s: float
    stream_wait_s: float
    """One stream of the chip waits for the other; see `sim.report.metrics` for this and what follows."""
    copy_wait_s: float
    """Wait for layers of a memory pool."""
    bubble_s: float
    """Without a batch on the chip's stage of a pipeline."""
    idle_s: float


class Published(Struct, frozen=True):
    """A published latency, seconds, and how far the simulation is from it."""

    value: float
    error: float
    """Simulated / published - 1."""
    tolerance: float
    source: str


class LinkLoad(Struct, frozen=True):
    """Load of the links in one step."""

    busiest: tuple[str, ...]
    """First few of the links with the most busy time."""
    tied: int
    """Number of links with that busy time."""
    utilisation: float
    """Busy time / step time of the busiest link."""
    bytes: float
    """Bytes over the busiest link."""
    mean_utilisation: float
    total_bytes: float
    """Bytes over all links; a message counts on every hop."""


class ModelFigures(Struct, frozen=True):
    """Parameters and cache of a model with experts or latent attention, all layers."""

    parameters: float
    """All weights, norms left out."""
    active_parameters: float
    """Those that one token uses, which MFU counts."""
    kv_cache_bytes_per_token: float
    """Cache of one token without copies on several chips."""

    @classmethod
    def of(cls, scenario: Scenario) -> ModelFigures | None:
        """Returns the figures of a scenario's model."""
        model = scenario.model
        if model.experts is None and model.latent is None:
            return None
        cached = model.cached_values * DTYPE_BYTES[scenario.workload.kv_cache]
        return cls(float(model.counted_parameters), float(model.active_parameters), cached)


class Report(Struct, frozen=True):
    """All figures of a run."""

    scenario: str
    machine: str
    chips: int
    critical_chip: int
    simulated: Simulated
    closed_form: ClosedForm | None
    """Closed form; None if no formula covers the scenario."""
    published: Published | None
    memory: Memory
    links: LinkLoad
    ops: tuple[OpMeasure, ...]
    """One step on the critical chip, in program order."""
    phases: tuple[Report, ...]
    """Reports of the prefill and of the decode steps, where the scenario has both."""
    tasks: int
    """Tasks of one step."""
    layers_simulated: int
    layers: int
    """Layers of the full model."""
    folded: bool
    notes: tuple[str, ...]
    """Ways in which the layout differs from its name."""
    shortcuts: tuple[str, ...] = ()
    """One sentence per shortcut: the part that was simulated and why."""
    pipeline: PipelineReport | None = None
    """Figures of stages or of requests over time; latencies are then the mean of a request's. With two phases, of
    both."""

    pool: Pool | None = None
    """Figures of a memory pool."""
    padding: Padding | None = None
    """Time that padding removal saves."""
    spread: Spread | None = None
    """Latency, all steps, of repeated runs with jitter; every other figure is of the first."""
    rests_on: RestsOn | None = None
    """Constants of machine and software."""
    waiting: Waiting | None = None
    """Waiting for late peers in one step, if something makes chips differ; with two phases it is in their reports."""

    model: ModelFigures | None = None
    """Parameters and cache of the model; None of a model that caches keys and values of heads and has no experts."""
    experts: ExpertsReport | None = None
    """Rows of experts and their exchange; with two phases they are in their reports."""
    transfer: TransferReport | None = None
    """Transfer of the cache to chips that decode."""
    proposals: ProposalsReport | None = None
    """Tokens that a module of the model proposes."""
    plugin_forms: Mapping[str, float] = field(default_factory=dict)
    """Times of all steps by the closed forms of plugins, s."""

    def __repr__(self) -> str:
        figures = ", ".join(f"{label} {value}" for label, value in list_brief_figures(self))
        return f"Report({self.scenario} on {self.machine}, {format_count(self.chips, 'chip')}: {figures})"

    @property
    def chip_s(self) -> float:
        """Sum of the critical chip's parts: one step, or one pass of all requests of a pipeline, s."""
        parts = self.simulated
        return parts.compute_s + parts.exposed_communication_s + sum(self.waits_s.values()) + parts.idle_s

    @property
    def waits_s(self) -> dict[str, float]:
        """Waits of the critical chip while it neither computes nor communicates, by cause, s."""
        parts = self.simulated
        return {
            "stream join": parts.stream_wait_s,
            "memory pool": parts.copy_wait_s,
            "pipeline bubble": parts.bubble_s,
        }

    @property
    def latency_of(self) -> str:
        """Label of the latency."""
        return "latency per request, mean" if self.pipeline else "latency, all steps"

    @property
    def span(self) -> str:
        """Span of the critical chip's times: `one step`, `all 12 requests`."""
        passes = self.pipeline.passes if self.pipeline else None
        if passes is None:
            return "one pass of all requests" if self.pipeline else "one step"
        steps = passes.phase == "decode"
        return format_count(passes.count, "decode step") if steps else f"all {format_count(passes.count, 'request')}"

    @property
    def difference(self) -> float | None:
        """Simulated latency / closed-form latency - 1."""
        return self.simulated.latency_s / self.closed_form.latency_s - 1 if self.closed_form else None

    @property
    def detailed_difference(self) -> float | None:
        """Simulated latency / closed-form latency per operation - 1."""
        return self.simulated.latency_s / self.closed_form.detailed_latency_s - 1 if self.closed_form else None

    @property
    def difference_of_forms(self) -> float | None:
        """Closed-form latency per operation / that of the first closed form - 1."""
        return self.closed_form.detailed_latency_s / self.closed_form.latency_s - 1 if self.closed_form else None

    def _repr_html_(self) -> str:
        """Returns the headline figures, each with its definition, for a notebook."""
        return to_html(
            f"{self.scenario} on {self.machine}, {format_count(self.chips, 'chip')}", list_headline_figures(self)
        )

    def to_dict(self, wall_s: float | None = None) -> dict[str, Any]:
        """Returns the report as JSON data.

        Args:
            wall_s: wall-clock time of the run, for a terminal. Leave it out of files: without it the same scenario
                always gives the same bytes.
        """
        closed_form = None
        if self.closed_form:
            differences = {
                "per_axis_difference": self.detailed_difference,
                "per_axis_over_paper": self.difference_of_forms,
            }
            closed_form = self.closed_form.to_dict() | differences
        memory = to_builtins(self.memory) | {"fits": self.memory.fits, "excess_bytes": self.memory.excess_bytes}
        memory |= {"pool": to_builtins(self.pool) if self.pool else None}
        engine: dict[str, Any] = {
            "tasks": self.tasks,
            "layers_simulated": self.layers_simulated,
            "folded": self.folded,
            "shortcuts": list(self.shortcuts),
        }
        parts: dict[str, Any] = {"plugin_forms": dict(self.plugin_forms)} if self.plugin_forms else {}
        parts |= {"model": to_builtins(self.model)} if self.model else {}
        parts |= {"experts": to_builtins(self.experts)} if self.experts else {}
        parts |= {"kv_transfer": to_builtins(self.transfer)} if self.transfer else {}
        parts |= {"proposals": to_builtins(self.proposals)} if self.proposals else {}
        return parts | {
            "scenario": self.scenario,
            "topology": {"name": self.machine, "chips": self.chips},
            "simulated": to_builtins(self.simulated) | {"critical_chip": self.critical_chip},
            "closed_form": closed_form,
            "difference": self.difference,
            "published": to_builtins(self.published) if self.published else None,
            "memory": memory,
            "links": to_builtins(self.links),
            "ops": [to_builtins(op) | {"exposed_each_s": op.exposed_each_s, "bound": op.bound} for op in self.ops],
            "padding": to_builtins(self.padding) | {"saved": self.padding.saved} if self.padding else None,
            "pipeline": to_builtins(self.pipeline) if self.pipeline else None,
            "spread": to_builtins(self.spread) if self.spread else None,
            "waiting": to_builtins(self.waiting) if self.waiting else None,
            "phases": [phase.to_dict() for phase in self.phases],
            "rests_on": self.rests_on.to_dict() if self.rests_on else None,
            "notes": list(self.notes),
            "engine": engine if wall_s is None else engine | {"wall_s": wall_s},
        }


def build_report(
    scenario: Scenario,
    measured: PassTrace,
    memory: Memory,
    closed_form: ClosedForm | None,
    latency_s: float | None = None,
    notes: tuple[str, ...] = (),
) -> Report:
    """Builds the report of one step of `scenario`.

    Every figure is of a model of the simulated layers, so that a run of some layers is not compared with a published
    latency of all.

    Args:
        latency_s: latency of all steps, s; by default all steps take as long as this one.
    """
    topology, batches, spec = measured.topology, measured.batches, scenario.pipeline
    measures = measure(measured.trace, topology, batches, measured.periods)
    steps, critical = scenario.workload.steps, measures.critical_chip
    pipeline = None
    if spec and batches:
        from sim.report.pipeline import report_passes, report_requests

        passes = report_passes(measured.trace, batches, scenario, spec)
        latency_s = passes.latency_mean_s * steps if latency_s is None else latency_s
        pipeline = report_requests(passes, spec, latency_s)
    elif latency_s is None:
        latency_s = measures.makespan_s * steps
    return Report(
        scenario=scenario.name,
        machine=topology.name,
        chips=measured.computing_chips,
        critical_chip=topology.chip_number(critical),
        simulated=Simulated(
            latency_s=latency_s,
            step_s=latency_s / steps,
            ttft_s=latency_s if scenario.workload.phase == "prefill" else None,
            tpot_s=latency_s / (scenario.workload.generate or 1) if scenario.workload.phase == "decode" else None,
            **compute_rates(scenario, measured.computing_chips, latency_s, pipeline),
            compute_s=float(measures.compute_s[critical]),
            communication_s=float(measures.communication_s[critical]),
            exposed_communication_s=float(measures.exposed_communication_s[critical]),
            overlapped_communication_s=float(measures.overlapped_communication_s[critical]),
            stream_wait_s=float(measures.stream_wait_s[critical]),
            copy_wait_s=float(measures.copy_wait_s[critical]),
            bubble_s=float(measures.bubble_s[critical]),
            idle_s=float(measures.idle_s[critical]),
        ),
        closed_form=closed_form,
        published=compare_to_published(scenario, latency_s),
        memory=memory,
        links=_load(measures, topology),
        ops=measures.ops,
        phases=(),
        tasks=periodic.count_tasks(measured.trace.program),
        layers_simulated=scenario.layers,
        layers=scenario.model.layers,
        folded=topology.is_folded,
        rests_on=rests_on(scenario),
        notes=notes,
        pipeline=pipeline,
        model=ModelFigures.of(scenario),
        experts=report_experts(scenario, measured, measures),
        transfer=report_transfer(measured),
        proposals=report_proposals(scenario, measures),
    )


def compute_rates(
    scenario: Scenario, chips: int, latency_s: float, pipeline: PipelineReport | None
) -> dict[str, float]:
    """Returns tokens per second, MFU and cost: useful tokens over the time of the chips.

    Requests of a pipeline overlap, so the time of each is its share of the time of all.
    """
    tokens = scenario.tokens
    time_s = pipeline.total_s / pipeline.requests if pipeline else latency_s
    return {
        "tokens_per_s": tokens / time_s,
        "mfu": pope.mfu(scenario.parameters, tokens, chips, scenario.matmul_peak.value, time_s),
        "chip_s_per_token": chips * time_s / tokens,
    }


def compare_to_published(scenario: Scenario, latency_s: float) -> Published | None:
    """Returns the published latency beside the simulated one; None if some layers only were simulated."""
    reference = scenario.reference
    if reference is None or scenario.layers < scenario.model.layers:
        return None
    error = latency_s / reference.latency - 1
    return Published(reference.latency, error, reference.tolerance, reference.source)


def _load(measures: Measures, topology: Topology) -> LinkLoad:
    """Returns the load of all links, including those that the simulated links represent."""
    if not measures.busiest_links:
        return LinkLoad((), 0, 0.0, 0.0, 0.0, 0.0)
    busiest, links = int(measures.link_busy_s.argmax()), topology.representative_links
    return LinkLoad(
        busiest=measures.busiest_links[:_LINKS_NAMED],
        tied=len(measures.busiest_links),
        utilisation=float(measures.link_utilisation[busiest]),
        bytes=float(measures.link_bytes[busiest]),
        mean_utilisation=float(measures.link_utilisation[links].mean()),
        total_bytes=float(measures.link_bytes[links].sum()),
    )
