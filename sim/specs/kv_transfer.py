"""Transfer of the KV cache from chips that prefill to chips that decode."""

from collections.abc import Mapping

from sim.errors import suggest
from sim.specs.base import Count, Name, Strict, wrong
from sim.specs.mesh import MeshSpec


class KvTransferSpec(Strict):
    """A prefill on some chips whose keys and values other chips decode with (disaggregated serving): those of each
    layer are sent as soon as it has written them, over the machine's links, by adapters or copy engines that take no
    multiprocessors.

    `batch`, `context` and `heads` split the cache over the decoding chips, outermost first; chips that are left over
    hold copies of it, next to each other. Default, without all three: as over the prefilling chips, whose sequences
    are dealt to the groups that decode."""

    axis: Name
    """Axis of `mesh` whose first position prefills with `layout`; the chips at all others decode."""
    batch: Count | None = None
    """Parts of the sequences."""
    context: Count | None = None
    """Parts of the positions."""
    heads: Count | None = None
    """Parts of the key-value heads."""

    @property
    def shards(self) -> tuple[int, int, int] | None:
        """Parts of sequences, positions and heads; None where they are as over the prefilling chips."""
        given = self.batch, self.context, self.heads
        return None if given == (None, None, None) else (self.batch or 1, self.context or 1, self.heads or 1)


def check_transfer(
    transfer: KvTransferSpec, phase: str, mesh: MeshSpec | None, others: Mapping[str, object | None]
) -> None:
    """Raises the rule that a transfer breaks in a scenario.

    Args:
        others: fields with which it is not supported, None where they are not set.
    """
    if phase != "prefill":
        hint = "workload.phase: prefill; decoding is a scenario of its own"
        raise wrong("layout", "kv_transfer", rule="is of a prefill", got=phase, hint=hint)
    if mesh is None or transfer.axis not in mesh:
        hint = suggest(transfer.axis, mesh or ()) or f"mesh: {{{transfer.axis}: boxes, gpu: 8}}"
        raise wrong("layout", "kv_transfer", "axis", rule="must be an axis of 'mesh'", got=transfer.axis, hint=hint)
    for field, given in others.items():
        if given is not None:
            raise wrong("layout", "kv_transfer", rule=f"is not supported with {field}", hint="leave one out")
