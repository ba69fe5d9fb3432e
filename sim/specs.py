"""What a user's files say: strict, frozen models of scenarios, models, machines, chips and links.

Quantities are text with a unit in the file and SI floats here. A hardware number may carry where it comes from:
`bandwidth: {value: 45 GB/s, source: "..."}`; every number in the shipped files does.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from sim import units
from sim.errors import InputError, suggest
from sim.partition import LAYOUTS


class Strict(BaseModel):
    """Frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def wrong(*field: str | int, rule: str, got: object = None, hint: str = "") -> PydanticCustomError:
    """A broken rule between fields, for a model's validator to raise: it names the field, from that model on."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "field": field, "got": got, "hint": hint})


# --- quantities ------------------------------------------------------------------------------------------------------

_LARGEST = 1e21
"""SI units. No machine comes near, and sums and products stay finite."""


def _quantity(unit: str, minimum: float, exclusive: bool) -> Callable[[object], float]:
    def check(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"must be a number with a unit such as '{units.EXAMPLES[unit]}'")
        number = units.parse(value, unit)
        if number < minimum or (exclusive and number == minimum):
            raise ValueError(f"must be {'greater than' if exclusive else 'at least'} {minimum:g}")
        if number > _LARGEST:
            raise ValueError(f"must be at most {_LARGEST:g} {unit}")
        return number

    return check


def _schema(unit: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "string",
            "pattern": units.PATTERN,
            "examples": [units.EXAMPLES[unit]],
            "description": f"number with a unit, such as {units.EXAMPLES[unit]}",
        }
    )


def _serializer(unit: str) -> PlainSerializer:
    return PlainSerializer(lambda value: units.text(value, unit), return_type=str)


def _fraction(value: object) -> float:
    rule, hint, number = "must be a fraction above 0 and at most 1, such as 0.85 or '85 %'", "", 0.0
    if isinstance(value, str):
        try:
            number = units.parse(value, "")
        except InputError as error:
            hint = error.hint
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    if not 0 < number <= 1:
        raise InputError(rule, hint=hint)
    return float(number)


Bandwidth = Annotated[float, BeforeValidator(_quantity("B/s", 0, True)), _serializer("B/s"), _schema("B/s")]
Size = Annotated[float, BeforeValidator(_quantity("B", 0, True)), _serializer("B"), _schema("B")]
Duration = Annotated[float, BeforeValidator(_quantity("s", 0, False)), _serializer("s"), _schema("s")]
Rate = Annotated[float, BeforeValidator(_quantity("FLOP/s", 0, True)), _serializer("FLOP/s"), _schema("FLOP/s")]
_FRACTION_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
            {"type": "string", "pattern": units.PATTERN, "examples": [units.EXAMPLES[""]]},
        ]
    }
)
Fraction = Annotated[float, BeforeValidator(_fraction), _FRACTION_SCHEMA]

T = TypeVar("T")


class Sourced(Strict, Generic[T]):
    """A hardware number and where it comes from. In a file also the bare number, without a source."""

    value: T
    source: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: object) -> object:
        return data if isinstance(data, dict | Sourced) else {"value": data}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [schema["properties"]["value"], schema]}


# --- machines --------------------------------------------------------------------------------------------------------

Dtype = Literal["bf16", "fp16", "int8"]
DTYPE_BYTES: dict[str, int] = {"bf16": 2, "fp16": 2, "int8": 1}

Count = Annotated[int, Field(gt=0, le=10**12)]
_NAME, _AXIS = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", "^[a-z]$"
TEXT_RULES = {
    _NAME: "must be letters, digits, '_', '-' and '.', with a letter or digit first",
    _AXIS: "an axis is named by one lower-case letter",
}
"""Patterns in words."""

Name = Annotated[str, Field(pattern=_NAME)]

MAX_CHIPS = 2**16

# --- names of what the code can do; tests hold them equal to the functions ------------------------------------------


TENSOR_PARALLEL = "tensor_parallel"


def _known_layout(name: str) -> str:
    known = (*LAYOUTS, TENSOR_PARALLEL)
    if name not in known:
        raise wrong(rule=f"must be one of {', '.join(known)}", got=name, hint=suggest(name, known))
    return name


Ffn = Annotated[
    str,
    AfterValidator(_known_layout),
    WithJsonSchema({"type": "string", "enum": [*LAYOUTS, TENSOR_PARALLEL], "title": "Ffn"}),
]

Residual = Literal["standard", "parallel", "ladder", "hybrid", "desync2", "desync4", "no_communication"]
"""How the halves of a layer are wired to the residual stream: `sim.layouts.residual`."""

Overlap = Literal["none", "collective_matmul", "micro_batches", "chunked_matmul"]

_ON_AXES = ("multi_axis", "bidirectional_ring", "ring", "line")
_ON_ROUTES = ("one_shot", "halving_doubling")
_NCCL_RINGS = ("auto", "ring_ll", "ring_ll128", "ring_simple")
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "all_gather": (*_ON_AXES, *_ON_ROUTES, *_NCCL_RINGS),
    "reduce_scatter": (*_ON_AXES, *_ON_ROUTES, *_NCCL_RINGS),
    "all_reduce": (
        *_ON_AXES,
        "one_shot",
        "two_shot",
        "halving_doubling",
        "tree",
        "hierarchical",
        *_NCCL_RINGS,
        "tree_ll",
        "tree_ll128",
        "tree_simple",
        "nvls",
    ),
    "all_to_all": ("multi_axis", "dimension_ordered", "one_shot", "auto", "send_recv"),
    "broadcast": ("spanning_trees", "ring", "tree"),
    "permute": ("neighbour",),
}
LOOP_FORMS = ("one_way", "bidirectional_throughput", "bidirectional_latency")
"""Of the looped collectives in a collective matmul."""


def _choose(allowed: dict[str, tuple[str, ...]]) -> AfterValidator:
    def check(chosen: dict[str, str]) -> dict[str, str]:
        for name, algorithm in chosen.items():
            if name not in allowed:
                raise wrong(name, rule="unknown collective", hint=suggest(name, allowed))
            if algorithm not in allowed[name]:
                hint = suggest(algorithm, allowed[name])
                raise wrong(name, rule=f"no algorithm of {name}", got=algorithm, hint=hint)
        return chosen

    return AfterValidator(check)


def _choose_schema(allowed: dict[str, tuple[str, ...]]) -> WithJsonSchema:
    properties = {name: {"enum": list(algorithms)} for name, algorithms in allowed.items()}
    return WithJsonSchema({"type": "object", "additionalProperties": False, "properties": properties})


_SCENARIO_ALGORITHMS = {**ALGORITHMS, "collective_matmul": LOOP_FORMS}

Algorithms = Annotated[dict[str, str], _choose(ALGORITHMS), _choose_schema(ALGORITHMS)]
LoopsAndAlgorithms = Annotated[dict[str, str], _choose(_SCENARIO_ALGORITHMS), _choose_schema(_SCENARIO_ALGORITHMS)]


class TilesSpec(Strict):
    """A matmul's output in tiles, one per multiprocessor at a time, the last wave of which may be short.

    Source: NVIDIA, Matrix Multiplication Background User's Guide, tile and wave quantization.
    """

    rows: Count
    columns: Count
    """Of a tile."""
    at_once: Count
    """Multiprocessors."""
    split: Annotated[int, Field(ge=1, le=64)]
    """Into how many parts the sum of a tile may be cut where there are few tiles (split-K)."""


class ChipSpec(Strict):
    """One accelerator: rates, sizes and how much of them real kernels reach."""

    name: Name
    peak: Annotated[dict[Dtype, Sourced[Rate]], Field(min_length=1)]
    """Dense matmul rate per operand type."""
    matmul_efficiency: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Reached share of `peak` in a large matmul."""
    hbm_bandwidth: Sourced[Bandwidth]
    hbm_efficiency: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Reached share of `hbm_bandwidth` in a streaming read."""
    matmul_hbm_efficiency: Sourced[Fraction] | None = None
    """The same in a matmul of more than one row, whose weights are read in tiles. Default: `hbm_efficiency`."""
    l2_bandwidth: Sourced[Bandwidth] | None = None
    """Reached rate of reads from the L2 cache, for expanded key-value heads. Default: such reads take no time."""
    hbm_capacity: Sourced[Size]
    matmul_tiles: Sourced[TilesSpec] | None = None
    """Default: a matmul's rate does not depend on its shape."""
    op_overhead: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Fixed time of every compute op beside its roofline time."""
    channel_interference: Sourced[Fraction] | None = None
    """Share of its compute rate that the chip loses to every channel of a collective in progress: a channel holds
    compute units, also while it waits, and takes memory bandwidth. Default: none."""
    launch: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Time the host needs to launch one op, where ops are not captured in a graph; it runs ahead of the chip."""
    stream_wait: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Time from the end of a collective on a stream of its own to what waits for it on the compute stream."""
    elementwise: Literal["fused", "kernel"] = "fused"
    """Whether norms, activations and residual adds ride in their neighbours (a fusing compiler) or are own ops."""
    attention: Literal["fused", "unfused"] = "unfused"
    """Whether attention scores stay on the chip (as in FlashAttention) or go through HBM as 32-bit numbers."""


Medium = Literal["nvlink", "pci", "net"]
"""What NCCL tells apart: links between GPUs, PCI Express and what lies behind it, networks between boxes."""
MEDIA: tuple[Medium, ...] = ("nvlink", "pci", "net")
"""From the shortest way to the longest."""


class LinkSpec(Strict):
    """One direction of one link."""

    name: Name
    medium: Medium = "nvlink"
    bandwidth: Sourced[Bandwidth]
    efficiency: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Reached share of `bandwidth` in a long transfer."""
    latency: Sourced[Duration]
    """Time from the end of sending to the receiver's use of the message, per hop."""


class AxisSpec(Strict):
    """One torus axis. `twist` shifts other axes where this axis wraps (twisted torus)."""

    size: Count
    wrap: bool
    twist: dict[str, Count] = {}

    @model_validator(mode="after")
    def _twist_needs_wrap(self) -> Self:
        if self.twist and not self.wrap:
            raise wrong("twist", rule="a twist shifts the wraparound, so it needs 'wrap: true'")
        return self


Protocol = Literal["ll", "ll128", "simple"]
PROTOCOLS: tuple[Protocol, ...] = ("ll", "ll128", "simple")
_Latencies = dict[Protocol, Duration]
_ByBoxes = Annotated[list[Bandwidth], Field(min_length=3, max_length=3)]
"""On one box, on two, on more."""
_Factors = Annotated[list[Fraction], Field(min_length=1)]


class ProtocolSpec(Strict):
    """How NCCL puts data on the wire."""

    payload: Fraction
    """Share of the bytes on the wire that are data."""
    chunk: Size
    """Data that a channel of a ring passes on in one step."""
    tree_chunk: Size
    """Data that a channel of a tree passes on in one step."""
    channel_bytes: Size
    """Data per channel below which a channel less is used."""


class NvlsSpec(Strict):
    """Reduction and multicast in the switch (NVLink SHARP)."""

    latency: Duration
    efficiency: Fraction
    """Share of a channel's speed that the tuner counts on."""
    bandwidth_share: Sourced[Fraction]
    """Share of the links' bandwidth that the kernel reaches."""
    channels: Count
    chunk: Size
    """Largest data of one channel and one part of the array in one round."""
    least_chunk: Size
    least_size: Size | None = None
    """Smallest array that is reduced in the switch; None where NCCL's tuner alone decides."""
    least_chips: Count = 2
    """Smallest group that is reduced in the switch."""


class NcclSpec(Strict):
    """NCCL on one generation of GPUs: the constants of its tuner, and what they leave out."""

    name: Name
    source: str
    generation: Literal["volta", "ampere", "hopper", "blackwell"]
    protocols: dict[Protocol, ProtocolSpec]
    startup: dict[Protocol, Sourced[Duration]]
    """Measured fixed time beside `base`; the tuner does not know of it."""
    base: dict[Literal["ring", "tree"], _Latencies]
    step: dict[Medium, dict[Literal["ring", "tree"], _Latencies]]
    net_overhead: Duration
    intra_speeds: Annotated[list[Bandwidth], Field(min_length=1)]
    """Of one channel, fastest first: what the search for rings tries inside a box."""
    inter_speeds: Annotated[list[Bandwidth], Field(min_length=1)]
    ll_ceiling: _ByBoxes
    ring_ll128_ceiling: _ByBoxes
    tree_ll128_ceiling: _ByBoxes
    tree_ceiling: _ByBoxes
    tree_correction: dict[Protocol, _Factors]
    nvls: NvlsSpec | None = None

    @model_validator(mode="after")
    def _protocols_are_complete(self) -> Self:
        tables: dict[str, Any] = {
            "protocols": self.protocols,
            "startup": self.startup,
            "tree_correction": self.tree_correction,
            **{f"base.{name}": self.base.get(name, {}) for name in ("ring", "tree")},
            **{f"step.{m}.{name}": self.step.get(m, {}).get(name, {}) for m in MEDIA for name in ("ring", "tree")},
        }
        for table, given in tables.items():
            for protocol in PROTOCOLS:
                if protocol not in given:
                    raise wrong(*table.split("."), rule=f"must say something of protocol '{protocol}'")
        return self


class _Machine(Strict):
    name: Name
    description: str = ""
    source: str | None = None
    chip: ChipSpec
    collective_overhead: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Fixed launch time of every collective."""
    collectives: Algorithms = {}
    """Default algorithm per collective, by name."""


class TorusSpec(_Machine):
    """Chips on a grid with links along each axis, wrapped or not."""

    kind: Literal["torus"]
    link: LinkSpec
    axes: Annotated[dict[Annotated[str, Field(pattern=_AXIS)], AxisSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _axes_fit(self) -> Self:
        chips = math.prod(axis.size for axis in self.axes.values())
        if chips > MAX_CHIPS:
            raise wrong("axes", rule=f"a machine has at most {MAX_CHIPS} chips", got=chips)
        for name, axis in self.axes.items():
            for other, shift in axis.twist.items():
                if other not in self.axes or other == name:
                    raise wrong("axes", name, "twist", rule="must name another axis", got=other)
                if shift >= (size := self.axes[other].size):
                    rule = f"must be less than the size of axis '{other}', {size}"
                    raise wrong("axes", name, "twist", other, rule=rule, got=shift)
        return self


class SwitchSpec(_Machine):
    """Chips on one non-blocking switch; `link` is the port of one chip, one direction."""

    kind: Literal["switch"]
    chips: Annotated[int, Field(gt=0, le=MAX_CHIPS)]
    link: LinkSpec
    nccl: NcclSpec | None = None
    """With it collectives run as NCCL would choose, unless an algorithm is named."""
    reduces: bool = False
    """Whether the switch adds up and multicasts (NVLS)."""


class EdgeSpec(Strict):
    """Links between two nodes of a graph, `count` of them side by side, each in both directions."""

    between: Annotated[list[str], Field(min_length=2, max_length=2)]
    link: str
    count: Count = 1


class GraphSpec(_Machine):
    """An arbitrary graph: chips, switches and sockets as nodes, named link types as edges."""

    kind: Literal["graph"]
    nodes: Annotated[dict[str, Literal["chip", "switch", "socket", "multicast"]], Field(min_length=1)]
    link_types: Annotated[dict[str, LinkSpec], Field(min_length=1)]
    links: list[EdgeSpec]
    nccl: NcclSpec | None = None
    """With it collectives run as NCCL would choose, unless an algorithm is named."""
    reduces: bool = False
    """Whether switches between chips add up and multicast (NVLS)."""

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        for i, edge in enumerate(self.links):
            for node in edge.between:
                if node not in self.nodes:
                    hint = suggest(node, self.nodes)
                    raise wrong("links", i, "between", rule="must name two of the nodes", got=node, hint=hint)
            if edge.between[0] == edge.between[1]:
                raise wrong("links", i, "between", rule="must name two different nodes", got=edge.between)
            if edge.link not in self.link_types:
                hint = suggest(edge.link, self.link_types)
                raise wrong("links", i, "link", rule="must be one of the link_types", got=edge.link, hint=hint)
        if "chip" not in self.nodes.values():
            raise wrong("nodes", rule="at least one node must be a chip")
        return self


TopologySpec = Annotated[TorusSpec | SwitchSpec | GraphSpec, Field(discriminator="kind")]


# --- transformers ----------------------------------------------------------------------------------------------------


class Model(Strict):
    """Transformer dimensions (decoder only)."""

    name: Name
    source: str | None = None
    layers: Annotated[int, Field(gt=0, le=10_000)]
    d_model: Count
    d_ff: Count
    heads: Count
    padded_heads: Count | None = None
    """Heads the machine computes, where they are padded so that a mesh divides them."""
    kv_heads: Count
    d_head: Count
    vocabulary: Count
    ffn: Literal["swiglu", "mlp"]
    """swiglu: three matrices of width d_ff; mlp: two."""
    block: Literal["parallel", "serial"]
    tied: bool = True
    """Whether the LM head is the embedding's table."""
    nominal_parameters: Annotated[float, Field(gt=0, le=_LARGEST, allow_inf_nan=False)]
    """Parameters as published; MFU counts these, not the padding (Pope et al. section 2)."""

    @model_validator(mode="after")
    def _padding_adds(self) -> Self:
        if self.padded_heads is not None and self.padded_heads < self.heads:
            raise wrong("padded_heads", rule=f"must be at least heads, {self.heads}", got=self.padded_heads)
        if self.heads % self.kv_heads:
            raise wrong("kv_heads", rule=f"must divide heads, {self.heads}", got=self.kv_heads)
        return self

    @property
    def computed_heads(self) -> int:
        """Heads the machine computes: padded_heads where given, else heads."""
        return self.padded_heads or self.heads


class Workload(Strict):
    """Phase, batch, tokens and number formats."""

    phase: Literal["prefill", "decode", "generate"]
    """generate: the prefill of the prompt, then the decode steps on it."""
    batch: Count
    prompt: Count | None = None
    """Tokens per sequence of the prefill."""
    context: Count | None = None
    """Tokens per sequence already in the KV cache when decoding starts."""
    generate: Count | None = None
    """Decode steps."""
    weights: Dtype
    activations: Dtype = "bf16"
    kv_cache: Dtype = "bf16"
    sampling: Literal["greedy", "top_k"] = "greedy"
    """How the next token is drawn; top_k: softmax, top-k and a draw, each over the whole vocabulary."""
    static_cache: Count | None = None
    """Positions of a cache of fixed length, all of which every pass attends to, masked. Default: as long as filled."""

    @model_validator(mode="after")
    def _static_cache_holds_all(self) -> Self:
        needed = (self.prompt or 0) + (self.context or 0) + (self.generate or 0)
        if self.static_cache is not None and self.static_cache < needed:
            raise wrong("static_cache", rule=f"must hold all {needed} tokens of a sequence", got=self.static_cache)
        return self

    @model_validator(mode="after")
    def _phase_has_its_tokens(self) -> Self:
        phases = {"prefill": ("prompt",), "decode": ("context", "generate"), "generate": ("prompt", "generate")}
        needs = phases[self.phase]
        for name in ("prompt", "context", "generate"):
            given = getattr(self, name) is not None
            if given != (name in needs):
                rule = f"phase '{self.phase}' {'needs' if name in needs else 'takes no'} '{name}'"
                raise wrong(name, rule=rule, got=getattr(self, name))
        return self

    @property
    def steps(self) -> int:
        """Forward passes: one for a prefill, one per generated token for decoding."""
        return (self.phase != "decode") + (self.generate or 0)

    @property
    def tokens_per_step(self) -> int:
        """Query tokens per sequence in one forward pass of a prefill or of decoding."""
        return self.prompt or 1

    @property
    def tokens(self) -> int:
        """Tokens processed in all steps of all sequences (Pope et al. section 2: the tokens of MFU)."""
        return self.batch * ((self.prompt or 0) + (self.generate or 0))

    @property
    def mean_cache_length(self) -> float:
        """Tokens per sequence that attention reads in a step, the current ones included, averaged over the steps."""
        if self.static_cache is not None:
            return float(self.static_cache)
        if self.phase == "prefill":
            return float(self.prompt or 0)
        return (self.context or 0) + ((self.generate or 1) + 1) / 2

    @property
    def final_cache_length(self) -> int:
        """Tokens per sequence for which the KV cache has room after the last step."""
        return self.static_cache or (self.prompt or 0) + (self.context or 0) + (self.generate or 0)

    @property
    def phases(self) -> tuple[Workload, ...]:
        """The prefill and the decoding of `generate`, else this workload alone."""
        if self.phase != "generate":
            return (self,)
        prefill = self.model_copy(update={"phase": "prefill", "generate": None})
        return prefill, self.model_copy(update={"phase": "decode", "context": self.prompt, "prompt": None})

    @property
    def each_step(self) -> tuple[Workload, ...]:
        """One workload per decode step, each with the cache as long as it then is."""
        return tuple(
            self.model_copy(update={"context": (self.context or 0) + step, "generate": 1})
            for step in range(self.generate or 0)
        )


class PhaseLayout(Strict):
    """What one phase does differently; what it does not name is as in the layout."""

    ffn: Ffn | None = None
    attention: Literal["heads", "batch"] | None = None
    overlap: Overlap | None = None


class Hybrid(Strict):
    """Of the hybrid residual."""

    ladder_layers: Count
    """Layers at the end that are Ladder; those before are standard."""


class Mesh(Strict):
    """Chips of a switch or graph by what they do."""

    tensor: Count | None = None
    """Tensor-parallel chips, the machine's first; of each stage, where there are stages. Default: all."""
    pipeline: Count = 1
    """Stages: chip = stage x tensor + rank. A torus is cut into as many equal slabs along its longest axis."""


class QueueSpec(Strict):
    """The queue before each stage but the first."""

    capacity: int
    """Batches that fit."""
    retry: Duration
    """Time between two attempts to put a batch into a full queue."""

    @model_validator(mode="after")
    def _holds_a_batch(self) -> Self:
        if self.capacity < 1:
            rule = "must be at least 1: into a queue of no capacity no batch ever goes, and its stage waits for itself"
            raise wrong("capacity", rule=rule, got=self.capacity)
        return self


class ArrivalSpec(Strict):
    """When requests come: `in_flight` at a time, or at given times, or at random."""

    in_flight: Count | None = None
    """Closed loop: a request comes as soon as fewer than so many are under way."""
    times: Annotated[list[Duration], Field(min_length=1)] | None = None
    """Open loop: when each request comes."""
    every: Duration | None = None
    """Open loop: mean time between arrivals, which are a Poisson process."""
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in ("in_flight", "times", "every") if getattr(self, name) is not None]
        if len(given) != 1:
            rule = "needs one of in_flight, times and every"
            raise wrong(rule=rule, got=given, hint="arrivals: {in_flight: 4}, or {every: 50 ms, seed: 1}")
        if self.times and sorted(self.times) != self.times:
            raise wrong("times", rule="must be in order")
        return self


class ControllerSpec(Strict):
    """Who tells the workers, one per chip, to run a batch."""

    kind: Literal["single", "multi"] = "single"
    """single: one controller calls worker after worker; multi: each worker has its own, all call at once."""
    rpc: Sourced[Duration]
    """Time of the controller for one call."""
    poll: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """A worker that waits for its next batch looks for it once in this time."""
    result_poll: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """The caller's handler looks once in this time, from its call on, whether the result is there."""
    threads: Count = 16
    """Calls that a worker takes on at once: no more batches are under way."""


class PipelineSpec(Strict):
    """How batches follow each other through the stages."""

    schedule: Literal["non_blocking", "blocking", "bounded_queue", "sequential"]
    """non_blocking: whole requests, one after the other; blocking: a request's micro-batches, then the next request;
    bounded_queue: whole requests through queues of limited capacity; sequential: one request, one stage at a time."""
    microbatches: Count | Literal["auto"] = "auto"
    """Of blocking, per request. auto: FasterTransformer's rule."""
    microbatch_tokens: Count = 1024
    """Of `microbatches: auto`: tokens above which a micro-batch is halved (8192 in FasterTransformer 5.0)."""
    send_blocks_stage: bool = True
    """Of non_blocking: whether a stage waits until its activations have arrived at the next."""
    requests: Count = 8
    """Batches of the workload, one after the other."""
    arrivals: ArrivalSpec | None = None
    """Default: in_flight stages + 2 (EnergonAI's batch manager), of blocking and sequential 1."""
    stages: Annotated[list[Count], Field(min_length=1)] | None = None
    """Layers of each stage. Default: equal, what remains goes to the last stages."""
    queue: QueueSpec | None = None
    """Of bounded_queue."""
    controller: ControllerSpec | None = None
    """Default: workers know of every request as it comes."""

    @model_validator(mode="after")
    def _queue_where_needed(self) -> Self:
        if (self.schedule == "bounded_queue") != (self.queue is not None):
            hint = "queue: {capacity: 1, retry: 100 ms}"
            raise wrong("queue", rule="goes with 'schedule: bounded_queue'", got=self.schedule, hint=hint)
        if self.schedule != "blocking" and self.microbatches != "auto":
            raise wrong("microbatches", rule="are of 'schedule: blocking'", got=self.schedule)
        if self.schedule in ("blocking", "sequential") and self.arrivals and (self.arrivals.in_flight or 1) > 1:
            rule = f"'{self.schedule}' ends a request before it begins the next"
            raise wrong("arrivals", "in_flight", rule=rule, got=self.arrivals.in_flight)
        return self

    def in_flight(self, stages: int) -> int:
        """Requests under way at most."""
        if self.schedule in ("blocking", "sequential"):
            return 1
        most = self.controller.threads if self.controller else self.requests
        if self.arrivals is None:
            return min(most, stages + 2)
        return min(most, self.arrivals.in_flight or self.requests)


class LayoutSpec(Strict):
    """How the model is partitioned over the mesh and what overlaps."""

    ffn: Ffn
    attention: Literal["heads", "batch"]
    overlap: Overlap = "none"
    block: Literal["parallel", "serial"] | None = None
    """Default: the model's."""
    residual: Residual | None = None
    """Of tensor_parallel. Default: parallel for a parallel block, else standard."""
    hybrid: Hybrid | None = None
    """Of `residual: hybrid`."""
    mesh: Mesh = Mesh()
    sequence_parallel: bool = False
    """Of tensor_parallel: the residual stream and its norms split over tokens (Korthikanti et al. 2022)."""
    communication: Literal["compute_stream", "own_stream"] | None = None
    """Where collectives run. Default: own_stream for tensor_parallel, else compute_stream (operations in order)."""
    chunks: Annotated[int, Field(ge=2, le=64)] = 4
    """Of `overlap: chunked_matmul`: pieces of a matmul whose sums are made while the next piece computes."""
    head: Literal["sharded", "replicated"] = "sharded"
    """Of tensor_parallel: embedding and LM head split over the vocabulary, or whole on every chip."""
    logits: Literal["last", "every", "none"] = "last"
    """Whether a prefill computes logits of its last position, or of every one; none: the layers alone, of an encoder,
    without embedding and logits."""
    kv_heads: Literal["shared", "expanded"] = "shared"
    """Whether query heads share keys and values, or each reads a copy of its own (repeat_interleave), from L2."""
    pipeline: PipelineSpec | None = None
    """Default: sequential, one request, where the mesh has several stages."""
    graph_capture: bool = True
    """Whether ops are launched by a captured graph; else the host launches one after the other (chip.launch)."""
    prefill: PhaseLayout = PhaseLayout()
    decode: PhaseLayout = PhaseLayout()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.ffn != TENSOR_PARALLEL:
            if self.overlap not in ("none", "collective_matmul"):
                raise wrong("overlap", rule=f"'{self.overlap}' is of layout '{TENSOR_PARALLEL}'", got=self.ffn)
            if self.mesh.tensor is not None:
                raise wrong("mesh", "tensor", rule=f"is of layout '{TENSOR_PARALLEL}' only", got=self.ffn)
            for name in ("residual", "hybrid", "sequence_parallel", "head", "logits"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise wrong(name, rule=f"is of layout '{TENSOR_PARALLEL}' only", got=self.ffn)
            return self
        if self.attention != "heads":
            raise wrong("attention", rule=f"layout '{TENSOR_PARALLEL}' splits heads", got=self.attention)
        if self.overlap == "collective_matmul":
            hint = "chunked_matmul, or micro_batches"
            raise wrong("overlap", rule=f"layout '{TENSOR_PARALLEL}' has no such loop", got=self.overlap, hint=hint)
        if (self.residual == "hybrid") != (self.hybrid is not None):
            raise wrong("hybrid", rule="goes with 'residual: hybrid'", hint="hybrid: {ladder_layers: 16}")
        if self.overlap == "micro_batches" and self.residual not in (None, "standard"):
            raise wrong("overlap", rule="micro_batches overlaps the standard residual", got=self.residual)
        if self.overlap == "chunked_matmul" and self.residual not in (None, "standard", "ladder", "hybrid"):
            rule = "chunked_matmul sums the last matmul of every half, each by itself"
            raise wrong("overlap", rule=rule, got=self.residual)
        if self.sequence_parallel:
            if self.overlap != "none":
                raise wrong("overlap", rule="sequence_parallel goes with 'none'", got=self.overlap)
            if self.residual in ("desync2", "desync4", "no_communication"):
                rule = "chips that differ in the residual stream cannot split it over tokens"
                raise wrong("sequence_parallel", rule=rule, got=self.residual)
        return self

    def during(self, phase: str) -> LayoutSpec:
        """The layout of one phase."""
        own = (self.prefill if phase == "prefill" else self.decode).model_dump(exclude_none=True)
        return self.model_copy(update={**own, "prefill": PhaseLayout(), "decode": PhaseLayout()})


Kernel = Literal["simpy", "compiled", "auto"]


class LengthsSpec(Strict):
    """Real lengths drawn at random."""

    distribution: Literal["uniform", "rand_r"]
    """uniform: 1 to the padded length; rand_r: rand_r(&seed) % padded length of the GNU C library, at least 1."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


def _lengths(value: object) -> object:
    """A fraction may be a percentage."""
    return value if isinstance(value, list | dict | LengthsSpec) else _fraction(value)


class PaddingSpec(Strict):
    """Prompts of different lengths, padded to `workload.prompt`."""

    real_lengths: Annotated[
        Annotated[list[Count], Field(min_length=1)] | LengthsSpec | Annotated[float, _FRACTION_SCHEMA],
        BeforeValidator(_lengths),
    ]
    """Of each sequence: all of them, a fraction of the padded length, or a distribution."""
    eliminate: bool = False
    """Whether linears, norms, sums and sends leave the padding out (DRCE); attention, embedding and head do not."""

    def lengths(self, batch: int, padded: int) -> tuple[int, ...]:
        """Real lengths of a batch."""
        given = self.real_lengths
        if isinstance(given, list):
            return tuple(given)
        if isinstance(given, float):
            return (max(1, round(given * padded)),) * batch
        if given.distribution == "uniform":
            return tuple(random.Random(given.seed).randint(1, padded) for _ in range(batch))
        return tuple(max(1, number % padded) for number in itertools.islice(_rand_r(given.seed), batch))


def _rand_r(seed: int) -> Iterator[int]:
    """rand_r of the GNU C library (stdlib/rand_r.c): three steps of a congruential generator per number."""
    while True:
        number = 0
        for bits, mask in ((0, 2047), (10, 1023), (10, 1023)):
            seed = (seed * 1103515245 + 12345) % 2**32
            number = number << bits ^ (seed >> 16 & mask)
        yield number


class MemoryPoolSpec(Strict):
    """Layers that live in another memory and are fetched ahead of use (PMEP)."""

    offload_every: Annotated[int, Field(ge=2)]
    """The last of so many layers lives elsewhere."""
    to: Literal["peer", "host"]
    link: LinkSpec | None = None
    """One direction of the way there. Default, of a peer: the machine's best way to a chip that the mesh leaves out."""
    prefetch_layers: Count = 2
    """How many layers ahead a layer is fetched."""
    evict: Literal["when_computed", "at_once"] = "when_computed"
    """Whether a layer is copied back once it has been computed, or already while it computes."""

    @model_validator(mode="after")
    def _host_has_a_link(self) -> Self:
        if self.to == "host" and self.link is None:
            raise wrong("link", rule="must be the link to the host's memory", hint="link: pcie_gen4_x16")
        return self


class EngineSpec(Strict):
    """What is simulated."""

    steps: Literal["each", "mean"] = "each"
    """Whether each decode step of a generation is simulated, or the one of mean cache length for all."""
    layers: Count | Literal["all"] = "all"
    """Simulate only the first N layers; every figure is then of a model of N layers."""
    fold: Literal["auto", "off"] = "auto"
    """Simulate one chip for all where all chips do the same."""
    periodic: Literal["auto", "off"] = "auto"
    """Simulate layers until each is exactly the one before, later; the others follow."""
    kernel: Kernel = "simpy"
    """Which engine runs; the results are the same. compiled: numba, for large programs; auto: where it pays."""


Factor = Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]


class Straggler(Strict):
    """Chips that compute more slowly than the others."""

    chips: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    factor: Factor = 1.0
    """Of the time of their operations."""
    delay: Duration | None = None
    """Added to the time of each of their operations."""
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Only in these. Default: everywhere."""


class SlowLinks(Strict):
    """Links that take longer for every byte."""

    links: Annotated[list[str], Field(min_length=1)]
    """Names as in the report, such as `0:x+` or `gpu0->gpu1#0`."""
    factor: Factor


class Jitter(Strict):
    """Every task takes longer by a share drawn anew, uniformly from 0 to this one."""

    ops: Fraction | None = None
    links: Fraction | None = None


class PerturbSpec(Strict):
    """What is not as the files of the machine say."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the jitter."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Runs with jitter, the first of `seed`, the next of the seed after it, and so on."""
    stragglers: list[Straggler] = []
    slow_links: list[SlowLinks] = []
    failed_links: list[str] = []
    """Links that carry nothing: collectives go around them, or are an error where they cannot."""
    jitter: Jitter | None = None

    @model_validator(mode="after")
    def _repeats_differ(self) -> PerturbSpec:
        if self.repeats > 1 and self.jitter is None:
            rule = "without jitter every run is the same"
            raise wrong("repeats", rule=rule, got=self.repeats, hint="add jitter: {ops: 2 %}")
        return self


class Reference(Strict):
    """A published measurement of this scenario."""

    latency: Duration
    tolerance: Fraction
    source: str


class FigureSpec(Strict):
    """What a sweep's figure shows: simulated lines, the usual closed form dashed, published points hollow."""

    title: str = ""
    x: str
    """An axis of the sweep with numbers for values, `tokens` (of all sequences in one pass) or `chips`."""
    y: Literal["latency", "step", "mfu", "tokens_per_s", "ttft", "tpot", "cost"]
    """cost: chip-seconds per token, Pope et al. section 4.4."""
    series: str | Annotated[list[str], Field(min_length=1)] | None = None
    """The axis or axes of the sweep whose values are the lines; without it there is one line."""
    relative_to: str | None = None
    """Label of a line: the others are drawn as speed-ups over it, its time / theirs or their rate / its."""
    log: Literal["x", "y", "xy"] | None = None
    """Logarithmic axes."""
    published: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    """Case ids of published points, by the label of the line they stand beside."""
    published_file: str = "pope_dev"
    """A shipped name in scenarios/published/, or a path."""
    crossovers: bool = False
    """Mark the tokens at which the paper's volumes of two of the layouts are equal."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The axes that tell lines apart."""
        return (self.series,) if isinstance(self.series, str) else tuple(self.series or ())


def _axis(values: object) -> object:
    """Said here in one sentence, since neither half of the union alone explains what is missing."""
    variants = isinstance(values, dict) and all(isinstance(fields, dict) and fields for fields in values.values())
    if not values or not (isinstance(values, list) or variants):
        rule = "must be a list of values, or variants such as {2D: {layout.ffn: weight_stationary_2d}, 1D: {...}}"
        raise wrong(rule=rule, got=values, hint="a field is one key with dots, as in {workload.batch: [1, 4]}")
    return values


Variants = Annotated[dict[str, Annotated[dict[str, Any], Field(min_length=1)]], Field(min_length=1)]
"""Named settings of several fields at once: `{2D: {layout.ffn: weight_stationary_2d}, 1D: {...}}`."""

SweepAxis = Annotated[Annotated[list[Any], Field(min_length=1)] | Variants, BeforeValidator(_axis)]

SweepSpec = Annotated[dict[str, SweepAxis], Field(min_length=1)]
"""The axes of a sweep, outermost first: values of a dotted field, or a name of one's own with variants."""


_STREAM_OF = {TENSOR_PARALLEL: "own_stream"}
"""Where a layout's collectives run by default, if not on the compute stream."""


def chips_of(machine: TopologySpec) -> int:
    """Number of chips of a machine."""
    if isinstance(machine, TorusSpec):
        return math.prod(axis.size for axis in machine.axes.values())
    if isinstance(machine, SwitchSpec):
        return machine.chips
    return sum(kind == "chip" for kind in machine.nodes.values())


class Scenario(Strict):
    """One experiment: a model, on a machine, under a workload, partitioned by a layout."""

    name: Name
    description: str = ""
    topology: TopologySpec
    model: Model
    workload: Workload
    layout: LayoutSpec
    collectives: LoopsAndAlgorithms = {}
    """Algorithm per collective, over the topology's defaults; collective_matmul: the form of its loops."""
    padding: PaddingSpec | None = None
    """Of a prefill. Default: no padding."""
    memory_pool: MemoryPoolSpec | None = None
    """Default: all weights in the chips' own memory."""
    perturb: PerturbSpec | None = None
    """Default: all chips and links are as their files say."""
    engine: EngineSpec = EngineSpec()
    reference: Reference | None = None
    sweep: SweepSpec | None = None
    """Every combination of these is a run of its own, by `sim sweep`."""
    figure: FigureSpec | None = None

    @model_validator(mode="after")
    def _figure_shows_the_sweep(self) -> Self:
        if self.figure is None:
            return self
        if self.sweep is None:
            raise wrong("figure", rule="a figure shows a sweep, and there is none", hint="remove both, or neither")
        for axis in self.figure.lines:
            if axis not in self.sweep:
                hint = suggest(axis, self.sweep)
                raise wrong("figure", "series", rule="must be an axis of the sweep", got=axis, hint=hint)
        if self.figure.x not in (*self.sweep, "tokens", "chips"):
            hint = suggest(self.figure.x, (*self.sweep, "tokens", "chips"))
            raise wrong(
                "figure", "x", rule="must be an axis of the sweep, tokens or chips", got=self.figure.x, hint=hint
            )
        rest = [axis for axis in self.sweep if axis not in self.figure.lines and axis != self.figure.x]
        if self.figure.x in self.sweep or len(rest) > 1:
            for axis in rest:
                raise wrong("figure", "series", rule=f"'{axis}' varies in the sweep and must be x or series")
        if self.figure.crossovers and self.figure.x != "tokens":
            raise wrong("figure", "crossovers", rule="crossovers are counts of tokens, so x must be 'tokens'")
        return self

    @model_validator(mode="after")
    def _machine_can(self) -> Self:
        chip, dtype = self.topology.chip, self.workload.activations
        if dtype not in chip.peak:
            rule = f"must be a type that chip '{chip.name}' has a peak for"
            raise wrong("workload", "activations", rule=rule, got=dtype, hint=f"it has {', '.join(sorted(chip.peak))}")
        tensor, torus = self.layout.ffn == TENSOR_PARALLEL, isinstance(self.topology, TorusSpec)
        if tensor == torus:
            kinds = "'switch' or 'graph'" if tensor else "'torus'"
            rule = f"layout '{self.layout.ffn}' needs a machine of kind {kinds}"
            raise wrong("topology", "kind", rule=rule, got=self.topology.kind)
        mesh, chips = self.layout.mesh, chips_of(self.topology)
        if not torus and (mesh.tensor or 1) * mesh.pipeline > chips:
            name = "tensor" if mesh.pipeline == 1 else "pipeline"
            rule = f"must be at most the machine's {chips} chips"
            rule = rule if mesh.pipeline == 1 else f"tensor x pipeline {rule}"
            raise wrong("layout", "mesh", name, rule=rule, got=(mesh.tensor or 1) * mesh.pipeline)
        return self

    @model_validator(mode="after")
    def _padding_fits(self) -> Self:
        if self.padding is None:
            return self
        given, workload = self.padding.real_lengths, self.workload
        if workload.prompt is None:
            raise wrong("padding", rule="is of prompts, and there are none", got=workload.phase)
        if isinstance(given, list):
            if len(given) != workload.batch:
                rule = f"must be the length of each of the {workload.batch} sequences"
                raise wrong("padding", "real_lengths", rule=rule, got=len(given))
            if max(given) > workload.prompt:
                rule = f"must be at most workload.prompt, {workload.prompt}"
                raise wrong("padding", "real_lengths", rule=rule, got=max(given))
        if self.padding.eliminate and self.layout.ffn != TENSOR_PARALLEL:
            raise wrong("padding", "eliminate", rule=f"is of layout '{TENSOR_PARALLEL}'", got=self.layout.ffn)
        if self.padding.eliminate and (self.layout.sequence_parallel or self.layout.overlap == "micro_batches"):
            rule = "packed rows are no longer sequences that could be split"
            raise wrong("padding", "eliminate", rule=rule, hint="layout.sequence_parallel: false, layout.overlap: none")
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        stages, pipeline = self.layout.mesh.pipeline, self.layout.pipeline
        if stages > self.layers:
            rule = f"every stage needs a layer, and there are {self.layers}"
            raise wrong("layout", "mesh", "pipeline", rule=rule, got=stages)
        if pipeline is None or pipeline.stages is None:
            return self
        if len(pipeline.stages) != stages:
            rule = f"must have the layers of each of the {stages} stages"
            raise wrong("layout", "pipeline", "stages", rule=rule, got=pipeline.stages)
        if sum(pipeline.stages) != self.layers:
            rule = f"must add up to the {self.layers} layers"
            raise wrong("layout", "pipeline", "stages", rule=rule, got=sum(pipeline.stages))
        return self

    @model_validator(mode="after")
    def _residual_fits(self) -> Self:
        if self.layout.residual not in (None, "parallel", "no_communication") and self.block == "parallel":
            rule = "a parallel block has one residual addition per layer"
            raise wrong("layout", "residual", rule=rule, got=self.layout.residual, hint="layout.block: serial")
        if self.layout.overlap in ("micro_batches", "chunked_matmul") and self.residual == "parallel":
            rule = f"'{self.layout.overlap}' is of a serial block"
            raise wrong("layout", "overlap", rule=rule, got=self.layout.overlap, hint="layout.block: serial")
        if self.layout.hybrid and self.layout.hybrid.ladder_layers > self.model.layers:
            rule = f"must be at most the model's {self.model.layers} layers"
            got = self.layout.hybrid.ladder_layers
            raise wrong("layout", "hybrid", "ladder_layers", rule=rule, got=got)
        return self

    @property
    def layers(self) -> int:
        """Layers simulated."""
        return self.model.layers if self.engine.layers == "all" else min(self.engine.layers, self.model.layers)

    @model_validator(mode="after")
    def _pool_fits(self) -> Self:
        if self.memory_pool is None:
            return self
        if self.layout.ffn != TENSOR_PARALLEL:
            raise wrong("memory_pool", rule=f"is of layout '{TENSOR_PARALLEL}'", got=self.layout.ffn)
        every, stages = self.memory_pool.offload_every, self.layout.mesh.pipeline
        given = self.pipeline.stages if self.pipeline else None
        for layers in given or [self.layers // stages, -(-self.layers // stages)]:
            if layers % every:
                rule = f"must divide the layers{' of every stage' if stages > 1 else ''}, {layers}"
                raise wrong("memory_pool", "offload_every", rule=rule, got=every)
        return self

    @property
    def tokens(self) -> int:
        """Tokens processed in all steps of all sequences, padding not counted: those of MFU and tokens/s."""
        if self.padding is None or self.workload.prompt is None:
            return self.workload.tokens
        real = sum(self.padding.lengths(self.workload.batch, self.workload.prompt))
        return real + self.workload.batch * (self.workload.generate or 0)

    @property
    def packed_rows(self) -> int | None:
        """Real tokens of a prefill's batch, where padding is left out."""
        if self.padding is None or not self.padding.eliminate or self.workload.phase != "prefill":
            return None
        return sum(self.padding.lengths(self.workload.batch, self.workload.tokens_per_step))

    @property
    def pipeline(self) -> PipelineSpec | None:
        """The pipeline; None where there is but one stage and nothing said about requests."""
        if self.layout.pipeline or self.layout.mesh.pipeline == 1:
            return self.layout.pipeline
        return PipelineSpec(schedule="sequential", requests=1)

    @property
    def residual(self) -> str:
        """Name of the residual scheme."""
        return self.layout.residual or ("parallel" if self.block == "parallel" else "standard")

    @property
    def own_stream(self) -> bool:
        """Whether collectives run on a stream of their own."""
        return (self.layout.communication or _STREAM_OF.get(self.layout.ffn)) == "own_stream"

    @property
    def block(self) -> str:
        """`parallel` or `serial`."""
        return self.layout.block or self.model.block

    @property
    def phases(self) -> tuple[Scenario, ...]:
        """One scenario per phase, prefill or decode, each with its own layout; what was published is of all phases."""
        phases = self.workload.phases
        reference = self.reference if len(phases) == 1 else None
        return tuple(
            self.model_copy(update={"workload": each, "layout": self.layout.during(each.phase), "reference": reference})
            for each in phases
        )


# --- published measurements ------------------------------------------------------------------------------------------

Settings = dict[str, Any]
"""Values by dotted field, as in --set."""


class Tolerance(Strict):
    """Largest absolute errors that pass."""

    median: Fraction
    nine_in_ten: Fraction
    worst: Fraction


class Constant(Strict):
    """One fitted number: the fields that take it, and the range of what is physically plausible."""

    fields: Annotated[list[str], Field(min_length=1)]
    unit: str = ""
    low: float
    high: float


class Calibration(Strict):
    """What `sim calibrate` fits to which rows."""

    rows: Annotated[list[str], Field(min_length=1)]
    constants: Annotated[dict[str, Constant], Field(min_length=1)]
    then: Calibration | None = None
    """What is fitted next, with these constants as found."""


class _Rows(Strict):
    name: Name
    description: str = ""
    rows: str
    """CSV file, relative to this file."""
    tolerance: Tolerance
    not_gated: dict[str, str] = {}
    """Reason by pattern of the case id: shown, not held against the tolerance."""
    calibration: Calibration | None = None


class Suite(_Rows):
    """How the rows of a CSV become scenarios, and how close they must come."""

    kind: Literal["scenarios"] = "scenarios"
    base: str
    """Scenario that the rows change."""
    settings: Settings = {}
    """Of every row."""
    models: dict[str, Settings]
    """By pattern of the row's model; the first that fits."""
    at_chips: dict[str, dict[int, Settings]] = {}
    """By pattern of the row's model and by its number of chips."""
    layouts: dict[str, Settings] = {}
    """By pattern of the row's FFN layout; the first that fits."""
    gated_up_to: Fraction = 1.0
    """Largest reading error (column reading_error_pct) of a row that is held against the tolerance."""


class HostBound(Strict):
    """Rows whose time is that of the host that launches them."""

    up_to: Size
    """Largest array of such a row."""
    reason: str


class CollectiveSuite(_Rows):
    """How the rows of a CSV become single collectives, and how close they must come."""

    kind: Literal["collectives"]
    machines: dict[str, Annotated[Settings, Field(min_length=1)]]
    """By pattern of the row's `system gpus=GPUS`, or of its system alone, the first that fits: `topology`, a name or
    path, and settings of it. Of a machine with more chips the first ones are used."""
    algorithms: dict[str, str] = {}
    """By pattern of the case id, the first that fits; the machine's default for the rest."""
    host_bound: dict[str, HostBound] = {}
    """By pattern of the case id: shown, not held against the tolerance."""


class Speedup(Strict):
    """Rates against those of one variant on the same machine."""

    baseline: str
    """Variant."""
    tolerance: Tolerance
    """Of the difference of predicted and published speed-up, as a share of the baseline's rate."""


class _ServingRows(_Rows):
    """Rows that name a system and a model."""

    base: str
    """Scenario that the rows change."""
    settings: Settings = {}
    """Of every row."""
    systems: dict[str, Settings]
    """By pattern of the row's system, as the suite's kind writes it; the first that fits."""
    models: dict[str, Settings]
    """By pattern of the row's model; the first that fits."""


class GenerationSuite(_ServingRows):
    """How the rows of a CSV become prompts and generations under residual schemes, and how close they must come.

    A system is written `system p2p=P2P tp=TP`.
    """

    kind: Literal["generations"]
    variants: dict[str, Settings]
    """By the row's variant."""
    speedup: Speedup


class RequestSuite(_ServingRows):
    """How the rows of a CSV become requests to a serving engine, and how close they must come."""

    kind: Literal["requests"]
    engines: dict[str, Settings]
    """By the row's engine."""
    left_out: dict[str, str] = {}
    """Reason by pattern of the case id: rows that no scenario stands for."""


def _suite_kind(value: Any) -> str:
    given = value.get("kind", "scenarios") if isinstance(value, dict) else getattr(value, "kind", "scenarios")
    return str(given)


AnySuite = Annotated[
    Annotated[Suite, Tag("scenarios")]
    | Annotated[CollectiveSuite, Tag("collectives")]
    | Annotated[GenerationSuite, Tag("generations")]
    | Annotated[RequestSuite, Tag("requests")],
    Discriminator(_suite_kind),
]


FILE_KINDS: dict[str, Any] = {
    "scenario": Scenario,
    "topology": TopologySpec,
    "chip": ChipSpec,
    "link": LinkSpec,
    "nccl": NcclSpec,
    "model": Model,
    "suite": AnySuite,
}
"""Kinds of file a user writes, and the model each must satisfy."""
