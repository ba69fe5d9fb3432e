"""Layouts by what they do with the mesh axes: every axis of a mesh has one use in each half of a layer.

Every layout is the same layer (`sim.layouts.layer`) with the mesh axes dealt to uses. The presets of Pope et al. are
those of its released code; the weight-gathered ones store their weights as the 2D weight-stationary one does, so that
prefill and decode can differ without moving weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate, takewhile
from operator import mul

from msgspec import Struct

Axes = tuple[str, ...]
"""Names of mesh axes, outermost first."""


def named(axes: Iterable[str]) -> str:
    """`xyz`, or `x[data]`: names of one letter as they are, longer ones in brackets."""
    return "".join(axis if len(axis) == 1 else f"[{axis}]" for axis in axes)


def dividing_axes(axes: Axes, count: int, lengths: Mapping[str, int]) -> Axes:
    """Returns the outermost of some axes whose chips together divide a count, such as key-value heads."""
    divides = [count % ways == 0 for ways in accumulate((lengths[axis] for axis in axes), mul)]
    return tuple(axis for axis, _ in takewhile(lambda each: each[1], zip(axes, divides, strict=True)))


class Uses(Struct, frozen=True):
    """Use of each mesh axis."""

    d_model: Axes = ()
    """Split d_model of the weights in use: activations are summed over them inside each half of a layer."""
    heads: Axes = ()
    """Split the heads: what attention puts out is summed over them."""
    d_ff: Axes = ()
    """Split d_ff: what the FFN puts out is summed over them."""
    experts: Axes = ()
    """Axes of `d_ff` or `batch` that split the experts in layers that have them; other axes of `d_ff` split each."""
    context: Axes = ()
    """Split the positions: those of the stream, and of the cache as the prefill leaves it; axes of `heads` those of the
    cache alone, whose chips then attend with all of their heads to a part of it each."""
    gather: Axes = ()
    """Weights are gathered over them for each layer; they split the batch."""
    batch: Axes = ()
    """Split the batch; chips along them hold the same weights."""
    stream: Axes = ()
    """Axes of `heads` and `d_ff` that split d_model of the residual stream between the halves: it is gathered over
    them before a half, and the half's sum is scattered."""
    tokens: Axes = ()
    """Axes that split the tokens of the residual stream between the halves: sequences if one of them is not of
    `heads` or the batch is run in parts, else positions. Over all others of `heads` and `d_ff` every chip holds and
    adds the same."""
    stored_d_model: Axes = ()
    """Split d_model of the weights as stored, where they are gathered."""
    stored_heads: Axes = ()
    stored_d_ff: Axes = ()

    @property
    def positions(self) -> Axes:
        """Axes of `context` that split the positions of the stream."""
        return tuple(axis for axis in self.context if axis not in self.heads)

    @property
    def cached_positions(self) -> Axes:
        """Axes of `context` that split the positions of the cache alone."""
        return tuple(axis for axis in self.context if axis in self.heads)

    @property
    def summed(self) -> Axes:
        """Axes over which what a half puts out is summed, of either half."""
        return tuple(dict.fromkeys((*self.heads, *self.d_ff)))

    @property
    def weights(self) -> Axes:
        """Axes over which the embedding's table and the LM head are split."""
        return tuple(dict.fromkeys((*self.gather, *self.d_model, *self.d_ff, *self.heads)))

    @property
    def whole(self) -> bool:
        """Returns True if every chip of a sum holds the same residual stream with all of d_model."""
        return not (self.d_model or self.stream or self.tokens)

    @property
    def plain(self) -> bool:
        """Returns True if the matmuls read the normalised stream directly: no sum over d_model, no
        gathering of weights or of d_model. Then queries, keys and values are one matmul."""
        return not (self.d_model or self.stream or self.gather)

    @property
    def gathers_in_matmul(self) -> bool:
        """Returns True if the matmul that reads the residual stream gathers it over its axis, and the one that writes
        it scatters it; else each matmul sums over `d_model`, or gathers its weights."""
        return not self.d_model and not self.gather and len(self.stream) == 1

    def weight(self, notation: str) -> tuple[str, str]:
        """A weight's sharding in use and as stored: `weight("E{e} F{f}")`, `{h}` for heads; both alike where nothing is
        gathered."""
        used = notation.format(e="_" + named(self.d_model), f="_" + named(self.d_ff), h="_" + named(self.heads))
        stored = notation.format(
            e="_" + named(self.stored_d_model), f="_" + named(self.stored_d_ff), h="_" + named(self.stored_heads)
        )
        return used, stored if self.gather else used


def weight_stationary_1d(axes: Axes) -> Uses:
    """Section 3.2.1, as released: BLE_x -> all-gather(x) -> BLE . EF_xyz -> ... -> reduce-scatter(x), all-reduce(yz).

    Figure 2(a) splits the residual stream over all axes instead, which moves less.
    """
    return Uses(heads=axes[::-1], d_ff=axes[::-1], stream=axes[:1])


def weight_stationary_2d(axes: Axes) -> Uses:
    """Section 3.2.2, Figure 2(b): BLE_xyz -> all-gather(yz) -> BLE_x . E_xF_yz -> reduce-scatter(x) -> ..."""
    inner = axes[:0:-1]
    return Uses(d_model=axes[:1], heads=inner, d_ff=inner, stream=inner)


def weight_gathered_x(axes: Axes) -> Uses:
    """Section 3.2.3, Appendix A.2.2: weights gathered over x to EF_yz, activations B_xLE_yz."""
    return _gathered(axes, 1)


def weight_gathered_xy(axes: Axes) -> Uses:
    """Section 3.2.3, Figure 2(c), Appendix A.2.2: weights gathered over x and y to EF_z, activations B_xyLE_z."""
    return _gathered(axes, 2)


def weight_gathered_xyz(axes: Axes) -> Uses:
    """Section 3.2.3, Appendix A.2.2: weights gathered over all axes, activations B_xyzLE never move."""
    return _gathered(axes, len(axes))


def _gathered(axes: Axes, count: int) -> Uses:
    stored = axes[:0:-1]
    kept = stored[: len(axes) - count]
    return Uses(
        heads=kept,
        d_ff=kept,
        gather=axes[:count],
        stream=kept,
        stored_d_model=axes[:1],
        stored_heads=stored,
        stored_d_ff=stored,
    )


def tensor_parallel(axes: Axes) -> Uses:
    """Megatron-LM (Shoeybi et al. 2019, section 3): BLE . EF_xyz, F_xyzE -> all-reduce(xyz); the stream is whole."""
    return Uses(heads=axes, d_ff=axes)


def megatron_sequence_parallel(axes: Axes) -> Uses:
    """Korthikanti et al. 2022, section 4.2: as `tensor_parallel`, with the stream and its norms split over positions,
    or over sequences where there is one position: the all-reduce is a reduce-scatter, and an all-gather before."""
    return Uses(heads=axes, d_ff=axes, tokens=axes)


def fsdp(axes: Axes) -> Uses:
    """Zhao et al. 2023 (PyTorch FSDP): sequences over all chips, weights gathered for each layer, stored as
    `tensor_parallel` has them."""
    return Uses(gather=axes, stored_heads=axes, stored_d_ff=axes)


def attention_data_parallel(axes: Axes) -> Uses:
    """DeepSeek-V3 (2024, section 3.4), SGLang: every chip attends to its own sequences with all heads; the tokens of
    all are gathered for an FFN split over d_ff, and its sum is scattered over them."""
    return Uses(d_ff=axes, tokens=axes)


def data_parallel(axes: Axes) -> Uses:
    """Narayanan et al. 2021 (Megatron-LM, section 3): copies of the model along the first axis, each with sequences of
    its own; a copy is split over the other axes, as `tensor_parallel` splits it."""
    return Uses(batch=axes[:1], heads=axes[1:], d_ff=axes[1:])


def expert_parallel(axes: Axes) -> Uses:
    """DeepSeek-V3 (2024, section 3.4): every chip has sequences of its own and all weights but the routed experts,
    which are split over the chips; tokens are sent to them."""
    return Uses(batch=axes, experts=axes)


def tensor_expert_parallel(axes: Axes) -> Uses:
    """Heads and dense FFNs split over all chips, as `tensor_parallel`, and experts as well: every chip has all tokens,
    and adds what its experts make of them."""
    return Uses(heads=axes, d_ff=axes, experts=axes)


Preset = Callable[[Axes], Uses]
"""Returns the uses of mesh axes in order, x first."""

PRESETS: dict[str, Preset] = {
    "weight_stationary_1d": weight_stationary_1d,
    "weight_stationary_2d": weight_stationary_2d,
    "weight_gathered_x": weight_gathered_x,
    "weight_gathered_xy": weight_gathered_xy,
    "weight_gathered_xyz": weight_gathered_xyz,
    "tensor_parallel": tensor_parallel,
    "megatron_sequence_parallel": megatron_sequence_parallel,
    "fsdp": fsdp,
    "attention_data_parallel": attention_data_parallel,
    "data_parallel": data_parallel,
    "expert_parallel": expert_parallel,
    "tensor_expert_parallel": tensor_expert_parallel,
}
