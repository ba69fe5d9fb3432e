"""`sim topology`: describe and draw a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.errors import errors_in
from sim.cli.options import Formats, Json, MachineSettings, Width, completed, figure_form
from sim.cli.progress import progress
from sim.terminal import echo


def topology(
    name: Annotated[
        str, typer.Argument(help="Machine: a shipped name or a file.", autocompletion=completed("topology"))
    ],
    settings: MachineSettings = None,
    out: Annotated[Path, typer.Option(help="Folder of the drawing.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw it.")] = True,
    formats: Formats = "png",
    width: Width = "",
) -> None:
    """Describe a machine: chips, links, diameter, average hops, bisection; save a drawing to OUT/NAME.png."""
    from sim import topology as machines
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.topology import describe

    form = figure_form(formats, width)
    spec, stack = load.machine(name, settings or [])
    with progress(f"building {name}"), errors_in(load.place("topology", name)):
        built = machines.build(spec, stack)
    with progress(f"measuring {name}"):
        facts = describe.facts(built)
    written: list[Path] = []
    if plots:
        from sim.plots import topology as drawing
        from sim.results.figures import write_figure

        stem = out / outputs.unique_file_name(built.name, settings or [])
        with progress(f"drawing {stem}"):
            written = write_figure(lambda: drawing.draw(built), stem, form)
    if as_json:
        echo(json.dumps(facts))
        return
    for label, value in describe.lines(facts):
        echo(f"{label:<22}{value}")
    for path in written:
        echo(f"{'drawing':<22}{path}")
