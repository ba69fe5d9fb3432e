"""One accelerator of a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sim.specs import ChipSpec, StackSpec


@dataclass(frozen=True, slots=True)
class Chip:
    """Rates and sizes of one accelerator, SI units, efficiencies applied where it says `effective`."""

    name: str
    peak_flops: Mapping[str, float]
    """Matmul rate per operand type, FLOP/s."""
    matmul_efficiency: float
    vector_flops: float
    """FLOP/s of 32-bit products on the vector units, as reached; 0 where the chip's file does not say."""
    hbm_bandwidth: float
    """Bytes/s."""
    hbm_efficiency: float
    roofline_overlap: float
    """Share of the shorter of the times of FLOPs and bytes that passes under the longer."""
    matmul_hbm_efficiency: float
    """Of matmuls of more than one row."""
    dequantizing_hbm_efficiency: float
    """Of matmuls that convert their weights; 0 where as of other matmuls."""
    l2_bandwidth: float
    """Bytes/s, as reached."""
    hbm_capacity: float
    """Bytes."""
    multiprocessors: int
    """0 for none."""
    matmul_balance: float
    """Side of a square tile whose operands take as long to load as to multiply at the peak; 0 where unknown."""
    matmul_split: int
    """Parts into which a tile's sum may be cut at most; 0 for as many as are of use."""
    on_chip_bytes: float | None
    """Memory that holds activations between operations; None where these go through HBM."""
    collective_matmul_efficiency: float
    """Share of the rate of a matmul by itself that one with a collective of activations reaches."""
    op_overhead_s: float
    matmul_overhead_s: float
    """Of matmuls of more than one row."""
    interference: tuple[float, float]
    """Multiprocessors whose rate a kernel limited by FLOPs, and one by bytes, loses to every busy channel."""
    channel_rate: float
    """Bytes/s of a collective that keep a channel busy; 0 where all are."""
    stream_wait_s: float
    launch_s: float
    step_overhead_s: float
    """Of the host, at the end of a pass that gives a token."""
    fuses_elementwise: bool
    fuses_attention: bool
    attends_in_f32: bool
    """Whether attention multiplies 32-bit floats on the vector units."""

    @classmethod
    def of(cls, spec: ChipSpec, stack: StackSpec) -> Chip:
        """The chip as a stack reaches it."""
        converts = stack.dequantizing_hbm_efficiency
        return cls(
            name=spec.name,
            peak_flops={dtype: rate.value for dtype, rate in spec.peak.items()},
            matmul_efficiency=stack.matmul_efficiency.value,
            vector_flops=spec.vector_peak.value * stack.vector_efficiency.value if spec.vector_peak else 0.0,
            hbm_bandwidth=spec.hbm_bandwidth.value,
            hbm_efficiency=stack.hbm_efficiency.value,
            roofline_overlap=stack.roofline_overlap.value,
            matmul_hbm_efficiency=(stack.matmul_hbm_efficiency or stack.hbm_efficiency).value,
            dequantizing_hbm_efficiency=converts.value if converts else 0.0,
            l2_bandwidth=spec.hbm_bandwidth.value * stack.l2_speed.value if stack.l2_speed else math.inf,
            hbm_capacity=spec.hbm_capacity.value,
            multiprocessors=spec.multiprocessors.value if spec.multiprocessors else 0,
            matmul_balance=stack.matmul_balance.value if stack.matmul_balance else 0.0,
            matmul_split=stack.matmul_split.value if stack.matmul_split else 0,
            on_chip_bytes=spec.on_chip_memory.value if spec.on_chip_memory else None,
            collective_matmul_efficiency=stack.collective_matmul_efficiency.value,
            op_overhead_s=stack.op_overhead.value,
            matmul_overhead_s=(stack.matmul_overhead or stack.op_overhead).value,
            fuses_elementwise=stack.elementwise == "fused",
            interference=(stack.compute_interference.value, stack.memory_interference.value),
            channel_rate=stack.channel_rate.value if stack.channel_rate else 0.0,
            stream_wait_s=stack.stream_wait.value,
            launch_s=stack.launch.value,
            step_overhead_s=stack.step_overhead.value,
            fuses_attention=stack.attention == "fused",
            attends_in_f32=stack.attention_format == "f32",
        )

    @property
    def in_collective_matmuls(self) -> Chip:
        """The chip as matmuls find it whose input is gathered or whose output is scattered over an axis of a torus."""
        return replace(self, matmul_efficiency=self.collective_matmul_efficiency * self.matmul_efficiency)
