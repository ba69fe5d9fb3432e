"""What an earlier run left in its folder, and what becomes of it when the same scenario is run again.

A run replaces its folder as a whole. What the new run does not write (figures where it draws none, explanations, traces
for other tools) stays where both runs have the same scenario and the same times, since then it is of the new results
too. Where they differ it would stand beside results that it does not show: what this program has written goes, and is
named; other files stay.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.report.explanation import Bar

if TYPE_CHECKING:
    from sim.report.bottlenecks import Bottlenecks
    from sim.run import Run

_OURS = re.compile(
    r"((timeline|breakdown|links|roofline|stages|memory|waterfall)(_prefill|_decode)?\.(png|svg|pdf)"
    r"|(report|manifest|explain)\.json|report\.html|(trace|kineto|chakra)(_prefill|_decode)?(\..*)?)"
)
"""Names that runs and exports write."""


def same(earlier: Path, now: Path) -> bool:
    """Whether two folders hold the manifest and times of the same results."""
    names = sorted(path.name for path in now.glob("trace*.npz"))
    if not names or names != sorted(path.name for path in earlier.glob("trace*.npz")):
        return False
    return all(_bytes(earlier / name) == _bytes(now / name) for name in ("manifest.json", *names))


def keep(earlier: Path, now: Path, ours: bool) -> tuple[str, ...]:
    """Take over what `now` lacks from `earlier`; the names of what is not taken.

    Args:
        ours: whether to take what runs and exports have written, too.
    """
    left = []
    for path in sorted(earlier.iterdir()) if earlier.is_dir() else ():
        if (now / path.name).exists():
            continue
        if not ours and _OURS.fullmatch(path.name):
            left.append(path.name)
        elif path.is_dir():
            shutil.copytree(path, now / path.name, symlinks=True, copy_function=_link)
        else:
            _link(str(path), str(now / path.name))
    return tuple(left)


def bars(folder: Path) -> dict[str, tuple[Bar, ...]]:
    """From the formula to the simulated step as an earlier run explained it, by phase; empty where none did."""
    found: dict[str, tuple[Bar, ...]] = {}
    names = [field.name for field in fields(Bar)]
    for each in _json(folder / "explain.json") or ():
        found[each["phase"]] = (*found.get(each["phase"], ()), Bar(**{name: each[name] for name in names}))
    return found


def bottlenecks(folder: Path, run: Run) -> tuple[Bottlenecks, ...] | None:
    """What the steps of `run` wait for, as an earlier run of the same results found; None where none looked."""
    from sim.report.bottlenecks import Bottlenecks
    from sim.report.critical_path import shares
    from sim.report.what_if import WhatIf

    found: Mapping[str, Any] = {
        each["phase"]: each for each in (_json(folder / "report.json") or {}).get("critical_path", ())
    }
    result = []
    for part in run.passes:
        phase = part.scenario.workload.phase
        if phase not in found:
            return None
        own = shares(part.trace, part.topology)
        results = tuple(WhatIf(**each) for each in found[phase]["what_if"])
        result.append(Bottlenecks(phase, part.span, own, results))
    return tuple(result)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _link(source: str, target: str) -> None:
    """The same file under another name where the file system can, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
