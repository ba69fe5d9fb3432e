"""Progress of long commands: a bar on a terminal, now and then a line elsewhere, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

from sim.terminal import echo, plain_console, printable

T = TypeVar("T")
Report = Callable[[int, int], None]
"""Takes the number of steps done and of all steps, 0 if that is not known."""

_SILENCE_S = 60.0
"""Time without output after which a line shows the progress if standard error is no terminal."""


@contextmanager
def progress(what: str, *, is_animated: bool = True) -> Iterator[Report]:
    """Shows that a block runs, and how far it is as often as the block reports it.

    Args:
        is_animated: turn the spinner in a thread; False for a block that forks.
    """
    if not sys.stderr.isatty():
        yield _lines(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    description = TextColumn("{task.description}", markup=False)
    counted = description, BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
    began = time.monotonic()
    shown: dict[str, Any] = {"console": plain_console(stderr=True), "transient": True, "auto_refresh": is_animated}
    with Progress(SpinnerColumn(), description, **shown) as bar:
        task = bar.add_task(printable(what), total=None, rate="")

        def report(done: int, total: int) -> None:
            bar.columns = counted
            rate = done / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=done, total=total or None, rate=f"{rate:.1f}/s")

        yield report


def _lines(what: str) -> Report:
    last_s = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last_s
        if done and done != total and time.monotonic() - last_s > _SILENCE_S:
            last_s = time.monotonic()
            echo(f"{what}: {done}" + (f" of {total}" if total else ""), err=True)

    return report


def collect(rows: Generator[T], keep: Callable[[T], None], report: Report, total: int) -> bool:
    """Passes rows to `keep` as they come; returns False if Ctrl-C ends it before the last one."""
    with closing(rows), _interruptions() as signals:
        try:
            for done, row in enumerate(rows, start=1):
                keep(row)
                report(done, total)
                if signals:
                    return False
        except KeyboardInterrupt:
            return False
    return True


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Lists the SIGINTs that come; each is a KeyboardInterrupt too, which code of other packages may swallow."""
    signals: list[int] = []

    def note(number: int, frame: object) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # of a shell's background jobs
    if is_ignored or threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield signals
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGINT, before)
