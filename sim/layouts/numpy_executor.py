"""NumPy executor: runs a layout on real shards, with collectives that move data between chips.

It interprets the same layouts as `sim.lowering.lower`, so that a test can prove that a layout computes what one device
computes. Looped collective matmuls run piece by piece over the very schedules that are simulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from sim.collectives.loop import closes, form_around
from sim.errors import LayoutError
from sim.layouts import numpy_experts, sharding
from sim.layouts.collective_matmul import gathered_axes
from sim.layouts.dataflow import WHOLE, Cache, Exchange, Reduction
from sim.layouts.numpy_attention import NumpyAttention
from sim.layouts.numpy_loops import gathering_loop, scattering_loop, weight_loop
from sim.layouts.numpy_shards import Array, ChipGrid, Shards, add_shards, contract, dim_index, take_block
from sim.layouts.sharding import Sharded
from sim.specs import LoopForm
from sim.specs.uses import Axes
from sim.topology.graph import Topology


class NumpyExecutor:
    """The dataflow interpreter that computes (see `sim.layouts.dataflow` for what each operation means).

    One instance holds the KV cache of every layer; set `weights` and `layer` before each layer, `tokens` [B, L] before
    the embedding.

    Args:
        sizes: full size of each dimension letter.
        loop_form: form of the looped collective matmul, None to run collective and matmul one after the other.
        chunks: pieces of a matmul whose sums are made one by one.
    """

    def __init__(
        self, topology: Topology, sizes: Mapping[str, int], loop_form: LoopForm | None = None, chunks: int = 1
    ) -> None:
        self.topology, self.sizes, self.loop_form, self.chunks = topology, sizes, loop_form, chunks
        self.grid = ChipGrid(topology)
        self.mesh = self.grid.mesh
        self.weights: Mapping[str, Array] = {}
        self.tokens: npt.NDArray[np.int64] = np.zeros((0, 0), dtype=np.int64)
        self.layer = 0
        self.lengths: tuple[int, ...] = ()
        """Real length of each sequence, where rows are packed."""
        self.top_k = 1
        """Experts of a token."""
        self.rows_sent: dict[tuple[int, int], int] = {}
        """Tokens that a chip sent to a chip in the last dispatch: each once, however many experts it has there."""
        self._sent: Shards | None = None
        self._attention = NumpyAttention(self.grid, sizes)

    def place(self, full: Array, notation: str) -> Shards:
        """Distributes an array over the chips."""
        tensor = sharding.from_notation(notation, self.sizes, self.mesh)
        return Shards(tensor, tuple(full[self.grid.region(tensor, chip)] for chip in range(self.topology.chips)))

    def collect(self, value: Shards) -> Array:
        """Returns the array put together from the shards; replicas must agree."""
        full = np.full([dim.size for dim in value.tensor.dims], np.nan)
        for chip, shard in enumerate(value.shards):
            region = self.grid.region(value.tensor, chip)
            if not np.isnan(full[region]).all():
                np.testing.assert_allclose(full[region], shard, rtol=1e-9, atol=1e-12)
            full[region] = shard
        return full

    def note(self, text: str) -> None:
        """The executor writes no report."""

    def weight(self, name: str, used: str, stored: str) -> Shards:
        value = self.place(self.weights[name], stored)
        if used == stored:
            return value
        return Shards(value.tensor, value.shards, sharding.from_notation(used, self.sizes, self.mesh))

    # --- collectives -------------------------------------------------------------------------------------------------

    def all_gather(self, values: Sequence[tuple[Shards, str]], axes: Axes, name: str) -> tuple[Shards, ...]:
        results = []
        for value, dim in values:
            axis = dim_index(value.tensor, dim)
            shards = tuple(
                np.concatenate([value.shards[c] for c in self.grid.group(axes, chip)], axis) for chip in self.grid.chips
            )
            results.append(Shards(sharding.all_gather(value.tensor, dim, axes), shards))
        return tuple(results)

    def reduce_scatter(self, values: Sequence[tuple[Shards, str]], axes: Axes, name: str) -> tuple[Shards, ...]:
        results = []
        for value, into in values:
            tensor = sharding.reduce_scatter(value.tensor, axes, into)
            axis, blocks = dim_index(value.tensor, into), value.tensor.group_size(axes)
            sums = self._sums(value, axes)
            shards = tuple(
                take_block(sums[chip], blocks, axis, self.grid.block(axes, chip)) for chip in self.grid.chips
            )
            results.append(Shards(tensor, shards))
        return tuple(results)

    def all_reduce(self, values: Sequence[Shards], axes: Axes, name: str) -> tuple[Shards, ...]:
        return tuple(Shards(sharding.all_reduce(value.tensor, axes), self._sums(value, axes)) for value in values)

    def all_to_all(self, value: Shards, axes: Axes, split: str, concat: str, name: str) -> Shards:
        tensor, blocks = sharding.all_to_all(value.tensor, axes, split, concat), value.tensor.group_size(axes)
        cut, join = dim_index(tensor, split), dim_index(tensor, concat)
        shards = tuple(
            np.concatenate(
                [
                    take_block(value.shards[c], blocks, cut, self.grid.block(axes, chip))
                    for c in self.grid.group(axes, chip)
                ],
                join,
            )
            for chip in self.grid.chips
        )
        return Shards(tensor, shards)

    def local_slice(self, value: Shards, dim: str, axes: Axes) -> Shards:
        tensor = sharding.local_slice(value.tensor, dim, axes)
        axis, blocks = dim_index(value.tensor, dim), value.tensor.group_size(axes)
        shards = tuple(take_block(value.shards[c], blocks, axis, self.grid.block(axes, c)) for c in self.grid.chips)
        return Shards(tensor, shards)

    def _sums(self, value: Shards, axes: Axes) -> tuple[Array, ...]:
        return tuple(np.sum([value.shards[c] for c in self.grid.group(axes, chip)], axis=0) for chip in self.grid.chips)

    # --- compute -----------------------------------------------------------------------------------------------------

    def matmul(self, x: Shards, weights: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        return tuple(self._product(x, weight) for weight in weights)

    def _product(self, x: Shards, weight: Shards) -> Shards:
        if weight.used is not None:
            gathered = gathered_axes(x.tensor, weight.used, weight.tensor)
            axes = tuple(axis for axis in gathered if self.grid.lengths[axis] > 1)
            if self.loop_form is not None and all(closes(self.topology, axis) for axis in axes):
                return weight_loop(self.grid, x, weight, weight.used, axes)
            for dim, used in zip(weight.tensor.dims, weight.used.dims, strict=True):
                (weight,) = self.all_gather([(weight, dim.name)], dim.axes[len(used.axes) :], "weights")
        tensor = sharding.matmul(x.tensor, weight.tensor)
        pairs = zip(x.shards, weight.shards, strict=True)
        return Shards(tensor, tuple(contract(a, x.tensor, w, weight.tensor) for a, w in pairs))

    def matmul_add(self, x: Shards, weight: Shards, plus: Shards | None, name: str) -> Shards:
        product = self._product(x, weight)
        return product if plus is None else self.add(product, plus, name)

    def mean_square(self, x: Shards, dim: str, name: str) -> Shards:
        axis = dim_index(x.tensor, dim)
        dims = tuple(d for d in x.tensor.dims if d.name != dim)
        tensor = Sharded(dims, x.tensor.mesh, "f32", x.tensor.dim(dim).axes)
        return Shards(tensor, tuple((a**2).sum(axis) / self.sizes[dim] for a in x.shards))

    def scale(self, x: Shards, mean_square: Shards, gain: Shards, name: str) -> Shards:
        shards = zip(x.shards, mean_square.shards, gain.shards, strict=True)
        return Shards(x.tensor, tuple(a / np.sqrt(m[..., None]) * g for a, m, g in shards))

    def activate(self, inputs: Sequence[Shards], name: str) -> Shards:
        return Shards(inputs[0].tensor, tuple(map(activation, *(value.shards for value in inputs))))

    def add(self, x: Shards, y: Shards, name: str) -> Shards:
        tensor = sharding.add(x.tensor, y.tensor)
        return Shards(tensor, tuple(a + b for a, b in zip(x.shards, y.shards, strict=True)))

    def norm(self, x: Shards, plus: Sequence[Shards], gain: Shards, name: str, dim: str = "E") -> tuple[Shards, Shards]:
        tensor = sharding.norm(x.tensor, [value.tensor for value in plus], dim)
        total = tuple(np.sum(parts, axis=0) for parts in zip(x.shards, *(v.shards for v in plus), strict=True))
        shards = zip(total, gain.shards, strict=True)
        normed = tuple(a / np.sqrt((a**2).mean(dim_index(tensor, dim), keepdims=True)) * g for a, g in shards)
        return Shards(tensor, total), Shards(tensor, normed)

    def keep_partial(self, partial: Shards) -> Shards:
        return Shards(sharding.keep_partial(partial.tensor), partial.shards)

    def as_mean_partial(self, x: Shards, axes: Axes) -> Shards:
        return Shards(sharding.as_mean_partial(x.tensor, axes), tuple(a / x.tensor.group_size(axes) for a in x.shards))

    def to_cache(self, q: Shards, k: Shards, v: Shards, name: str) -> tuple[Shards, Shards, Shards]:
        return q, k, v

    def rename(self, x: Shards, dim: str, name: str) -> Shards:
        return Shards(sharding.rename(x.tensor, dim, name), x.shards)

    def split(self, x: Shards, dim: str, sizes: Sequence[int]) -> tuple[Shards, ...]:
        tensors, axis = sharding.split(x.tensor, dim, sizes), dim_index(x.tensor, dim)
        ends = np.cumsum([tensor.local_shape[axis] for tensor in tensors])[:-1]
        cut = [np.split(a, ends, axis) for a in x.shards]
        return tuple(Shards(tensor, tuple(pieces[i] for pieces in cut)) for i, tensor in enumerate(tensors))

    def join(self, parts: Sequence[Shards], dim: str) -> Shards:
        axis = dim_index(parts[0].tensor, dim)
        shards = zip(*(part.shards for part in parts), strict=True)
        return Shards(
            sharding.join([part.tensor for part in parts], dim), tuple(np.concatenate(s, axis) for s in shards)
        )

    def attention(
        self, q: Shards, k: Shards, v: Shards, name: str, cache: Cache = WHOLE, window: int | None = None
    ) -> Shards:
        return self._attention.attention(self.layer, q, k, v, cache, window)

    def ring_attention(self, q: Shards, k: Shards, v: Shards, axes: Axes, name: str) -> Shards:
        k, v = self.all_gather([(k, "L"), (v, "L")], axes, name)
        return self.attention(q, k, v, name)

    def latent_attention(
        self,
        queries: tuple[Shards, Shards],
        cached: tuple[Shards, Shards],
        expansion: tuple[Shards, ...],
        name: str,
        cache: Cache = WHOLE,
    ) -> Shards:
        return self._attention.latent_attention(self.layer, queries, cached, expansion, cache)

    # --- mixture of experts ------------------------------------------------------------------------------------------

    def grouped_matmul(self, x: Shards, weights: Sequence[Shards], over: str, name: str) -> tuple[Shards, ...]:
        results = []
        for weight in weights:
            pairs = zip(x.shards, weight.shards, strict=True)
            shards = tuple(contract(a, x.tensor, w, weight.tensor, over) for a, w in pairs)
            results.append(Shards(sharding.matmul(x.tensor, weight.tensor, over), shards))
        return tuple(results)

    def route(self, y: Shards, weight: Shards, name: str) -> Shards:
        logits = self._product(y, weight)
        return Shards(logits.tensor, tuple(numpy_experts.choose(shard, self.top_k) for shard in logits.shards))

    def dispatch(self, y: Shards, shares: Shards, exchange: Exchange, name: str) -> Shards:
        rows, self.rows_sent = numpy_experts.dispatch(self.grid, y, shares, exchange, self.sizes["Y"])
        return rows

    def combine(self, rows: Shards, shares: Shards, like: Shards, exchange: Exchange, name: str) -> Shards:
        return numpy_experts.combine(self.grid, rows, shares, like, exchange)

    def receive_rows(self, rows: Shards, way: Literal["dispatch", "combine"], exchange: Exchange, name: str) -> Shards:
        return rows

    def embed(
        self, table: Shards, rows: str, name: str, after: Shards | None = None, length: int | None = None
    ) -> Shards:
        axes, held = table.tensor.dim("V").axes, table.tensor.local_shape[0]
        tokens = sharding.from_notation(rows, {**self.sizes, "L": self.tokens.shape[1]}, self.mesh)
        shards = []
        for chip in self.grid.chips:
            own = self.tokens
            for number, dim in enumerate(tokens.dims[:2]):
                parts = np.split(own, tokens.group_size(dim.axes), axis=number)
                own = parts[self.grid.block(dim.axes, chip)]
            local = own - self.grid.block(axes, chip) * held
            mine = (local >= 0) & (local < held)
            shards.append(np.where(mine[..., None], table.shards[chip][np.where(mine, local, 0)], 0.0))
        return Shards(Sharded(tokens.dims, tokens.mesh, tokens.dtype, axes), tuple(shards))

    def pad(self, values: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        batch, length, ends = self.sizes["B"], self.sizes["L"], np.cumsum(self.lengths)

        def padded(packed: Array) -> Array:
            full = np.zeros((batch, length, *packed.shape[2:]))
            for sequence, (end, real) in enumerate(zip(ends, self.lengths, strict=True)):
                full[sequence, :real] = packed[0, end - real : end]
            return full

        return tuple(
            Shards(sharding.repack(value.tensor, batch, length), tuple(padded(a) for a in value.shards))
            for value in values
        )

    def unpad(self, values: Sequence[Shards], name: str) -> tuple[Shards, ...]:
        def packed(full: Array) -> Array:
            return np.concatenate([full[sequence, :real] for sequence, real in enumerate(self.lengths)])[None]

        return tuple(
            Shards(sharding.repack(value.tensor, 1, sum(self.lengths)), tuple(packed(a) for a in value.shards))
            for value in values
        )

    def receive(self, notation: str, packed: bool, differs: Axes = ()) -> Shards:
        """Returns the value sent last, which must have this sharding. Raises LayoutError."""
        expected = replace(sharding.from_notation(notation, self.sizes, self.mesh), differs=differs)
        expected = sharding.repack(expected, 1, sum(self.lengths)) if packed else expected
        if self._sent is None or self._sent.tensor != expected:
            raise LayoutError(f"receive {expected}: the stage before sent {self._sent and self._sent.tensor}")
        return self._sent

    def send(self, x: Shards) -> None:
        self._sent = x

    def last_position(self, x: Shards) -> Shards:
        chips = x.tensor.group_size(x.tensor.dim("L").axes)
        dims = tuple(replace(dim, size=chips) if dim.name == "L" else dim for dim in x.tensor.dims)
        return Shards(replace(x.tensor, dims=dims), tuple(a[:, -1:] for a in x.shards))

    def sample(self, logits: Shards, name: str) -> Shards:
        axes, width = logits.tensor.dim("V").axes, logits.tensor.local_shape[-1]
        best = [(a.max(-1), a.argmax(-1) + self.grid.block(axes, chip) * width) for chip, a in enumerate(logits.shards)]
        shards = []
        for chip in self.grid.chips:
            group = self.grid.group(axes, chip)
            winner = np.argmax([best[c][0] for c in group], axis=0)
            shards.append(np.take_along_axis(np.array([best[c][1] for c in group]), winner[None], 0)[0].astype(float))
        return Shards(Sharded(logits.tensor.dims[:-1], logits.tensor.mesh, "int32"), tuple(shards))

    # --- looped collective matmul ------------------------------------------------------------------------------------

    def all_gather_matmul(self, factors: Sequence[tuple[Shards, str, Shards]], axes: Axes, name: str) -> Shards:
        if not self._loops(axes, [weight for _, _, weight in factors]):
            gathered = self.all_gather([(value, dim) for value, dim, _ in factors], axes, name)
            products = [self.matmul(x, [weight], name)[0] for x, (_, _, weight) in zip(gathered, factors, strict=True)]
            return add_shards(products)
        return add_shards(
            [gathering_loop(self.grid, self._form(axes[0]), value, dim, weight, axes) for value, dim, weight in factors]
        )

    def matmul_reduce_scatter(
        self, x: Shards, weights: Sequence[tuple[Shards, str]], axes: Axes, name: str
    ) -> tuple[Shards, ...]:
        if not self._loops(axes, [weight for weight, _ in weights]):
            products = self.matmul(x, [weight for weight, _ in weights], name)
            pairs = [(product, into) for product, (_, into) in zip(products, weights, strict=True)]
            return self.reduce_scatter(pairs, axes, name)
        return tuple(scattering_loop(self.grid, self._form(axes[0]), x, weight, into, axes) for weight, into in weights)

    def all_gather_matmuls(
        self, x: Shards, dim: str, weights: Sequence[Shards], axes: Axes, name: str
    ) -> tuple[Shards, ...]:
        (gathered,) = self.all_gather([(x, dim)], axes, name)
        if not self._loops(axes, weights):
            return gathered, *self.matmul(gathered, weights, name)
        return gathered, *(gathering_loop(self.grid, self._form(axes[0]), x, dim, weight, axes) for weight in weights)

    def matmul_sum(
        self, factors: Sequence[tuple[Shards, str, Shards]], gathered: Axes, reduction: Reduction, name: str
    ) -> Shards:
        axes = reduction.scatters[0][1] if len(reduction.scatters) == 1 else ()
        if not gathered and self.chunks == 1 and self._loops(axes, [weight for _, _, weight in factors]):
            out = add_shards(
                [
                    scattering_loop(self.grid, self._form(axes[0]), x, weight, reduction.scatters[0][0], axes)
                    for x, _, weight in factors
                ]
            )
            return self.all_reduce([out], reduction.replicated, reduction.name)[0]
        product = self.all_gather_matmul(factors, gathered, name)
        pieces = []
        for piece in self._column_pieces(product, dict(reduction.scatters)):
            for dim, over in reduction.scatters:
                (piece,) = self.reduce_scatter([(piece, dim)], over, reduction.name)
            pieces.append(self.all_reduce([piece], reduction.replicated, reduction.name)[0])
        return self.join(pieces, product.tensor.dims[-1].name)

    def _column_pieces(self, product: Shards, scattered: Mapping[str, Axes]) -> list[Shards]:
        """Cuts the product into pieces of columns, as many from each shard into which the columns are scattered."""
        dim = product.tensor.dims[-1]
        shards = product.tensor.group_size(scattered.get(dim.name, ()))
        columns = np.arange(product.tensor.local_shape[-1]).reshape(shards, -1)
        count = min(self.chunks, columns.shape[1])
        tensor = sharding.take_chunks(product.tensor, dim.name, 1, count)
        return [
            Shards(tensor, tuple(a[..., piece.ravel()] for a in product.shards))
            for piece in np.split(columns, count, axis=1)
        ]

    def _form(self, axis: str) -> LoopForm:
        return form_around(self.topology, axis, self.loop_form or "one_way")

    def _loops(self, axes: Axes, weights: Sequence[Shards]) -> bool:
        looped = self.loop_form is not None and len(axes) == 1 and self.grid.lengths[axes[0]] > 1
        return looped and closes(self.topology, axes[0]) and not any(weight.used for weight in weights)


def activation(first: Array, *second: Array) -> Array:
    """SwiGLU of (gate, up), or GELU (tanh form) of one input."""
    if second:
        swish: Array = first / (1 + np.exp(-first))
        return swish * second[0]
    gelu: Array = 0.5 * first * (1 + np.tanh(np.sqrt(2 / np.pi) * (first + 0.044715 * first**3)))
    return gelu
