"""Published points for a figure: rows of a CSV file by their case ids, as x and y of the figure."""

from __future__ import annotations

from pathlib import Path

from sim.errors import InputError, suggest
from sim.specs import FigureSpec, load
from sim.studies.validate.cases import PHASES
from sim.studies.validate.csv_rows import Row, read_rows

_X = {
    "workload.batch": "batch",
    "workload.context": "context_tokens",
    "workload.prompt": "input_tokens",
    "workload.generate": "generated_tokens",
    "chips": "chips",
}
"""Column that holds an x of a figure."""


def published_rows(name: str) -> dict[str, Row]:
    """Reads the rows of a file of published measurements, by case id.

    Args:
        name: a shipped name in scenarios/published/, or a path.

    Raises:
        InputError: no such file, or a row without a case id.
    """
    folder = load.data_root() / "scenarios" / "published"
    shipped = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    path = shipped.get(name, Path(name))
    if not path.is_file():
        raise InputError("must be a file of published points", got=name, hint=suggest(name, shipped))
    return {row.cell("case_id"): row for row in read_rows(path, lambda row: row)}


def published_points(figure: FigureSpec) -> dict[str, list[tuple[float, float]]]:
    """Returns x and y of the published points beside each line, in SI units, in order of x.

    Raises:
        InputError: an unknown case id, or a case that does not have the figure's x or y.
    """
    if not figure.published:
        return {}
    try:
        known = published_rows(figure.published_file)
    except InputError as error:
        raise error.within("figure.published_file") from None
    points: dict[str, list[tuple[float, float]]] = {}
    for line, ids in figure.published.items():
        where = f"figure.published.{line}"
        for case_id in ids:
            if case_id not in known:
                hint = suggest(case_id, known) if len(known) < 10 else f"see {figure.published_file}.csv"
                raise InputError("must be a published case", where=where, got=case_id, hint=hint)
            try:
                point = x_of(known[case_id], figure.x), y_of(known[case_id], figure.y)
            except InputError as error:
                raise error.within(f"{where}: {case_id}") from None
            points.setdefault(line, []).append(point)
        points[line].sort()
    return points


def x_of(row: Row, x: str) -> float:
    """Returns the place of a row on the x axis. Raises InputError."""
    if x == "tokens":
        is_prefill = row.get("phase") in ("prefill", "total")
        return row.real("batch") * (row.real("input_tokens") if is_prefill else 1)
    if x not in _X:
        raise InputError("is not supported with published points", got=x, hint=suggest(x, ("tokens", *_X)))
    return row.real(_X[x])


def y_of(row: Row, y: str, column: str = "value") -> float:
    """Returns the quantity `y` of a row, SI units; a latency also gives time per step, tokens per second and cost.

    Args:
        column: holds the value: measured, or predicted by the user.

    Raises:
        InputError: the row measures something else.
    """
    metric, phase, value = row.cell("metric"), row.one_of("phase", PHASES), row.real(column)
    prompt = row.real("input_tokens") if phase in ("prefill", "total") else 0.0
    generated = row.real("generated_tokens") if phase in ("decode_total", "total") else phase == "decode_step"
    tokens, steps = row.real("batch") * (prompt + generated), generated + (prompt > 0)
    values = {}
    if metric == "mfu":
        values["mfu"] = value
    elif metric == "latency_s":
        cost = row.real("chips") * value / tokens
        values = {"step": value / steps, "tokens_per_s": tokens / value, "cost": cost}
        if phase != "decode_step":
            values["latency"] = value
        if phase != "total":  # the time of the prefill and that of the decode steps are not known apart
            values["ttft" if phase == "prefill" else "tpot"] = value / steps
    if y not in values:
        raise InputError(
            f"a row of {metric}, phase {phase}, has no '{y}'", hint=f"it has {', '.join(values) or 'none'}"
        )
    return values[y]
