"""Sizes of a scenario's dimensions as they are computed, padded where chips do not divide them."""

from __future__ import annotations

from collections.abc import Callable
from math import lcm

from sim.lowering.work import pad_to_multiple
from sim.specs import Scenario
from sim.specs.uses import Axes, Uses

GroupSize = Callable[[Axes], int]
"""Returns the number of chips in a group along some axes."""


def compute_sizes(scenario: Scenario, uses: Uses, group_size: GroupSize, total_chips: int) -> dict[str, int]:
    """Returns the size of each dimension by its letter."""
    model, workload = scenario.model, scenario.workload
    heads = _pad_heads(scenario, uses, group_size)
    sizes = {
        "B": workload.rows,
        "L": workload.tokens_per_step,
        "E": pad_to_multiple(model.d_model, d_model_divisor(uses, group_size)),
        "F": model.d_ff,
        "H": heads,
        "K": heads if model.kv_heads == model.heads else model.kv_heads,
        "Q": model.d_head,
        "V": pad_to_multiple(model.vocabulary, total_chips),
    }
    if model.mtp:
        sizes["M"] = sizes["E"]
    if experts := model.experts:
        sizes |= {"X": experts.count, "Y": experts.count + scenario.layout.experts.replicas}
        sizes |= {"D": experts.d_ff, "S": experts.shared * experts.d_ff}
    if latent := model.latent:
        sizes |= {"C": latent.kv_rank, "R": latent.rope, "N": model.d_head - latent.rope, "U": latent.d_value}
        sizes |= {"A": latent.q_rank} if latent.q_rank else {}
    return sizes


def d_model_divisor(uses: Uses, group_size: GroupSize) -> int:
    """Returns the number that must divide d_model: chips that split the residual stream or store the weights.

    Padding does not change the step time: all ranks wait for the largest shard.
    """
    return lcm(group_size(uses.d_model + uses.stream), group_size(uses.stored_d_model))


def _pad_heads(scenario: Scenario, uses: Uses, group_size: GroupSize) -> int:
    """Returns the heads, padded to a multiple of the chips that store their weights.

    If neither the heads of each of these chips, nor sequences, nor positions can be split over the axes of d_model,
    heads are padded until all chips divide them, as PaLM 540B's are.
    """
    workload, e = scenario.workload, group_size(uses.d_model)
    heads = pad_to_multiple(scenario.model.computed_heads, group_size(uses.stored_heads or uses.heads))
    if all(size % e for size in (heads // group_size(uses.heads), workload.rows, workload.tokens_per_step)):
        heads = pad_to_multiple(heads, group_size(uses.heads) * e)
    return heads
