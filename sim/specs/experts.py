"""Mixtures of experts: dimensions, routing of tokens to experts, and placement of experts on chips."""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from sim.specs.base import Count, Multiple, Number, Strict, wrong
from sim.specs.link import Medium
from sim.specs.quantities import Bandwidth, Duration, Fraction, Sourced

Load = Literal[
    "uniform",
    "perfect_router",
    "log_normal",
    "zipf",
    "hot_expert",
    "hot_experts",
    "hot_rank",
    "spread_hot",
    "ragged_sources",
    "idle_rank",
    "rotating_hotspot",
    "burst",
]
LOADS: tuple[Load, ...] = get_args(Load)
"""Shapes of the experts' load (`sim.lowering.routing`); the last seven are those of Megatron-LM issue 7488."""
_SPREADS: dict[Load, tuple[float, float]] = {
    "log_normal": (0.5, 1000),
    "zipf": (0.6, 1000),
    "ragged_sources": (0.5, 1000),
    **dict.fromkeys(("hot_expert", "hot_experts", "hot_rank", "spread_hot", "rotating_hotspot"), (0.5, 1)),
}
"""(default, most) of `spread`, by the loads that have one; assumed defaults."""
Kernel = Literal["normal", "low_latency", "one_sided"]
Scheme = Literal["per_expert", "per_rank", "per_box", "all_gather"]


class ExpertsSpec(Strict):
    """Mixture of experts: each token uses a few of many FFNs."""

    count: Count
    """Routed experts of a layer, each an FFN of its own of which a token uses a few."""
    top_k: Count
    """Routed experts that each token uses."""
    d_ff: Count
    """Width of the FFN of one expert."""
    shared: Annotated[int, Field(ge=0, le=64)] = 0
    """Experts that every token uses besides, each as wide as a routed one."""
    groups: Count = 1
    """Groups of consecutive experts, for routing that is limited to some of them."""
    top_groups: Count | None = None
    """Groups whose experts a token may use: those with the largest sum of their two best scores. Default: all."""
    dense_first: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Layers at the start with a dense FFN of the model's d_ff."""
    every: Count = 1
    """The last of every so many layers has experts; the others are dense."""

    @model_validator(mode="after")
    def _groups_are_alike(self) -> Self:
        if self.count % self.groups:
            raise wrong("groups", rule=f"must divide the {self.count} experts", got=self.groups)
        if (self.top_groups or 1) > self.groups:
            raise wrong("top_groups", rule=f"must be at most groups, {self.groups}", got=self.top_groups)
        candidates = self.count // self.groups * (self.top_groups or self.groups)
        if self.top_k > candidates:
            raise wrong("top_k", rule=f"must be at most the {candidates} experts to choose from", got=self.top_k)
        return self

    @property
    def choice_groups(self) -> int:
        """Groups that limit which experts a token may use; 1 if it may use all."""
        return self.groups if (self.top_groups or self.groups) < self.groups else 1

    def in_layer(self, layer: int) -> bool:
        """Returns True if a layer has experts."""
        return layer >= self.dense_first and (layer + 1) % self.every == 0


class RoutingSpec(Strict):
    """Choice of experts by the tokens of a pass."""

    load: Load = "uniform"
    """Shape of the experts' load. uniform: expected counts where all experts are as likely; perfect_router: every token
    on as many chips and boxes as it has experts, all of them alike; the others are drawn."""
    spread: Multiple | None = None
    """Standard deviation of the logarithm of an expert's popularity for log_normal, of a chip's tokens for
    ragged_sources; exponent of zipf; share, at most 1, of the choices that go to what is hot for hot_expert,
    hot_experts, hot_rank, spread_hot and rotating_hotspot. Others have none. Default: 0.6 for zipf, else 0.5."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 1
    """Seed of the draw."""
    trace: str | None = None
    """CSV file of chosen experts, a token per line, instead of `load`; as seen from this file. Tokens of the pass take
    its lines in turn."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.trace is not None:
            for name, value in (("load", self.load), ("spread", self.spread), ("seed", self.seed)):
                if value != type(self).model_fields[name].default:
                    rule = "must be left out with trace, which has the experts that tokens choose"
                    raise wrong(name, rule=rule, got=value)
        _, most = _SPREADS.get(self.load, (0.0, 1000))
        if self.spread is not None and self.spread > most:
            rule = f"must be at most {most:g} for load {self.load}, the share of the choices that go to what is hot"
            raise wrong("spread", rule=rule, got=self.spread)
        return self

    @property
    def is_drawn(self) -> bool:
        """True if every token chooses its experts; else rows are expected ones."""
        return self.trace is not None or self.load not in ("uniform", "perfect_router")

    @property
    def reads_spread(self) -> bool:
        """True if the load has a spread."""
        return self.load in _SPREADS

    @property
    def resolved_spread(self) -> float:
        """`spread`, or its default; 0 of a load that has none."""
        return _SPREADS.get(self.load, (0.0, 0.0))[0] if self.spread is None else float(self.spread)


class ExpertsLayout(Strict):
    """Exchange of tokens with the chips that have their experts (`layout.uses.experts`), and placement of experts."""

    dispatch: Scheme | None = None
    """Messages of a token: one per expert, one per destination chip, one per destination box which forwards them, or an
    all-gather of all tokens and a reduce-scatter of the sums. Default: the stack's, unless `kernel` is given; else
    per_expert for the kernel low_latency, per_box for normal between boxes, else per_rank."""
    kernel: Kernel | None = None
    """Kernels of dispatch and combine, whose times are the stack's. Default: low_latency to decode, else
    normal; where the stack has only others, its first."""
    shared: Literal["under_dispatch", "under_combine", "apart"] = "under_dispatch"
    """Place of the shared experts' matmuls, which need no dispatch: beside dispatch, beside combine, or before both."""
    replicas: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Copies of experts besides the first of each, given to those with the largest load (EPLB)."""
    placement: Literal["in_order", "balanced", "hierarchical"] | None = None
    """Experts on chips in order, or packed so that the chips' loads are as equal as can be (balanced, EPLB's global
    policy); hierarchical: groups of experts to boxes first, copies inside their box. Default: in_order; with replicas
    as EPLB chooses, hierarchical where several boxes divide the groups, else balanced."""
    capacity: Number | None = None
    """Rows that an expert takes at most, over the mean; those beyond are dropped. Default: all are taken."""
    multiprocessors: Count | None = None
    """Multiprocessors that kernels of dispatch and combine take from compute. Default: as many as the stack says."""


class ExchangeTimes(Strict):
    """Times of a kernel that sends tokens to their experts, or that sends the outputs back."""

    overhead: Duration = 0.0
    """Time from its launch to its first byte on a link."""
    peer: Duration = 0.0
    """Time for each other chip of the group, for its signals and the list of its rows: part of overhead and least."""
    least: Duration = 0.0
    """Shortest time of the kernel, of signals that pass beside the data."""
    share: dict[Medium, Fraction] = {}
    """Reached share of the bandwidth of links of each kind. Default: 1."""
    message: Duration = 0.0
    """Time of a network adapter for each row, besides that of its bytes. Default: rows share messages."""
    multiprocessors: Annotated[int, Field(ge=0, le=1000)] = 0
    """Multiprocessors that it takes from compute."""
    row: Duration = 0.0
    """Time of one multiprocessor for a row that it sends or receives, besides that of its bytes."""
    row_rate: Bandwidth | None = None
    """Rate at which one multiprocessor copies the bytes of rows. Default: their bytes take no time."""

    def share_of(self, medium: Medium, bandwidth: float, row_bytes: float) -> float:
        """Returns the share of the bandwidth of links of a kind, bytes/s, that rows reach."""
        share = self.share.get(medium, 1.0)
        return 1 / (1 / share + self.message * bandwidth / row_bytes) if medium == "net" else share

    def overhead_s(self, peers: int) -> float:
        """Returns the time to the first byte on a link in a group with so many other chips."""
        return self.overhead + peers * self.peer

    def least_s(self, peers: int, rows: float, row_bytes: float) -> float:
        """Returns the least time of the kernel on a chip that sends or receives so many rows."""
        of_row = self.row + (row_bytes / self.row_rate if self.row_rate else 0.0)
        copied = rows * of_row / self.multiprocessors if self.multiprocessors else 0.0
        return max(self.least + peers * self.peer, self.overhead_s(peers) + copied)


class ExchangeKernel(Strict):
    """Kernels of dispatch and combine."""

    dispatch: Sourced[ExchangeTimes]
    combine: Sourced[ExchangeTimes]
