"""A layout of one's own: what each mesh axis does (`sim.specs.uses`)."""

from typing import Annotated, Literal

from pydantic import Field

from sim.errors import InputError, suggest
from sim.specs.base import Name, Strict
from sim.specs.uses import Axes, Uses

AxisNames = Annotated[tuple[Name, ...], Field(strict=False)]
"""Mesh axes, outermost first; a list in a file."""


class StoredSpec(Strict):
    """Storage of weights that are gathered for use."""

    d_model: AxisNames = ()
    """Axes that split d_model of the stored weights."""
    heads: AxisNames = ()
    """Axes that split the heads of the stored weights."""
    d_ff: AxisNames = ()
    """Axes that split d_ff of the stored weights."""


class UsesSpec(Strict):
    """The mesh axes of each use, outermost first. Every axis has one use in each half of a layer, or is of stages."""

    d_model: AxisNames = ()
    """Split d_model of the weights: activations are summed over them inside each half of a layer."""
    heads: AxisNames = ()
    """Split the heads. Axes of `d_ff` that are not here split the batch of attention, or repeat it."""
    d_ff: AxisNames = ()
    """Split d_ff."""
    experts: AxisNames = ()
    """Split the experts in layers that have them: axes of `d_ff` or `batch`. Other axes of `d_ff` split each expert."""
    context: AxisNames = ()
    """Split the positions of the stream; of `heads`, its last axes, those of the cache alone."""
    gather: AxisNames = ()
    """Weights are gathered over them for each layer; they split the batch."""
    batch: AxisNames = ()
    """Split the batch; chips along them hold the same weights."""
    stage: AxisNames = ()
    """Stages of a pipeline (`layout.pipeline`): each has some of the layers."""
    residual: dict[Name, Literal["whole", "d_model", "tokens"]] = {}
    """Dimension of the residual stream that an axis of `heads` and `d_ff` splits between the halves, by the axis, such
    as `{gpu: tokens}`. Default: none."""
    stored: StoredSpec | None = None
    """Storage of gathered weights. Default: split over the gathered axes inside heads and d_ff."""

    def over(self, axes: Axes) -> Uses:
        """These uses of the axes of a mesh, or of a stage's part of it.

        Raises:
            InputError: an axis that the mesh does not have, that has two uses or none.
        """
        stored = self.stored or StoredSpec()
        if self.gather and not self.stored:
            heads, d_ff = self.heads + self.gather, self.d_ff + self.gather
            stored = StoredSpec(d_model=self.d_model, heads=heads, d_ff=d_ff)
        split = tuple(axis for axis, over in self.residual.items() if over == "d_model")
        at = Uses(
            d_model=self.d_model,
            heads=self.heads,
            d_ff=self.d_ff,
            experts=self.experts,
            context=self.context,
            gather=self.gather,
            batch=self.batch,
            stream=tuple(axis for axis in self.d_ff if axis in split),
            tokens=tuple(axis for axis, over in self.residual.items() if over == "tokens"),
            stored_d_model=stored.d_model,
            stored_heads=stored.heads,
            stored_d_ff=stored.d_ff,
        )
        each = (*at.d_model, *at.gather, *at.batch, *at.positions, *at.summed)
        for axis in (*each, *self.experts, *self.context, *self.residual, *stored.d_model, *stored.heads, *stored.d_ff):
            if axis not in axes:
                raise _wrong("names an axis that the mesh does not have", axis, suggest(axis, axes))
        for axis in axes:
            if each.count(axis) != 1:
                rule = "must give every mesh axis one use in each half of a layer"
                raise _wrong(rule, f"{axis} in {each.count(axis)}", "d_model, heads and d_ff, gather or batch")
        for axis in at.experts:
            if axis not in (*at.d_ff, *at.batch) or at.experts.count(axis) > 1:
                raise _wrong("splits experts by axes of d_ff or batch, each once", axis, "d_ff or batch")
        kept = at.cached_positions
        if kept and at.heads[-len(kept) :] != kept:
            rule = "splits the cache's positions by the last axes of heads, in their order"
            raise _wrong(rule, ", ".join(kept), f"of {', '.join(at.heads)}")
        for axis in split:
            if axis not in at.heads or axis not in at.d_ff:
                raise _wrong("splits d_model of the stream by axes of both heads and d_ff", axis, "residual: tokens")
        for axis in at.tokens:
            if axis not in at.summed:
                raise _wrong("splits the stream's tokens by axes of heads or d_ff", axis, "batch, of the whole layer")
        return at


def _wrong(rule: str, got: str, hint: str) -> InputError:
    return InputError(rule, where="layout.uses", got=got, hint=hint)
