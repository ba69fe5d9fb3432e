"""Lowering of a scenario with stages or requests to one program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from msgspec.structs import replace

from sim.errors import InputError
from sim.layouts.sharding import ITEM_BYTES
from sim.lowering.lowered_pass import LoweredPass, StageLayers
from sim.lowering.pipeline.builder import PipelineBuilder
from sim.lowering.pipeline.requests import Requests
from sim.lowering.pipeline.schedule_checks import check_complete
from sim.lowering.pipeline.schedules import SCHEDULES, Plan
from sim.lowering.pipeline.stages import Stage, stages_of
from sim.lowering.placement import stage_count
from sim.program.batches import Batches
from sim.specs import PipelineSpec, Scenario
from sim.topology.graph import Topology

LowerPart = Callable[[Scenario, Topology, StageLayers], LoweredPass]


def lower_pipeline(scenario: Scenario, topology: Topology, lower_part: LowerPart) -> LoweredPass:
    """Lowers all requests of a pipeline. Each distinct pass of a stage is lowered once, on the stage's own chips, and
    copied.

    Raises:
        LayoutError: the stage's chips do not divide a dimension.
        InputError: stages that the machine does not have.
        NotFoldableError: `topology` is folded and chips of a stage would do different things.
    """
    spec = scenario.pipeline
    if spec is None:
        raise ValueError("a scenario without a pipeline")
    stages = stages_of(scenario, topology)
    parts = microbatches(scenario, spec)
    lowered = _passes(scenario, stages, parts, spec, lower_part)
    builder = PipelineBuilder(topology, stages, lowered)
    requests = Requests(builder, spec)
    workload = scenario.workload
    returns_tokens = spec.schedule == "blocking" and workload.phase == "decode"
    token_bytes = float(workload.batch * ITEM_BYTES["int32"]) if returns_tokens else 0.0
    filling = warm_up(scenario, spec)
    count = filling + spec.requests
    plan = Plan(builder, requests, spec, count, parts, token_bytes, workload.activations)
    SCHEDULES[spec.schedule](plan)
    check_complete(plan)
    batches_held = parts * spec.max_in_flight(len(stages))
    fullest = max(
        lowered, key=lambda part: part.weights_bytes + batches_held * part.kv_cache_bytes + part.gather_buffer_bytes
    )
    return replace(
        fullest,
        program=builder.program.build(),
        kv_cache_bytes=fullest.kv_cache_bytes * batches_held,
        notes=tuple(dict.fromkeys(note for part in lowered for note in part.notes)),
        batches=Batches(
            parts=parts,
            layers=tuple(stage.layers for stage in stages),
            chips=tuple(tuple(stage.all_chips.tolist()) for stage in stages),
            passes=tuple(builder.passes_done),
            arrived=tuple(requests.arrived),
            answered=tuple(requests.answered),
            warm_up=filling,
        ),
    )


def warm_up(scenario: Scenario, spec: PipelineSpec) -> int:
    """Returns the number of passes simulated before those that count.

    A decode step comes when the step before it, of the same request, has been answered: it finds the steps of all other
    requests under way, and the pipeline does not drain between steps.
    """
    under_way = spec.max_in_flight(stage_count(scenario))
    return under_way if scenario.workload.phase == "decode" and under_way > 1 else 0


def microbatches(scenario: Scenario, spec: PipelineSpec) -> int:
    """Returns the micro-batches of a request, as FasterTransformer cuts it (ParallelGptContextDecoder.cc,
    ParallelGpt.cc).

    Its rule halves a stage's share of the batch while that has more than `microbatch_tokens` tokens; a batch that the
    stages do not divide stays whole (inferred).
    """
    if spec.schedule != "blocking":
        return 1
    batch, stages = scenario.workload.batch, stage_count(scenario)
    if spec.microbatches != "auto":
        if batch % spec.microbatches:
            raise InputError(
                f"must divide the batch, {batch}", where="layout.pipeline.microbatches", got=spec.microbatches
            )
        return spec.microbatches
    if stages == 1:
        return 1
    local = batch // stages if batch % stages == 0 else batch
    while local % 2 == 0 and local * scenario.workload.tokens_per_step > spec.microbatch_tokens:
        local //= 2
    return batch // local


def _passes(
    scenario: Scenario, stages: Sequence[Stage], parts: int, spec: PipelineSpec, lower_part: LowerPart
) -> list[LoweredPass]:
    microbatch = _microbatch_scenario(scenario, parts)
    sends_shards = spec.schedule == "blocking"
    known: list[tuple[Stage, StageLayers, LoweredPass]] = []
    result = []
    for stage in stages:
        part = StageLayers(stage.first_layer, stage.layers, stage.is_first, stage.is_last, sends_shards)
        reusable = (
            lowered
            for other, same, lowered in known
            if _has_same_tasks(scenario, same, part) and _wiring(other.topology) == _wiring(stage.topology)
        )
        lowered = next(reusable, None) or lower_part(microbatch, stage.topology, part)
        known.append((stage, part, lowered))
        result.append(lowered)
    return result


def _microbatch_scenario(scenario: Scenario, parts: int) -> Scenario:
    """Returns the scenario of one micro-batch: its share of the sequences, and the mean of their real tokens."""
    if parts == 1:
        return scenario
    workload = scenario.workload.model_copy(update={"batch": scenario.workload.batch // parts})
    padding = scenario.padding
    if padding and scenario.packed_rows:
        share = scenario.packed_rows / (scenario.workload.batch * scenario.workload.tokens_per_step)
        padding = padding.model_copy(update={"real_lengths": share})
    return scenario.model_copy(update={"workload": workload, "padding": padding})


def _has_same_tasks(scenario: Scenario, one: StageLayers, other: StageLayers) -> bool:
    """Returns True if two stages have the same tasks: as many layers of one kind between the same ends."""
    same = (one.layers, one.is_first, one.is_last) == (other.layers, other.is_first, other.is_last)
    return same and scenario.residual in ("standard", "parallel", "ladder")


def _wiring(topology: Topology) -> Hashable:
    """Returns a key that is equal for stages whose machines take the same time."""
    links = tuple((link.src, link.dst, link.bandwidth, link.latency_s, link.medium) for link in topology.links)
    return links, topology.failed
