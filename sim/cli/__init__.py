"""The `sim` command. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import gc
import sys
from typing import Annotated

import typer

from sim.cli import machines, runs, studies
from sim.errors import DeadlockError, InputError
from sim.terminal import echo

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Discrete-event simulator of multi-device collectives for Transformer inference.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from sim import __version__

        echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for _command, _name in (
    (runs.run, "run"),
    (machines.list_, "list"),
    (runs.plot, "plot"),
    (runs.export, "export"),
    (runs.replay, "replay"),
    (runs.compare, "compare"),
    (studies.sweep, "sweep"),
    (studies.search, "search"),
    (machines.collective, "collective"),
    (machines.topology, "topology"),
    (studies.validate, "validate"),
    (studies.calibrate, "calibrate"),
    (machines.schema, "schema"),
):
    app.command(name=_name)(_command)


def main() -> None:
    """Entry point: bad input is one line on standard error and exit code 2."""
    # Modules, specs and machines stay to the end: looking for garbage among them would take a tenth of a short run.
    gc.set_threshold(200_000, 50, 50)
    try:
        app()
    except InputError as error:
        echo(f"error: {error}", err=True)
        sys.exit(2)
    except DeadlockError as error:
        echo(f"error: {error}", err=True)
        sys.exit(1)
