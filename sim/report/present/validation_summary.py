"""Validated suites in Markdown: rows, errors of fitted and other rows, the worst by name, what is not checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sim.report.present.validation import Errors, Outcome, Validation, bias

HEADING = """# Published measurements, and how close the simulation comes

Written by `sim validate --summary scenarios/published/README.md`; a test fails when it is out of date. A measurement is
what rows of the same passes say: an MFU that repeats a latency counts once. Errors are absolute, of simulated /
measured - 1. Bias is the median of time simulated / measured - 1: above 0 the simulation is too slow.
"""
_WORST = 5
"""Measurements named as the worst of a suite."""


def format_summary(validations: Iterable[Validation]) -> str:
    """Returns the page of several suites."""
    return "\n".join([HEADING, *map(format_section, validations)])


def format_section(validation: Validation) -> str:
    """Returns the part of the page that is of one suite."""
    suite, outcomes = validation.suite, validation.outcomes
    gated = validation.gated
    rows = sum(not outcome.not_gated for outcome in outcomes)
    counted = ", ".join(f"{len(part)} {name}" for name, part in validation.parts.items())
    measurements = f"{len(gated)} measurements{f': {counted}' if validation.has_fit else ''}"
    lines = [
        f"## {suite.name}",
        "",
        f"{suite.description or suite.name}. `{suite.rows}`: {len(outcomes)} rows, {rows} of them gated, which are "
        f"{measurements}.",
        "",
        *_table(("", "measurements", "median", "nine in ten within", "worst", "bias"), _models(validation)),
        "",
        f"{_sign(gated)} Worst: {', '.join(map(_named, sorted(gated, key=lambda each: -abs(each.error))[:_WORST]))}.",
        "",
    ]
    if len(validation.series) > 1:
        columns = ("series", "measurements", "fitted", "median", "nine in ten within", "worst", "bias")
        lines += [*_table(columns, [_series(*each) for each in validation.series.items()]), ""]
    lines += [*_speedups(validation), *_options(validation), *_reasons(outcomes)]
    lines += [f"- Not checked: {text}." for text in suite.not_checked]
    return "\n".join(lines).rstrip() + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(each)} |".replace("|  |", "| |") for each in (columns, ["---"] * len(columns), *rows)]


def _models(validation: Validation) -> list[tuple[str, ...]]:
    rows = [("simulated", *_figures(validation.simulated), f"{bias(validation.gated):+.1%}")]
    if len(validation.parts) > 1:
        for name, outcomes in validation.parts.items():
            errors = Errors.of(outcome.error for outcome in outcomes)
            rows.append((f"simulated, {name}", *_figures(errors), f"{bias(outcomes):+.1%}"))
    forms = [(validation.label(name), validation.form(name)) for name in validation.form_names]
    return [*rows, *((label, *_figures(errors), "") for label, errors in forms if errors.cases)]


def _series(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    count, *figures = _figures(Errors.of(outcome.error for outcome in outcomes))
    fitted = str(sum(outcome.fitted for outcome in outcomes))
    return name or "without a name", count, fitted, *figures, f"{bias(outcomes):+.1%}"


def _figures(errors: Errors) -> tuple[str, str, str, str]:
    return str(errors.cases), f"{errors.median:.1%}", f"{errors.nine_in_ten:.1%}", f"{errors.worst:.1%}"


def _speedups(validation: Validation) -> list[str]:
    if validation.suite.speedup is None:
        return []
    errors = validation.speedup_errors
    figures = ", ".join(
        f"{name} {100 * error:.1f}"
        for name, error in (
            ("median", errors.median),
            ("nine in ten within", errors.nine_in_ten),
            ("worst", errors.worst),
        )
    )
    return [f"- {errors.cases} speed-ups over `{validation.suite.speedup.baseline}`, points off: {figures}."]


def _sign(outcomes: Sequence[Outcome]) -> str:
    """Says on which side of the measurements the simulation is."""
    slow = sum(outcome.time_error > 0 for outcome in outcomes)
    return f"Too slow: {slow} of {len(outcomes)}, too fast: {sum(each.time_error < 0 for each in outcomes)}."


def _named(outcome: Outcome) -> str:
    return f"`{outcome.case_id}` {outcome.error:+.1%}"


def _options(validation: Validation) -> list[str]:
    lines = []
    for option in dict.fromkeys(each.option for each in validation.orderings):
        pairs = [each for each in validation.orderings if each.option == option]
        wrong = [
            f"`{each.case_id}` over `{each.slower_id}` ({each.published - 1:.1%})" for each in pairs if not each.right
        ]
        named = f"; not: {', '.join(wrong)}" if wrong else ""
        lines.append(f"- Which `{option}` is faster: right in {len(pairs) - len(wrong)} of {len(pairs)} pairs{named}.")
    return lines


def _reasons(outcomes: Sequence[Outcome]) -> list[str]:
    lines = []
    for kind, reasons in (("Not gated", [o.not_gated for o in outcomes]), ("Note", [o.note for o in outcomes])):
        for reason in dict.fromkeys(filter(None, reasons)):
            count = reasons.count(reason)
            lines.append(f"- {kind}, {count} {'row' if count == 1 else 'rows'}: {reason}.")
    return lines
