"""One accelerator of a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sim.specs import ChipSpec, StackSpec, TilesSpec


@dataclass(frozen=True, slots=True)
class Chip:
    """Rates and sizes of one accelerator, SI units, efficiencies applied where it says `effective`."""

    name: str
    peak_flops: Mapping[str, float]
    """Matmul rate per operand type, FLOP/s."""
    matmul_efficiency: float
    hbm_bandwidth: float
    """Bytes/s."""
    hbm_efficiency: float
    roofline_overlap: float
    """Share of the shorter of the times of FLOPs and bytes that passes under the longer."""
    matmul_hbm_efficiency: float
    """Of matmuls of more than one row."""
    l2_bandwidth: float
    """Bytes/s, as reached."""
    hbm_capacity: float
    """Bytes."""
    on_chip_bytes: float | None
    """Memory that holds activations between operations; None where these go through HBM."""
    collective_matmul_efficiency: float
    """Share of the rate of a matmul by itself that one with a collective of activations reaches."""
    matmul_tiles: TilesSpec | None
    op_overhead_s: float
    channel_interference: float
    """Share of its compute rate that it loses to every channel of a collective in progress."""
    stream_wait_s: float
    launch_s: float
    fuses_elementwise: bool
    fuses_attention: bool

    @classmethod
    def of(cls, spec: ChipSpec, stack: StackSpec) -> Chip:
        """The chip as a stack reaches it."""
        return cls(
            name=spec.name,
            peak_flops={dtype: rate.value for dtype, rate in spec.peak.items()},
            matmul_efficiency=stack.matmul_efficiency.value,
            hbm_bandwidth=spec.hbm_bandwidth.value,
            hbm_efficiency=stack.hbm_efficiency.value,
            roofline_overlap=stack.roofline_overlap.value,
            matmul_hbm_efficiency=(stack.matmul_hbm_efficiency or stack.hbm_efficiency).value,
            l2_bandwidth=stack.l2_bandwidth.value if stack.l2_bandwidth else math.inf,
            hbm_capacity=spec.hbm_capacity.value,
            on_chip_bytes=spec.on_chip_memory.value if spec.on_chip_memory else None,
            collective_matmul_efficiency=stack.collective_matmul_efficiency.value,
            matmul_tiles=stack.matmul_tiles.value if stack.matmul_tiles else None,
            op_overhead_s=stack.op_overhead.value,
            fuses_elementwise=stack.elementwise == "fused",
            channel_interference=stack.channel_interference.value if stack.channel_interference else 0.0,
            stream_wait_s=stack.stream_wait.value,
            launch_s=stack.launch.value,
            fuses_attention=stack.attention == "fused",
        )

    @property
    def in_collective_matmuls(self) -> Chip:
        """The chip as matmuls find it whose input is gathered or whose output is scattered over an axis of a torus."""
        return replace(self, matmul_efficiency=self.collective_matmul_efficiency * self.matmul_efficiency)
