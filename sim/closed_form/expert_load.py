"""Expected rows of the fullest expert of a layer, for every shape of load.

Of N tokens each chooses k of X experts, without replacement, in proportion to their popularity w. The share of tokens
that choose an expert is about

    q = 1 - exp(-t w),  t such that all q add up to k

the probability that the expert's exponential clock of rate w rings before time t. Its rows are about normal, of mean
N q and variance N q (1 - q). The fullest of all has more than x rows with the probability

    1 - product over the experts of Phi((x - N q) / sqrt(N q (1 - q)))

and expected is its median, where the product is 1/2. The popularity of log-normal loads is taken at the
quantiles (i - 3/8) / (X + 1/4) of the normal distribution (Blom 1958). This assumes that a token's groups do not limit
its choice, and one copy of every expert: of DeepSeek-V3, whose tokens use four of eight groups, the fullest of experts
that are hot together in a group has 7 to 12 % more rows, of Zipf's loads of exponent 1 it has 7 % fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import erf, exp, sqrt
from statistics import NormalDist

from sim.specs.experts import ExpertsSpec, RoutingSpec

_NONE = 1e-12
"""Popularity of an expert that no token chooses."""
_HALVINGS = 100

Part = tuple[float, Sequence[float]]
"""Share of the tokens, and popularity of each expert among them."""


def expect_fullest_rows(experts: ExpertsSpec, routing: RoutingSpec, holders: int, tokens: float) -> float | None:
    """Returns the expected rows of the fullest expert; None for a trace.

    Args:
        holders: chips with different experts.
        tokens: of all chips that send to them.
    """
    if routing.trace is not None:
        return None
    if routing.load == "perfect_router":
        return tokens * experts.top_k / experts.count
    mean, variance = [0.0] * experts.count, [0.0] * experts.count
    for share, popularity in _parts(experts, routing, holders):
        chosen = _chosen(popularity, experts.top_k)
        mean = [sum_ + share * tokens * q for sum_, q in zip(mean, chosen, strict=True)]
        variance = [sum_ + share * tokens * q * (1 - q) for sum_, q in zip(variance, chosen, strict=True)]
    spreads = [sqrt(max(each, 0.0)) for each in variance]

    def is_above(x: float) -> bool:
        below = 1.0
        for rows, spread in zip(mean, spreads, strict=True):
            below *= (1 + erf((x - rows) / (sqrt(2) * spread))) / 2 if spread else float(x >= rows)
        return below > 0.5

    return _bisect(is_above, max(mean), max(mean) + 8 * max(spreads))


def describe_omission(experts: ExpertsSpec, routing: RoutingSpec) -> str:
    """Returns `leaves out ...` where a token's groups limit its choice of unlike experts; else nothing."""
    if experts.choice_groups == 1 or not routing.is_drawn or routing.trace is not None:
        return ""
    return f"leaves out that a token uses {experts.top_groups} of {experts.groups} groups of experts"


def _parts(experts: ExpertsSpec, routing: RoutingSpec, holders: int) -> list[Part]:
    """Returns the popularity of the experts, for each part of the tokens that has its own."""
    count, spread, each = experts.count, routing.resolved_spread, max(1, experts.count // holders)
    share = min(spread, 1 - _NONE)

    def hot(chosen: int) -> list[Part]:
        rest = (1 - share) / (count - chosen) if count > chosen else 0.0
        return [(1.0, [share / chosen] * chosen + [rest] * (count - chosen))]

    match routing.load:
        case "log_normal":
            quantile = NormalDist().inv_cdf
            return [(1.0, [exp(spread * quantile((i + 1 - 0.375) / (count + 0.25))) for i in range(count)])]
        case "zipf":
            return [(1.0, [(i + 1) ** -spread for i in range(count)])]
        case "hot_expert":
            return hot(1)
        case "hot_experts":
            return hot(experts.top_k)
        case "hot_rank" | "rotating_hotspot":
            return hot(each)
        case "spread_hot":
            return hot(holders)
        case "idle_rank":
            return [(1.0, [1.0] * (count - each) + [_NONE] * each)]
        case "burst":
            top = [1.0] * experts.top_k + [_NONE] * (count - experts.top_k)
            return [(0.5, top), (0.5, [1.0] * count)]
    return [(1.0, [1.0] * count)]


def _chosen(popularity: Sequence[float], chosen: int) -> list[float]:
    """Returns the share of tokens that choose each expert, if each token chooses so many."""
    if chosen == len(popularity):
        return [1.0] * chosen

    def shares(t: float) -> list[float]:
        return [1 - exp(-t * weight) for weight in popularity]

    least, high = min(weight for weight in popularity if weight > _NONE), 1.0 / max(popularity)
    while sum(shares(high)) < chosen and high * least < 50:
        high *= 2
    return shares(_bisect(lambda t: sum(shares(t)) > chosen, 0.0, high))


def _bisect(is_above: Callable[[float], bool], low: float, high: float) -> float:
    """Returns where a condition that holds above a number begins to hold."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return (low + high) / 2
