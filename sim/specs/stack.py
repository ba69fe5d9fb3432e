"""Software stacks: efficiencies and overheads of a software on a kind of chip.

A chip's file has physics alone. A stack's file has what is common to all chips, and what it reaches on each of them.
"""

from typing import Literal

from sim.specs.algorithms import LoopForm
from sim.specs.base import Count, Multiple, Name, Number, Strict
from sim.specs.experts import ExchangeKernel, ExpertsLayout, Scheme
from sim.specs.quantities import Bandwidth, Duration, Fraction, Sourced


class MultimemTimes(Strict):
    """Rates of kernels on multicast memory (multimem): the switch sums what they load, and passes on what they store.

    Their fixed time is `collective_overhead`.
    """

    blocks: Count = 8
    """Thread blocks, each of which holds a multiprocessor."""
    block_rate: Bandwidth | None = None
    """Bytes per second that a thread block moves through its chip's port. Default: all that the port carries."""
    load_share: Fraction = 1.0
    """Share of the port's bandwidth that loads of sums reach, with enough blocks."""
    share: Fraction = 1.0
    """Share of the port's bandwidth that loads of sums and stores to all chips together reach, with enough blocks."""


class Software(Strict):
    """Constants of a software on one kind of chip. Defaults are ideal: a share of 1, a time of 0."""

    elementwise: Literal["fused", "kernel"] = "fused"
    """Norms, activations and adds are fused into their neighbours (a compiler), or are separate kernels. So is then the
    add of a matmul's product to another, or to the stream, before chips sum them."""
    row_matmul: Literal["library", "compiled"] = "library"
    """A matmul of a single row is a library's, or is compiled with such an add, as by PyTorch's compiler with
    `coordinate_descent_tuning` (PyTorch 2.5, torch/_inductor/decomposition.py)."""
    attention: Literal["fused", "unfused"] = "unfused"
    """Attention scores stay on the chip (as in FlashAttention), or go through HBM as 32-bit numbers."""
    attention_format: Literal["activations", "f32"] = "activations"
    """Numbers that attention multiplies: the activations as they are, or as 32-bit floats on the vector units, as
    PyTorch's path of plain operations does."""
    attention_efficiency: Sourced[Fraction] | None = None
    """Reached share of the chip's peak in a fused attention kernel. Default: `matmul_efficiency`."""
    attention_overhead: Sourced[Duration] | None = None
    """Fixed time of a fused attention kernel. Default: `op_overhead`."""
    attention_overlap: Sourced[Fraction] | None = None
    """Share of the shorter of compute and memory times that overlaps the longer in a fused attention kernel. Default:
    `roofline_overlap`."""
    attention_startup: Sourced[Number] | None = None
    """Positions for which a tile of queries of a fused attention kernel takes as long as it takes to load its queries
    and to write its outputs. Tiles have 64 queries. Where multiprocessors would be idle, the positions of a tile are
    split between them, into parts of no fewer. Default: every shape reaches one rate."""
    attention_part: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Time to add up the outputs of every further part of split positions."""
    vector_efficiency: Sourced[Fraction] = Sourced[Fraction].model_construct(value=1.0)
    """Reached share of the chip's vector peak in products of 32-bit floats."""
    matmul_efficiency: Sourced[Fraction] = Sourced[Fraction].model_construct(value=1.0)
    """Reached share of the chip's peak in a large matmul."""
    matmul_balance: Sourced[Number] | None = None
    """Side of a square tile of a matmul's output that a multiprocessor takes as long to load the operands of as to
    multiply them at its peak: smaller tiles wait for their operands (`sim.lowering.costs`). Default: a matmul's rate
    does not depend on its shape."""
    matmul_split: Sourced[Count] | None = None
    """Parts into which a tile's sum may be cut at most. Default: 32."""
    hbm_efficiency: Sourced[Fraction] = Sourced[Fraction].model_construct(value=1.0)
    """Reached share of the chip's HBM bandwidth in a streaming read."""
    matmul_hbm_efficiency: Sourced[Fraction] | None = None
    """The same in a matmul of more than one row, whose weights are read in tiles. Default: `hbm_efficiency`."""
    dequantizing_hbm_efficiency: Sourced[Fraction] | None = None
    """The same in a matmul whose weights are smaller numbers than its activations, which it converts (weight-only
    quantization). Default: as in other matmuls."""
    l2_speed: Sourced[Number] | None = None
    """Reached rate of reads from the L2 cache, for expanded key-value heads, as a multiple of the chip's HBM bandwidth.
    Default: such reads take no time."""
    roofline_overlap: Sourced[Fraction] = Sourced[Fraction].model_construct(value=1.0)
    """Share of the shorter of an operation's compute and memory times that overlaps the longer; also of a piece
    of a looped matmul and the shard that is on its way meanwhile."""
    op_overhead: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Fixed time of every compute op beside its roofline time."""
    matmul_overhead: Sourced[Duration] | None = None
    """The same of a matmul of more than one row. Default: `op_overhead`."""
    graph_capture: bool = True
    """A captured graph launches the ops, else the host launches one after the other. `layout.graph_capture`
    overrides it."""
    launch: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Time the host needs to launch one op, where ops are not captured in a graph; it runs ahead of the chip."""
    step_overhead: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Time of the host at the end of every pass that gives a token: sampling kernels, synchronisation and what it does
    before it launches the next pass."""
    stream_wait: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Time from the end of a collective on a stream of its own to what waits for it on the compute stream."""
    compute_interference: Sourced[Multiple] = Sourced[Multiple].model_construct(value=0.0)
    """Multiprocessors whose rate a kernel limited by its FLOPs loses to every busy channel of a collective."""
    memory_interference: Sourced[Multiple] = Sourced[Multiple].model_construct(value=0.0)
    """The same of a kernel limited by its bytes."""
    channel_rate: Sourced[Bandwidth] | None = None
    """Bytes of a collective's array per second that keep one of its channels busy: as many are busy as the collective,
    left alone, needs. Default: all of them, also while they wait."""
    overlap: Literal["none", "collective_matmul"] = "none"
    """Layouts of a torus run as collective matmuls (Wang et al. 2023), unless `layout.overlap` is given."""
    loop_form: LoopForm | None = None
    """Form of these loops, unless the scenario gives one. Default: bidirectional_latency to decode, else
    bidirectional_throughput."""
    collective_matmul_efficiency: Sourced[Fraction] = Sourced[Fraction].model_construct(value=1.0)
    """Share of the FLOP/s of a matmul by itself that one reaches whose input is gathered, or whose output is scattered,
    over an axis of a torus, whether it is looped with that collective or not."""
    collective_axes: Literal["at_once", "one_by_one"] = "at_once"
    """An all-gather, reduce-scatter or all-to-all over several axes of a torus is one collective on all of
    them, or one after the other on each."""
    pipeline: Literal["sequential", "non_blocking", "blocking"] = "sequential"
    """Default of `layout.pipeline.schedule`."""
    multimem: Sourced[MultimemTimes] = Sourced[MultimemTimes].model_construct(value=MultimemTimes.model_construct())
    """Rates of the stack's own kernels on multicast memory."""
    exchange: dict[Literal["normal", "low_latency", "one_sided"], ExchangeKernel] = {}
    """Kernels that exchange tokens for their experts. Default: the links' latencies and bandwidths."""
    exchange_turns: Literal["by_sublayer", "five_stages"] = "by_sublayer"
    """Turns of micro-batches around low-latency kernels of exchange. by_sublayer: one micro-batch attends and sends its
    tokens, then the other, then each computes its experts. five_stages: projections, attention, dispatch beside shared
    experts, experts, receipt of their outputs, with one micro-batch two stages behind; kernels of the compute stream
    send and receive, each in half of the exchange's overhead, and adapters move the rows meanwhile (DeepSeek-V3
    inference system overview; SGLang)."""
    beside_exchange: Literal["all", "left"] = "all"
    """Multiprocessors of 8-bit matmuls of micro-batches that take turns around kernels of exchange which hold some: all
    of them, of which these kernels take theirs while they run, or all the time those that they leave (DeepGEMM's
    set_num_sms)."""
    dispatch: Scheme | None = None
    """Default of `layout.experts.dispatch`, where the layout names no kernel. Default: the kernel's."""
    quantize: Literal["fused", "kernel"] = "fused"
    """Inputs of matmuls are quantised by the kernels before these, or by kernels of their own."""
    permute: Literal["fused", "kernel"] = "fused"
    """Rows that are sent once per chip are copied to each of their experts there, and the outputs of a token's experts
    are added up, by the kernels before and after, or by kernels of their own."""
    grouped_efficiency: Sourced[Fraction] | None = None
    """Reached share of the chip's peak in a large grouped matmul of experts. Default: `matmul_efficiency`."""
    grouped_overhead: Sourced[Duration] | None = None
    """Fixed time of a grouped matmul of experts. Default: that of a matmul."""
    collective_overhead: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Fixed launch time of every collective that is not of a library with times of its own."""
    collective_step: Sourced[Duration] = Sourced[Duration].model_construct(value=0.0)
    """Time of every message of a collective on a torus to start and to be seen, besides its link's latency. In
    an all-to-all a chip starts the messages to all others of an axis one after the other."""

    def named_scheme(self, layout: ExpertsLayout) -> Scheme | None:
        """Returns the messages of a token that a layout or this stack names; None for those of the kernel."""
        return layout.dispatch or (None if layout.kernel else self.dispatch)


class StackSpec(Software):
    """A stack on the chip of one machine."""

    name: Name
    description: str = ""
    chip: Name | None = None
    """Chip of these constants; None for any chip."""
    fitted_on: str = ""
    """Measurements that the fitted constants were fitted to."""


class StackChip(Software):
    """Constants of a stack on one chip."""

    same_as: str | None = None
    """`CHIP` of this file or `STACK/CHIP`, whose values stand for what is not given here."""
    source: str | None = None
    """Reason why those values are used for this chip."""
    fitted_on: str = ""
    """Measurements that the fitted constants were fitted to."""


class StackFile(Software):
    """File of a stack: constants common to all chips, and constants per chip."""

    name: Name
    description: str = ""
    source: str | None = None
    chips: dict[Name, StackChip] | None = None
    """Constants by the name of the chip. Default: the same for any chip."""
