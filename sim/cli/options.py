"""Options and arguments that commands share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.cli.completion import completed_setting
from sim.cli.errors import errors_in
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.results.figures import FigureForm

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field, such as layout.overlap=none. Repeatable.",
        autocompletion=completed_setting("scenario"),
    ),
]
MachineSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field, such as link.latency='2 us'. Repeatable.",
        autocompletion=completed_setting("topology"),
    ),
]
RowSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a field of the scenario or machine of every row, such as stack.op_overhead='2 us'. Repeatable.",
        autocompletion=completed_setting("scenario"),
    ),
]


NewName = Annotated[str, typer.Option(help="Name of the run in its report and of its folder; default: the scenario's.")]


def check_name(name: str) -> None:
    """Raises InputError unless a text can name a scenario and the folder of its results."""
    from sim.specs.base import LONGEST_NAME, NAME, TEXT_RULES

    if not re.fullmatch(NAME, name) or len(name) > LONGEST_NAME:
        raise InputError(TEXT_RULES[NAME], where="--name", got=name, hint=f"at most {LONGEST_NAME} characters")


def _load_plugins(context: typer.Context, names: list[str] | None) -> list[str] | None:
    if names:
        from sim.specs.load import plugin_files

        context.with_resource(plugin_files.using(names))
    return names


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=_load_plugins,
        is_eager=True,
        help="File, entry point or module that adds layouts, collectives and more. Repeatable.",
    ),
]
Formats = Annotated[str, typer.Option("--format", help="Of figures: png, svg, pdf, or several: png,svg.")]
Width = Annotated[
    str, typer.Option("--width", help="Of figures, such as 3.3in: a column of a paper. Default: as wide as they need.")
]
DrawnChips = Annotated[
    list[int] | None,
    typer.Option("--chip", min=0, help="Chip that timeline and page draw beside the others. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes on this computer.")]
Sensitive = Annotated[
    bool,
    typer.Option(
        "--sensitivity", help="Also halve and double every carried or assumed constant: does the winner change?"
    ),
]


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Returns a completion of names, for `sim --install-completion`, which alone calls `names`."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def completed(kind: str) -> Callable[[str], list[str]]:
    """Returns a completion of the names of shipped files of a kind."""

    def names() -> Iterable[str]:
        from sim.specs import load

        return load.shipped(kind)

    return one_of(names)


TopologyName = Annotated[
    str, typer.Option("--topology", help="Machine: a shipped name or a file.", autocompletion=completed("topology"))
]
ResultsFolder = Annotated[Path, typer.Argument(help="Results of a run: OUT/NAME.")]

FIGURES = ("png", "svg", "pdf")
TABLES = ("csv", "parquet")
WIDTHS_IN = 2.5, 40.0
"""Least and most width of a figure: what its labels need, and what a PNG can be."""


def figure_form(formats: str, width: str) -> FigureForm:
    """Parses `--format` and `--width`. Raises InputError."""
    from sim.results.figures import FigureForm

    return FigureForm(_names(formats, FIGURES), _width_in(width) if width else None)


def _width_in(text: str) -> float:
    """Parses a width such as `3.3in`, in inches. Raises InputError."""
    from sim import units

    with errors_in("--width"):
        width_in = units.parse(text, "m") / units.parse("1 in", "m")
    least, most = WIDTHS_IN
    if not least <= width_in <= most:
        raise InputError(f"must be {least:g} to {most:g} in", where="--width", got=text)
    return width_in


def _names(given: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Parses formats such as `png,svg`. Raises InputError."""
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if name not in known:
            raise InputError("no such format", where="--format", got=name, hint=f"there are {', '.join(known)}")
    return names


def sweep_formats(given: str) -> tuple[tuple[str, ...], str]:
    """Parses `parquet,svg` into formats of the table, beside CSV, and those of the figure, png if none is named."""
    names = _names(given, TABLES + FIGURES)
    figures = [name for name in names if name in FIGURES]
    return tuple(name for name in names if name in TABLES), ",".join(figures) or FIGURES[0]
