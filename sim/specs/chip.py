"""Chips and the number formats they compute in."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.specs.base import Count, Name, Strict
from sim.specs.quantities import Bandwidth, Duration, Fraction, Rate, Size, Sourced

Dtype = Literal["bf16", "fp16", "int8"]
DTYPE_BYTES: dict[str, int] = {"bf16": 2, "fp16": 2, "int8": 1}


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
    roofline_overlap: Sourced[Fraction] = Sourced[Fraction].model_validate(1.0)
    """Share of the shorter of an operation's two times, FLOPs and bytes, that passes under the longer."""
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
