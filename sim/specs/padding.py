"""Prompts of different lengths."""

import random
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sim.specs.base import Count, Strict
from sim.specs.quantities import FRACTION_SCHEMA, fraction


class LengthsSpec(Strict):
    """Real lengths drawn at random."""

    distribution: Literal["uniform"]
    """uniform: every whole number from 1 to the padded length is as likely as every other."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the drawn lengths."""


def _lengths(value: object) -> object:
    """A fraction may be a percentage."""
    return value if isinstance(value, list | dict | LengthsSpec) else fraction(value)


class PaddingSpec(Strict):
    """Prompts of different lengths, padded to `workload.prompt`."""

    real_lengths: Annotated[
        Annotated[list[Count], Field(min_length=1)] | LengthsSpec | Annotated[float, FRACTION_SCHEMA],
        BeforeValidator(_lengths),
    ]
    """Real lengths of the sequences: a list, a fraction of the padded length, or a distribution."""
    eliminate: bool = False
    """Padding removal (DRCE): linears, norms, sums and sends skip the padding; attention, embedding and head do not."""

    def lengths(self, batch: int, padded: int) -> tuple[int, ...]:
        """Real lengths of a batch."""
        given = self.real_lengths
        if isinstance(given, list):
            return tuple(given)
        if isinstance(given, float):
            return (max(1, round(given * padded)),) * batch
        drawn = random.Random(given.seed)
        return tuple(drawn.randint(1, padded) for _ in range(batch))
