"""Deviations from the files of the machine: stragglers, slow and failed links, jitter."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sim.specs.base import Strict, wrong
from sim.specs.quantities import Duration, Fraction

Factor = Annotated[float, Field(ge=1, le=1e6, allow_inf_nan=False)]


class Straggler(Strict):
    """Chips that compute more slowly than the others."""

    chips: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    """Numbers of the chips."""
    factor: Factor = 1.0
    """Factor of the time of their operations."""
    delay: Duration | None = None
    """Added to the time of each of their operations."""
    layers: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | None = None
    """Only in these. Default: everywhere."""


class SlowLinks(Strict):
    """Links that take longer for every byte.

    On a switch a GPU that has lost 2 of 18 NVLinks has two ports of factor 18/16, and where one of four NVSwitches is
    lost, all ports have 4/3.
    """

    links: Annotated[list[str], Field(min_length=1)]
    """Names as in the report, such as `0:x+` or `gpu0->gpu1#0`."""
    factor: Factor
    """Factor on the time of every byte."""


class Jitter(Strict):
    """Every task takes longer by a share drawn anew, uniformly from 0 to this one."""

    ops: Fraction | None = None
    """Largest share by which an operation takes longer."""
    links: Fraction | None = None
    """Largest share by which a message holds a link longer."""


class PerturbSpec(Strict):
    """Deviations from the files of the machine: stragglers, slow and failed links, jitter."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the jitter."""
    repeats: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Runs with jitter, the first of `seed`, the next of the seed after it, and so on."""
    stragglers: list[Straggler] = []
    """Chips that are slow or late."""
    slow_links: list[SlowLinks] = []
    """Links that take longer."""
    failed_links: list[str] = []
    """Links that carry nothing: collectives go around them, or are an error where they cannot.

    Cables side by side are one link and fail together; where one of k is lost, the link is slow by k/(k - 1).
    """
    jitter: Jitter | None = None
    """Random shares by which times grow."""

    @model_validator(mode="after")
    def _repeats_differ(self) -> Self:
        if self.repeats > 1 and self.jitter is None:
            rule = "must be 1 without jitter"
            raise wrong("repeats", rule=rule, got=self.repeats, hint="add jitter: {ops: 2 %}")
        return self
