"""Prompts of different lengths."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sim.specs.base import Count, Strict
from sim.specs.quantities import FRACTION_SCHEMA, fraction


class LengthsSpec(Strict):
    """Real lengths drawn at random."""

    distribution: Literal["uniform", "rand_r"]
    """uniform: 1 to the padded length; rand_r: rand_r(&seed) % padded length of the GNU C library, at least 1."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


def _lengths(value: object) -> object:
    """A fraction may be a percentage."""
    return value if isinstance(value, list | dict | LengthsSpec) else fraction(value)


class PaddingSpec(Strict):
    """Prompts of different lengths, padded to `workload.prompt`."""

    real_lengths: Annotated[
        Annotated[list[Count], Field(min_length=1)] | LengthsSpec | Annotated[float, FRACTION_SCHEMA],
        BeforeValidator(_lengths),
    ]
    """Of each sequence: all of them, a fraction of the padded length, or a distribution."""
    eliminate: bool = False
    """Whether linears, norms, sums and sends leave the padding out (DRCE); attention, embedding and head do not."""

    def lengths(self, batch: int, padded: int) -> tuple[int, ...]:
        """Real lengths of a batch."""
        given = self.real_lengths
        if isinstance(given, list):
            return tuple(given)
        if isinstance(given, float):
            return (max(1, round(given * padded)),) * batch
        if given.distribution == "uniform":
            return tuple(random.Random(given.seed).randint(1, padded) for _ in range(batch))
        return tuple(max(1, number % padded) for number in itertools.islice(_rand_r(given.seed), batch))


def _rand_r(seed: int) -> Iterator[int]:
    """rand_r of the GNU C library (stdlib/rand_r.c): three steps of a congruential generator per number."""
    while True:
        number = 0
        for bits, mask in ((0, 2047), (10, 1023), (10, 1023)):
            seed = (seed * 1103515245 + 12345) % 2**32
            number = number << bits ^ (seed >> 16 & mask)
        yield number
