"""Operations of a mixture of experts: router, dispatch, grouped matmuls, combine, shared experts.

| symbol | meaning | | symbol | meaning |
|---|---|---|---|---|
| X, k | experts of a layer, those that a token uses | | R | chips that split the experts |
| T | tokens of a chip | | S | chips of them that have tokens of their own |

A uniform load is its expectation, without copies of experts and with experts on chips in order. A chip has S T k / R
rows, and of its experts those are hit that one of the S T tokens chose: each with probability 1 - (1 - k/X)^(S T). A
token reaches a part of the experts, such as those of one chip or of one box, with the probability of `reached`; times
the number of parts, that is the number of distinct destinations (DeepEP's `get_expected_topk`).
"""

from __future__ import annotations

from math import ceil, prod
from typing import Literal

from sim.closed_form.operations import CollectiveOp, Op
from sim.closed_form.pass_builder import PassBuilder, check_multiple
from sim.specs import DTYPE_BYTES
from sim.specs.expert_choice import share_of_counts
from sim.specs.experts import ExpertsSpec, Scheme
from sim.specs.uses import Axes


class ExpertsBuilder(PassBuilder):
    """Appends the operations of an FFN of experts."""

    def add_experts(self) -> None:
        """Appends the mixture of experts of the normalised stream, and the sum of what chips have of it."""
        uses, mixture = self.uses, self.mixture
        inner = tuple(axis for axis in uses.d_ff if axis not in uses.experts)
        gathered = tuple(axis for axis in uses.tokens if axis in inner)
        rows = self.tokens_of_chip(inner)
        exchanged = tuple(axis for axis in uses.experts if axis in uses.batch + uses.tokens)
        summed = tuple(axis for axis in uses.d_ff if axis not in exchanged)
        check_multiple("model.experts.d_ff", mixture.d_ff, self.group_size(inner))
        check_multiple("model.experts.shared x d_ff", mixture.shared * mixture.d_ff, self.group_size(summed))
        if uses.gathers_in_matmul:
            self.add_collective("residual", "all_gather", uses.stream, self.tokens_of_chip() * self.E * self.a)
        self.add_collective("tokens", "all_gather", gathered, rows * self.E * self.a)
        self.operations.append(self.make_matmul("router", rows, [self.E], [mixture.count]))
        self.add_elementwise("router top k", *[rows * mixture.count * self.a] * 2)
        shared, place = self._shared_experts(rows, summed), self.scenario.layout.experts.shared
        self._exchange("dispatch", rows, exchanged, shared if place != "under_combine" else [])
        self._add_routed(rows, exchanged, mixture.d_ff / self.group_size(inner))
        self._exchange("combine", rows, exchanged, shared if place == "under_combine" else [])
        if shared:
            self.add_elementwise("shared experts add", *[rows * self.E * self.a] * 3)
        self.add_reduction("residual" if uses.stream else "mlp", summed)

    @property
    def mixture(self) -> ExpertsSpec:
        """The model's experts."""
        experts = self.scenario.model.experts
        assert experts is not None
        return experts

    def _add_routed(self, rows: float, exchanged: Axes, width: float) -> None:
        """Appends the grouped matmuls and the activation between them."""
        outputs = len(self.ffn_inputs)
        held, hit = self.rows_of_chip(rows, exchanged)
        self._add_grouped("experts wi", held, hit, (self.E, outputs * width))
        size = held * width * (outputs + 1) * self.a
        self.operations.append(Op("experts activation", 0.0, self.spilled_bytes(size)))
        self._add_grouped("experts wo", held, hit, (width, self.E))

    def rows_of_chip(self, rows: float, exchanged: Axes) -> tuple[float, float]:
        """Returns the rows of a chip's experts, and how many of these have a row, as expected of a uniform choice.

        Args:
            rows: tokens of a chip, T.
            exchanged: axes along which chips have tokens of their own.
        """
        mixture, layout = self.mixture, self.scenario.layout.experts
        holders, tokens = self.group_size(self.uses.experts), self.group_size(exchanged) * rows
        check_multiple("experts and their copies", mixture.count + layout.replicas, holders)
        used = (mixture.count + layout.replicas) / holders * (1 - (1 - mixture.top_k / mixture.count) ** tokens)
        return tokens * mixture.top_k / holders * self._kept, used

    @property
    def _kept(self) -> float:
        """Share of the rows that an expert's capacity does not drop."""
        return min(1.0, self.scenario.layout.experts.capacity or 1.0)

    def _add_grouped(self, name: str, rows: float, hit: float, sizes: tuple[float, float]) -> None:
        """Appends one launch of a matmul of each expert's rows, which reads the weights of the experts that are hit."""
        inner, columns = sizes
        weights = self.scenario.workload.expert_weights or self.scenario.workload.weights
        moved = self.spilled_bytes(rows * inner * self.o) + self.spilled_bytes(rows * columns * self.a)
        read = hit * inner * columns * DTYPE_BYTES[weights]
        op = Op(name, 2 * rows * inner * columns, moved, read, is_tiled=True, kernel="grouped")
        self.operations.append(self.multiplied_with(op, weights))

    def _shared_experts(self, rows: float, summed: Axes) -> list[Op]:
        """Returns the operations of the experts that every token uses."""
        width, before = self.mixture.shared * self.mixture.d_ff / self.group_size(summed), len(self.operations)
        if not width:
            return []
        outputs = [width] * len(self.ffn_inputs)
        self.operations.append(self.make_matmul("shared wi", rows, [self.E], outputs))
        self.add_elementwise("shared activation", *[rows * width * self.a] * (len(outputs) + 1))
        self.operations.append(self.make_matmul("shared wo", rows, [width], [self.E]))
        shared = [operation for operation in self.operations[before:] if isinstance(operation, Op)]
        del self.operations[before:]
        return shared

    # --- the exchange ------------------------------------------------------------------------------------------------

    def _exchange(self, way: Literal["dispatch", "combine"], rows: float, axes: Axes, beside: list[Op]) -> None:
        """Appends the way of rows to their experts or back, and the operations beside it."""
        n, work = self.group_size(axes), self.scenario.workload
        if n == 1:
            held, _ = self.rows_of_chip(rows, axes)
            moved = self.spilled_bytes((rows + held) * self.E * self.a)
            permute = Op(f"experts {'permute' if way == 'dispatch' else 'unpermute'}", 0.0, moved)
            self.operations += [permute, *beside] if way == "dispatch" else [*beside, permute]
            return
        dtype = work.dispatch if way == "dispatch" else work.combine
        size = rows * ceil(self.E * DTYPE_BYTES[dtype or work.activations])
        scheme, kind = self._scheme(axes), str(way)
        if scheme == "all_gather":
            kind, size = ("all_gather" if way == "dispatch" else "reduce_scatter"), size * n
        else:
            size *= self._destinations(scheme, axes) * self._kept
        self.operations += [CollectiveOp(way, kind, axes, size, tuple(beside)), *beside]

    def _scheme(self, axes: Axes) -> Scheme:
        """Returns which messages a token makes."""
        kernel, layout = self.scenario.exchange_kernel, self.scenario.layout.experts
        default: Scheme = "per_expert" if kernel == "low_latency" else "per_rank"
        if kernel == "normal" and self.count_boxes(axes) > 1:
            default = "per_box"
        return self.scenario.stack.named_scheme(layout) or default

    def _destinations(self, scheme: Scheme, axes: Axes) -> float:
        """Returns the copies of a token that leave for the chips along axes, the one that stays included."""
        holders, n = self.group_size(self.uses.experts), self.group_size(axes)
        if scheme == "per_expert":
            return self.mixture.top_k * n / holders
        boxes = self.count_boxes(axes) if axes == self.uses.experts else 1
        if scheme == "per_box" and boxes > 1:
            return boxes * reached(self.mixture, boxes)
        return n * reached(self.mixture, holders)


def reached(experts: ExpertsSpec, parts: int) -> float:
    """Returns the probability that a token has an expert in one of `parts` equal parts of all experts.

    Of G groups a token uses some, c experts of each, by shares that are drawn (`share_of_counts`). A part of s experts
    inside a group of n is missed by c of them with the probability of the product of (n-i-s) / (n-i) over i < c; the
    group may be any of the G. A part of m whole groups is missed by u groups with that of (G-i-m) / (G-i) over i < u.
    """
    groups = experts.choice_groups
    size, group = experts.count / parts, experts.count // groups

    def missed(all_: int, part: float, chosen: int) -> float:
        return prod(max(0.0, 1 - part / (all_ - i)) for i in range(chosen))

    result = 1.0
    for counts, share in share_of_counts(experts).items():
        if size <= group:
            result -= share * (1 + sum(missed(group, size, count) - 1 for count in counts) / groups)
        else:
            result -= share * missed(groups, size / group, len(counts))
    return result
