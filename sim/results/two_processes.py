"""Jobs that write files, in a copy of this process where one can be forked, beside what this process does meanwhile."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence

Job = Callable[[], object]


def run_jobs(jobs: Sequence[Job], meanwhile: Job) -> None:
    """Runs `meanwhile` in this process and jobs in a copy of it, then each job that is left in whichever is free first.

    Jobs write files of their own, so the files do not tell which process wrote them. If the copy fails, this process
    runs every job itself and raises what they raise.
    """
    if not jobs or not _can_fork():
        meanwhile()
        _run_each(jobs)
        return
    source, sink = os.pipe()
    os.write(sink, bytes(range(len(jobs))))
    os.close(sink)
    child = os.fork()
    if not child:
        _end_as_copy(jobs, source)
    try:
        meanwhile()
        _run_next(jobs, source)
    finally:
        os.close(source)
        _, status = os.waitpid(child, 0)
    if status:
        _run_each(jobs)


def _can_fork() -> bool:
    """Returns True if a copy of this process is safe, since no other thread runs, and has a processor of its own."""
    return sys.platform == "linux" and threading.active_count() == 1 and len(os.sched_getaffinity(0)) > 1


def _run_each(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job()


def _run_next(jobs: Sequence[Job], source: int) -> None:
    """Runs the jobs whose numbers this process gets from the pipe; every number is read once."""
    parent = os.getppid()
    while os.getppid() == parent and (number := os.read(source, 1)):  # a copy ends with its parent
        jobs[number[0]]()


def _end_as_copy(jobs: Sequence[Job], source: int) -> None:
    """Runs jobs in the copy, and ends it without what the process does at its own end."""
    code = 1
    try:
        _run_next(jobs, source)
        code = 0
    finally:
        os._exit(code)
