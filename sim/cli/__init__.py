"""The `sim` command. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer

from sim.cli import machines, runs, searches, studies
from sim.cli.options import BAD_INPUT, INTERNAL_ERROR, OUTPUT_FAILED
from sim.errors import DeadlockError, InputError, internal, one_line
from sim.terminal import echo

TRACEBACK = "--traceback"
"""Stands anywhere on the command line."""

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
    traceback: Annotated[bool, typer.Option(TRACEBACK, help="Print all of an error, for a report of it.")] = False,
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
    (searches.search, "search"),
    (machines.collective, "collective"),
    (machines.topology, "topology"),
    (studies.validate, "validate"),
    (studies.calibrate, "calibrate"),
    (machines.schema, "schema"),
):
    app.command(name=_name)(_command)


def main() -> None:
    """Entry point: bad input, and anything else that goes wrong, is one line on standard error."""
    # Modules, specs and machines stay to the end: looking for garbage among them would take a tenth of a short run.
    gc.set_threshold(200_000, 50, 50)
    arguments = [each for each in sys.argv[1:] if each != TRACEBACK]
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        try:
            app(arguments)
        finally:
            sys.stdout.flush()
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            traceback.print_exc()
        code, message = _failure(error)
        if isinstance(error, OSError):
            _leave_stdout()
        with suppress(OSError):
            echo(message, err=True)
        sys.exit(code)


def _failure(error: Exception) -> tuple[int, str]:
    """Exit code and message."""
    match error:
        case InputError():
            return BAD_INPUT, f"error: {error}"
        case DeadlockError():
            return 1, f"error: {error}"
        case MemoryError():
            return BAD_INPUT, "error: does not fit this computer's memory; try a smaller machine or fewer layers"
        case OSError():
            what = (
                "standard output cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
            )
            return OUTPUT_FAILED, f"error: {one_line(f'{what}: {error.strerror or error}')}"
        case _:
            return INTERNAL_ERROR, internal(error)


def _leave_stdout() -> None:
    """What standard output did not take would be written again, and fail again, at the end of the process."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
