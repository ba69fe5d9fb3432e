"""Choice of experts by a router that is limited to some groups of experts, if all experts are as likely.

A token's groups are those with the largest sum of their two best scores, and its experts the best of these groups
(DeepSeek-V3 2024, section 2.1.2). Scores are assumed independent and Gumbel distributed, as in drawn loads: negative
logarithms of exponential clocks, the best being the first to ring. No closed form of the choice is known, so it is
drawn, always the same.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from sim.specs.experts import ExpertsSpec

_DRAWS = 2**15
"""Tokens that are drawn: the mean number of boxes of DeepSeek-V3's tokens then differs by 0.03 % from seed to seed."""


@functools.lru_cache(maxsize=16)
def share_of_counts(experts: ExpertsSpec) -> Mapping[tuple[int, ...], float]:
    """Returns the share of tokens by the numbers of their experts in each group that they use, the largest first.

    Groups are alike, so any numbers are as likely in any order. A choice that is not limited has one group.
    """
    if experts.choice_groups == 1:
        return {(experts.top_k,): 1.0}
    size, used = experts.count // experts.groups, experts.top_groups or experts.groups
    best = min(size, max(2, experts.top_k))
    gaps = np.random.default_rng(0).standard_exponential((_DRAWS, experts.groups, best))
    clocks = np.cumsum(gaps / np.arange(size, size - best, -1), axis=2)  # the first of each group (Renyi 1953)
    first = np.argpartition(np.log(clocks[:, :, :2]).sum(axis=2), used - 1, axis=1)[:, :used, None]
    clocks = np.take_along_axis(clocks, first, axis=1)
    last = np.partition(clocks.reshape(_DRAWS, -1), experts.top_k - 1, axis=1)[:, experts.top_k - 1]
    counts = -np.sort(-(clocks <= last[:, None, None]).sum(axis=2), axis=1)
    found, drawn = np.unique(counts, axis=0, return_counts=True)
    return {
        tuple(count for count in row if count): number / _DRAWS
        for row, number in zip(found.tolist(), drawn.tolist(), strict=True)
    }
