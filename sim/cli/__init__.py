"""The `sim` command. Heavy packages are imported by the commands that use them."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Annotated

import typer

from sim.cli.completion import joining_bash_words
from sim.cli.errors import code_and_message
from sim.terminal import echo

TRACEBACK = "--traceback"
"""Option that may stand anywhere on the command line."""


def _version(wanted: bool) -> None:
    if wanted:
        from sim import __version__

        echo(__version__)
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option(TRACEBACK, help="Print all of an error, for a report of it.")] = False,
) -> None:
    pass


COMMANDS = {
    "run": "run",
    "list": "list_command",
    "plot": "plot",
    "export": "export",
    "replay": "replay",
    "compare": "compare",
    "sweep": "sweep",
    "search": "search",
    "collective": "collective",
    "topology": "topology",
    "validate": "validate",
    "calibrate": "calibrate",
    "schema": "schema",
}
"""Module of each command, whose function has its name."""


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """Returns the command line: with the one command that the first argument names, else with all of them."""
    app = typer.Typer(
        add_completion=True,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Discrete-event simulator of multi-device collectives for Transformer inference.",
    )
    app.callback()(_options)
    for name in arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS:
        module = COMMANDS[name]
        app.command(name=name)(getattr(import_module(f"sim.cli.{module}"), module))
    return app


_ENVIRONMENT = {
    "PYDANTIC_DISABLE_PLUGINS": "__all__",  # it would look for plugins in all installed packages
    "OPENBLAS_NUM_THREADS": "1",  # NumPy would start a thread per core, and no matrix here is large
}
"""Settings of libraries that are imported later, unless the user has set them."""


def main() -> None:
    """Runs the command line; every error is one line on standard error."""
    # Modules, specs and machines live to the end: looking for garbage among them would take a sixth of a short run.
    gc.set_threshold(500_000, 50, 50)
    atexit.register(gc.freeze)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    arguments = [each for each in sys.argv[1:] if each != TRACEBACK]
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    try:
        try:
            with joining_bash_words(os.environ):
                build_app(arguments)(arguments)
        finally:
            sys.stdout.flush()
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            traceback.print_exc()
        code, message = code_and_message(error)
        if isinstance(error, OSError):
            _leave_stdout()
        with suppress(OSError):
            echo(message, err=True)
        sys.exit(code)


def _leave_stdout() -> None:
    """Discards what standard output did not take: at the end of the process it would be written, and fail, again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
