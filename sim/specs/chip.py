"""Chips and the number formats they compute in."""

from typing import Annotated, Literal, cast

from pydantic import Field

from sim.specs.base import Count, Name, Strict
from sim.specs.quantities import Bandwidth, Rate, Size, Sourced

Dtype = Literal["bf16", "fp16", "int8", "fp8", "mxfp8", "int4", "nvfp4", "mxfp4"]
DTYPE_BYTES: dict[str, float] = {
    "bf16": 2,
    "fp16": 2,
    "int8": 1,
    "fp8": 1 + 4 / 128,
    "mxfp8": 1 + 1 / 32,
    "int4": 1 / 2 + 2 / 128,
    "nvfp4": 1 / 2 + 1 / 16,
    "mxfp4": 1 / 2 + 1 / 32,
}
"""Bytes of a number with its share of the scale of its block: fp8 has a 32-bit scale for 128 numbers (DeepSeek-V3,
section 3.3.2), int4 a 16-bit one for 128 (AWQ, GPTQ), mxfp8 and mxfp4 8 bits for 32 (OCP Microscaling Formats 1.0),
nvfp4 8 bits for 16 (NVIDIA). int8 has one per channel, which is not counted."""

_SAME_RATE = {"mxfp8": "fp8", "mxfp4": "nvfp4"}
"""Formats that matrix units multiply as fast as another, by which a chip's file names the rate."""


def matmul_format(*operands: str) -> Dtype:
    """Returns the format at whose rate a matmul runs: the widest of its operands, to which the others are converted."""
    widest = max(operands, key=lambda dtype: round(DTYPE_BYTES[dtype], 1))
    return cast(Dtype, _SAME_RATE.get(widest, widest))


class ChipSpec(Strict):
    """One accelerator: what its data sheet says. What a software reaches of it is a stack's (`sim.specs.stack`)."""

    name: Name
    peak: Annotated[dict[Dtype, Sourced[Rate]], Field(min_length=1)]
    """Dense matmul rate per operand type."""
    hbm_bandwidth: Sourced[Bandwidth]
    hbm_capacity: Sourced[Size]
    vector_peak: Sourced[Rate] | None = None
    """Peak of 32-bit floats on the vector units. Default: unknown, and no stack may multiply there."""
    multiprocessors: Sourced[Count] | None = None
    """Multiprocessors of a GPU, which share the tiles of a matmul. Default: none."""
    on_chip_memory: Sourced[Size] | None = None
    """Memory that the compiler holds activations in, of which only what does not fit goes through HBM. Default:
    activations go through HBM between one operation and the next."""

    def multiplies(self, operands: Dtype) -> bool:
        """Returns whether the matrix units multiply numbers of a format.

        mxfp8 and mxfp4 need units that read the scales of blocks, as they do for nvfp4.
        """
        return matmul_format(operands) in self.peak and (operands not in _SAME_RATE or "nvfp4" in self.peak)
