"""A validation on the terminal: every case, errors of each model, of series and of options, and the verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.report.present.validation import BANDS, Errors, Outcome, Validation, bias
from sim.specs.suite import CollectiveSuite, Speedup
from sim.terminal import new_table, plain_console, styled
from sim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_NAME = 34
"""Characters of the name of a line of errors."""
_NAMED = 8
"""Cases that are named where a reason is given that holds for several."""


def render(validation: Validation, console: Console | None = None) -> None:
    """Print every case, the errors of each model and of each series, and whether the suite passes."""
    console = console or plain_console()
    _cases(validation, console)
    _models(validation, console)
    _classes(validation, console)
    _series(validation, console)
    if validation.suite.speedup:
        _speedups(validation, validation.suite.speedup, console)
    _orderings(validation, console)
    suite, tolerance = validation.suite, validation.suite.tolerance
    verdict = ("passes", "bold green") if validation.passes else ("misses", "bold red")
    said = (
        f" its tolerance: median {tolerance.median:.0%}, nine in ten {tolerance.nine_in_ten:.0%}, "
        f"worst {tolerance.worst:.0%}, of {validation.simulated.cases} gated measurements"
    )
    console.print(styled(verdict, said))
    _reasons("not gated", {each.case_id: each.not_gated for each in validation.outcomes}, console)
    _reasons("note", {each.case_id: each.note for each in validation.outcomes}, console)
    for text in suite.not_checked:
        console.print(f"not checked: {text}", style="dim")


def _cases(validation: Validation, console: Console) -> None:
    suite, names = validation.suite, validation.form_names
    of_collectives = isinstance(suite, CollectiveSuite)
    forms = [column for name in names for column in (name, "error")]
    columns = ("case", "used", "measured", "simulated", "error", *forms, *(["algorithm"] if of_collectives else []))
    table = new_table(columns, texts=["case"], title=": ".join(filter(None, (suite.name, suite.description))))
    for outcome in validation.outcomes:
        table.add_row(
            outcome.case_id,
            _used(validation, outcome),
            shown(outcome.metric, outcome.published),
            shown(outcome.metric, outcome.simulated),
            f"{outcome.error:+.1%}",
            *(cell for name in names for cell in _form(outcome, name)),
            *([outcome.algorithm] if of_collectives else []),
            style=None if outcome.counts else "dim",
        )
    console.print(table)


def _used(validation: Validation, outcome: Outcome) -> str:
    if outcome.not_gated:
        return "not gated"
    return "repeats" if outcome.repeats else validation.part_of(outcome) if validation.has_fit else "gated"


def _form(outcome: Outcome, name: str) -> tuple[str, str]:
    error = outcome.form_error(name)
    return ("none", "") if error is None else (shown(outcome.metric, outcome.forms[name]), f"{error:+.1%}")


def _models(validation: Validation, console: Console) -> None:
    console.print(f"{'simulated':<{_NAME}} {validation.simulated.line}   of {validation.simulated.cases}")
    parts = validation.parts
    for name, outcomes in parts.items() if len(parts) > 1 else ():
        errors = Errors.of(outcome.error for outcome in outcomes)
        console.print(f"{f'  rows {name}':<{_NAME}} {errors.line}   of {errors.cases}, bias {bias(outcomes):+.1%}")
    for name in validation.form_names:
        if (errors := validation.form(name)).cases:
            console.print(f"{validation.label(name):<{_NAME}} {errors.line}   of {errors.cases}")
    console.print(f"bias, the median of time simulated / measured - 1: {bias(validation.gated):+.1%}")


def _series(validation: Validation, console: Console) -> None:
    if len(validation.series) < 2:
        return
    names = validation.form_names
    medians = [f"median, {name}" for name in names]
    columns = ("series", "of", "fitted", "median", "nine in ten", "worst", "bias", *medians)
    table = new_table(columns)
    for name, outcomes in validation.series.items():
        errors = Errors.of(outcome.error for outcome in outcomes)
        forms = [Errors.of(outcome.form_error(each) for outcome in outcomes) for each in names]
        table.add_row(
            name or "without a name",
            str(errors.cases),
            str(sum(outcome.fitted for outcome in outcomes)),
            *(f"{value:.1%}" for value in (errors.median, errors.nine_in_ten, errors.worst)),
            f"{bias(outcomes):+.1%}",
            *(f"{form.median:.1%}" if form.cases else "none" for form in forms),
        )
    console.print(table)


def _orderings(validation: Validation, console: Console) -> None:
    """Prints which of two options is faster: pairs of measurements that differ in one column."""
    for option in dict.fromkeys(each.option for each in validation.orderings):
        pairs = [each for each in validation.orderings if each.option == option]
        right = sum(each.right for each in pairs)
        forms = [
            f"{name} {sum(each.forms[name] > 1 for each in known)} of {len(known)}"
            for name in validation.form_names
            if (known := [each for each in pairs if name in each.forms])
        ]
        console.print(f"which {option} is faster: simulated {', '.join([f'{right} of {len(pairs)}', *forms])}")
        for each in sorted((each for each in pairs if not each.right), key=lambda each: -each.published)[:_NAMED]:
            figures = f"{each.published - 1:.1%} as measured, {each.simulated - 1:+.1%} simulated"
            console.print(f"  wrong: {each.case_id} faster than {each.slower_id} by {figures}")


def _classes(validation: Validation, console: Console) -> None:
    for name, errors in validation.classes.items():
        console.print(f"{name:<{_NAME}} {errors.line}   of {errors.cases}")
        for collective, ranges in validation.ranges(name).items():
            medians = [
                f"{_up_to(most)} {each.median:.1%} (nine in ten {each.nine_in_ten:.1%}, of {each.cases})"
                for most, each in zip((*BANDS, np.inf), ranges, strict=True)
                if each.cases
            ]
            console.print(f"  median of {collective} by size: {', '.join(medians)}")
        spread = [
            f"{_up_to(band.most_bytes)} {band.median:.2f} (worst {band.worst:.2f}, {band.sources} laboratories)"
            for band in validation.spread(name)
            if band.sources
        ]
        if spread:
            console.print(f"  longest over shortest of the laboratories' times: {', '.join(spread)}")


def _up_to(most_bytes: float) -> str:
    return "above" if most_bytes == np.inf else f"to {format_bytes(most_bytes)}"


def _speedups(validation: Validation, speedup: Speedup, console: Console) -> None:
    names = validation.form_names
    table = new_table((f"speed-up over {speedup.baseline}", "measured", "simulated", "points off", *names))
    for ratio in validation.speedups:
        forms = (f"{ratio.forms[name]:.3f}" if name in ratio.forms else "" for name in names)
        figures = (f"{ratio.published:.3f}", f"{ratio.simulated:.3f}", f"{100 * ratio.error:+.1f}", *forms)
        table.add_row(ratio.case_id.removesuffix("/tokens_per_s"), *figures, style=None if ratio.counts else "dim")
    console.print(table)
    tolerance = speedup.tolerance
    console.print(
        f"{'speed-ups':<{_NAME}} {validation.speedup_errors.line}   allowed {tolerance.median:.0%}, "
        f"{tolerance.nine_in_ten:.0%}, {tolerance.worst:.0%}"
    )
    gated = [ratio for ratio in validation.speedups if ratio.counts]
    for name in names:
        errors = Errors.of(each.form_error(name) for each in gated)
        console.print(f"{f'  {validation.label(name)}':<{_NAME}} {errors.line}")


def _reasons(kind: str, reasons: dict[str, str], console: Console) -> None:
    """Print each reason once, with the cases that it holds for."""
    for reason in dict.fromkeys(filter(None, reasons.values())):
        ids = [case_id for case_id, case_reason in reasons.items() if case_reason == reason]
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        console.print(f"{kind}: {', '.join(ids[:_NAMED])}{more}: {reason}", style="dim")


def shown(metric: str, value: float) -> str:
    """Returns a value in the unit of its metric."""
    if metric in ("tokens_per_s", "tokens_per_s_per_chip", "training_tokens_per_s"):
        return f"{value:,.1f}/s"
    if metric == "speedup":
        return f"{value:.2f}x"
    if metric in ("memory_bandwidth_per_gpu", "bandwidth"):
        return f"{value / 1e9:,.1f} GB/s"
    return f"{value:.1%}" if metric == "mfu" else format_seconds(value)
