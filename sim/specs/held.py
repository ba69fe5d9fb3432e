"""Multiprocessors that kernels hold, which a chip must have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from sim.specs.chip import ChipSpec
from sim.specs.experts import ExpertsLayout
from sim.specs.nccl import NcclSpec
from sim.specs.stack import StackSpec

Held = tuple[tuple[str, ...], int]
"""(field, multiprocessors)."""


class Excess(Struct, frozen=True):
    """A kernel that holds more multiprocessors than its chip has."""

    field: tuple[str, ...]
    got: int
    rule: str
    hint: str = "fewer, or a chip with more"


def find_excess(chip: ChipSpec, held: Iterable[Held]) -> Excess | None:
    """Returns the first kernel that holds more multiprocessors than a chip has; None if there is none.

    Chips without multiprocessors have no such kernels: their counts are not read.
    """
    if chip.multiprocessors is None:
        return None
    most = chip.multiprocessors.value
    rule = f"must be at most the {most} multiprocessors of chip '{chip.name}'"
    return next((Excess(field, count, rule) for field, count in held if count > most), None)


def held_by_stack(stack: StackSpec) -> Iterator[Held]:
    """Yields what a stack says of its kernels; defaults are of no chip."""
    if "blocks" in stack.multimem.value.model_fields_set:
        yield ("multimem", "value", "blocks"), stack.multimem.value.blocks
    for name, kernel in stack.exchange.items():
        for way in ("dispatch", "combine"):
            yield ("exchange", name, way, "value", "multiprocessors"), getattr(kernel, way).value.multiprocessors


def held_by_layout(experts: ExpertsLayout) -> Iterator[Held]:
    """Yields what a layout says of kernels of dispatch and combine."""
    if experts.multiprocessors is not None:
        yield ("layout", "experts", "multiprocessors"), experts.multiprocessors


def held_by_nccl(nccl: NcclSpec | None) -> Iterator[Held]:
    """Yields the channels that NCCL's constants count, each of which holds a multiprocessor."""
    if nccl is not None and nccl.nvls is not None:
        yield ("nccl", "nvls", "channels"), nccl.nvls.channels
