"""Operations and collectives of one forward pass, with their FLOPs and bytes on one chip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

from msgspec import Struct

from sim.specs.chip import Dtype
from sim.specs.uses import Axes, Uses


class CommunicationModel(Protocol):
    """Formulas for the time of messages and collectives between the chips of a mesh."""

    @property
    def uses(self) -> Uses:
        """Use of each mesh axis."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Mesh axes and their lengths."""

    def collective(self, kind: str, axes: Axes, size: float) -> tuple[float, tuple[str, ...]]:
        """Returns the time of a collective of `size` bytes in every group along `axes`, s, and why it is not exact.

        Kinds are those of collectives, and `dispatch` and `combine`, in which every chip sends as much to every chip.
        """

    def hop(self, axis: str, size: float) -> tuple[float, tuple[str, ...]]:
        """Returns the time of `size` bytes to the next chip along an axis, s, and why a loop of these is not exact."""

    def is_ring(self, axis: str) -> bool:
        """Returns True if an axis is a ring of links, around which shards go in both directions."""

    def closes(self, axis: str) -> bool:
        """Returns True if shards can go around an axis: on a ring, between two chips, or by routes."""

    def count_boxes(self, axes: Axes) -> int:
        """Returns the number of boxes that a group along axes is in; 1 on a torus."""


class Op(Struct, frozen=True):
    """One launch on one chip."""

    name: str
    flops: float
    activation_bytes: float
    """Bytes of activations through memory."""
    read_bytes: float = 0.0
    """Bytes of weights or cache, read once."""
    l2_bytes: float = 0.0
    """Bytes of copied keys and values, read from L2."""
    is_tiled: bool = False
    """True for a matmul of several rows."""
    on_vector_units: bool = False
    """True if the FLOPs are products of 32-bit floats on the vector units."""
    converts_weights: bool = False
    """True for a matmul whose weights are smaller numbers than its activations."""
    with_collective: bool = False
    """True for a matmul whose input is gathered, or whose output is scattered, over an axis."""
    is_elementwise: bool = True
    """True for norms, activations and adds, which `predict_per_sublayer` omits."""
    rate_format: Dtype | None = None
    """Number format at whose peak a matmul runs; None for that of activations."""
    kernel: Literal["", "attention", "grouped"] = ""
    """Kind of kernel of which a stack has constants of its own: attention in one kernel, grouped matmuls of experts."""


class CollectiveOp(Struct, frozen=True):
    """One collective in every group of chips along some axes."""

    name: str
    kind: str
    axes: Axes
    bytes: float
    """Bytes of the full gathered, summed or scattered array, or of the local buffer of an exchange of all with all."""
    beside: tuple[Op, ...] = ()
    """Operations of the same sublayer that need not wait for it."""


class LoopedMatmul(Struct, frozen=True):
    """A matmul in pieces that overlaps the collective of its shards (Pope et al. section 3.5)."""

    moves: str
    """`in`: each piece waits for its shard; `out`: each piece sends its sum; `weights`: each piece passes weights
    on."""
    pieces: tuple[tuple[Op, ...], ...]
    """Launches of each piece."""
    collective: CollectiveOp


Operation = Op | CollectiveOp | LoopedMatmul


def collective_of(operation: Operation) -> CollectiveOp | None:
    """Returns the collective of an operation, looped or not."""
    if isinstance(operation, LoopedMatmul):
        return operation.collective
    return operation if isinstance(operation, CollectiveOp) else None


class Sublayer(Struct, frozen=True):
    """Operations from one sum over the chips to the next: those of attention, of an FFN, or of a parallel layer."""

    operations: tuple[Operation, ...]
    overlaps_next: bool = False
    """True if the next sublayer need not wait for this one's sum, its last operation."""


class PassOperations(Struct, frozen=True):
    """Operations of one forward pass."""

    sublayers: tuple[Sublayer, ...]
    is_serial: bool
    """True if every operation needs the one before it, except for overlapped sums. Otherwise collectives on a stream of
    their own may overlap more operations than these sublayers say."""

    @property
    def operations(self) -> Iterator[Operation]:
        """Operations of all sublayers."""
        return (operation for sublayer in self.sublayers for operation in sublayer.operations)

    @property
    def collective_bytes(self) -> dict[tuple[str, Axes], float]:
        """Bytes by kind of collective and axes."""
        totals: dict[tuple[str, Axes], float] = {}
        for operation in self.operations:
            if collective := collective_of(operation):
                key = collective.kind, tuple(sorted(collective.axes))
                totals[key] = totals.get(key, 0.0) + collective.bytes
        return totals
