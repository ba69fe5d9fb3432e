"""Software stacks: what a software reaches on a kind of chip, and what it takes to start things.

A chip's file has physics alone. A stack's file has what is common to all chips, and what it reaches on each of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.specs.algorithms import LoopForm
from sim.specs.base import Count, Name, Strict
from sim.specs.quantities import Bandwidth, Duration, Fraction, Sourced


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


class Software(Strict):
    """Constants of a software on one kind of chip. What is not given is ideal: a share of 1, a time of 0."""

    elementwise: Literal["fused", "kernel"] = "fused"
    """Whether norms, activations and residual adds ride in their neighbours (a fusing compiler) or are own ops."""
    attention: Literal["fused", "unfused"] = "unfused"
    """Whether attention scores stay on the chip (as in FlashAttention) or go through HBM as 32-bit numbers."""
    matmul_efficiency: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Reached share of the chip's peak in a large matmul."""
    matmul_tiles: Sourced[TilesSpec] | None = None
    """Default: a matmul's rate does not depend on its shape."""
    hbm_efficiency: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Reached share of the chip's HBM bandwidth in a streaming read."""
    matmul_hbm_efficiency: Sourced[Fraction] | None = None
    """The same in a matmul of more than one row, whose weights are read in tiles. Default: `hbm_efficiency`."""
    l2_bandwidth: Sourced[Bandwidth] | None = None
    """Reached rate of reads from the L2 cache, for expanded key-value heads. Default: such reads take no time."""
    roofline_overlap: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Share of the shorter of an operation's two times, FLOPs and bytes, that passes under the longer; and of a piece
    of a looped matmul and the shard that is on its way meanwhile."""
    op_overhead: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Fixed time of every compute op beside its roofline time."""
    launch: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Time the host needs to launch one op, where ops are not captured in a graph; it runs ahead of the chip."""
    stream_wait: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Time from the end of a collective on a stream of its own to what waits for it on the compute stream."""
    channel_interference: Sourced[Fraction] | None = None
    """Share of its compute rate that the chip loses to every channel of a collective in progress: a channel holds
    compute units, also while it waits, and takes memory bandwidth. Default: none."""
    overlap: Literal["none", "collective_matmul"] = "none"
    """Whether the layouts of a torus run as loops of matmuls and shards on their way, unless `layout.overlap` says."""
    loop_form: LoopForm | None = None
    """Form of these loops, unless the scenario says. Default: bidirectional_latency to decode, else
    bidirectional_throughput."""
    collective_matmul_efficiency: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Share of the FLOP/s of a matmul by itself that one reaches whose input is gathered, or whose output is scattered,
    over an axis of a torus, whether it is looped with that collective or not."""
    collective_axes: Literal["at_once", "one_by_one"] = "at_once"
    """Whether an all-gather, reduce-scatter or all-to-all over several axes of a torus is one collective on all of
    them, or one after the other on each."""
    collective_overhead: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Fixed launch time of every collective that is not of a library with times of its own."""
    collective_step: Sourced[Duration] = Sourced[Duration].model_validate("0 s")
    """Of collectives on a torus: time that every message takes to start and to be seen, beside its link's latency. In
    an all-to-all a chip starts the messages to all others of an axis one after the other."""


class StackSpec(Software):
    """A stack on the chip of one machine."""

    name: Name
    description: str = ""
    chip: Name | None = None
    """Whose constants these are; None where they are of any chip."""
    fitted_on: str = ""
    """Measurements that the fitted constants were fitted to."""
    carried_from: str = ""
    """`CHIP` or `STACK/CHIP` whose constants stand for those of this chip."""


class StackChip(Software):
    """What a stack's file says of one chip."""

    same_as: str | None = None
    """`CHIP` of this file or `STACK/CHIP`, whose values stand for what is not given here."""
    source: str | None = None
    """Why those values may stand for this chip's."""
    fitted_on: str = ""
    """Measurements that the fitted constants were fitted to."""


class StackFile(Software):
    """A stack, as its file says it: what is common to all chips, and what it reaches on each."""

    name: Name
    description: str = ""
    source: str | None = None
    chips: dict[Name, StackChip] | None = None
    """By the name of the chip. Default: the same for any chip."""
