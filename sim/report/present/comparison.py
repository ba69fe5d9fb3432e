"""Comparison of two runs: the differing fields of their scenarios, and the difference along their critical paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins

from sim.report.critical_path import Share, Shares
from sim.report.headline import to_html
from sim.terminal import new_table, plain_console, styled
from sim.units import PS_PER_S, format_bytes, format_change, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_ROWS, _FIELDS = 12, 20
"""Printed at most."""


class Term(Struct, frozen=True):
    """One item's time on both critical paths, s; 0 if it is on one of them only."""

    name: str
    before_s: float
    after_s: float

    @property
    def change_s(self) -> float:
        return self.after_s - self.before_s


class PhaseDifference(Struct, frozen=True):
    """One step of a phase, or all requests of a pipeline, in both runs.

    Each list adds up to the difference to the picosecond.
    """

    phase: str
    span: str
    """Span of the times: `one decode step`, `all 12 requests`."""
    before_s: float
    after_s: float
    causes: tuple[Term, ...]
    """The largest difference first."""
    ops: tuple[Term, ...]

    @property
    def summary(self) -> str:
        """Text such as `one decode step: B is 1.04 times as fast as A (4.1% less time)`."""
        return f"{self.span}: {describe_speedup(self.before_s, self.after_s)}"


class Field(Struct, frozen=True):
    """Field that differs between the resolved scenarios; `none` if only one has it."""

    name: str
    before: str
    after: str


class Comparison(Struct, frozen=True):
    """Comparison of run B with run A."""

    before: str
    after: str
    before_s: float
    """Latency of all steps, s."""
    after_s: float
    phases: tuple[PhaseDifference, ...]
    """Phases that both runs have."""
    fields: tuple[Field, ...]
    rests_on: tuple[str, ...] = ()
    """Constants of machine and software of A and of B, a line each; one line where they are the same."""
    notes: tuple[str, ...] = ()
    """Notes of the runs' reports, each once: `A: ...`, `A and B: ...`."""
    machines: tuple[str, ...] = ()
    """Machine of A and of B, the chips of it that the run uses, and what its latency is of where that is a request."""

    def __repr__(self) -> str:
        return f"Comparison(A {self.before}, B {self.after}: {self.summary})"

    def _repr_html_(self) -> str:
        """Returns the causes of each phase, for a notebook."""
        rows = [(phase.span, term.name, format_change(term.change_s)) for phase in self.phases for term in phase.causes]
        return to_html(f"A {self.before}, B {self.after}: {self.summary}", rows)

    @property
    def summary(self) -> str:
        """Text such as `B takes 25.1 ms, A 26.2 ms: B is 1.04x as fast as A (4.2% less time); largest change: link
        latency -0.9 ms of one decode step.`"""
        text = f"B takes {format_seconds(self.after_s)}, A {format_seconds(self.before_s)}: "
        text += describe_speedup(self.before_s, self.after_s)
        largest = [
            f"{phase.causes[0].name} {format_change(phase.causes[0].change_s)} of {phase.span}"
            for phase in self.phases
            if phase.causes and phase.causes[0].change_s
        ]
        return f"{text}; largest change: {', '.join(largest)}." if largest else f"{text}."

    def to_dict(self) -> dict[str, Any]:
        """JSON data, seconds."""
        phases = [to_builtins(each) | {"summary": each.summary} for each in self.phases]
        return {**to_builtins(self), "phases": phases, "summary": self.summary}


def describe_speedup(before_s: float, after_s: float) -> str:
    """Returns a text such as `B is 1.33x as fast as A (25.0% less time)`, `B is 33.3% slower than A`, or, from twice
    the time on, `B takes 3.37 times as long as A`."""
    if before_s == after_s:
        return "B takes the same time as A"
    change = after_s / before_s - 1
    if change >= 1:
        return f"B takes {after_s / before_s:.3g} times as long as A"
    if change > 0:
        return f"B is {change:.1%} slower than A"
    return f"B is {before_s / after_s:.3g}x as fast as A ({-change:.1%} less time)"


def compare(
    names: Sequence[str],
    latencies_s: Sequence[float],
    shares: Sequence[Mapping[Any, Shares]],
    spans: Sequence[Mapping[Any, str]],
    scenarios: Sequence[Mapping[str, Any]],
) -> Comparison:
    """Compares run B with run A; every argument has an entry for each of them.

    Args:
        shares: of the critical path of each phase.
        spans: what the times of each phase are of.
        scenarios: resolved, as nested mappings.
    """
    phases = tuple(
        PhaseDifference(
            phase,
            " and ".join(dict.fromkeys(run_spans[phase] for run_spans in spans)),
            path_shares.step_ps / PS_PER_S,
            shares[1][phase].step_ps / PS_PER_S,
            compare_shares(path_shares.causes, shares[1][phase].causes),
            compare_shares(path_shares.ops, shares[1][phase].ops),
        )
        for phase, path_shares in shares[0].items()
        if phase in shares[1]
    )
    flat = [flatten(scenario) for scenario in scenarios]
    fields = tuple(
        Field(name.removesuffix(".value"), *_shown(flat[0].get(name), flat[1].get(name)))
        for name in dict.fromkeys([*flat[0], *flat[1]])
        if flat[0].get(name) != flat[1].get(name) and not name.endswith(".source")
    )
    return Comparison(names[0], names[1], latencies_s[0], latencies_s[1], phases, fields)


def _shown(*values: Any) -> list[str]:
    """Returns values of a field: quantities with prefixes if these tell them apart, else unchanged."""
    short = [_prefixed(value) for value in values]
    return short if len(set(short)) == len(short) else [str(value) for value in values]


def _prefixed(value: Any) -> str:
    number, _, unit = ("none" if value is None else str(value)).partition(" ")
    try:
        return _PREFIXED[unit](float(number))
    except (KeyError, ValueError):  # a text, or a unit without prefixes
        return f"{number} {unit}".rstrip()


_PREFIXED: dict[str, Callable[[float], str]] = {
    "s": format_seconds,
    "B": format_bytes,
    "B/s": lambda value: f"{value / 1e9:.6g} GB/s",
    "FLOP/s": lambda value: f"{value / 1e12:.6g} TFLOP/s",
}


def compare_shares(before: Sequence[Share], after: Sequence[Share]) -> tuple[Term, ...]:
    """Returns times by name in both, the largest difference first."""
    times = [{share.name: share.time_ps for share in shares} for shares in (before, after)]
    names = sorted({*times[0], *times[1]}, key=lambda name: (-abs(times[1].get(name, 0) - times[0].get(name, 0)), name))
    return tuple(Term(name, *(run_times.get(name, 0) / PS_PER_S for run_times in times)) for name in names)


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """`{"layout": {"ffn": 1}}` as `{"layout.ffn": 1}`."""
    if not isinstance(data, Mapping):
        return {prefix: data}
    return {
        name: value
        for key, inner in data.items()
        for name, value in flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def render(comparison: Comparison, console: Console | None = None) -> None:
    """Print the comparison on `console` (default: standard output)."""
    console = console or plain_console()
    for label, name, machine in zip("AB", (comparison.before, comparison.after), comparison.machines, strict=True):
        console.print(styled(f"{label}: ", (name, "bold"), f" on {machine}"))
    console.print(comparison.summary)
    for name, line in zip(
        ("A rests on", "B rests on") if len(comparison.rests_on) > 1 else ("both rest on",),
        comparison.rests_on,
        strict=True,
    ):
        console.print(f"{name}: {line}")
    for line in comparison.notes:
        console.print(f"note on {line}", markup=False)
    for phase in comparison.phases:
        table = new_table((f"critical path of {phase.span}", "A", "B", "B - A"))
        for i, (what, group) in enumerate({"causes": phase.causes, "operations": phase.ops}.items()):
            if i:
                table.add_section()
            shown, rest = list(group[:_ROWS]), group[_ROWS:]
            if rest:
                total_s = sum(term.before_s for term in rest), sum(term.after_s for term in rest)
                shown.append(Term(f"{len(rest)} more {what}; --json has each", *total_s))
            for term in shown:
                times = format_seconds(term.before_s), format_seconds(term.after_s), format_change(term.change_s)
                table.add_row(term.name, *times)
        total = Term("step", phase.before_s, phase.after_s)
        table.add_section()
        table.add_row(
            "all", format_seconds(total.before_s), format_seconds(total.after_s), format_change(total.change_s)
        )
        console.print()
        console.print(table)
    table = new_table(("differs", "A", "B"), texts=["A", "B"])
    for field in comparison.fields[:_FIELDS]:
        table.add_row(field.name, field.before, field.after)
    console.print()
    console.print(table)
    if len(comparison.fields) > _FIELDS:
        console.print(f"{len(comparison.fields) - _FIELDS} more fields differ; --json and the page have each")
