"""Run many cases in processes of their own and count the outcomes."""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from .outcomes import PASSES, run_case

_MEMORY_BYTES = 6 * 2**30


def fuzz(kind: str, count: int, seed: int, failures: Path, jobs: int = 1, first: int = 0) -> Counter[str]:
    """Run cases first .. first + count - 1 of a kind; return how often each outcome occurred.

    Args:
        failures: folder that gets a folder per case that failed: its file, the command, and the outcome.
        jobs: processes.
    """
    parts = [range(first + job, first + count, jobs) for job in range(jobs)]
    with ThreadPoolExecutor(jobs) as pool:
        counters = pool.map(lambda part: _watched(kind, seed, list(part), failures), parts)
        return sum(counters, Counter[str]())


def _watched(kind: str, seed: int, indices: list[int], failures: Path) -> Counter[str]:
    """Run cases in a process, and in another one from the next case on where a case ends the process."""
    context, counter = multiprocessing.get_context("spawn"), Counter[str]()
    while indices:
        mine, other = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(kind, seed, indices, failures, other))
        process.start()
        other.close()
        try:
            while indices:
                counter[mine.recv()] += 1
                indices = indices[1:]
        except EOFError:
            process.join()
            counter[f"died: exit code {process.exitcode}"] += 1
            (_folder(failures, kind, seed, indices[0]) / "outcome.txt").write_text(f"died: {process.exitcode}\n")
            indices = indices[1:]
        process.join()
    return counter


def _work(kind: str, seed: int, indices: list[int], failures: Path, results: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    warnings.simplefilter("default")
    for index in indices:
        folder = _folder(failures, kind, seed, index)
        outcome = run_case(kind, seed, index, folder)
        if outcome in PASSES:
            shutil.rmtree(folder)
        else:
            (folder / "outcome.txt").write_text(outcome + "\n", encoding="utf-8", errors="replace")
        results.send(outcome)


def _folder(failures: Path, kind: str, seed: int, index: int) -> Path:
    folder = failures / f"{kind}-{seed}-{index}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
