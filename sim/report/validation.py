"""Predicted against published, for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.units import format_seconds

if TYPE_CHECKING:
    from rich.console import Console

    from sim.validate import Errors, Outcome, Validation


def render(validation: Validation, console: Console | None = None) -> None:
    """Print every case, the errors of each model, and whether the suite passes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = console or Console(highlight=False)
    suite, tolerance = validation.suite, validation.suite.tolerance
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"{suite.name}: {suite.description}", title_justify="left")
    for i, column in enumerate(("case", "published", "simulated", "error", "paper's form", "error")):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    for outcome in validation.outcomes:
        table.add_row(
            outcome.case_id,
            _value(outcome, outcome.published),
            _value(outcome, outcome.simulated),
            f"{outcome.error:+.1%}",
            _value(outcome, outcome.paper),
            f"{outcome.paper_error:+.1%}",
            style="dim" if outcome.not_gated else None,
        )
    console.print(table)
    for name, errors in (
        ("simulated", validation.simulated),
        ("closed form, per axis", validation.per_axis),
        ("closed form, paper", validation.paper),
    ):
        console.print(f"{name:<22} {_errors(errors)}")
    verdict = "[bold green]passes[/]" if validation.passes else "[bold red]misses[/]"
    console.print(
        f"{verdict} its tolerance: median {tolerance.median:.0%}, nine in ten {tolerance.nine_in_ten:.0%}, "
        f"worst {tolerance.worst:.0%}, of {validation.simulated.cases} gated cases"
    )
    for pattern, reason in suite.not_gated.items():
        console.print(f"[dim]not gated: {pattern}: {reason}[/]")


def _value(outcome: Outcome, value: float) -> str:
    return format_seconds(value) if outcome.metric == "latency_s" else f"{value:.1%}"


def _errors(errors: Errors) -> str:
    return f"median {errors.median:6.1%}   nine in ten {errors.nine_in_ten:6.1%}   worst {errors.worst:6.1%}"
