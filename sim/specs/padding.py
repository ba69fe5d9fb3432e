"""Prompts of different lengths."""

from __future__ import annotations

import random
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sim import draws
from sim.specs.base import Count, Strict
from sim.specs.quantities import FRACTION_SCHEMA, fraction


class LengthsSpec(Strict):
    """Real lengths drawn at random."""

    distribution: Literal["uniform", "rand"]
    """uniform: 1 to the padded length; rand: rand() % padded length of the GNU C library, at least 1."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """rand: a program that does not call srand has 1, which is what 0 also means."""
    numbers_per_position: Annotated[int, Field(ge=0)] = 0
    """rand: numbers drawn before, for every position of the padded batch (input at random: d_model)."""


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
        numbers = draws.rand(given.seed, given.numbers_per_position * batch * padded, batch)
        return tuple(max(1, number % padded) for number in numbers)
