"""Layouts by what they do with the mesh axes; one short function each.

Every layout of Pope et al. is the same block (`sim.layouts.block`) with the mesh axes dealt to three uses. The weights
are stored E_eF_f in the weight-stationary layouts; the weight-gathered ones store them as the 2D weight-stationary
layout does, so that prefill and decode can differ without moving weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Axes = tuple[str, ...]
"""Names of mesh axes, outermost first."""


@dataclass(frozen=True, slots=True)
class Partition:
    """What each mesh axis does."""

    e: Axes
    """Split d_model of the weights in use: activations are summed over them inside the block."""
    f: Axes
    """Split d_ff and heads: what the block puts out is summed over them."""
    g: Axes = ()
    """Weights are gathered over them for each layer; they split the batch."""
    whole: Axes = ()
    """Those of `f` over which the residual stream is not split: every chip along them holds and adds the same."""
    stored_e: Axes = ()
    """Split d_model of the weights as stored; empty where nothing is gathered."""
    stored_f: Axes = ()

    @property
    def residual(self) -> str:
        """Sharding of the residual stream between layers."""
        return f"B_{''.join(self.g)} L E_{''.join(self.e + self.split)}"

    @property
    def split(self) -> Axes:
        """Those of `f` that split the residual stream: it is gathered over them before the block."""
        return tuple(axis for axis in self.f if axis not in self.whole)

    @property
    def gathers_in_matmul(self) -> bool:
        """Whether the residual stream, split over one axis, is gathered by the matmul that it goes into and scattered
        by the one that it comes out of; else each matmul sums over `e`, or gathers its weights."""
        return not self.e and not self.g and len(self.split) == 1

    def weight(self, notation: str) -> tuple[str, str]:
        """A weight's sharding in use and as stored: `weight("E{e} F{f}")`; both alike where nothing is gathered."""
        used = notation.format(e="_" + "".join(self.e), f="_" + "".join(self.f))
        stored = notation.format(e="_" + "".join(self.stored_e), f="_" + "".join(self.stored_f))
        return used, stored if self.g else used


def weight_stationary_1d(axes: Axes) -> Partition:
    """Section 3.2.1, as released: BLE_x -> all-gather(x) -> BLE . EF_xyz -> ... -> reduce-scatter(x), all-reduce(yz).

    Figure 2(a) splits the residual stream over all axes instead, which moves less.
    """
    return Partition(e=(), f=axes[::-1], whole=axes[:0:-1])


def weight_stationary_2d(axes: Axes) -> Partition:
    """Section 3.2.2, Figure 2(b): BLE_xyz -> all-gather(yz) -> BLE_x . E_xF_yz -> reduce-scatter(x) -> ..."""
    return Partition(e=axes[:1], f=axes[:0:-1])


def weight_gathered_x(axes: Axes) -> Partition:
    """Section 3.2.3, Appendix A.2.2: weights gathered over x to EF_yz, activations B_xLE_yz."""
    return _gathered(axes, 1)


def weight_gathered_xy(axes: Axes) -> Partition:
    """Section 3.2.3, Figure 2(c), Appendix A.2.2: weights gathered over x and y to EF_z, activations B_xyLE_z."""
    return _gathered(axes, 2)


def weight_gathered_xyz(axes: Axes) -> Partition:
    """Section 3.2.3, Appendix A.2.2: weights gathered over all axes, activations B_xyzLE never move."""
    return _gathered(axes, len(axes))


def _gathered(axes: Axes, count: int) -> Partition:
    stored = weight_stationary_2d(axes)
    kept = stored.f[: len(axes) - count]
    return Partition(e=(), f=kept, g=axes[:count], stored_e=stored.e, stored_f=stored.f)


Layout = Callable[[Axes], Partition]
"""From the mesh axes in order, x first."""

LAYOUTS: dict[str, Layout] = {
    "weight_stationary_1d": weight_stationary_1d,
    "weight_stationary_2d": weight_stationary_2d,
    "weight_gathered_x": weight_gathered_x,
    "weight_gathered_xy": weight_gathered_xy,
    "weight_gathered_xyz": weight_gathered_xyz,
}
