"""Coverage of a closed form: the fields and values of a scenario that it accounts for; every other field that is set is
omitted.

A field that no form lists counts as left out once it is not at its default, so a new field makes every form inexact
until the form lists it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel

from sim.specs import LOOP_FORMS, Scenario, Sourced

ANY_VALUE = None
"""Marks a field whose every value is covered."""

Coverage = Mapping[str, tuple[object, ...] | None]
"""Covered values by the path of the field, such as `topology.axes.*.size`, or ANY_VALUE."""

_READ_BY_NO_TIME = """
    name description reference sweep figure plugins engine.layers engine.steps engine.shortcuts engine.kernel
    topology.name topology.description topology.source topology.default_stack topology.chip.name
    topology.chip.hbm_capacity topology.link.name topology.link.medium stack.name stack.description stack.chip
    stack.fitted_on model.name model.source model.nominal_parameters model.tied padding.real_lengths
    """
WITHOUT_EFFECT: Coverage = dict.fromkeys(_READ_BY_NO_TIME.split(), ANY_VALUE)
"""Fields that do not affect the time of a step, besides the number of layers."""

_FORMATS = ("bf16", "fp16", "int8", "fp8", "mxfp8", "int4", "nvfp4", "mxfp4")
_READ = """
    topology.chip.peak topology.chip.hbm_bandwidth topology.chip.vector_peak topology.chip.on_chip_memory
    stack.matmul_efficiency stack.collective_matmul_efficiency stack.vector_efficiency stack.hbm_efficiency
    stack.matmul_hbm_efficiency stack.dequantizing_hbm_efficiency stack.l2_speed stack.roofline_overlap
    stack.op_overhead stack.matmul_overhead stack.step_overhead stack.collective_overhead stack.collective_step
    topology.link topology.axes topology.chips topology.link_types topology.links topology.nodes topology.nccl
    topology.reduces topology.collectives stack.multimem collectives mesh presets layout.ffn layout.uses
    layout.mesh.tensor layout.hybrid model.layers model.d_model model.d_ff model.heads model.padded_heads
    model.kv_heads model.d_head model.vocabulary workload.batch workload.prompt workload.context workload.generate
    workload.static_cache model.experts.count model.experts.top_k model.experts.d_ff model.experts.shared
    model.experts.groups model.experts.top_groups model.experts.dense_first model.experts.every model.latent.q_rank
    model.latent.kv_rank model.latent.rope model.latent.d_value model.window.size model.window.full_every
    layout.experts.capacity workload.routing.seed workload.routing.spread
    stack.attention_efficiency stack.attention_overhead stack.attention_overlap stack.grouped_efficiency
    stack.grouped_overhead model.mtp workload.speculation.draft workload.speculation.acceptance
    """
_OF_WHAT_IS_NOT_KNOWN = """
    stack.launch stack.matmul_split topology.chip.multiprocessors layout.chunks layout.prefetch
    stack.compute_interference stack.memory_interference stack.channel_rate stack.exchange
    """
"""Read only beside a field or a collective that is not exact: launches from the host, tiles, chunked matmuls, gathers
on a stream of their own, NCCL, kernels of dispatch and combine."""
COVERED: Coverage = {
    **WITHOUT_EFFECT,
    **dict.fromkeys((_READ + _OF_WHAT_IS_NOT_KNOWN).split(), ANY_VALUE),
    "topology.kind": ("torus", "switch", "graph"),
    "stack.elementwise": ("fused", "kernel"),
    "stack.row_matmul": ("library", "compiled"),
    "stack.attention": ("fused", "unfused"),
    "stack.attention_format": ("activations", "f32"),
    "stack.pipeline": ("sequential", "non_blocking", "blocking"),  # of stages, which no form of a pass has
    "stack.overlap": ("none", "collective_matmul"),
    "stack.loop_form": (None, *LOOP_FORMS),
    "stack.dispatch": (None, "per_expert", "per_rank", "per_box", "all_gather"),
    "stack.collective_axes": ("at_once", "one_by_one"),
    "layout.graph_capture": (None, True),
    "layout.attention": ("heads", "batch"),
    "layout.block": (None, "parallel", "serial"),
    "layout.residual": (None, *("standard", "parallel", "ladder", "hybrid", "desync2", "desync4", "no_communication")),
    "layout.sequence_parallel": (True, False),
    "layout.communication": (None, "compute_stream", "own_stream", "two_streams"),
    "layout.overlap": (None, "none", "collective_matmul"),
    "layout.head": ("sharded", "replicated"),
    "layout.logits": ("last", "every", "none"),
    "layout.kv_heads": ("shared", "expanded"),
    "model.ffn": ("swiglu", "mlp"),
    "model.block": ("parallel", "serial"),
    "workload.phase": ("prefill", "decode"),
    **dict.fromkeys(("workload.weights", "workload.activations", "workload.kv_cache"), _FORMATS),
    **dict.fromkeys(
        ("workload.operands", "workload.expert_weights", "workload.dispatch", "workload.combine"), (None, *_FORMATS)
    ),
    "workload.routing.load": ("uniform",),
    "layout.experts.dispatch": (None, "per_expert", "per_rank", "per_box", "all_gather"),
    "layout.experts.kernel": (None, "normal", "low_latency", "one_sided"),
    "layout.experts.shared": ("under_dispatch", "under_combine", "apart"),
    "layout.experts.placement": (None, "in_order"),
    "layout.latent": (None, "plain", "absorbed"),
    "workload.sampling": ("greedy", "top_k"),
}
"""Fields and values that `sim.closed_form.pass_time.predict_per_operation` accounts for."""


def list_omissions(scenario: Scenario, covered: Coverage, unread: Iterable[str] = ()) -> tuple[str, ...]:
    """Returns one reason for every field that is neither covered nor at its default, such as `leaves out
    layout.overlap: micro_batches`.

    The scenario is of one phase.

    Args:
        unread: fields that a simulation does not read either, so that nothing is left out with them.
    """
    known = {**covered, **dict.fromkeys(unread, ANY_VALUE)}
    return tuple(f"leaves out {field}" for field in _walk_model(scenario, "", known))


def _walk_model(spec: BaseModel, prefix: str, covered: Coverage) -> Iterator[str]:
    for name, field in type(spec).model_fields.items():
        default = object() if field.is_required() else field.get_default(call_default_factory=True)
        yield from _walk_field(getattr(spec, name), default, f"{prefix}{name}", covered)


def _walk_field(value: object, default: object, path: str, covered: Coverage) -> Iterator[str]:
    if path in covered:
        values = covered[path]
        if values is not ANY_VALUE and value not in values:
            yield _describe(path, value)
    elif isinstance(value, BaseModel) and _has_child(path, covered):
        yield from _walk_model(value, f"{path}.", covered)
    elif isinstance(value, Mapping) and _has_child(path, covered):
        for item in value.values():
            yield from _walk_field(item, object(), f"{path}.*", covered)
    elif _bare_value(value) != _bare_value(default):
        yield _describe(path, value)


def _has_child(path: str, covered: Coverage) -> bool:
    return any(other.startswith(f"{path}.") for other in covered)


def _bare_value(value: object) -> object:
    """Returns a number without its source."""
    return value.value if isinstance(value, Sourced) else value


def _describe(path: str, value: object) -> str:
    """Returns `layout.overlap: micro_batches`; the path alone if the value is a number or has parts."""
    if isinstance(value, bool):
        return f"{path}: {str(value).lower()}"
    return f"{path}: {value}" if isinstance(value, str) else path
