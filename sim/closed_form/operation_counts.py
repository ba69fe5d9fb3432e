"""Counts the operations and collectives of one forward pass from the uses of the mesh axes (`sim.specs.uses`).

This module does not know how a layer is lowered. The bytes follow from five rules, with groups of chips named as in
`pass_builder`:

    gather of the stream      before a sublayer, over r (d_model) or s (tokens)
    sum over d_model          of a sublayer's first products, over e; gathered again before its last matmul
    sum over heads or d_ff    of a sublayer's output, over h or f: scattered over r and s, all-reduced over the others
    gather of weights         of every matmul, over g
    attention over the batch  all-to-alls of queries, of multi-head keys and values, and of the output, over h and e

Few key-value heads are split over the outermost axes of h that divide them, and never gathered; keys and values of
multi-head attention (K = H) are sharded like the queries.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from sim.closed_form.attention_operations import SCORE_BYTES
from sim.closed_form.expert_operations import ExpertsBuilder
from sim.closed_form.latent_operations import LatentBuilder
from sim.closed_form.operations import CommunicationModel, Op, PassOperations, Sublayer
from sim.closed_form.pass_builder import Factor, pad_to_multiple
from sim.specs import Scenario

_PAIR = 8
"""Bytes of a 32-bit logit with its token."""
_TOP_K = ("softmax", "top k", "masked softmax", "draw")
"""Kernels of a draw, each of which reads or writes all logits twice."""
_PENDING = {"parallel": 1, "ladder": 2, "standard": 1, "unsummed": 1, "mlp_summed": 0}
"""Outputs of a layer that are still to be added to the stream, by the kind of layer."""


def count_operations(scenario: Scenario, communication: CommunicationModel) -> PassOperations:
    """Returns the operations of one forward pass. Raises InputError: chips that do not divide a dimension they
    share."""
    return _PassCounter(scenario, communication).build()


class _Kind(NamedTuple):
    """What one layer has that others may not have."""

    residual: str
    has_experts: bool
    window: int | None


class _PassCounter(LatentBuilder, ExpertsBuilder):
    """Appends the sublayers of a pass."""

    # --- sublayers ---------------------------------------------------------------------------------------------------

    def add_attention_output(self) -> Factor:
        """Appends attention of the model's kind; returns its output."""
        return self.add_latent_attention() if self.scenario.model.latent else self.add_attention()

    def add_ffn_output(self, has_experts: bool) -> None:
        """Appends the FFN of a layer with its sum over the chips."""
        if has_experts:
            self.add_experts()
        else:
            self.write_stream("mlp", self.uses.d_ff, self.add_ffn())

    def add_ffn(self) -> Factor:
        self.project_stream("wi", self.uses.d_ff, *self.ffn_inputs)
        return self.add_activation()

    def add_activation(self) -> Factor:
        """Appends SwiGLU or GELU on the shard after the reduce-scatter over e; returns its output."""
        size = self.tokens_of_chip(self.uses.d_ff) * self.ffn_hidden.width / self.e * self.a
        self.add_elementwise("activation", *[size] * (len(self.ffn_inputs) + 1))
        return self.ffn_hidden

    def add_attention_and_ffn(self, has_experts: bool) -> None:
        """Appends attention and FFN after one norm (a parallel layer)."""
        uses, ffn_inputs = self.uses, self.ffn_inputs
        if uses.heads != uses.d_ff or has_experts or self.scenario.model.latent:
            self.write_stream("attention", uses.heads, self.add_attention_output())
            self.add_ffn_output(has_experts)
            self.add_residual("both")
        elif self.is_fused:
            key_or_value = Factor("kv", self.kv_heads_of_chip * self.Q)
            self.project_stream("qkv_wi", uses.d_ff, self.query, key_or_value, key_or_value, *ffn_inputs)
            self.attend(self.tokens_of_chip(uses.heads) / self.L, self.H / self.h, self.kv_heads_of_chip)
            self.write_stream("both", uses.d_ff, self.query, self.add_activation())
        else:
            self.project_stream("q_wi", uses.d_ff, self.query, *ffn_inputs)
            self.attend_by_layout()
            self.write_stream("both", uses.d_ff, self.add_activation(), self.query)

    # --- the stream --------------------------------------------------------------------------------------------------

    def add_residual(self, name: str, rows: float | None = None) -> None:
        """Appends x + y of two tensors sharded like the stream."""
        width = self.E / self.group_size(self.uses.d_model + self.uses.stream)
        self.add_elementwise(f"{name} add", *[(self.tokens_of_chip() if rows is None else rows) * width * self.a] * 3)

    def add_norm(self, name: str, pending: int = 0) -> None:
        """Appends the adds of pending outputs, then a norm; a stream split over several axes is gathered before it."""
        uses, rows = self.uses, self.tokens_of_chip()
        if not (uses.d_model or uses.stream):
            self.add_whole_norm(name, pending, rows, self.E)
            return
        for _ in range(pending):
            self.add_residual("residual")
        if uses.gathers_in_matmul:
            self.add_scaling(name, rows, self.E / self.group_size(uses.stream), uses.stream)
        else:
            self.add_collective("residual", "all_gather", uses.stream, rows * self.E / self.e * self.a)
            self.add_scaling(name, rows, self.E / self.e, uses.d_model)

    def add_embedding(self) -> None:
        """Appends the look-up of the chip's own tokens, of all that it has rows of the table for, and the sum over the
        chips, scattered like the stream."""
        own = tuple(axis for axes in self.stream_axes[:2] for axis in axes if axis not in self.vocabulary_axes)
        size = self.scenario.workload.batch * self.L * self.E * self.a / self.group_size(own)
        self.add_elementwise("embedding", size)
        left = self.vocabulary_axes
        for axes in self.stream_axes:
            summed = tuple(axis for axis in axes if axis in self.vocabulary_axes)
            size /= self.group_size(tuple(axis for axis in axes if axis not in (*summed, *own)))
            self.add_collective("embedding", "reduce_scatter", summed, size)
            size /= self.group_size(summed)
            left = tuple(axis for axis in left if axis not in summed)
        self.add_collective("embedding", "all_reduce", left, size)

    def add_logits(self, pending: int, *, proposes: bool = False) -> None:
        """Appends the final norm, the logits and the next token; of a proposal, of the last position alone."""
        uses, layout = self.uses, self.scenario.layout
        if layout.logits == "none":
            for _ in range(pending):
                self.add_residual("residual")
            return
        every = not proposes and (layout.logits == "every" or self.scenario.workload.speculation is not None)
        by_position = bool(uses.tokens) and not self.splits_sequences
        split, sequences = uses.d_model + uses.stream, uses.gather
        if uses.gather and self.splits_sequences:
            sequences += uses.tokens
        positions = self.L if every or by_position else 1
        rows = self.tokens_of_chip() / self.L * positions
        if split or sequences:
            for _ in range(pending):
                self.add_residual("residual", rows)
            self.add_collective("last position", "all_gather", split, rows * self.E * self.a)
            rows *= self.group_size(sequences)
            self.add_collective("last position", "all_gather", sequences, rows * self.E * self.a)
            pending = 0
        self.add_whole_norm("final_norm", pending, rows, self.E)
        tokens = tuple(axis for axis in uses.tokens if axis not in sequences)
        rows *= self.group_size(tokens)
        self.add_collective("final_norm", "all_gather", tokens, rows * self.E * self.a)
        replica = self.scenario.workload.batch / self.group_size(uses.batch)
        vocabulary = pad_to_multiple(self.scenario.model.vocabulary, prod(self.lengths.values()))
        columns = vocabulary // self.group_size(self.vocabulary_axes)
        self.operations.append(self.make_matmul("logits", replica * (self.L if every else 1), [self.E], [columns]))
        for kernel in _TOP_K if self.scenario.workload.sampling == "top_k" else ():
            self.operations.append(Op(f"token {kernel}", 0.0, 2 * replica * columns * SCORE_BYTES))
        self.add_elementwise("token", replica * columns * self.a)
        pairs = replica * self.group_size(self.vocabulary_axes)
        self.add_collective("token", "all_gather", self.vocabulary_axes, pairs * _PAIR)

    # --- the pass ----------------------------------------------------------------------------------------------------

    def end_sublayer(self, *, overlaps_next: bool = False) -> None:
        """Ends the current sublayer with its sum."""
        self.sublayers.append(Sublayer(tuple(self.operations), overlaps_next))
        self.operations = []

    def build(self) -> PassOperations:
        scenario, uses = self.scenario, self.uses
        if scenario.layout.logits != "none":
            self.add_embedding()
            if self.vocabulary_axes:
                self.end_sublayer()
        kinds, experts = _kinds(scenario), scenario.model.experts
        pending, layers = 0, dict[tuple[_Kind, int, bool, bool], list[Sublayer]]()
        for i, kind in enumerate(kinds):
            after, before = kinds[i + 1 : i + 2] == ["ladder"], kinds[max(i - 1, 0) : i + 1] == ["ladder"] * 2
            has_experts = experts is not None and experts.in_layer(i)
            key = _Kind(kind, has_experts, scenario.model.window_of(i)), pending, after, before
            if key in layers:
                self.sublayers += layers[key]
            else:
                first, begun = len(self.sublayers), bool(self.operations)
                self.add_layer(*key)
                layers |= {} if begun else {key: self.sublayers[first:]}
            pending = _PENDING[kind]
        self.add_logits(pending)
        self.end_sublayer()
        for proposal in range(scenario.proposals):
            self.L = 1 if proposal else self.L
            self.add_proposal("parallel" if kinds[-1] == "parallel" else "standard", len(kinds) - 1)
        apart = uses.heads != uses.d_ff or experts or scenario.model.latent
        in_parallel, whole = apart and "parallel" in kinds, uses.whole and not experts
        is_serial = self.is_fused and not in_parallel and (whole or "ladder" not in kinds)
        return PassOperations(tuple(self.sublayers), is_serial)

    def add_proposal(self, residual: str, last: int) -> None:
        """Appends a pass of the module for multi-token prediction, whose layer is like the `last` of the model."""
        self.add_embedding()
        rows, experts = self.tokens_of_chip(), self.scenario.model.experts
        for _ in range(2):
            self.add_whole_norm("norm", 0, rows, self.E)
        self.operations.append(self.make_matmul("project", rows, [self.E, self.E], [self.E]))
        has_experts = experts is not None and experts.in_layer(last)
        self.add_layer(_Kind(residual, has_experts, self.scenario.model.window_of(last)), 0, False, False)
        self.add_logits(1, proposes=True)
        self.end_sublayer()

    def add_layer(self, kind: _Kind, pending: int, ladder_after: bool, ladder_before: bool) -> None:
        """Appends both sublayers of a layer of a residual scheme.

        Args:
            pending: outputs of the previous layer that are still to be added.
        """
        residual, has_experts, self.window = kind
        uses, ladder, keeps_partial = self.uses, residual == "ladder", residual in ("unsummed", "mlp_summed")
        if ladder_before:
            self.add_residual("residual attention")
        self.add_norm("norm", 0 if ladder else pending)
        if residual == "parallel":
            self.add_attention_and_ffn(has_experts)
            self.end_sublayer()
            return
        out = self.add_attention_output()
        if keeps_partial:
            self.add_partial_sum(out)
        else:
            self.write_stream("attention", uses.heads, out)
        self.end_sublayer(overlaps_next=ladder and uses.whole)
        if ladder and pending:
            self.add_residual("residual mlp")
        self.add_norm("ffn_norm", 0 if ladder else 1)
        if keeps_partial:
            self.add_partial_sum(self.add_ffn(), "mlp" if residual == "mlp_summed" else "")
        else:
            self.add_ffn_output(has_experts)
        self.end_sublayer(overlaps_next=ladder_after and uses.whole)

    def add_partial_sum(self, factor: Factor, name: str = "") -> None:
        """Appends a sublayer's last matmul without its sum; with a name, the sum of it and of the stream is reduced."""
        self.add_product_of(factor, self.uses.d_ff, adds=bool(name))
        if name:
            self.add_reduction(name, self.uses.d_ff)


def _kinds(scenario: Scenario) -> list[str]:
    """Returns the kind of each layer, by the residual scheme; a scheme of a plugin is counted as standard."""
    count, scheme = scenario.model.layers, scenario.residual
    kind = "unsummed" if scheme == "no_communication" else scheme
    kinds = [kind if kind in _PENDING else "standard"] * count
    if scheme == "hybrid" and scenario.layout.hybrid:
        last = scenario.layout.hybrid.ladder_layers
        kinds = ["standard"] * (count - last) + ["ladder"] * last
    elif scheme in ("desync2", "desync4"):
        every = 1 if scheme == "desync2" else 2
        summed = [(i + 1) % every == 0 or i + 1 == count for i in range(count)]
        kinds = ["mlp_summed" if is_summed else "unsummed" for is_summed in summed]
    return kinds[: scenario.layers]
