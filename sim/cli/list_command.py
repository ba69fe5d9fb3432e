"""`sim list`: what there is to choose from, one line each."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import typer

from sim.cli.options import Json, Plugins, one_of
from sim.errors import InputError
from sim.terminal import echo

_LEAST_ROOM = 24
"""Least letters of a line about an entry."""
Rows = list[tuple[str, str]]


def _files(kind: str) -> Callable[[], Rows]:
    """Returns a function that lists shipped files of a kind, with their description or first comment."""

    def rows() -> Rows:
        from sim.specs import load
        from sim.specs.load.yaml_text import read

        lines_of_files = []
        for name, path in load.shipped(kind).items():
            about, lines = read(path).get("description", ""), path.read_text(encoding="utf-8").splitlines()
            comments = (line.lstrip("# ") for line in lines if line.startswith("# ") and "$schema" not in line)
            lines_of_files.append((name, " ".join((about or next(comments, "")).split())))
        return lines_of_files

    return rows


def _models() -> Rows:
    """Returns the dimensions of each model."""
    from sim.specs import load
    from sim.specs.load.yaml_text import read

    rows = []
    for name, path in load.shipped("model").items():
        data = read(path)
        about = "{layers} layers, d_model {d_model}, d_ff {d_ff}, {heads} heads, {ffn}".format(**data)
        rows.append((name, about))
    return rows


def _layouts() -> Rows:
    from sim.specs.plugins import summary
    from sim.specs.uses import PRESETS

    return [(name, summary(function)) for name, function in PRESETS.items()]


def _residuals() -> Rows:
    """Returns the recurrence of each scheme, from the docstring that lists them."""
    from sim.layouts import residual
    from sim.specs import plugins

    lines = [line.split(None, 1) for line in (residual.__doc__ or "").splitlines() if line.startswith("    ")]
    about = {name.rstrip(","): text for name, text in lines}
    about |= {f"desync{n}": f"standard, but of {n} halves only the last one's sum is made" for n in (2, 4)}
    about |= plugins.registered("residual_scheme")
    return [(name, about[name]) for name in residual.SCHEMES]


def _pipelines() -> Rows:
    from sim.specs import plugins

    return [
        ("non_blocking", "EnergonAI: whole requests follow each other in the order of their keys."),
        ("blocking", "FasterTransformer: micro-batches of one request; drain and refill for the next."),
        ("sequential", "A request at a time, a stage at a time."),
        ("bounded_queue", "Later EnergonAI: stages pull from queues; a full queue is tried again later."),
        *plugins.registered("pipeline_schedule").items(),
    ]


def _collectives() -> Rows:
    from sim.collectives import ON_NCCL, ON_ROUTES, ON_TORUS

    names = dict.fromkeys([*ON_TORUS, *ON_ROUTES, *ON_NCCL])
    tables: dict[str, Mapping[str, Iterable[str]]] = {"torus": ON_TORUS, "switch, graph": ON_ROUTES, "NCCL": ON_NCCL}
    return [
        (name, "; ".join(f"{where}: {', '.join(table[name])}" for where, table in tables.items() if name in table))
        for name in names
    ]


def _plugins() -> Rows:
    """Returns installed plugins, and additions of loaded ones beside layouts, schemes, schedules and collectives."""
    from sim.specs import plugins
    from sim.specs.load import plugin_files

    kinds: tuple[tuple[plugins.Kind, str], ...] = (("closed_form", "closed form"), ("report", "section of the report"))
    added = [
        (name, f"{noun}: {about}".rstrip(": "))
        for kind, noun in kinds
        for name, about in plugins.registered(kind).items()
    ]
    return [*plugin_files.installed().items(), *added]


KINDS: dict[str, Callable[[], Rows]] = {
    "scenarios": _files("scenario"),
    "topologies": _files("topology"),
    "stacks": _files("stack"),
    "models": _models,
    "suites": _files("suite"),
    "layouts": _layouts,
    "residuals": _residuals,
    "pipelines": _pipelines,
    "collectives": _collectives,
    "plugins": _plugins,
}
"""Functions that list the names of a kind, with one line about each."""


def list_command(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="scenarios, topologies, stacks, models, suites, layouts, residuals, pipelines, collectives "
            "or plugins; default: all.",
            autocompletion=one_of(lambda: KINDS),
        ),
    ] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """List what there is to choose from, with a sentence about each."""
    kinds = listing(kind)
    if as_json:
        echo(json.dumps({name: dict(rows) for name, rows in kinds.items()}))
        return
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    for name, rows in kinds.items():
        width = max((len(row[0]) for row in rows), default=0)
        echo(name)
        for entry, text in rows:
            lines = textwrap.wrap(text, max(_LEAST_ROOM, room - width - 4)) or [""]
            echo(f"  {entry:<{width}}  {lines[0]}".rstrip())
            for line in lines[1:]:
                echo(f"  {'':<{width}}  {line}")


def listing(kind: str | None = None) -> dict[str, Rows]:
    """Returns rows of one kind, or of all. Raises InputError."""
    if kind is not None and kind not in KINDS:
        raise InputError(
            "must be a kind that can be listed", where="KIND", got=kind, hint=f"there are {', '.join(KINDS)}"
        )
    found = {name: rows() for name, rows in KINDS.items() if kind in (None, name)}
    return {name: rows for name, rows in found.items() if rows or name == kind}
