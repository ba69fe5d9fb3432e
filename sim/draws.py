"""rand() of the GNU C library (stdlib/random.c, TYPE_3), from any place of its sequence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

_LONG, _SHORT = 31, 3
"""r[i] = r[i - 31] + r[i - 3] modulo 2^32; rand() gives r >> 1."""

_SEEDED, _DISCARDED = _LONG + _SHORT, 310
"""Numbers set when it is seeded, and those of the recurrence that are then thrown away."""

_MASK = 2**32 - 1


@lru_cache(maxsize=64)
def rand(seed: int, before: int, count: int) -> tuple[int, ...]:
    """`count` numbers of rand() after srand(seed) and `before` calls; a program that never calls srand has seed 1."""
    window = _combined(_state(seed), _power(_DISCARDED + before + _LONG))
    return tuple(number >> 1 for number in islice(_run(window), count))


def _state(seed: int) -> list[int]:
    """The 31 numbers that the recurrence starts from. A seed of 0 is taken as 1."""
    numbers = [seed or 1]
    for _ in range(_LONG - 1):
        numbers.append(16807 * _signed(numbers[-1]) % (2**31 - 1))
    numbers += numbers[:_SHORT]
    return numbers[-_LONG:]


def _signed(number: int) -> int:
    """As a 32-bit integer; the library's product of a negative number keeps its remainder above 0, as Python's does."""
    return number - 2**32 if number >= 2**31 else number


def _run(window: list[int]) -> Iterator[int]:
    """The 31 numbers of a window and all that follow."""
    numbers = list(window)
    while True:
        numbers.append(numbers[0] + numbers[_LONG - _SHORT] & _MASK)
        yield numbers.pop(0)


def _power(steps: int) -> list[int]:
    """x^steps modulo x^31 - x^28 - 1, the recurrence's characteristic polynomial: coefficients from x^0 on."""
    result = [1] + [0] * (_LONG - 1)
    for bit in bin(steps)[2:]:
        result = _reduced(_product(result, result))
        if bit == "1":
            result = _reduced([0, *result])
    return result


def _product(one: list[int], other: list[int]) -> list[int]:
    result = [0] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            result[i + j] += a * b
    return result


def _reduced(polynomial: list[int]) -> list[int]:
    for power in range(len(polynomial) - 1, _LONG - 1, -1):
        polynomial[power - _SHORT] += polynomial[power]
        polynomial[power - _LONG] += polynomial[power]
    return [coefficient & _MASK for coefficient in polynomial[:_LONG]]


def _combined(window: list[int], coefficients: list[int]) -> list[int]:
    """The window so many steps later, each number a combination of those of the first."""
    numbers = list(islice(_run(window), 2 * _LONG))
    return [sum(c * numbers[i + j] for i, c in enumerate(coefficients)) & _MASK for j in range(_LONG)]
