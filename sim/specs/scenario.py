"""One experiment."""

from collections.abc import Mapping
from itertools import permutations
from math import prod
from typing import Annotated, Self

from msgspec.structs import replace
from pydantic import Field, ValidationError, model_validator

from sim.errors import guess
from sim.specs import plugins as plugin_table
from sim.specs.algorithms import LoopsAndAlgorithms
from sim.specs.base import Name, Strict, wrong
from sim.specs.engine import EngineSpec
from sim.specs.experts import Kernel
from sim.specs.held import find_excess, held_by_layout, held_by_stack
from sim.specs.kv_transfer import check_transfer
from sim.specs.layout import IN_PARTS, UNSUMMED, LayoutSpec, Mesh, Overlap, PhaseLayout
from sim.specs.layout_uses import UsesSpec
from sim.specs.memory_pool import MemoryPoolSpec
from sim.specs.mesh import MeshSpec, check_mesh, part_of
from sim.specs.model import Model
from sim.specs.padding import PaddingSpec
from sim.specs.perturb import PerturbSpec
from sim.specs.pipeline import PipelineSpec
from sim.specs.quantities import Duration, Fraction, Rate, Sourced
from sim.specs.stack import StackSpec
from sim.specs.sweep import FigureSpec, SweepSpec, check_figure
from sim.specs.topology import TopologySpec
from sim.specs.uses import PRESETS, Uses, dividing_axes
from sim.specs.workload import Workload


class Reference(Strict):
    """A published measurement of this scenario."""

    latency: Annotated[Duration, Field(gt=0)]
    """Published latency of all steps."""
    tolerance: Fraction
    """Largest relative error that the project's tests accept."""
    source: str
    """Paper and table, or document."""


class Scenario(Strict):
    """One experiment: a model, on a machine, under a workload, partitioned by a layout."""

    name: Name
    """Name of the scenario and of the folder of its results."""
    description: str = ""
    """One line for `sim list`."""
    topology: TopologySpec
    """A machine: a shipped name, a path or a mapping."""
    model: Model
    """A model: a shipped name, a path or a mapping."""
    workload: Workload
    """Work that the model is asked to do."""
    layout: LayoutSpec
    """Partitioning of weights, activations and cache, and overlap."""
    mesh: MeshSpec | None = None
    """Axes by which the layout splits tensors. Default: those of a torus; else those that `layout.mesh` makes."""
    stack: StackSpec = StackSpec.model_construct(name="ideal")
    """The software; in a file its name. Default: the machine's."""
    plugins: list[str] = []
    """Python files, as seen from this one, entry points or modules that add layouts, collectives and more."""
    presets: dict[Name, UsesSpec] = {}
    """Layouts of one's own by name, for `layout.ffn`."""
    collectives: LoopsAndAlgorithms = {}
    """Algorithm per collective, over the topology's defaults; collective_matmul: the form of its loops."""
    padding: PaddingSpec | None = None
    """Padding of a prefill. Default: none."""
    memory_pool: MemoryPoolSpec | None = None
    """Default: all weights in the chips' own memory."""
    perturb: PerturbSpec | None = None
    """Default: all chips and links are as their files say."""
    engine: EngineSpec = EngineSpec.model_construct()
    """Parts to simulate and shortcuts to use; figures are the same with and without shortcuts."""
    reference: Reference | None = None
    """A published latency to stand beside the simulated one."""
    sweep: SweepSpec | None = None
    """Every combination of these is a run of its own, by `sim sweep`."""
    figure: FigureSpec | None = None
    """Figure that `sim sweep` draws."""

    @model_validator(mode="after")
    def _preset_is_known(self) -> Self:
        name, known = self.layout.preset, (*PRESETS, *self.presets)
        if name and name not in known:
            hint = guess(name, known)
            raise wrong("layout", "ffn", rule=f"must be one of {', '.join(known)}", got=name, hint=hint)
        return self

    @model_validator(mode="after")
    def _plugins_are_named(self) -> Self:
        """What a scenario uses does not depend on which scenarios were loaded before."""
        layout = self.layout
        pipeline = layout.pipeline.schedule if layout.pipeline else ""
        used: list[tuple[tuple[str, ...], plugin_table.Kind, str]] = [
            (("layout", "ffn"), "preset", layout.preset),
            *(
                (("layout", phase, "ffn"), "preset", getattr(layout, phase).ffn or "")
                for phase in ("prefill", "decode")
            ),
            (("layout", "residual"), "residual_scheme", layout.residual or ""),
            (("layout", "pipeline", "schedule"), "pipeline_schedule", pipeline),
            *((("collectives", *pair[:1]), "collective", " ".join(pair)) for pair in self.collectives.items()),
        ]
        for field, kind, name in used:
            plugin = plugin_table.owner(kind, name)
            if kind == "preset" and name in self.presets:
                continue
            if plugin and plugin.name not in ("", *self.plugins):
                rule = f"is of a plugin that the scenario does not name, {plugin.label}"
                raise wrong(*field, rule=rule, got=name.split()[-1], hint=f"plugins: [{plugin.label}]")
        return self

    @model_validator(mode="after")
    def _figure_shows_the_sweep(self) -> Self:
        if self.figure is not None:
            check_figure(self.figure, self.sweep)
        return self

    @model_validator(mode="after")
    def _machine_can(self) -> Self:
        chip, dtype = self.topology.chip, self.workload.activations
        if self.stack.chip not in (None, chip.name):
            rule = f"must be of the machine's chip, {chip.name}"
            raise wrong("stack", "chip", rule=rule, got=self.stack.chip)
        if dtype not in chip.peak:
            rule = f"must be a type that chip '{chip.name}' has a peak for"
            raise wrong("workload", "activations", rule=rule, got=dtype, hint=f"it has {', '.join(sorted(chip.peak))}")
        if dtype == "nvfp4":
            rule = "must have more bits than inputs of matmuls need: norms and sums compute in it"
            raise wrong("workload", "activations", rule=rule, got=dtype, hint="set 'workload.operands'")
        for field in ("operands", "expert_operands"):
            operands = getattr(self.workload, field)
            if operands is not None and not chip.multiplies(operands):
                rule = f"must be a type that chip '{chip.name}' multiplies"
                raise wrong("workload", field, rule=rule, got=operands, hint=f"it has {', '.join(sorted(chip.peak))}")
        mesh, chips = self.layout.mesh, self.topology.chip_count
        if self.topology.lines:
            if mesh.tensor is not None:
                name = next(iter(self.topology.lines))
                hint = f"mesh: {{{name}: {{of: {name}, size: ...}}, ...}}"
                raise wrong("layout", "mesh", "tensor", rule="is not supported on a torus", got=mesh.tensor, hint=hint)
        elif (mesh.tensor or 1) * mesh.pipeline > chips:
            name = "tensor" if mesh.pipeline == 1 else "pipeline"
            rule = f"must be at most the machine's {chips} chips"
            rule = rule if mesh.pipeline == 1 else f"tensor x pipeline {rule}"
            raise wrong("layout", "mesh", name, rule=rule, got=(mesh.tensor or 1) * mesh.pipeline)
        return self

    @model_validator(mode="after")
    def _kernels_fit_on_the_chip(self) -> Self:
        of_stack = ((("stack", *field), count) for field, count in held_by_stack(self.stack))
        excess = find_excess(self.topology.chip, (*held_by_layout(self.layout.experts), *of_stack))
        if excess is not None:
            raise wrong(*excess.field, rule=excess.rule, got=excess.got, hint=excess.hint)
        return self

    @model_validator(mode="after")
    def _mesh_is_on_the_machine(self) -> Self:
        if self.mesh is not None:
            if self.layout.mesh != Mesh():
                raise wrong("mesh", rule="must be left out where layout.mesh is given", hint="leave one out")
            check_mesh(self.mesh, self.topology)
        return self

    @model_validator(mode="after")
    def _tensor_divides(self) -> Self:
        """Heads are padded so that chips divide them, and still have to share the key-value heads alike."""
        own = self.layout.uses or self.mesh or self.layout.preset in self.presets
        if own or self.topology.lines:
            return self
        at = self.uses({"chips": 1})
        if not (at.heads and at.d_ff):
            return self
        model, most = self.model, self.topology.chip_count // self.layout.mesh.pipeline
        chips = self.layout.mesh.tensor or most

        def works(count: int) -> bool:
            padded = -(-model.computed_heads // count) * count
            return model.d_ff % count == 0 and (model.kv_heads == model.heads or padded % model.kv_heads == 0)

        if not works(chips):
            near = [next(filter(works, range(chips, 0, -1))), next(filter(works, range(chips, most + 1)), None)]
            hint = f"{' or '.join(str(count) for count in near if count)} would do"
            heads = "" if model.kv_heads == model.heads else f"{model.computed_heads} heads and "
            raise wrong("layout", "mesh", "tensor", rule=f"must divide {heads}d_ff, {model.d_ff}", got=chips, hint=hint)
        return self

    @model_validator(mode="after")
    def _padding_fits(self) -> Self:
        if self.padding is None:
            return self
        given, workload = self.padding.real_lengths, self.workload
        if workload.prompt is None:
            raise wrong("padding", rule="requires a workload with prompts", got=workload.phase)
        if isinstance(given, list):
            if len(given) != workload.batch:
                rule = f"must be the length of each of the {workload.batch} sequences"
                raise wrong("padding", "real_lengths", rule=rule, got=len(given))
            if max(given) > workload.prompt:
                rule = f"must be at most workload.prompt, {workload.prompt}"
                raise wrong("padding", "real_lengths", rule=rule, got=max(given))
        if self.padding.eliminate and (self.layout.sequence_parallel or self.layout.overlap in IN_PARTS):
            rule = "is not supported with sequence_parallel, micro_batches or token_halves"
            raise wrong("padding", "eliminate", rule=rule, hint="layout.sequence_parallel: false, layout.overlap: none")
        return self

    @model_validator(mode="after")
    def _norm_can_be_fused(self) -> Self:
        if self.layout.fused_norm and self.stack.elementwise == "fused":
            rule = "is of stacks that run norms as kernels of their own"
            raise wrong("layout", "fused_norm", rule=rule, got=self.stack.name)
        return self

    @model_validator(mode="after")
    def _chunk_fits(self) -> Self:
        if self.workload.chunk is None:
            return self
        if self.pipeline is not None:
            raise wrong("workload", "chunk", rule="is not supported with stages of a pipeline", hint="one stage")
        if self.overlap in IN_PARTS:
            rule = f"is not supported with {self.overlap}"
            raise wrong("workload", "chunk", rule=rule, hint="another layout.overlap")
        return self

    @model_validator(mode="after")
    def _transfer_fits(self) -> Self:
        if self.layout.kv_transfer is not None:
            others = {"layout.pipeline": self.pipeline, "padding.eliminate": self.packed_rows}
            check_transfer(self.layout.kv_transfer, self.workload.phase, self.mesh, others)
        return self

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        stages, pipeline = self.layout.mesh.pipeline, self.layout.pipeline
        if stages > self.layers:
            rule = f"must be at most the number of layers, {self.layers}"
            raise wrong("layout", "mesh", "pipeline", rule=rule, got=stages)
        if pipeline and pipeline.arrivals and pipeline.arrivals.in_flight is None and self.workload.phase != "prefill":
            rule = "must be in_flight for decode steps, which start when the one before has been answered"
            hint = "arrivals: {in_flight: 4}"
            raise wrong("layout", "pipeline", "arrivals", rule=rule, got=self.workload.phase, hint=hint)
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
            rule = "must be parallel or no_communication for a parallel block"
            raise wrong("layout", "residual", rule=rule, got=self.layout.residual, hint="layout.block: serial")
        if self.layout.overlap in (*IN_PARTS, "chunked_matmul") and self.residual == "parallel":
            rule = f"'{self.layout.overlap}' requires a serial block"
            raise wrong("layout", "overlap", rule=rule, got=self.layout.overlap, hint="layout.block: serial")
        if self.layout.residual in UNSUMMED and self.layout.preset in PRESETS:
            at = self.uses(dict.fromkeys("xyz", 1))
            if not (at.whole and at.plain and at.heads == at.d_ff and self.layout.attention == "heads"):
                rule = "requires a layout in which every chip holds the full residual stream"
                hint = "a scheme that makes all its sums, such as ladder"
                raise wrong("layout", "residual", rule=rule, got=self.layout.residual, hint=hint)
        mesh, blocking = self.layout.mesh, self.pipeline is not None and self.pipeline.schedule == "blocking"
        unsummed = self.layout.residual in ("desync4", "no_communication")
        if unsummed and blocking and mesh.pipeline > 1 and (mesh.tensor or 1) > 1:
            rule = (
                "is not supported with schedule 'blocking', which sends a share of the residual stream from each chip"
            )
            hint = "pipeline: {schedule: non_blocking}"
            raise wrong("layout", "residual", rule=rule, got=self.layout.residual, hint=hint)
        if self.layout.hybrid and self.layout.hybrid.ladder_layers > self.model.layers:
            rule = f"must be at most the model's {self.model.layers} layers"
            got = self.layout.hybrid.ladder_layers
            raise wrong("layout", "hybrid", "ladder_layers", rule=rule, got=got)
        return self

    def uses(self, lengths: Mapping[str, int]) -> Uses:
        """Returns the uses of the mesh axes, by their lengths.

        A preset whose matmuls read the whole stream, and that deals heads and d_ff alike, takes the axes in the order
        that splits the most key-value heads.

        Raises:
            InputError: uses of one's own that are not of these axes.
        """
        own, axes = self.layout.uses or self.presets.get(self.layout.preset), tuple(lengths)
        at = own.over(axes) if own else PRESETS[self.layout.preset](axes)
        at = at if self.model.experts else replace(at, experts=())
        if not own and at.plain and at.heads == at.d_ff and at.tokens in ((), at.heads):
            split = {order: dividing_axes(order, self.model.kv_heads, lengths) for order in permutations(at.heads)}
            order = max(split, key=lambda order: prod(lengths[axis] for axis in split[order]))
            at = replace(at, heads=order, d_ff=order, tokens=order if at.tokens else ())
        return replace(at, tokens=at.summed) if self.layout.sequence_parallel else at

    @property
    def part(self) -> TopologySpec:
        """Of a torus the part that the mesh uses, whose chips are numbered by themselves; any other machine whole."""
        return part_of(self.topology, self.mesh)

    @property
    def layers(self) -> int:
        """Layers simulated."""
        return self.model.layers if self.engine.layers == "all" else min(self.engine.layers, self.model.layers)

    @model_validator(mode="after")
    def _pool_fits(self) -> Self:
        if self.memory_pool is None:
            return self
        every, stages = self.memory_pool.offload_every, self.layout.mesh.pipeline
        given = self.pipeline.stages if self.pipeline else None
        for layers in given or [self.layers // stages, -(-self.layers // stages)]:
            if layers % every:
                rule = f"must divide the layers{' of every stage' if stages > 1 else ''}, {layers}"
                raise wrong("memory_pool", "offload_every", rule=rule, got=every)
        return self

    @model_validator(mode="after")
    def _phases_fit(self) -> Self:
        """Each phase, with what it does differently, obeys the rules of a scenario of that phase alone."""
        for workload in self.workload.phases:
            if getattr(self.layout, workload.phase) == PhaseLayout.model_construct():
                continue
            try:
                layout = self.layout.during(workload.phase)
                alone = {"workload": workload, "layout": layout, "reference": None, "sweep": None, "figure": None}
                self.model_validate({**dict(self), **alone})
            except ValidationError as error:
                first = error.errors()[0]
                context = first.get("ctx", {"rule": first["msg"], "field": first["loc"], "got": first["input"]})
                rule = f"{'.'.join(map(str, context['field']))}: {context['rule']}"
                hint = context.get("hint", "")
                raise wrong("layout", workload.phase, rule=rule, got=context["got"], hint=hint) from None
        return self

    @property
    def parameters(self) -> float:
        """Parameters of the simulated layers, as MFU counts them, with the same share of embedding and LM head."""
        return self.model.parameters * self.layers / self.model.layers

    @property
    def matmul_peak(self) -> Sourced[Rate]:
        """Peak of the chip at which the matmuls run, FLOP/s: the one that MFU is a share of."""
        return self.topology.chip.peak[self.workload.operand_format]

    @property
    def tokens(self) -> int:
        """Tokens processed in all steps of all sequences, padding not counted: those of MFU and tokens/s."""
        if self.padding is None or self.workload.prompt is None:
            return self.workload.tokens
        real = sum(self.padding.lengths(self.workload.batch, self.workload.prompt))
        return real + self.workload.batch * (self.workload.generate or 0)

    @property
    def proposals(self) -> int:
        """Tokens that a module of the model proposes for each sequence in every step."""
        speculation = self.workload.speculation
        return speculation.draft if speculation and self.model.mtp else 0

    @property
    def packed_rows(self) -> int | None:
        """Real tokens of a prefill's batch, where padding is left out."""
        if self.padding is None or not self.padding.eliminate or self.workload.phase != "prefill":
            return None
        return sum(self.padding.lengths(self.workload.batch, self.workload.tokens_per_step))

    @property
    def pipeline(self) -> PipelineSpec | None:
        """The pipeline; None where there is but one stage and nothing said about requests."""
        staged = self.layout.mesh.pipeline > 1 or (self.layout.uses is not None and bool(self.layout.uses.stage))
        if self.layout.pipeline or not staged:
            return self.layout.pipeline
        return PipelineSpec(schedule=self.stack.pipeline, requests=1)

    @property
    def graph_capture(self) -> bool:
        """True if a captured graph launches the ops."""
        own = self.layout.graph_capture
        return self.stack.graph_capture if own is None else own

    @property
    def exchange_kernel(self) -> Kernel:
        """Kernels of dispatch and combine: the layout's, else those for the phase, or what the stack has instead."""
        if self.layout.experts.kernel is not None:
            return self.layout.experts.kernel
        usual: Kernel = "low_latency" if self.workload.phase == "decode" else "normal"
        return usual if usual in self.stack.exchange else next(iter(self.stack.exchange), usual)

    @property
    def in_stages(self) -> bool:
        """True if micro-batches take turns in five stages around the exchange of tokens, which kernels of the compute
        stream send and receive."""
        staged = self._turns_around_kernels and self.stack.exchange_turns == "five_stages"
        return staged and self.exchange_kernel == "low_latency"

    @property
    def kept_for_exchange(self) -> int:
        """Multiprocessors that 8-bit matmuls of micro-batches leave to kernels of dispatch and combine all the time."""
        if not self._turns_around_kernels or self.stack.beside_exchange == "all":
            return 0
        kernel = self.stack.exchange[self.exchange_kernel]
        own = max(kernel.dispatch.value.multiprocessors, kernel.combine.value.multiprocessors)
        return (self.layout.experts.multiprocessors or own) if own else 0

    @property
    def _turns_around_kernels(self) -> bool:
        """True if micro-batches take turns, and kernels of the stack would send their tokens."""
        gathers = self.stack.named_scheme(self.layout.experts) == "all_gather"
        return self.overlap == "micro_batches" and self.exchange_kernel in self.stack.exchange and not gathers

    @property
    def residual(self) -> str:
        """Name of the residual scheme."""
        return self.layout.residual or ("parallel" if self.block == "parallel" else "standard")

    @property
    def overlap(self) -> Overlap:
        """Overlap of the layout if given, else of the stack."""
        return self.layout.overlap or self.stack.overlap

    @property
    def communication_streams(self) -> int:
        """Streams on which collectives run, none where they run in order with all operations."""
        default = "compute_stream" if self.topology.lines else "own_stream"
        return ("compute_stream", "own_stream", "two_streams").index(self.layout.communication or default)

    @property
    def block(self) -> str:
        """`parallel` or `serial`."""
        return self.layout.block or self.model.block

    @property
    def phases(self) -> tuple[Self, ...]:
        """One scenario per phase, prefill or decode, each with its own layout; what was published is of all phases."""
        phases = self.workload.phases
        reference = self.reference if len(phases) == 1 else None
        return tuple(
            self.model_copy(update={"workload": each, "layout": self.layout.during(each.phase), "reference": reference})
            for each in phases
        )
