"""Options that commands share, bars while they run, and errors that say where."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Annotated, TypeVar

import typer

from sim import units
from sim.errors import InputError, LayoutError
from sim.terminal import echo, plain_console, printable, styled

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field, such as layout.overlap=none. Repeatable."),
]
MachineSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a field, such as link.latency='2 us'. Repeatable."),
]
T = TypeVar("T")

BAD_INPUT = 2
"""Exit code of an InputError."""

INTERNAL_ERROR = 70
"""Exit code of a fault of this package, EX_SOFTWARE of sysexits.h."""

OUTPUT_FAILED = 74
"""Exit code where a file or standard output cannot be read or written, EX_IOERR of sysexits.h."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""

_PATIENCE_S = 2.0
"""What takes longer shows how far it is."""

_SILENCE_S = 60.0
"""Where there is no terminal, a line says so after as long."""

Formats = Annotated[str, typer.Option("--format", help="Of the figures: png, svg, pdf, or several: png,svg.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Sensitive = Annotated[
    bool,
    typer.Option(
        "--sensitivity", help="Also halve and double every carried or assumed constant: does the winner change?"
    ),
]


def one_of(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completion of a name, for `sim --install-completion`; asked for only then."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def completed(kind: str) -> Callable[[str], list[str]]:
    """Completion of a shipped file's name."""

    def names() -> Iterable[str]:
        from sim.specs import load

        return load.shipped(kind)

    return one_of(names)


FIGURES = ("png", "svg", "pdf")
TABLES = ("csv", "parquet")


def figure_formats(given: str, known: tuple[str, ...] = FIGURES) -> tuple[str, ...]:
    """`png,svg` as names. Raises InputError."""
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",")))
    for name in names:
        if name not in known:
            raise InputError("no such format", where="--format", got=name, hint=f"there are {', '.join(known)}")
    return names


def sweep_formats(given: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`parquet,svg` as formats of the table, beside CSV, and of the figure, png where none is named."""
    names = figure_formats(given, TABLES + FIGURES)
    figures = tuple(name for name in names if name in FIGURES)
    return tuple(name for name in names if name in TABLES), figures or FIGURES[:1]


@contextmanager
def steps(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal for what takes longer, nothing elsewhere: call it with (steps done, steps in all or 0)."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=plain_console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(what), total=None, visible=False)
        began = time.monotonic()
        yield lambda done, total: bar.update(
            task, completed=done, total=total or None, visible=time.monotonic() - began > _PATIENCE_S
        )


@contextmanager
def rated(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar with the rate and the time left on a terminal, now and then a line elsewhere: call it after every step."""
    if not sys.stderr.isatty():
        yield _lines(what, total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = TextColumn("{task.description}, {task.fields[rate]}", markup=False), BarColumn(), MofNCompleteColumn()
    began = time.monotonic()
    with Progress(*shown, TimeRemainingColumn(), console=plain_console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(what), total=total, rate="")

        def step() -> None:
            done = bar.tasks[0].completed + 1
            bar.update(task, advance=1, rate=f"{done / max(time.monotonic() - began, 1e-9):.1f}/s")

        yield step


def _lines(what: str, total: int) -> Callable[[], None]:
    """For a log: says how far it is after every _SILENCE_S."""
    done, said = 0, time.monotonic()

    def step() -> None:
        nonlocal done, said
        done += 1
        if done < total and time.monotonic() - said > _SILENCE_S:
            said = time.monotonic()
            echo(f"{what}: {done} of {total}", err=True)

    return step


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    with plain_console(stderr=True).status(styled(what)):
        yield


def gathered(rows: Generator[T], into: Callable[[T], None], progress: Callable[[], None]) -> bool:
    """Whether all rows came: Ctrl-C ends it, and what is there stays."""
    with closing(rows), _noticing(signal.SIGINT) as asked:
        try:
            for row in rows:
                into(row)
                progress()
                if asked:
                    return False
        except KeyboardInterrupt:
            return False
    return True


@contextmanager
def _noticing(number: int) -> Iterator[list[int]]:
    """Signals of this number that came, each a KeyboardInterrupt too, which code that is not ours may swallow."""
    came: list[int] = []

    def note(signum: int, frame: object) -> None:
        came.append(signum)
        raise KeyboardInterrupt

    ignored = signal.getsignal(number) is signal.SIG_IGN  # as of what a shell runs behind
    if ignored or threading.current_thread() is not threading.main_thread():  # which alone may ask for signals
        yield came
        return
    before = signal.signal(number, note)
    try:
        yield came
    finally:
        signal.signal(number, before)


@contextmanager
def about(where: str) -> Iterator[None]:
    """Errors inside name the file they come from."""
    try:
        with possible(where):
            yield
    except LayoutError as error:
        raise (error if error.where else error.within("layout")).within(where) from None
    except InputError as error:
        raise (error if error.where.startswith(where) else error.within(where)) from None


@contextmanager
def possible(where: str) -> Iterator[None]:
    """More than this computer or the clock can hold is bad input like any other."""
    import numpy as np

    try:
        with np.errstate(invalid="raise"):  # a float that no integer of the clock can hold
            yield
    except MemoryError:
        raise InputError("does not fit this computer's memory", where=where, hint="try a smaller machine") from None
    except (OverflowError, FloatingPointError):
        rule = f"takes longer than the clock of the simulation counts, {units.CLOCK_S:.1e} s"
        raise InputError(rule, where=where, hint="check sizes and rates") from None
