"""One accelerator of a machine."""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from sim.specs import ChipSpec, StackSpec


class Chip(Struct, frozen=True):
    """Rates and sizes of one accelerator in SI units."""

    name: str
    peak_flops: Mapping[str, float]
    """Matmul rate per operand type, FLOP/s."""
    matmul_efficiency: float
    vector_flops: float
    """FLOP/s of 32-bit products that the vector units reach; 0 if unknown."""
    hbm_bandwidth: float
    """Bytes/s."""
    hbm_efficiency: float
    roofline_overlap: float
    """Share of the shorter of compute and memory time that overlaps the longer."""
    matmul_hbm_efficiency: float
    """HBM efficiency of matmuls of more than one row."""
    dequantizing_hbm_efficiency: float
    """HBM efficiency of matmuls that convert their weights; 0 if the same as of other matmuls."""
    l2_bandwidth: float
    """Bytes/s that are reached."""
    hbm_capacity: float
    """Bytes."""
    multiprocessors: int
    """Number of multiprocessors, 0 if the chip has none."""
    matmul_balance: float
    """Side of a square tile whose operands take as long to load as to multiply at the peak; 0 if unknown."""
    matmul_split: int
    """Largest number of parts into which a tile's sum may be cut; 0 for no limit."""
    on_chip_bytes: float | None
    """Memory that holds activations between operations; None if they go through HBM."""
    collective_matmul_efficiency: float
    """Rate of a matmul looped with a collective of activations, as a share of its rate alone."""
    op_overhead_s: float
    matmul_overhead_s: float
    """Overhead of matmuls of more than one row."""
    grouped_efficiency: float
    """Reached share of the peak in grouped matmuls of experts."""
    grouped_overhead_s: float
    """Overhead of grouped matmuls of experts."""
    attention_efficiency: float
    """Reached share of the peak in fused attention."""
    attention_overhead_s: float
    attention_overlap: float
    """Share of the shorter of compute and memory time that overlaps the longer in fused attention."""
    attention_startup: float
    """Positions that a tile of queries takes as long as to start and to end; 0 if attention has no tiles."""
    attention_part_s: float
    """Time per further part of the positions of fused attention."""
    quantizes_apart: bool
    """True if kernels of their own quantise the inputs of matmuls."""
    compiles_rows: bool
    """True if matmuls of a single row are compiled with the adds after them."""
    interference: tuple[float, float]
    """Multiprocessors lost to every busy channel by a kernel limited by FLOPs, and by one limited by bytes."""
    channel_rate: float
    """Bytes/s of a collective that keep a channel busy; 0 if all channels are busy."""
    stream_wait_s: float
    launch_s: float
    step_overhead_s: float
    """Time of the host at the end of a pass that gives a token."""
    fuses_elementwise: bool
    fuses_attention: bool
    attends_in_f32: bool
    """True if attention multiplies 32-bit floats on the vector units."""

    @classmethod
    def from_spec(cls, spec: ChipSpec, stack: StackSpec) -> Chip:
        """Returns the chip with the efficiencies of a software stack."""
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
            grouped_efficiency=(stack.grouped_efficiency or stack.matmul_efficiency).value,
            grouped_overhead_s=(stack.grouped_overhead or stack.matmul_overhead or stack.op_overhead).value,
            attention_efficiency=(stack.attention_efficiency or stack.matmul_efficiency).value,
            attention_overhead_s=(stack.attention_overhead or stack.op_overhead).value,
            attention_overlap=(stack.attention_overlap or stack.roofline_overlap).value,
            attention_startup=stack.attention_startup.value if stack.attention_startup else 0.0,
            attention_part_s=stack.attention_part.value,
            quantizes_apart=stack.quantize == "kernel",
            compiles_rows=stack.row_matmul == "compiled",
            fuses_elementwise=stack.elementwise == "fused",
            interference=(stack.compute_interference.value, stack.memory_interference.value),
            channel_rate=stack.channel_rate.value if stack.channel_rate else 0.0,
            stream_wait_s=stack.stream_wait.value,
            launch_s=stack.launch.value,
            step_overhead_s=stack.step_overhead.value,
            fuses_attention=stack.attention == "fused",
            attends_in_f32=stack.attention_format == "f32",
        )

    def without(self, multiprocessors: int) -> Chip:
        """The chip for matmuls that leave so many multiprocessors to kernels of a collective, and so lose none to these
        while they run."""
        share = 1 - multiprocessors / self.multiprocessors
        peak_flops = {dtype: rate * share for dtype, rate in self.peak_flops.items()}
        left = self.multiprocessors - multiprocessors
        return replace(self, multiprocessors=left, peak_flops=peak_flops, interference=(0.0, self.interference[1]))

    @property
    def in_collective_matmuls(self) -> Chip:
        """The chip for matmuls that are looped with a collective over an axis of a torus."""
        return replace(self, matmul_efficiency=self.collective_matmul_efficiency * self.matmul_efficiency)
