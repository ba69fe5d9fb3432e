"""Every shipped scenario with few layers, and runs of them that tests share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pytest

from sim.errors import InputError
from sim.report.report import Report
from sim.simulate.result import Pass, Run
from sim.simulate.run import run
from sim.specs import Scenario, load
from sim.studies.sweep.points import NO_SWEEP

_LAYERS = 8
"""Enough for layers in steady state to be extrapolated."""


def settings_of(name: str, *more: str, least: int = _LAYERS) -> tuple[str, ...]:
    """Settings that leave the fewest layers from `least` on that the scenario's stages and memory pool allow.

    Raises:
        InputError: the scenario with these settings is refused whatever its layers.
    """
    most = load.scenario(name, NO_SWEEP).model.layers
    for layers in range(min(least, most), most):
        settings = (*NO_SWEEP, f"engine.layers={layers}", "engine.kernel=compiled", *more)
        try:
            load.scenario(name, settings)
        except InputError:
            continue
        return settings
    load.scenario(name, (*NO_SWEEP, *more))
    return (*NO_SWEEP, *more)


@functools.cache
def scenario(name: str, *more: str) -> Scenario:
    """A shipped scenario with few layers; of a sweep its base."""
    return load.scenario(name, settings_of(name, *more))


@functools.cache
def result(name: str, *more: str) -> Run:
    """A run of `scenario`."""
    return run(scenario(name, *more))


def allows(name: str, *more: str) -> bool:
    """Whether the scenario can have these settings."""
    try:
        scenario(name, *more)
    except InputError:
        return False
    return True


NAMES = tuple(load.shipped("scenario"))
PIPELINES = tuple(name for name in NAMES if load.scenario(name, NO_SWEEP).pipeline)
_GENERATES = "workload={phase: generate, batch: 4, prompt: 128, generate: 3, weights: fp16, activations: fp16}"
CASES = (*((name,) for name in NAMES), *((name, _GENERATES) for name in PIPELINES if allows(name, _GENERATES)))
"""Arguments of `result`: all shipped scenarios, and their pipelines with two phases."""
IDS = tuple(f"{name}-two_phases" if more else name for name, *more in CASES)

PS = 1e-12
ROUNDING = 1e-9
"""Relative: sums and quotients of a few hundred doubles."""

every_case = pytest.mark.parametrize("case", CASES, ids=IDS)


def phases(case: Sequence[str]) -> list[tuple[Scenario, Pass, Report]]:
    """Of each phase its scenario, pass and report."""
    return [(part.scenario, part, part.report) for part in result(*case).passes]
