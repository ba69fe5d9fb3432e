"""What a layout is written in: operations on sharded tensors, with two interpreters.

`sim.lowering` turns each operation into tasks; `sim.layouts.numpy_executor.Execution` carries it out in NumPy, every
chip holding its real shard. A layer is a function from the residual stream to the residual stream; it reads like the
paper's figure and cannot tell which interpreter runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sim.layouts.sharding import Sharded
from sim.specs.uses import Axes


class Value(Protocol):
    """A tensor on the machine, whatever else the interpreter keeps with it."""

    @property
    def tensor(self) -> Sharded: ...


V = TypeVar("V", bound=Value)


@dataclass(frozen=True, slots=True)
class Sum:
    """What becomes of a partial sum."""

    scattered: tuple[tuple[str, Axes], ...]
    """(dimension, axes over which it is summed, each chip along them keeping its part)."""
    whole: Axes
    """Axes over which it is then summed, every chip along them holding all of it."""
    name: str
    """Of its collectives."""

    @property
    def axes(self) -> Axes:
        """All axes of the sum."""
        return (*(axis for _, axes in self.scattered for axis in axes), *self.whole)


class Dataflow(Protocol[V]):
    """The operations. `name` labels an operation in timelines and reports."""

    @property
    def mesh(self) -> tuple[tuple[str, int], ...]:
        """Mesh axes and their lengths."""

    def note(self, text: str) -> None:
        """Something the layout does otherwise than its name says, for the report."""

    def weight(self, name: str, used: str, stored: str) -> V:
        """The weight of that name, sharded as `E_x F_yz` where it is used.

        Stored sharded further, it is gathered for each multiplication, shard by shard under the matmul where that is
        looped.
        """

    def all_gather(self, values: Sequence[tuple[V, str]], axes: Axes, name: str) -> tuple[V, ...]:
        """Gather each (value, dimension) over `axes`, in one collective."""

    def reduce_scatter(self, values: Sequence[tuple[V, str]], axes: Axes, name: str) -> tuple[V, ...]:
        """Sum each (value, dimension to scatter into) over `axes`, in one collective."""

    def all_reduce(self, values: Sequence[V], axes: Axes, name: str) -> tuple[V, ...]:
        """Sum each value over `axes`, in one collective."""

    def all_to_all(self, value: V, axes: Axes, split: str, concat: str, name: str) -> V:
        """Move `axes` from the sharding of `concat` to that of `split`."""

    def local_slice(self, value: V, dim: str, axes: Axes) -> V:
        """Keep each chip's slice of a dimension replicated over `axes`; nothing moves."""

    def matmul(self, x: V, weights: Sequence[V], name: str) -> tuple[V, ...]:
        """`x` times each weight, fused into one operation."""

    def matmul_reduce_scatter(self, x: V, weights: Sequence[tuple[V, str]], axes: Axes, name: str) -> tuple[V, ...]:
        """`x` times each (weight, dimension to scatter into), then the reduce-scatter over `axes`; may be looped."""

    def all_gather_matmul(self, factors: Sequence[tuple[V, str, V]], axes: Axes, name: str) -> V:
        """Gather each (value, dimension, weight) over `axes`, multiply, add the products; may be looped."""

    def all_gather_matmuls(self, x: V, dim: str, weights: Sequence[V], axes: Axes, name: str) -> tuple[V, ...]:
        """Gather `x` along `dim` over `axes`, and multiply it with each weight: (whole x, *products); may be looped."""

    def matmul_sum(self, factors: Sequence[tuple[V, str, V]], gathered: Axes, to: Sum, name: str) -> V:
        """Gather each (value, dimension, weight) over `gathered`, multiply, add the products, and sum over chips.

        May be looped, or run in pieces of columns.
        """

    def matmul_add(self, x: V, weight: V, plus: V | None, name: str) -> V:
        """`x` times `weight`, plus something of the same sharding as the matmul writes its output."""

    def mean_square(self, x: V, dim: str, name: str) -> V:
        """Mean of x^2 over `dim` (32-bit), a partial sum over the axes that split it."""

    def scale(self, x: V, mean_square: V, gain: V, name: str) -> V:
        """RMS norm: x / sqrt(mean_square) * gain."""

    def norm(self, x: V, plus: Sequence[V], gain: V, name: str) -> tuple[V, V]:
        """(x + plus, its RMS norm x gain), in one kernel unless a compiler fuses its parts; d_model is whole."""

    def activate(self, inputs: Sequence[V], name: str) -> V:
        """SwiGLU of (gate, up), or GELU of one input."""

    def attention(self, q: V, k: V, v: V, name: str) -> V:
        """Append k and v to the layer's cache and attend to it causally."""

    def add(self, x: V, y: V, name: str) -> V:
        """x + y."""

    def own_part(self, partial: V) -> V:
        """A partial sum as it is, in place of the sum: from here on chips differ. Nothing moves."""

    def share(self, x: V, axes: Axes) -> V:
        """x / chips as a partial sum over `axes`: summed, the mean of the chips' values. Rides in the norm
        before it."""

    def to_cache(self, q: V, k: V, v: V, name: str) -> tuple[V, V, V]:
        """Rotary embedding of q and k, and k and v written to the cache: what it costs; values stay as they are."""

    def split(self, x: V, dim: str, parts: int) -> tuple[V, ...]:
        """Consecutive parts of a dimension that no axis splits. Nothing moves."""

    def join(self, parts: Sequence[V], dim: str) -> V:
        """The reverse of `split`."""

    def embed(self, table: V, name: str) -> V:
        """Rows of the table V_aE for the tokens of this pass: BLE, a partial sum over the axes that split it."""

    def pad(self, values: Sequence[V], name: str) -> tuple[V, ...]:
        """Packed rows 1 x T back to B x L, with nothing in between, in one kernel."""

    def unpad(self, values: Sequence[V], name: str) -> tuple[V, ...]:
        """The real tokens of B x L one after the other, 1 x T, in one kernel."""

    def receive(self, notation: str, packed: bool, differs: Axes = ()) -> V:
        """Activations that the stage before sent, packed or not; chips along `differs` have their own."""

    def send(self, x: V) -> None:
        """Activations for the next stage."""

    def last_position(self, x: V) -> V:
        """BLE of the last position only; nothing moves."""

    def sample(self, logits: V, name: str) -> V:
        """The token of the largest logit of each sequence, on every chip: BL."""
