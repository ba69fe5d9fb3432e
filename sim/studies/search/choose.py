"""The best of many rows: per objective, per batch, and what nothing beats in time and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field

from sim import units
from sim.errors import InputError, suggest
from sim.specs import load
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import Figures, Row
from sim.units import format_bytes, format_seconds

_TOKENS, _HOUR_S = 1e6, 3600.0


class Goal(Struct, frozen=True):
    """Limits and prices that rank candidates."""

    max_step_s: float = math.inf
    """Slower ones do not win."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """Dollars per chip and hour by topology; empty if cost is chip time."""

    @property
    def unit(self) -> str:
        return "$/million tokens" if self.prices else "chip-ms/token"

    def price(self, topology: str) -> float:
        """Returns the price of a chip-second per token, in `unit`."""
        return self.prices[topology] * _TOKENS / _HOUR_S if self.prices else 1e3

    def cost(self, row: Row) -> float:
        """Returns chip time per token (Pope et al. section 4.4) or its price, in `unit`."""
        return simulated_figures(row).cost_chip_s * self.price(row.choices["topology"])

    @property
    def objectives(self) -> dict[str, Callable[[Row], float]]:
        """Scores by objective, smaller is better. In one batch on one machine all follow the step time."""
        return {
            "latency": lambda row: simulated_figures(row).latency_s,
            "cost": self.cost,
            "throughput": lambda row: -simulated_figures(row).tokens_per_s,
        }

    def fitting(self, rows: Sequence[Row]) -> list[Row]:
        """Returns the rows that can run, fit the chips' memory and are fast enough.

        Raises:
            InputError: there is none.
        """
        fitting_rows = _fitting(rows, "search" if self.max_step_s == math.inf else "--max-step")
        fast = [row for row in fitting_rows if simulated_figures(row).step_s <= self.max_step_s]
        if fast:
            return fast
        hint = f"the fastest tried takes {format_seconds(min(simulated_figures(row).step_s for row in fitting_rows))}"
        raise InputError(
            "must allow a candidate that fits", where="--max-step", got=format_seconds(self.max_step_s), hint=hint
        )

    def best(self, rows: Sequence[Row], objective: str) -> Row:
        """Returns the best of the rows that fit, the first of equals."""
        return min(rows, key=self.objectives[objective])

    def pareto(self, rows: Sequence[Row]) -> list[Row]:
        """Returns rows that no other beats in both step time and cost, by step time: Figure 1 of Pope et al."""
        front: list[Row] = []
        for row in sorted(rows, key=lambda row: (simulated_figures(row).step_s, self.cost(row))):
            if not front or self.cost(row) < self.cost(front[-1]):
                front.append(row)
        return front


def parse_goal(max_step: str, price: str, topologies: Mapping[str, str]) -> Goal:
    """Parses `20ms`, and `2.5` or `tpu_v5e=1.2,h100_sxm=2.5`; empty texts set no limit and no price.

    Args:
        topologies: the chip of each.

    Raises:
        InputError: no time, no price, or none of a chip.
    """
    try:
        limit = units.parse(max_step, "s") if max_step else math.inf
    except InputError as error:
        raise error.within("--max-step") from None
    if limit <= 0:
        raise InputError("must be more than 0", where="--max-step", got=max_step)
    given: dict[str, float] = {}
    for part in price.split(",") if price else ():
        chip, equals, text = (each.strip() for each in part.rpartition("="))
        try:
            given[chip] = float(text)
        except ValueError:
            given[chip] = math.nan
        if not 0 < given[chip] < math.inf or (equals and not chip):
            rule = "must be dollars per chip and hour, or a chip's: CHIP=DOLLARS"
            raise InputError(rule, where="--price", got=part, hint="such as 2.5 or tpu_v5e=1.2,h100_sxm=2.5")
        if chip and chip not in topologies.values():
            raise InputError(
                "must be a chip of a machine", where="--price", got=chip, hint=suggest(chip, topologies.values())
            )
    for name, chip in topologies.items() if given else ():
        if chip not in given and "" not in given:
            raise InputError(f"must have a price of every chip, and {name} has {chip}", where="--price", got=price)
    return Goal(
        limit, {name: given.get(chip, given.get("", 0.0)) for name, chip in topologies.items()} if given else {}
    )


def chip_names(topologies: Sequence[str]) -> dict[str, str]:
    """Returns the kind of chip of each topology. Raises InputError: no such machine."""
    return {name: load.topology_spec(name).chip.name for name in topologies}


def work_key(row: Row | Point) -> tuple[str, ...]:
    """Returns topology, chips and batch, which candidates share that only split the work differently."""
    return tuple(row.choices[name] for name in ("topology", "chips", "batch"))


def fastest_rows(rows: Sequence[Row], count: int) -> dict[tuple[str, ...], list[Row]]:
    """Returns up to `count` fastest rows of each machine, number of chips and batch, in the order of `rows`."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(work_key(row), []).append(row)
    return {key: sorted(group, key=lambda row: simulated_figures(row).step_s)[:count] for key, group in groups.items()}


def simulated_figures(row: Row) -> Figures:
    """Returns the simulated figures of a row that has an outcome."""
    if row.outcome is None:
        raise ValueError("a row without an outcome")
    return row.outcome.simulated


def _fitting(rows: Sequence[Row], where: str) -> list[Row]:
    fitting_rows = [row for row in rows if row.outcome and row.outcome.fits]
    if fitting_rows:
        return fitting_rows
    least = min((row.outcome.memory_bytes for row in rows if row.outcome), default=None)
    if least is not None:
        hint = f"the least needs {format_bytes(least)} on each; try more chips, or --weights int8"
        raise InputError("candidates must fit the chips' memory", where=where, hint=hint)
    reasons = list(dict.fromkeys(row.error for row in rows if row.error))
    more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
    raise InputError("at least one candidate must be able to run", where=where, hint=f"the first: {reasons[0]}{more}")
