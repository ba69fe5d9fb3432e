"""Operations on sharded tensors that layouts are written in, with two interpreters.

`sim.lowering` turns each operation into tasks; `sim.layouts.numpy_executor.Execution` carries it out in NumPy, every
chip holding its real shard. A layer is a function from the residual stream to the residual stream; it reads like the
paper's figure and cannot tell which interpreter runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

from msgspec import Struct

from sim.layouts.sharding import Sharded
from sim.specs.uses import Axes


class HasSharding(Protocol):
    """A sharded tensor, with whatever else an interpreter keeps beside it."""

    @property
    def tensor(self) -> Sharded: ...


V = TypeVar("V", bound=HasSharding)


class Reduction(Struct, frozen=True):
    """Collectives that reduce a partial sum: reduce-scatters, then an all-reduce."""

    scatters: tuple[tuple[str, Axes], ...]
    """(dimension to scatter into, axes) of each reduce-scatter."""
    replicated: Axes
    """Axes of the all-reduce, along which every chip then holds the same sum."""
    name: str
    """Name of the collectives."""

    @property
    def axes(self) -> Axes:
        """Axes over which the partial sum is reduced."""
        return (*(axis for _, axes in self.scatters for axis in axes), *self.replicated)


class Cache(Struct, frozen=True):
    """Cache of keys and values that a part of a batch appends to, and attends to."""

    name: str = ""
    """Parts with one name share a cache, and append in turn."""
    reach: float = 1.0
    """Share of the pass's new positions that are in it when the part has appended its own."""
    context: Axes = ()
    """Axes along which chips share its positions: each attends to some of them with all the heads of the group, and the
    merged outputs are scattered over the heads."""


class Exchange(Struct, frozen=True):
    """Chips that exchange tokens for their experts."""

    experts: Axes
    """Axes that split the experts."""
    tokens: Axes
    """Those of them along which chips have different tokens."""
    part: tuple[float, float] = (0.0, 1.0)
    """Shares of the batch at which the part of it that is sent begins and ends."""


WHOLE = Cache()
"""The cache of a batch that is not split."""


class Dataflow(Protocol[V]):
    """The operations. `name` labels an operation in timelines and reports."""

    @property
    def mesh(self) -> tuple[tuple[str, int], ...]:
        """Mesh axes and their lengths."""

    def note(self, text: str) -> None:
        """Adds a note to the report: a way in which the layout differs from its name."""

    def weight(self, name: str, used: str, stored: str) -> V:
        """Returns a weight by name, sharded as `used` at its use, in a notation such as `E_x F_yz`.

        A weight that is stored with more shards is gathered for each multiplication; a looped matmul gathers it shard
        by shard while it multiplies.
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
        """Gather `x` along `dim` over `axes` and multiply it with each weight: (gathered x, *products); may be
        looped."""

    def matmul_sum(self, factors: Sequence[tuple[V, str, V]], gathered: Axes, reduction: Reduction, name: str) -> V:
        """Gather each (value, dimension, weight) over `gathered`, multiply, add the products and reduce them over
        chips.

        May be looped, or run in pieces of columns.
        """

    def matmul_add(self, x: V, weight: V, plus: V | None, name: str) -> V:
        """`x` times `weight`, plus a value of the same sharding that is added as the matmul writes its output."""

    def mean_square(self, x: V, dim: str, name: str) -> V:
        """Mean of x^2 over `dim` (32-bit), a partial sum over the axes that split it."""

    def scale(self, x: V, mean_square: V, gain: V, name: str) -> V:
        """RMS norm: x / sqrt(mean_square) * gain."""

    def norm(self, x: V, plus: Sequence[V], gain: V, name: str, dim: str = "E") -> tuple[V, V]:
        """(x + plus, its RMS norm over `dim` x gain), in one kernel unless a compiler fuses its parts; `dim` is not
        split."""

    def activate(self, inputs: Sequence[V], name: str) -> V:
        """SwiGLU of (gate, up), or GELU of one input."""

    def attention(self, q: V, k: V, v: V, name: str, cache: Cache = WHOLE, window: int | None = None) -> V:
        """Append k and v to the layer's cache and attend to it causally, to the last `window` positions if given."""

    def ring_attention(self, q: V, k: V, v: V, axes: Axes, name: str) -> V:
        """Attend causally to the positions of all chips along `axes`, whose keys and values go around; no cache yet."""

    def latent_attention(
        self, queries: tuple[V, V], cached: tuple[V, V], expansion: tuple[V, ...], name: str, cache: Cache = WHOLE
    ) -> V:
        """Append latent vectors and shared keys, `cached`, BLC and BLR, to the layer's cache and attend to it causally.

        Args:
            queries: their parts for the latent vectors and for the shared keys, BLHN and BLHR.
            expansion: CHN and CHU, which make keys and values of all heads; none if the queries are BLHC and the values
                the latent vectors themselves.
        """

    def grouped_matmul(self, x: V, weights: Sequence[V], over: str, name: str) -> tuple[V, ...]:
        """`x` times each weight, a matmul for each index of dimension `over`, such as an expert or a head."""

    def route(self, y: V, weight: V, name: str) -> V:
        """Shares BLX of each token's experts in its output, from the matmul with EX: 0 for those not chosen."""

    def dispatch(self, y: V, shares: V, exchange: Exchange, name: str) -> V:
        """Rows of tokens for the experts of each chip, YTE: from all chips of the group, or the chip's own."""

    def combine(self, rows: V, shares: V, like: V, exchange: Exchange, name: str) -> V:
        """Sum of the experts' rows by the tokens' shares, each token where `like` has it: `dispatch` reversed."""

    def receive_rows(self, rows: V, way: Literal["dispatch", "combine"], exchange: Exchange, name: str) -> V:
        """What was sent, when a kernel of the compute stream has received it; the value stays unchanged."""

    def add(self, x: V, y: V, name: str) -> V:
        """x + y."""

    def keep_partial(self, partial: V) -> V:
        """Uses the local partial sum instead of the all-reduced value (Desync): replicas diverge, nothing moves."""

    def as_mean_partial(self, x: V, axes: Axes) -> V:
        """Divides x by the number of ranks so that the next all-reduce averages it; fused into the norm before it."""

    def to_cache(self, q: V, k: V, v: V, name: str) -> tuple[V, V, V]:
        """Costs of rotary embedding and of the write to the cache; the values stay unchanged."""

    def split(self, x: V, dim: str, sizes: Sequence[int]) -> tuple[V, ...]:
        """Consecutive parts of a dimension, of the given sizes, cut from every shard of it. Nothing moves."""

    def join(self, parts: Sequence[V], dim: str) -> V:
        """The reverse of `split`."""

    def embed(self, table: V, rows: str, name: str, after: V | None = None, length: int | None = None) -> V:
        """Looks up tokens of this pass in the table V_aE: BLE, a partial sum over the axes that split the table.

        Args:
            rows: notation of what each chip looks up, `B_d L E`.
            after: tokens that must be there.
            length: tokens of a sequence; None for those of the pass.
        """

    def rename(self, x: V, dim: str, name: str) -> V:
        """The same value with a dimension under another letter; nothing moves."""

    def pad(self, values: Sequence[V], name: str) -> tuple[V, ...]:
        """Unpacks rows 1 x T to B x L with zeros between sequences, in one kernel."""

    def unpad(self, values: Sequence[V], name: str) -> tuple[V, ...]:
        """Packs the real tokens of B x L one after the other into 1 x T, in one kernel."""

    def receive(self, notation: str, packed: bool, differs: Axes = ()) -> V:
        """Receives the activations of the previous stage, packed or not; chips along `differs` have different
        values."""

    def send(self, x: V) -> None:
        """Sends activations to the next stage."""

    def last_position(self, x: V) -> V:
        """BLE of the last position of every chip; nothing moves."""

    def sample(self, logits: V, name: str) -> V:
        """The token of the largest logit of each sequence, on every chip: BL."""
