"""Exit codes of the command line, and errors that name the file they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from sim import units
from sim.errors import INTERNAL, DeadlockError, InputError, LayoutError, internal, one_line
from sim.terminal import echo

if TYPE_CHECKING:
    from sim.studies.sweep.rows import Row

BAD_INPUT = 2
"""Exit code of an InputError."""

EXCEEDS_MEMORY = 3
"""Exit code of `sim run --strict` if a run exceeds memory."""

INTERNAL_ERROR = 70
"""Exit code of a fault of this package, EX_SOFTWARE of sysexits.h."""

OUTPUT_FAILED = 74
"""Exit code if a file or standard output cannot be read or written, EX_IOERR of sysexits.h."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def code_and_message(error: Exception) -> tuple[int, str]:
    """Returns the exit code of an error and its message of one line."""
    match error:
        case InputError():
            return BAD_INPUT, f"error: {error}"
        case DeadlockError():
            return 1, f"error: {error}"
        case MemoryError():
            return BAD_INPUT, "error: exceeds this computer's memory; try a smaller machine or fewer layers"
        case OSError():
            what = (
                "standard output cannot be written" if error.filename is None else f"{error.filename}: cannot be used"
            )
            return OUTPUT_FAILED, f"error: {one_line(f'{what}: {error.strerror or error}')}"
        case _:
            return INTERNAL_ERROR, internal(error)


@contextmanager
def errors_in(where: str) -> Iterator[None]:
    """Raises errors of the block as InputErrors that name the file `where`."""
    try:
        with within_limits(where):
            yield
    except LayoutError as error:
        raise (error if error.where else error.within("layout")).within(where) from None
    except InputError as error:
        raise (error if error.where.startswith(where) else error.within(where)) from None


@contextmanager
def within_limits(where: str) -> Iterator[None]:
    """Raises an InputError for what exceeds the memory of this computer or the clock of the simulation."""
    import numpy as np

    try:
        with np.errstate(invalid="raise"):  # a float that no integer of the clock can hold
            yield
    except MemoryError:
        raise InputError("exceeds this computer's memory", where=where, hint="try a smaller machine") from None
    except (OverflowError, FloatingPointError):
        rule = f"exceeds the clock of the simulation, {units.CLOCK_S:.1e} s"
        raise InputError(rule, where=where, hint="check sizes and rates") from None


def check_internal(rows: Sequence[Row]) -> None:
    """Ends the command if some points met a fault of this package; the others are written and printed."""
    failed = [row for row in rows if (row.error or "").startswith(INTERNAL)]
    if failed:
        point = ", ".join(f"{axis}={label}" for axis, label in failed[0].choices.items())
        echo(f"{len(failed)} of {len(rows)} points failed; the first, {point}: {failed[0].error}", err=True)
        raise typer.Exit(INTERNAL_ERROR)
