"""Chooses the cases that run by default, such as a covering array of pairs of options; the others are marked slow."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

Choice = dict[str, Any]


def pairwise(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Returns every case for `parametrize`; those that a covering array of pairs does without are marked slow.

    Args:
        cases: values of the parameters, such as a product of their options, less those that are refused.
    """
    every = list(cases)
    kept = sorted(_cover(every))
    return [every[i] for i in kept] + slow(case for i, case in enumerate(every) if i not in kept)


def slow(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Returns all cases for `parametrize`, marked slow."""
    return [pytest.param(*case, marks=pytest.mark.slow) for case in cases]


def slow_if(values: Iterable[str], *names: str) -> list[Any]:
    """Returns all values for `parametrize`, those of these names marked slow."""
    return [pytest.param(value, marks=pytest.mark.slow) if value in names else value for value in values]


def covering(options: Mapping[str, Sequence[Any]], valid: Callable[[Choice], bool] = lambda _: True) -> list[Choice]:
    """Combinations, chosen greedily, that hold every pair of values that occurs in a valid combination.

    Args:
        valid: says which combinations are allowed.
    """
    every = [choice for choice in combinations(options) if valid(choice)]
    return [every[i] for i in _cover([tuple(choice.values()) for choice in every])]


def combinations(options: Mapping[str, Sequence[Any]]) -> list[Choice]:
    """The product of all options."""
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def _cover(cases: Sequence[tuple[Any, ...]]) -> list[int]:
    """Positions of cases that together hold every pair of values that some case holds."""
    pairs = [set(itertools.combinations(enumerate(map(repr, case)), 2)) for case in cases]
    missing, kept = set().union(*pairs), []
    while missing:
        best = max(range(len(cases)), key=lambda i: len(pairs[i] & missing))
        missing -= pairs[best]
        kept.append(best)
    return kept
