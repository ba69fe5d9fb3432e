"""Run one case as the command line does and say what came of it."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import math
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sim import cli
from sim.simulate.run import run
from sim.specs import load

from .mutated import mutated_file
from .valid import valid_scenario

KINDS = ("valid", "mutated")
PASSES = ("ok", "refused")
"""Outcomes that are right."""
HANG_S = 20.0
_SIGNED = ("difference", "per_axis_over_paper", "error", "saved", "slower", "stall_s", "closed_form_stall_s")
"""What figures end in that are differences and may be negative."""
_COMPARED = 4
"""One in so many valid scenarios is run again without shortcuts and by the compiled engine."""


class _Hang(BaseException):
    """The case has used HANG_S of processor time."""


def run_case(kind: str, seed: int, index: int, folder: Path) -> str:
    """Run a case inside `folder`, an empty one, and return its outcome: one of PASSES, or `failure: details`.

    The same kind, seed and index are always the same case.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), index])
    with _working_in(folder):
        if kind == "mutated":
            arguments = mutated_file(rng, Path())
        else:
            path = valid_scenario(rng, Path())
            arguments = ["sweep" if "\nsweep:" in path.read_text(encoding="utf-8") else "run", str(path)]
        arguments += ["--json"] if rng.random() < 0.5 else []
        arguments += [] if arguments[0] == "collective" or rng.random() < 0.02 else ["--no-plots"]
        Path("command.txt").write_text(f"sim {' '.join(arguments)}\n", encoding="utf-8")
        outcome = _limited(lambda: _of_command(arguments))
        if outcome == "ok" and kind == "valid" and arguments[0] == "run" and index % _COMPARED == 0:
            outcome = _limited(lambda: _of_shortcuts(path))
    return outcome


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        shutil.rmtree("out", ignore_errors=True)
        os.chdir(before)


def _limited(case: Any) -> str:
    """The outcome of a call that may take HANG_S of processor time; the process ends where it does not heed that."""

    def stop(signum: int, frame: object) -> None:
        raise _Hang

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    faulthandler.dump_traceback_later(6 * HANG_S, exit=True)
    try:
        return str(case())
    except _Hang as error:
        return f"hang: {_place(error)}"
    except Exception as error:
        return f"traceback: {_place(error)}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def _place(error: BaseException) -> str:
    """What was raised, and the last line of this package on its way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{os.sep}sim{os.sep}" in frame.filename] or list(frames)
    file = own[-1].filename.rpartition(f"{os.sep}sim{os.sep}")[2]
    return f"{type(error).__name__} in {file}:{own[-1].lineno} {own[-1].name}: {str(error)[:200]}"


def _of_command(arguments: list[str]) -> str:
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, ["sim", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        sys.argv = before
    said = err.getvalue()
    if code == 0:
        return _of_output(arguments, out.getvalue(), said)
    if code == 1 and arguments[0] == "validate":
        return "ok"  # a suite that misses its tolerance
    if code != 2:
        return f"exit {code}: {said[:200]}"
    lines = said.splitlines()
    if len(lines) != 1 or len(said) > 2000 or not said.startswith("error: ") or not said.rstrip("\n").isprintable():
        return f"refused badly: {len(lines)} lines, {len(said)} characters: {said[:200]!r}"
    return "refused"


def _of_output(arguments: list[str], out: str, said: str) -> str:
    if "Warning" in said:
        return f"warning: {said[:200]}"
    found = {path.name: path.read_text(encoding="utf-8") for path in Path("out").rglob("report.json")}
    if "--json" in arguments:
        found["stdout"] = out
    for name, text in found.items():
        for field, number in _numbers(json.loads(text), ()):
            if not math.isfinite(number):
                return f"not finite: {name} {field} {number}"
            if number < 0 and not field.endswith(_SIGNED):
                return f"negative: {name} {field} {number}"
    return "ok"


def _numbers(value: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _numbers(inner, (*keys, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, keys)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield ".".join(keys), float(value)


def _of_shortcuts(path: Path) -> str:
    """Folding, periodicity and the compiled engine must not change a figure."""
    plain = _figures(path, "engine.shortcuts=off", "engine.kernel=simpy")
    for setting in ("engine.shortcuts=chips", "engine.shortcuts=layers", "engine.kernel=compiled"):
        other = _figures(path, "engine.shortcuts=off", "engine.kernel=simpy", setting)
        if other != plain:
            return f"shortcut: {setting} changes a figure"
    return "ok"


def _figures(path: Path, *settings: str) -> Any:
    def without_engine(report: dict[str, Any]) -> dict[str, Any]:
        rest = {name: value for name, value in report.items() if name != "engine"}
        return rest | {"phases": [without_engine(phase) for phase in report["phases"]]}

    return without_engine(run(load.scenario(str(path), settings)).report.to_dict())
