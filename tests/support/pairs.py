"""Covering arrays: few combinations of options in which every pair of two options' values occurs."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

Choice = dict[str, Any]


def covering(options: Mapping[str, Sequence[Any]], valid: Callable[[Choice], bool] = lambda _: True) -> list[Choice]:
    """Combinations, chosen greedily, that hold every pair of values that occurs in a valid combination.

    Args:
        valid: says which combinations are allowed.
    """
    names = list(options)
    places = product(*(range(len(options[name])) for name in names))
    every = [place for place in places if valid(_choice(options, place))]
    pairs = {place: {(i, j, place[i], place[j]) for i, j in combinations(range(len(names)), 2)} for place in every}
    missing, found = set().union(*pairs.values()), []
    while missing:
        best = max(every, key=lambda place: len(pairs[place] & missing))
        missing -= pairs[best]
        found.append(_choice(options, best))
    return found


def _choice(options: Mapping[str, Sequence[Any]], place: Sequence[int]) -> Choice:
    return {name: values[at] for at, (name, values) in zip(place, options.items(), strict=True)}
