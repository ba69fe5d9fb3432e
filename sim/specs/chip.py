"""Chips and the number formats they compute in."""

from typing import Annotated, Literal

from pydantic import Field

from sim.specs.base import Count, Name, Strict
from sim.specs.quantities import Bandwidth, Rate, Size, Sourced

Dtype = Literal["bf16", "fp16", "int8"]
DTYPE_BYTES: dict[str, int] = {"bf16": 2, "fp16": 2, "int8": 1}


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
