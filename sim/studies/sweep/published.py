"""Published points for a figure: rows of a CSV file by their case ids, as x and y of the figure."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

from sim.errors import InputError, suggest
from sim.specs import FigureSpec, load
from sim.studies.validate.rows import PHASES

Case = Mapping[str, str]

_X = {
    "workload.batch": "batch",
    "workload.context": "context_tokens",
    "workload.prompt": "input_tokens",
    "workload.generate": "generated_tokens",
    "chips": "chips",
}
"""Column that holds an x."""

_COLUMNS = (
    "case_id",
    "chips",
    "phase",
    "batch",
    "input_tokens",
    "context_tokens",
    "generated_tokens",
    "metric",
    "value",
)


def cases(name: str) -> dict[str, Case]:
    """Rows of a file of published measurements, by case id.

    Args:
        name: a shipped name in scenarios/published/, or a path.

    Raises:
        InputError: no such file, or it lacks a column.
    """
    folder = load.data_root() / "scenarios" / "published"
    shipped = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise InputError("no such file of published points", got=name, hint=suggest(name, shipped))
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(f"column '{missing[0]}' is missing", where=name)
            return {row["case_id"]: row for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("must be a CSV file in UTF-8", got=name) from error


def published(figure: FigureSpec) -> dict[str, list[tuple[float, float]]]:
    """x and y of the published points beside each line, in SI units, in order of x.

    Raises:
        InputError: an unknown case id, or a case that does not have the figure's x or y.
    """
    if not figure.published:
        return {}
    try:
        known = cases(figure.published_file)
    except InputError as error:
        raise error.within("figure.published_file") from None
    points: dict[str, list[tuple[float, float]]] = {}
    for line, ids in figure.published.items():
        where = f"figure.published.{line}"
        for case_id in ids:
            if case_id not in known:
                hint = suggest(case_id, known) if len(known) < 10 else f"see {figure.published_file}.csv"
                raise InputError("no such published case", where=where, got=case_id, hint=hint)
            try:
                point = x_of(known[case_id], figure.x), y_of(known[case_id], figure.y)
            except InputError as error:
                raise error.within(f"{where}: {case_id}") from None
            points.setdefault(line, []).append(point)
        points[line].sort()
    return points


def x_of(case: Case, x: str) -> float:
    """Where a case stands on the x axis. Raises InputError."""
    if x == "tokens":
        prefill = case["phase"] in ("prefill", "total")
        return _number(case, "batch") * (_number(case, "input_tokens") if prefill else 1)
    if x not in _X:
        raise InputError("published points have no such x", got=x, hint=suggest(x, ("tokens", *_X)))
    return _number(case, _X[x])


def y_of(case: Case, y: str) -> float:
    """A case's value of the quantity `y`, SI units; a latency also gives time per step, tokens per second and cost.

    Raises:
        InputError: the case measures something else.
    """
    metric, phase, value = case["metric"], case["phase"], _number(case, "value")
    if phase not in PHASES:
        raise InputError("unknown phase", got=phase, hint=suggest(phase, PHASES))
    prompt = _number(case, "input_tokens") if phase in ("prefill", "total") else 0.0
    generated = _number(case, "generated_tokens") if phase in ("decode_total", "total") else phase == "decode_step"
    tokens, steps = _number(case, "batch") * (prompt + generated), generated + (prompt > 0)
    values = {}
    if metric == "mfu":
        values["mfu"] = value
    elif metric == "latency_s":
        cost = _number(case, "chips") * value / tokens
        values = {"step": value / steps, "tokens_per_s": tokens / value, "cost": cost}
        if phase != "decode_step":
            values["latency"] = value
        if phase != "total":  # a prefill and decode steps, which of them took how long is not known
            values["ttft" if phase == "prefill" else "tpot"] = value / steps
    if y not in values:
        raise InputError(
            f"a case of {metric}, phase {phase}, has no '{y}'", hint=f"it has {', '.join(values) or 'none'}"
        )
    return values[y]


def _number(case: Case, column: str) -> float:
    """A number above 0. Raises InputError."""
    try:
        value = float(case[column])
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < math.inf:
        raise InputError(f"column '{column}' must be a number above 0", got=case[column])
    return value
