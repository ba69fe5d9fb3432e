"""A time that no simulation of a forward pass beats, from its operations alone: what a search skips by it cannot win.

Operations follow each other. Where they may be cut into pieces that stay on the chip, what activations take in memory
is left out. Collectives that all else waits for add to them; of those that may run beside them, and of them, the longer
is left. Where the chips of a machine are alike, and so go in step, a collective takes what an exact formula says, else
what its links must carry (`sim.topology.lower_bound`); where they are not, all that adds up is its launch.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from sim.closed_form.operation_counts import count_operations
from sim.closed_form.operations import CollectiveOp, LoopedMatmul, Op, Operation, Sublayer, collective_of
from sim.closed_form.pass_time import op_s
from sim.simulate.communication import Communication
from sim.simulate.predict import find_uncovered
from sim.specs import Scenario
from sim.topology.lower_bound import lower_bound

_BRANCHES = ("q", "kv", "q_wi", "wi", "o_wo")
"""Collectives of one of several products of one input: the others may run beside them."""


def min_step_s(scenario: Scenario) -> float:
    """Returns a lower bound of one forward pass of a scenario of one phase, s; 0 if the closed form omits too much.

    Raises:
        InputError: chips that do not divide what they share.
    """
    if find_uncovered(scenario) or scenario.perturb:
        return 0.0
    bound = _Bound(scenario, Communication(scenario))
    sublayers = count_operations(scenario, bound.to).sublayers
    known = {id(half): bound.of_half(half) for half in sublayers}
    in_turn = sum(known[id(half)][0] for half in sublayers)
    beside = sum(known[id(half)][1] for half in sublayers)
    waited = sum(known[id(half)][2] for half in sublayers)
    return max(in_turn, beside) + waited


class _Bound(Struct, frozen=True):
    """The bound of one scenario."""

    scenario: Scenario
    to: Communication

    def of_half(self, half: Sublayer) -> tuple[float, float, float]:
        """(operations, collectives that may run beside them, collectives that all waits for), s."""
        operations = beside = waited = 0.0
        for entry in half.operations:
            ops = self._operations_s(entry)
            operations += ops
            volume = collective_of(entry)
            if volume is None:
                continue
            least, launch = self._least_s(volume), self.scenario.stack.collective_overhead.value
            if not self._is_waited_for(half, entry, volume):
                beside += least
            elif isinstance(entry, LoopedMatmul):
                waited += max(0.0, least - ops)
            elif self.to.topology.is_vertex_transitive:
                waited += max(least, launch)
            else:
                waited += launch
                beside += max(0.0, least - launch)
        return operations, beside, waited

    def _operations_s(self, entry: Operation) -> float:
        if isinstance(entry, CollectiveOp):
            return 0.0
        if isinstance(entry, Op):
            return op_s(self.scenario, entry if self._whole else replace(entry, activation_bytes=0.0))
        ops = [replace(op, activation_bytes=0.0) for piece in entry.pieces for op in piece]
        if any(self.to.hop(axis, 1.0)[1] for axis in entry.collective.axes):  # by routes, pieces may be fewer
            ops = [replace(ops[0], flops=sum(op.flops for op in ops), read_bytes=max(op.read_bytes for op in ops))]
        return sum(op_s(self.scenario, op) for op in ops)

    def _least_s(self, volume: CollectiveOp) -> float:
        topology, alone = self.to.topology, (volume.kind, volume.axes, volume.bytes)
        exact_s, reasons = self.to.collective(*alone) if topology.is_vertex_transitive else (0.0, ("not alike",))
        return lower_bound(topology, *alone) if reasons else exact_s

    @property
    def _whole(self) -> bool:
        """True if operations and collectives are simulated as counted, and not in more pieces."""
        return self.scenario.overlap in ("none", "collective_matmul")

    def _is_waited_for(self, half: Sublayer, entry: Operation, volume: CollectiveOp) -> bool:
        if not self._whole:
            return False
        if self.scenario.communication_streams == 0:
            return self.to.topology.is_vertex_transitive or not isinstance(entry, LoopedMatmul)
        at, residual = self.to.uses, self.scenario.residual
        branch = volume.name in _BRANCHES or volume.name.endswith("weights") or isinstance(entry, LoopedMatmul)
        last = half.overlaps_next and volume is half.operations[-1]
        side_by_side = (at.heads != at.d_ff and residual == "parallel") or (residual == "ladder" and not at.whole)
        return not (branch or last or side_by_side)
