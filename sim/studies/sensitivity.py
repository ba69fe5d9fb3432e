"""Sensitivity of the order of options to constants that nobody measured.

Every constant of machine or software that was carried over or assumed is halved and doubled, one at a time, in all
options that share it: those of one software on one chip. A share stays at most 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sim.errors import InputError
from sim.simulate.latency import latency_s
from sim.specs import Basis, Scenario
from sim.specs.basis import Constant, rests_on
from sim.studies.explain.changes import with_fields

FACTORS = (0.5, 2.0)
MOVED: tuple[Basis, ...] = ("carried", "assumed")


class Option(Struct, frozen=True):
    """One of the options."""

    name: str
    scenario: Scenario
    score: float
    """Score, smaller is better; proportional to the latency of an option."""


class Change(Struct, frozen=True):
    """A constant that decides which option wins."""

    field: str
    stack: str
    chip: str
    basis: Basis
    factor: float
    winner: str
    """The option that wins then."""
    ahead: float
    """By which share of its score the option that won before is behind."""

    @property
    def text(self) -> str:
        """`halving stack.collective_step of jax_tpu on tpu_v5p (assumed) makes X win, by 3.1%`."""
        how = f"{'halving' if self.factor < 1 else 'doubling'} {self.field} of {self.stack} on {self.chip}"
        return f"{how} ({self.basis}) makes {self.winner} win, by {self.ahead:.1%}"


class Sensitivity(Struct, frozen=True):
    """Effect of each constant on the order of the options."""

    winner: str
    moved: int
    """Constants that were moved."""
    options: int
    changes: tuple[Change, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """A line for every change; one line where there is none."""
        if self.changes:
            return tuple(change.text for change in self.changes)
        if not self.moved:
            return ("no constant was carried over or assumed",)
        fastest = f"{self.winner} stays the best of {self.options}"
        return (f"{fastest} when any of the {self.moved} carried or assumed constants is halved or doubled",)

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data."""
        changes = [
            {"field": each.field, "stack": each.stack, "chip": each.chip, "basis": each.basis, "factor": each.factor}
            | {"winner": each.winner, "ahead": each.ahead}
            for each in self.changes
        ]
        return {"winner": self.winner, "moved": self.moved, "options": self.options, "changes": changes}


def measure_sensitivity(options: Sequence[Option]) -> Sensitivity:
    """Moves every constant of MOVED by each of FACTORS.

    Raises:
        InputError: an option cannot be simulated.
    """
    winner = _best(options)
    constants: dict[tuple[str, str, str], Constant] = {}
    for option in options:
        based = rests_on(option.scenario)
        for constant in based.of(*MOVED):
            if isinstance(constant.value, float) and constant.value:  # no count, and nothing that is 0 however often
                constants.setdefault((based.stack, based.chip, constant.field), constant)
    known: dict[str, float] = {}
    times = [latency_s(option.scenario, known) for option in options]
    changes = []
    for (stack, chip, field), constant in constants.items():
        for factor in FACTORS:
            value = min(constant.value * factor, 1.0 if constant.share else inf)
            moved = [
                _moved(option, time_s, field, value, known) if _is_of(option, stack, chip) else option
                for option, time_s in zip(options, times, strict=True)
            ]
            best = _best(moved)
            if best.name != winner.name:
                before = next(option for option in moved if option.name == winner.name)
                ahead = (before.score - best.score) / abs(before.score)
                changes.append(Change(field, stack, chip, constant.basis, factor, best.name, ahead))
    return Sensitivity(winner.name, len(constants), len(options), tuple(changes))


def _is_of(option: Option, stack: str, chip: str) -> bool:
    return (option.scenario.stack.name, option.scenario.topology.chip.name) == (stack, chip)


def _moved(option: Option, time_s: float, field: str, value: float, known: dict[str, float]) -> Option:
    """Returns the option with one constant replaced; its score follows its latency, or the inverse if it is below 0."""
    try:
        ratio = latency_s(with_fields(option.scenario, {field: value}), known) / time_s
    except InputError as error:
        raise InputError(str(error), where=f"{option.name} with {field} = {value:g}") from None
    return replace(option, score=option.score * ratio if option.score > 0 else option.score / ratio)


def _best(options: Sequence[Option]) -> Option:
    return min(options, key=lambda option: option.score)
