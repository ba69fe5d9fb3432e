"""`sim topology`: describe and draw a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.errors import errors_in
from sim.cli.options import Json, MachineSettings, completed
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
) -> None:
    """Describe a machine: chips, links, diameter, average hops, bisection; save a drawing to OUT/NAME.png."""
    from sim import topology as machines
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.topology import describe

    spec, stack = load.machine(name, settings or [])
    with progress(f"building {name}"), errors_in(load.place("topology", name)):
        built = machines.build(spec, stack)
    with progress(f"measuring {name}"):
        facts = describe.facts(built)
    path = out / f"{outputs.unique_file_name(built.name, settings or [])}.png"
    if plots:
        from sim.plots import topology as drawing
        from sim.plots.style import save

        with progress(f"drawing {path}"), outputs.replacing_file(path) as fresh:
            save(drawing.draw(built), fresh)
    if as_json:
        echo(json.dumps(facts))
        return
    for label, value in describe.lines(facts):
        echo(f"{label:<22}{value}")
    if plots:
        echo(f"{'drawing':<22}{path}")
