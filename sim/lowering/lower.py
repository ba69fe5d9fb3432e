"""Lowering: from a scenario to the tasks of one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sim.collectives.loop import closes
from sim.layouts import forward
from sim.layouts.forward import ForwardPass, LayerKind
from sim.layouts.multi_token import propose_tokens
from sim.lowering.dataflow import Lowering
from sim.lowering.emitter import Value
from sim.lowering.lowered_pass import LoweredPass, StageLayers
from sim.lowering.placement import pool_link
from sim.specs import Scenario
from sim.specs.plugins import owner
from sim.specs.uses import Uses
from sim.topology.graph import Topology
from sim.units import format_list

if TYPE_CHECKING:
    from sim.lowering.kv_transfer import KvTransfer


def lower(scenario: Scenario, topology: Topology, keep: int | None = None) -> LoweredPass:
    """Lowers embedding, layers, logits and the next token: a prefill, or the decode step of mean cache length.

    Step time is linear in cache length where nothing changes from memory- to compute-bound, so the mean step is the
    mean of the steps. Layers are identical: two are lowered, and the second is repeated.

    Args:
        topology: `sim.lowering.placement.mesh_of` of the scenario, or that folded.
        keep: repeat a layer only so often, and say in `Program.skipped` how often it is left out. Not in a pipeline.

    Raises:
        LayoutError: the mesh does not divide a dimension.
        NotFoldableError: `topology` is folded and chips would do different things.
    """
    if scenario.pipeline:
        from sim.lowering.pipeline.lower_pipeline import lower_pipeline

        return lower_pipeline(scenario, topology, lower_layers)
    if spec := scenario.layout.kv_transfer:
        from sim.lowering.kv_transfer import KvTransfer

        transfer = KvTransfer(scenario, spec, topology)
        own = lower_layers(
            scenario, transfer.part.topology, StageLayers.all_layers(scenario.layers), keep, transfer=transfer
        )
        return replace(own, program=transfer.on_machine(own.program), transfer=transfer.chips, expert_rows=None)
    return lower_layers(scenario, topology, StageLayers.all_layers(scenario.layers), keep)


def lower_layers(
    scenario: Scenario,
    topology: Topology,
    stage: StageLayers,
    keep: int | None = None,
    transfer: KvTransfer | None = None,
) -> LoweredPass:
    """Lowers consecutive layers of the pass, with the embedding before the first and the logits after the last.

    Args:
        keep: as in `lower`.
        transfer: of the cache to chips outside `topology`.
    """
    uses = scenario.uses({axis.name: axis.size for axis in topology.mesh})
    if owner("preset", scenario.layout.preset) or owner("residual_scheme", scenario.residual):
        from sim.layouts.proof import prove

        prove(scenario, topology)
    flow = Lowering(scenario, topology, uses, transfer)
    forward_pass = forward.build_pass(flow, uses, scenario)
    lines = [axis.name for axis in topology.mesh if axis.size > 1 and not closes(topology, axis.name)]
    if scenario.overlap == "collective_matmul" and lines:
        wraps = "does" if len(lines) == 1 else "do"
        flow.note(f"overlap collective_matmul: no loop around {format_list(lines)}, which {wraps} not wrap")
    if (
        any(kind.residual == "ladder" for kind in forward_pass.kinds)
        and scenario.communication_streams == 1
        and (uses.stream or uses.tokens)
    ):
        flow.note(
            "ladder over a residual stream that is split: the next half's gathers queue behind a half's sum on the one "
            "communication stream, which hides little of it; see layout.communication: two_streams"
        )
    streams = (
        forward_pass.embed_tokens()
        if stage.is_first
        else forward_pass.receive_stream(stage.sends_shards, forward_pass.kinds[stage.first_layer - 1])
    )
    shape = [stream.shape for stream in streams]
    kinds = forward_pass.kinds[stage.first_layer : stage.first_layer + stage.layers]
    pool = None
    if scenario.memory_pool:
        from sim.lowering.memory_pool import MemoryPool, PoolLink

        bytes_ = _layer_bytes(scenario, topology, uses, kinds[0])
        pool = MemoryPool(flow.emitter, scenario.memory_pool, PoolLink(*pool_link(scenario)), stage.layers, bytes_)

    def lower_layer(kind: LayerKind, state: Sequence[Value]) -> Sequence[Value]:
        nonlocal shape
        flow.kind = kind
        if pool:
            pool.begin_layer(flow.builder.layer)
        after = forward_pass.layer(kind, forward.build_streams(shape, state))
        shape = [stream.shape for stream in after]
        return [value for stream in after for value in stream.values]

    state = [value for stream in streams for value in stream.values]
    cycle = None if pool else forward.cycle_of(scenario.model)  # with a pool no layer is like another
    values = _layers(flow, kinds, cycle, lower_layer, state, keep)
    flow.kind = None
    streams = forward.build_streams(shape, values)
    proposing: tuple[LayerKind, ...] = ()
    if stage.is_last and forward_pass.has_logits:
        hidden, _, token = forward_pass.compute_logits(streams)
        if scenario.proposals:
            proposing = (forward_pass.proposing_kind,)
            token = _propose_tokens(flow, forward_pass, hidden, token)
        flow.emitter.end_step("host at the end of a step", token.after)
    elif stage.is_last:
        forward_pass.finish_stream(streams)
    else:
        forward_pass.send_stream(streams, stage.sends_shards)
    return _collect(flow, scenario, kinds, proposing)


def _propose_tokens(flow: Lowering, forward_pass: ForwardPass[Value], hidden: Value, token: Value) -> Value:
    """Lowers the passes of the module that proposes tokens; returns the last of these."""
    rows = flow.experts.expert_rows

    def enter(kind: LayerKind | None) -> None:
        flow.kind = kind

    _, token = propose_tokens(forward_pass, flow.scenario.proposals, hidden, token, enter)
    flow.experts.expert_rows = rows  # those of the model's layers
    return token


def _layer_bytes(scenario: Scenario, topology: Topology, uses: Uses, kind: LayerKind) -> float:
    """Returns the bytes per chip of a layer's weights."""
    flow = Lowering(scenario, topology, uses)
    forward_pass = forward.build_pass(flow, uses, scenario)
    flow.kind = kind
    forward_pass.layer(kind, forward_pass.receive_stream(scattered=False, after=kind))
    return flow.stored_bytes(kind)


def _layers(
    flow: Lowering,
    kinds: Sequence[LayerKind],
    cycle: int | None,
    layer: Callable[[LayerKind, Sequence[Value]], Sequence[Value]],
    state: Sequence[Value],
    keep: int | None,
) -> Sequence[Value]:
    """Lowers layers of the given kinds. A block of one or two layers, or of the `cycle` in which kinds of layers come
    again, that was just lowered twice with the same tasks, is repeated from then on. Without a cycle each is lowered.

    A block is longer where gathers of weights run further ahead: a task waits for tasks of the block before at most.
    The first of a kind may differ: nothing waits to be added to the stream, so its tasks are fewer.
    """
    edges = [(len(flow.builder), flow.emitter.snapshot(state))]
    i = 0
    while i < len(kinds):
        flow.builder.layer = i
        gathers = flow.emitter.buffers.gathers
        state = layer(kinds[i], state)
        least = flow.emitter.buffers.layers_ahead(flow.emitter.buffers.gathers - gathers)
        i += 1
        edges.append((len(flow.builder), flow.emitter.snapshot(state)))
        for period in sorted({least, 2 * least, cycle * least}) if cycle else ():
            block, count = kinds[i - period : i], 0
            if i < 2 * period or kinds[i - 2 * period : i - period] != block:
                continue
            while kinds[i + count * period : i + (count + 1) * period] == block:
                count += 1
            (before, _), (start, at_start), (end, at_end) = (edges[-1 - k * period] for k in (2, 1, 0))
            if count and start - before == end - start and flow.emitter.repeats(start, period, at_start, at_end):
                state = flow.emitter.repeat(start, count, period, state, keep)
                edges += [(len(flow.builder), flow.emitter.snapshot(state))] * (count * period)
                i += count * period
                break
    flow.builder.layer = -1
    return state


def _collect(
    flow: Lowering, scenario: Scenario, kinds: Sequence[LayerKind], proposing: Sequence[LayerKind]
) -> LoweredPass:
    """Returns the pass, of layers of these kinds and that of a module that proposes tokens, if any."""
    if flow.emitter.overtaking:
        flow.note(
            "collectives on their own stream wait for their inputs alone; a library that records an event as it issues "
            f"them would also hold for earlier compute: {', '.join(flow.emitter.overtaking)}"
        )
    layers = list(kinds)
    if scenario.memory_pool:  # those that stay and one that is visiting
        layers = layers[: len(layers) + 1 - len(layers) // scenario.memory_pool.offload_every]
    return LoweredPass(
        program=flow.builder.build(),
        weights_bytes=flow.stored_bytes(None) + sum(map(flow.stored_bytes, (*layers, *proposing))),
        kv_cache_bytes=sum(map(flow.attends.cache_bytes, (*kinds, *proposing))),
        gather_buffer_bytes=flow.emitter.buffers.peak_bytes,
        notes=tuple(flow.notes),
        sent_bytes=flow.sent_bytes,
        layer_bytes=flow.stored_bytes(kinds[-1]),
        stored_weights=flow.weights,
        expert_rows=flow.experts.expert_rows,
        caches=flow.attends.caches,
        attentions=flow.attends.attentions,
    )
