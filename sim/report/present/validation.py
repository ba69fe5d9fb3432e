"""Validation of a suite: predicted and published values of every case, errors of each model, and the verdict.

A closed form has one name wherever it stands. Errors are of gated measurements: a row that repeats another does not
count a second time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from msgspec import Struct, to_builtins

from sim.report.headline import to_html
from sim.specs.suite import AnySuite, Tolerance

NCCL_TUNER = "NCCL's tuner"
"""Name of the closed form of a collective."""
RATES = (
    "mfu",
    "tokens_per_s",
    "tokens_per_s_per_chip",
    "memory_bandwidth_per_gpu",
    "bandwidth",
    "training_tokens_per_s",
    "speedup",
)
"""Metrics of which more is faster."""
_PARTS = ("prefill_s", "decode_s")
"""Parts of a generation, whose tokens per second are compared."""
BANDS = (64 * 2.0**10, 2 * 2.0**20, 64 * 2.0**20)
"""Sizes, bytes, between which the spread of laboratories is given by itself."""


class Outcome(Struct, frozen=True):
    """One case and its predictions, in the unit of its metric."""

    case_id: str
    source: str
    metric: str
    published: float
    simulated: float
    forms: Mapping[str, float]
    """Closed forms and predictions of one's own by name, the usual one first: the paper's, for tensor parallelism half
    by half, for a collective NCCL's tuner."""
    not_gated: str
    series: str = ""
    repeats: str = ""
    """Case whose measurement this row publishes again; empty if it is one of its own."""
    fitted: bool = False
    """Constants of the machine were fitted to this measurement."""
    note: str = ""
    """Note on how the case was run, if neither its row nor its suite says so."""
    algorithm: str = ""
    """Algorithm of a collective."""
    variant: str = ""
    """Residual scheme of a generation, engine of a request."""
    setting: str = ""
    """Setting shared with rows of other variants; of a collective its machine and chips."""
    collective: str = ""
    size_bytes: float = 0.0
    """Bytes of a collective."""

    @property
    def error(self) -> float:
        """Simulated / published - 1."""
        return self.simulated / self.published - 1

    def form_error(self, name: str) -> float | None:
        """Closed form / published - 1; None where the case has no such form."""
        return self.forms[name] / self.published - 1 if name in self.forms else None

    @property
    def time_error(self) -> float:
        """Simulated time / published time - 1, of rates as well: above 0 the simulation is too slow."""
        return self.published / self.simulated - 1 if self.metric in RATES else self.error

    @property
    def counts(self) -> bool:
        """A measurement that is held against the tolerance."""
        return not (self.not_gated or self.repeats)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        forms = {name: self.form_error(name) for name in self.forms}
        return {**to_builtins(self), "error": self.error, "form_errors": forms}


class Ratio(Struct, frozen=True):
    """A rate over that of the baseline in the same setting."""

    case_id: str
    published: float
    simulated: float
    forms: Mapping[str, float]
    """Ratios of closed forms, by name."""
    counts: bool

    @classmethod
    def of(cls, faster: Outcome, base: Outcome) -> Ratio:
        """Returns the ratio of two rates, or of two times the other way round."""
        one, other = (faster, base) if faster.metric in RATES else (base, faster)
        return cls(
            faster.case_id,
            one.published / other.published,
            one.simulated / other.simulated,
            {name: form / other.forms[name] for name, form in one.forms.items() if name in other.forms},
            not (faster.not_gated or base.not_gated),
        )

    @property
    def error(self) -> float:
        """Simulated - published."""
        return self.simulated - self.published

    def form_error(self, name: str) -> float | None:
        """Closed form - published; None where there is no such form."""
        return self.forms[name] - self.published if name in self.forms else None


class Ordering(Struct, frozen=True):
    """Two measurements that differ in one option: how many times faster the one is that was measured faster."""

    option: str
    """Column of the rows in which they differ."""
    case_id: str
    """The faster one."""
    slower_id: str
    published: float
    """Above 1."""
    simulated: float
    forms: Mapping[str, float]

    @property
    def right(self) -> bool:
        """The simulation has the same option ahead."""
        return self.simulated > 1


class Errors(Struct, frozen=True):
    """Absolute errors of the gated cases of one model."""

    median: float
    nine_in_ten: float
    """Nine cases in ten are at most this far off."""
    worst: float
    cases: int

    @classmethod
    def of(cls, errors: Iterable[float | None]) -> Errors:
        """Returns the errors of the given values; None is skipped."""
        size = np.sort(np.abs([error for error in errors if error is not None]))
        if not len(size):
            return cls(0.0, 0.0, 0.0, 0)
        return cls(float(np.median(size)), float(size[int(np.ceil(0.9 * len(size))) - 1]), float(size[-1]), len(size))

    @property
    def line(self) -> str:
        """The three as text."""
        return f"median {self.median:6.1%}   nine in ten {self.nine_in_ten:6.1%}   worst {self.worst:6.1%}"

    def within(self, tolerance: Tolerance) -> bool:
        """Returns True if all three errors are inside the tolerance."""
        return (
            self.median <= tolerance.median
            and self.nine_in_ten <= tolerance.nine_in_ten
            and self.worst <= tolerance.worst
        )


class Spread(Struct, frozen=True):
    """Longest over shortest time that laboratories measured of the same collective, over a range of sizes."""

    most_bytes: float
    """Largest size of the range."""
    median: float
    worst: float
    sources: int
    """Laboratories; 0 where no collective was measured by two."""

    @classmethod
    def of(cls, most_bytes: float, measured: Sequence[Mapping[str, Sequence[float]]]) -> Spread:
        """Returns the spread of collectives, for each of which the times of every laboratory are given."""
        shared = [sources for sources in measured if len(sources) > 1]
        medians = [[float(np.median(times)) for times in sources.values()] for sources in shared]
        ratios = [max(times) / min(times) for times in medians]
        if not ratios:
            return cls(most_bytes, 1.0, 1.0, 0)
        names = {name for sources in shared for name in sources}
        return cls(most_bytes, float(np.median(ratios)), max(ratios), len(names))


class Validation(Struct, frozen=True):
    """Outcomes of a suite."""

    suite: AnySuite
    outcomes: tuple[Outcome, ...]
    orderings: tuple[Ordering, ...] = ()
    """Pairs of measurements that differ in one of the suite's options."""

    def __repr__(self) -> str:
        errors = " ".join(self.simulated.line.split())
        return f"Validation({self.suite.name}: {errors} of {len(self.gated)}, {'passes' if self.passes else 'misses'})"

    def _repr_html_(self) -> str:
        """Returns a measurement per row, for a notebook."""
        rows = [
            (each.case_id, f"{each.published:.4g}", f"{each.simulated:.4g}", f"{each.error:+.1%}")
            for each in self.outcomes
        ]
        return to_html(f"{self!r}: case, measured, simulated, error", rows)

    @property
    def gated(self) -> list[Outcome]:
        """Measurements held against the tolerance."""
        return [outcome for outcome in self.outcomes if outcome.counts]

    @property
    def simulated(self) -> Errors:
        return Errors.of(outcome.error for outcome in self.gated)

    @property
    def form_names(self) -> tuple[str, ...]:
        """Closed forms that some case has, in order."""
        return tuple(dict.fromkeys(name for outcome in self.outcomes for name in outcome.forms))

    def label(self, name: str) -> str:
        """Name of a closed form, or of predictions of one's own, where it stands alone."""
        return name if name in self.suite.predictions else f"closed form, {name}"

    def form(self, name: str) -> Errors:
        """Errors of a closed form or of predictions of one's own."""
        return Errors.of(outcome.form_error(name) for outcome in self.gated)

    @property
    def has_fit(self) -> bool:
        """The suite names rows that constants were fitted to."""
        return bool(self.suite.calibration or self.suite.fitted)

    def part_of(self, outcome: Outcome) -> str:
        """Returns `fitted` or `not fitted`; `measured` for a suite without fitted constants."""
        return ("fitted" if outcome.fitted else "not fitted") if self.has_fit else "measured"

    @property
    def parts(self) -> dict[str, list[Outcome]]:
        """Gated measurements by `part_of`, fitted ones first."""
        split: dict[str, list[Outcome]] = {}
        for outcome in sorted(self.gated, key=lambda each: not each.fitted):
            split.setdefault(self.part_of(outcome), []).append(outcome)
        return split

    @property
    def series(self) -> dict[str, list[Outcome]]:
        """Gated measurements of each series, in the order of the rows."""
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.gated:
            groups.setdefault(outcome.series, []).append(outcome)
        return groups

    @property
    def passes(self) -> bool:
        """True if there is a case to judge by, and the simulator is inside the suite's tolerance."""
        groups = self.simulated, *self.classes.values()
        within = bool(self.gated) and all(errors.within(self.suite.tolerance) for errors in groups)
        speedup = self.suite.speedup
        return within and (speedup is None or self.speedup_errors.within(speedup.tolerance))

    @property
    def classes(self) -> dict[str, Errors]:
        """Errors of the gated collectives of each machine and number of chips, every class of which is gated."""
        names = dict.fromkeys(outcome.setting for outcome in self.gated if outcome.collective)
        return {name: Errors.of(each.error for each in self.gated if each.setting == name) for name in names}

    def ranges(self, setting: str) -> dict[str, list[Errors]]:
        """Returns the errors of each gated collective of one class, by the ranges of sizes that `BANDS` divides."""
        groups = [each for each in self.gated if each.setting == setting and each.collective]
        bounds = list(zip((0.0, *BANDS), (*BANDS, np.inf), strict=True))
        return {
            name: [
                Errors.of(each.error for each in groups if each.collective == name and least < each.size_bytes <= most)
                for least, most in bounds
            ]
            for name in dict.fromkeys(each.collective for each in groups)
        }

    def spread(self, setting: str) -> list[Spread]:
        """Returns the spread of laboratories that ran the same collective of NCCL on this machine and these chips.

        Several rows of one laboratory count as their median.
        """
        times: dict[tuple[str, float], dict[str, list[float]]] = {}
        for each in self.outcomes:
            if each.setting == setting and NCCL_TUNER in each.forms:
                sources = times.setdefault((each.collective, each.size_bytes), {})
                sources.setdefault(each.source, []).append(each.published)
        bands = zip((0.0, *BANDS), (*BANDS, np.inf), strict=True)
        return [
            Spread.of(most, [each for (_, size), each in times.items() if least < size <= most])
            for least, most in bands
        ]

    @property
    def speedups(self) -> list[Ratio]:
        """Rates over those of the suite's baseline."""
        if self.suite.speedup is None:
            return []
        rates = [outcome for outcome in self.outcomes if outcome.setting and outcome.metric not in _PARTS]
        baseline = {
            outcome.setting: outcome for outcome in rates if fnmatchcase(outcome.variant, self.suite.speedup.baseline)
        }
        pairs = [(each, baseline[each.setting]) for each in rates if each.setting in baseline]
        return [Ratio.of(each, base) for each, base in pairs if each is not base]

    @property
    def speedup_errors(self) -> Errors:
        """Errors of the gated speed-ups."""
        return Errors.of(ratio.error for ratio in self.speedups if ratio.counts)

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        forms = {name: to_builtins(self.form(name)) for name in self.form_names}
        return {
            "suite": self.suite.name,
            "passes": self.passes,
            "tolerance": self.suite.tolerance.model_dump(),
            "errors": {"simulated": to_builtins(self.simulated)} | forms,
            "parts": {name: _of(outcomes) for name, outcomes in self.parts.items()},
            "series": {name: _of(outcomes) for name, outcomes in self.series.items()},
            "orderings": [to_builtins(ordering) | {"right": ordering.right} for ordering in self.orderings],
            "classes": {
                name: to_builtins(errors)
                | {"ranges": {key: [to_builtins(each) for each in groups] for key, groups in self.ranges(name).items()}}
                for name, errors in self.classes.items()
            },
            "speedups": [to_builtins(ratio) | {"error": ratio.error} for ratio in self.speedups],
            "cases": [outcome.to_dict() for outcome in self.outcomes],
        }


def bias(outcomes: Iterable[Outcome]) -> float:
    """Returns the median of simulated time / published time - 1: above 0 the simulation is too slow."""
    errors = [outcome.time_error for outcome in outcomes]
    return float(np.median(errors)) if errors else 0.0


def _of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {**to_builtins(Errors.of(outcome.error for outcome in outcomes)), "bias": bias(outcomes)}
