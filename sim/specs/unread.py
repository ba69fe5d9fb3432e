"""Fields that a scenario sets and that its run does not read, each with the reason.

A rule says when a pass reads some fields; a field without a rule is read by every pass. Reports name the fields that
are set and not read. A field is set if it is not at its default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from msgspec import Struct

from sim.specs.base import Strict
from sim.specs.experts import RoutingSpec
from sim.specs.layout import IN_PARTS, LayoutSpec
from sim.specs.model import Model
from sim.specs.scenario import Scenario
from sim.specs.stack import StackSpec
from sim.specs.uses import PRESETS, Axes, Uses
from sim.specs.workload import Workload

if TYPE_CHECKING:
    from sim.specs.exchange import ExchangeInputs


class DealtPass(Struct, frozen=True):
    """A scenario of one phase, and the mesh axes that its layout deals to uses."""

    scenario: Scenario
    lengths: Mapping[str, int]
    """Chips along each mesh axis; without axes of stages and of chips that only receive a cache."""

    @property
    def layout(self) -> LayoutSpec:
        return self.scenario.layout

    @property
    def model(self) -> Model:
        return self.scenario.model

    @property
    def stack(self) -> StackSpec:
        return self.scenario.stack

    @property
    def workload(self) -> Workload:
        return self.scenario.workload

    @property
    def uses(self) -> Uses:
        """Uses of the mesh axes."""
        return self.scenario.uses(self.lengths)

    def chips(self, axes: Axes) -> int:
        """Returns the number of chips along some axes."""
        return prod(self.lengths[axis] for axis in axes)

    @property
    def has_experts(self) -> bool:
        """True if a simulated layer has experts."""
        experts = self.model.experts
        return experts is not None and any(map(experts.in_layer, range(self.scenario.layers)))

    @property
    def names_experts(self) -> bool:
        """True if the layout deals axes to experts, also of a model that has none."""
        own = self.layout.uses or self.scenario.presets.get(self.layout.preset)
        return bool((own or PRESETS[self.layout.preset](tuple(self.lengths))).experts)

    @property
    def sends_tokens(self) -> bool:
        """True if tokens are sent to experts on other chips."""
        uses = self.uses
        return self.chips(tuple(axis for axis in uses.experts if axis in uses.batch + uses.tokens)) > 1

    @property
    def takes_turns(self) -> bool:
        """True if micro-batches send tokens to experts."""
        return self.has_experts and self.sends_tokens and self.scenario.overlap == "micro_batches"

    @property
    def has_shared_experts(self) -> bool:
        return self.model.experts is not None and self.model.experts.shared > 0

    @property
    def places_experts(self) -> bool:
        """True if a chip has several of the experts, and other chips the others."""
        chips, replicas = self.chips(self.uses.experts), self.layout.experts.replicas
        return self.model.experts is not None and 1 < chips < self.model.experts.count + replicas

    @property
    def runs_beside_collectives(self) -> bool:
        """True if compute may run beside collectives that have a stream of their own."""
        uses = self.uses
        serial = uses.plain and self.layout.attention == "heads" and self.scenario.residual == "standard"
        parts = self.scenario.overlap in (*IN_PARTS, "chunked_matmul") or (
            self.has_shared_experts and self.sends_tokens
        )
        others = self.scenario.pipeline or self.scenario.memory_pool or self.layout.kv_transfer or uses.context
        return bool(not serial or parts or others or self.stack.stream_wait.value)

    @property
    def gathers_tokens(self) -> bool:
        """True if tokens reach their experts by an all-gather, which no kernel of dispatch runs."""
        return self.stack.named_scheme(self.layout.experts) == "all_gather"

    @property
    def depends_on_multiprocessors(self) -> bool:
        """True if kernels of dispatch and combine, or what runs beside them, take longer with other multiprocessors."""
        kernel = self.stack.exchange.get(self.scenario.exchange_kernel)
        ways = (kernel.dispatch.value, kernel.combine.value) if kernel else ()
        slows = self.stack.compute_interference.value or self.stack.memory_interference.value
        beside = self.scenario.communication_streams and self.runs_beside_collectives and slows
        beside = beside or self.scenario.kept_for_exchange
        return any(way.row or way.row_rate or beside for way in ways)

    @property
    def splits_whole_tokens(self) -> bool:
        """True if `layout.sequence_parallel` splits tokens that the layout by itself does not."""
        layout = self.layout.model_copy(update={"sequence_parallel": False})
        alone = self.scenario.model_copy(update={"layout": layout}).uses(self.lengths)
        return self.chips(tuple(axis for axis in alone.summed if axis not in alone.tokens)) > 1

    @property
    def finds_overlap(self) -> bool:
        """True if the layout has collectives that its overlap cuts in pieces."""
        uses = self.uses
        gathers = uses.d_model + uses.stream + uses.tokens + uses.gather
        looped = {"collective_matmul": gathers, "chunked_matmul": uses.summed}
        return self.scenario.overlap not in looped or self.chips(looped[self.scenario.overlap]) > 1


_GATHERED = "tokens are gathered by collectives, without kernels of dispatch and combine"
_NO_ROW_TIMES = "the stack has no times that depend on it"

ROUTING_RULES: tuple[tuple[str, Callable[[RoutingSpec], bool], str], ...] = (
    ("workload.routing.spread", lambda routing: routing.reads_spread, "this load has no spread"),
    ("workload.routing.seed", lambda routing: routing.is_drawn, "this load is not drawn"),
    ("layout.experts.placement", lambda of: of.is_drawn or of.load == "uniform", "all places have the same rows"),
)
"""(field, whether it is read, reason if it is not) by the routing alone, also of an exchange by itself."""

_RULES: tuple[tuple[str, Callable[[DealtPass], object], str], ...] = (
    ("layout.prefill", lambda of: of.workload.phase == "prefill", "the workload has no prefill"),
    ("layout.decode", lambda of: of.workload.phase == "decode", "the workload has no decode steps"),
    (
        "layout.ffn layout.uses",
        lambda of: of.has_experts or not of.names_experts,
        "its axes of experts split none: no layer has experts",
    ),
    (
        "layout.experts workload.expert_weights workload.expert_operands workload.dispatch workload.combine "
        "workload.routing",
        lambda of: of.has_experts,
        "no layer has experts",
    ),
    (
        "layout.experts.dispatch layout.experts.kernel layout.experts.multiprocessors layout.experts.shared "
        "workload.dispatch workload.combine",
        lambda of: of.sends_tokens,
        "no tokens are sent to experts on other chips",
    ),
    ("layout.experts.kernel layout.experts.multiprocessors", lambda of: not of.gathers_tokens, _GATHERED),
    (
        "layout.experts.multiprocessors",
        lambda of: of.depends_on_multiprocessors,
        _NO_ROW_TIMES,
    ),
    (
        "layout.experts.shared",
        lambda of: of.has_shared_experts and of.scenario.communication_streams,
        "no shared experts run beside dispatch or combine",
    ),
    (
        "stack.exchange_turns",
        lambda of: of.takes_turns and of.scenario.exchange_kernel == "low_latency",
        "no micro-batches take turns around low-latency kernels of exchange",
    ),
    (
        "stack.beside_exchange",
        lambda of: of.takes_turns and of.depends_on_multiprocessors,
        "no micro-batches take turns around kernels of exchange that hold multiprocessors",
    ),
    ("layout.experts.placement", lambda of: of.places_experts, "there is one way to place the experts"),
    *((field, lambda of, is_read=is_read: is_read(of.workload.routing), why) for field, is_read, why in ROUTING_RULES),
    (
        "layout.attention layout.prefill.attention layout.decode.attention",
        lambda of: of.uses.plain or of.layout.attention == "heads" or of.chips(of.uses.summed + of.uses.d_model) > 1,
        "no mesh axis splits heads or d_ff",
    ),
    ("layout.context", lambda of: of.chips(of.uses.positions) > 1, "no mesh axis of context splits the stream"),
    ("layout.merge", lambda of: of.chips(of.uses.cached_positions) > 1, "no chips share the positions of a cache"),
    ("layout.latent", lambda of: of.model.latent, "the model has no latent attention"),
    (
        "layout.kv_heads",
        lambda of: of.stack.l2_speed and not of.model.latent,
        "reads from L2 take no time on this stack, or attention is latent",
    ),
    ("layout.head workload.sampling", lambda of: of.layout.logits != "none", "no logits are computed"),
    ("layout.head", lambda of: of.chips(of.uses.weights) > 1, "no mesh axis splits weights"),
    (
        "layout.logits",
        lambda of: of.layout.logits != "every" or of.workload.tokens_per_step > 1,
        "a decode step has one position",
    ),
    (
        "layout.prefetch",
        lambda of: of.scenario.communication_streams and of.chips(of.uses.gather) > 1,
        "no weights are gathered on a stream of their own",
    ),
    ("layout.chunks", lambda of: of.scenario.overlap == "chunked_matmul", "overlap is not chunked_matmul"),
    ("layout.overlap", lambda of: of.finds_overlap, "the layout has no collectives that it could cut in pieces"),
    ("layout.communication", lambda of: of.runs_beside_collectives, "nothing could run beside a collective"),
    ("layout.sequence_parallel", lambda of: of.splits_whole_tokens, "no sums leave whole tokens on every chip"),
    ("layout.fused_norm", lambda of: of.uses.whole and of.chips(of.uses.summed) > 1, "no norm follows an all-reduce"),
    ("layout.graph_capture", lambda of: of.stack.launch.value, "launches of this stack take no time"),
)
"""(fields, whether they are read, reason if they are not). A rule holds for the parts of its fields as well."""


def find_unread_by_exchange(inputs: ExchangeInputs, way: str, stack: StackSpec) -> dict[str, str]:
    """Returns the fields that a dispatch or a combine by itself does not read, each with the reason."""
    layout, routing = inputs.layout.experts, inputs.workload.routing
    kernel = stack.exchange.get(layout.kernel or "normal")
    other = "combine" if way == "dispatch" else "dispatch"
    unread = {
        f"workload.{other}": f"only {way} runs",
        "layout.experts.shared": "no matmuls run beside it",
        **{field: reason for field, is_read, reason in ROUTING_RULES if not is_read(routing)},
    }
    times = getattr(kernel, way).value if kernel else None
    if times is None or not (times.row or times.row_rate):
        unread["layout.experts.multiprocessors"] = _NO_ROW_TIMES
    if stack.named_scheme(layout) == "all_gather":
        unread |= dict.fromkeys(("layout.experts.kernel", "layout.experts.multiprocessors"), _GATHERED)
    return unread


def find_unread(of: DealtPass) -> dict[str, str]:
    """Returns the fields that a pass does not read, whether they are set or not, each with the reason."""
    unread: dict[str, str] = {}
    for fields, is_read, reason in _RULES:
        if not is_read(of):
            unread = dict.fromkeys(fields.split(), reason) | unread
    return unread


def describe_unread(spec: Strict, passes: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Returns one note per reason on the fields that are set and that no pass reads.

    Args:
        passes: unread fields of each pass, with the reason.
    """
    fields = defaultdict[str, list[str]](list)
    for path in _set_fields(spec):
        owners = [next((each for each in unread if f"{path}.".startswith(f"{each}.")), None) for unread in passes]
        if None not in owners:
            fields[passes[0][str(owners[0])]].append(path)
    return tuple(
        f"{', '.join(paths)} {'have' if len(paths) > 1 else 'has'} no effect: {reason}"
        for reason, paths in fields.items()
    )


def _set_fields(spec: Strict, prefix: str = "") -> Iterator[str]:
    """Yields the fields that are not at their default, inner ones by their path."""
    for name, field in type(spec).model_fields.items():
        value = getattr(spec, name)
        default = field.get_default(call_default_factory=True)
        if isinstance(value, Strict) and (field.is_required() or isinstance(default, Strict)):
            yield from _set_fields(value, f"{prefix}{name}.")
        elif field.is_required() or value != default:
            yield f"{prefix}{name}"
