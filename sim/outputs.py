"""The folder of a run: written beside the old one and swapped in whole, so a failed run costs no earlier result."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sim import __version__
from sim.errors import InputError

if TYPE_CHECKING:
    from sim.report.explanation import Explanation
    from sim.run import Run
    from sim.specs import Scenario


def folder_name(scenario: Scenario, settings: Sequence[str]) -> str:
    """`name`, or `name,key=value` for a run with settings, which must not replace the plain run's results."""
    return re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", ",".join([scenario.name, *settings]))[:200]


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn a failure to write at `path` into an InputError that says so."""
    try:
        yield
    except (OSError, RecursionError) as error:  # pathlib makes parents recursively
        if isinstance(error, FileExistsError | NotADirectoryError):
            raise InputError("must be a folder", where="--out", got=error.filename) from None
        problem = getattr(error, "strerror", None) or "the path is too long"
        raise InputError(f"cannot be written: {problem}", where="--out", got=str(path)) from None


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A fresh folder that takes the place of `folder` when the block succeeds, and vanishes when it fails.

    Raises:
        InputError: the folder cannot be written.
    """
    with writable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(folder))
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name[:100]}.", dir=folder.parent))
        old = fresh.with_name(f"{fresh.name}.old")
        try:
            fresh.chmod(0o755)
            yield fresh
            if folder.exists():
                folder.rename(old)
            fresh.rename(folder)
        finally:
            if old.exists() and not folder.exists():  # stopped between the two renames
                old.rename(folder)
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A fresh file that takes the place of `path` when the block succeeds, and vanishes when it fails.

    Raises:
        InputError: the file cannot be written.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            yield fresh
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def write(
    run: Run,
    folder: Path,
    *,
    plots: bool,
    chips: Sequence[int] | None = None,
    explanations: Sequence[Explanation] | None = None,
) -> None:
    """report.json, manifest.json, trace.npz, trace.json and, with `plots`, timeline.png. Same scenario, same bytes.

    Explained, also explain.json and, with `plots`, waterfall.png.
    """
    _json(folder / "report.json", run.report.to_dict())
    _json(
        folder / "manifest.json",
        {"version": __version__, "scenario": run.scenario.model_dump(mode="json", exclude_none=True)},
    )
    # Lowering the manifest's scenario again gives the program; with these two columns, the whole trace.
    from sim.export import chrome_trace

    for part in run.passes:
        phase = f"_{part.scenario.workload.phase}" if len(run.passes) > 1 else ""
        times = part.trace.times
        np.savez_compressed(folder / f"trace{phase}.npz", ready=times["ready"], start=times["start"])
        trace, topology = part.whole()
        chrome_trace.write(trace, topology, folder / f"trace{phase}.json", chips=chips)
        if plots:
            from sim.plots import timeline

            title = run.scenario.name + phase.replace("_", ", ")
            timeline.draw(trace, topology, folder / f"timeline{phase}.png", title=title)
    if explanations is not None:
        _json(folder / "explain.json", explain_list(explanations))
        for each in explanations if plots else ():
            from sim.plots import waterfall

            phase = f"_{each.phase}" if len(explanations) > 1 else ""
            waterfall.draw(each, folder / f"waterfall{phase}.png")


def explain_list(explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    """The bars of all phases, in order."""
    return [bar for each in explanations for bar in each.to_list()]


def check_chips(scenario: Scenario, chips: Sequence[int]) -> None:
    """Raises InputError where the machine has no such chip."""
    count = prod(axis.size for axis in getattr(scenario.topology, "axes", {}).values())
    for chip in chips:
        if chip >= count:
            raise InputError(f"the machine has chips 0 to {count - 1}", where="--trace-chip", got=chip)


def _json(path: Path, data: dict[str, Any] | list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
