"""Chooses cases that run by default, such as a covering array of pairs of options; the others are marked release."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

Choice = dict[str, Any]


def pairwise(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Returns every case for `parametrize`; those that a covering array of pairs does without are marked release.

    Args:
        cases: values of the parameters, such as a product of their options, less those that are refused.
    """
    return _covered(list(cases), 2)


def each_once(
    cases: Iterable[tuple[Any, ...]], values: Callable[..., tuple[Any, ...]] = lambda *case: case
) -> list[Any]:
    """Returns every case for `parametrize`; those that are not needed for each value to occur once are marked release.

    Args:
        values: what has to occur of a case, such as its parameters and a combination of two of them.
    """
    return _covered(list(cases), 1, values)


def _covered(
    every: list[tuple[Any, ...]], together: int, values: Callable[..., tuple[Any, ...]] = lambda *case: case
) -> list[Any]:
    kept = sorted(_cover([values(*case) for case in every], together))
    return [every[i] for i in kept] + release(case for i, case in enumerate(every) if i not in kept)


def first_of_each(values: Iterable[Any], kind: Callable[[Any], Any]) -> list[Any]:
    """Returns all values for `parametrize`; those of a kind that an earlier one has are marked release."""
    every = list(values)
    first = {kind(value): value for value in reversed(every)}
    return [value if first[kind(value)] == value else pytest.param(value, marks=pytest.mark.release) for value in every]


def release(cases: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Returns all cases for `parametrize`, marked release."""
    return [pytest.param(*case, marks=pytest.mark.release) for case in cases]


def release_if(values: Iterable[Any], *names: Any) -> list[Any]:
    """Returns all values for `parametrize`, some of them marked release."""
    return [pytest.param(value, marks=pytest.mark.release) if value in names else value for value in values]


def covering(options: Mapping[str, Sequence[Any]], valid: Callable[[Choice], bool] = lambda _: True) -> list[Choice]:
    """Combinations, chosen greedily, that hold every pair of values that occurs in a valid combination.

    Args:
        valid: says which combinations are allowed.
    """
    every = [choice for choice in combinations(options) if valid(choice)]
    return [every[i] for i in _cover([tuple(choice.values()) for choice in every], 2)]


def combinations(options: Mapping[str, Sequence[Any]]) -> list[Choice]:
    """The product of all options."""
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


def _cover(cases: Sequence[tuple[Any, ...]], together: int) -> list[int]:
    """Positions of cases in which all values (of pairs, two `together`) occur that occur in some case."""
    parts = [list(itertools.combinations(enumerate(map(repr, case)), together)) for case in cases]
    holders: dict[Any, list[int]] = {}
    for i, part in enumerate(parts):
        for each in part:
            holders.setdefault(each, []).append(i)
    missing, kept = [len(part) for part in parts], list[int]()
    while any(missing):
        kept.append(missing.index(max(missing)))
        for each in parts[kept[-1]]:
            for i in holders.pop(each, ()):
                missing[i] -= 1
    return kept
