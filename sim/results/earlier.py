"""What an earlier run left in its folder, and what becomes of it when a scenario is run again.

A run replaces its folder as a whole. What the new run does not write (figures where it draws none, explanations, traces
for other tools) stays where both runs have the same scenario and the same times, since then it is of the new results
too. Where they differ it would stand beside results that it does not show: what this program has written goes, and is
named; other files stay. Where a file of the earlier results is damaged, the folder as it was is kept beside the new
one. The results of another scenario file are never replaced.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError
from sim.results.saved import Saved, aside, entries, open_folder, problems, refuse_unlike, resolved

if TYPE_CHECKING:
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.present.explanation import Bar
    from sim.simulate.result import Run

_OURS = re.compile(
    r"((timeline|breakdown|links|roofline|stages|memory|waterfall)(_prefill|_decode)?\.(png|svg|pdf)"
    r"|(report|manifest|explain)\.json|report\.html|(trace|kineto|chakra)(_prefill|_decode)?(\..*)?)"
)
"""Names that runs and exports write."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """Results that stand where new ones go."""

    folder: Path
    saved: Saved | None
    """None where there are none, or where their manifest cannot be read."""
    damage: Mapping[str, InputError]
    """Files that are not what was written, by name."""
    is_same: bool
    """Whether the new results have the same scenario and times."""

    def bars(self) -> dict[str, tuple[Bar, ...]]:
        """From the formula to the simulated step as the earlier run explained it, by phase; empty where none did."""
        return self.saved.bars() if self.saved and "explain.json" not in self.damage else {}

    def bottlenecks(self, run: Run) -> tuple[Bottlenecks, ...] | None:
        """What the steps of `run` wait for, as the earlier run of the same results found; None where none looked."""
        return bottlenecks(self.saved, run) if self.saved and "report.json" not in self.damage else None

    def keep(self, now: Path) -> list[str]:
        """Take over what `now` lacks, and move the folder aside where it is damaged; what the user should know."""
        left = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else ():
            if (now / path.name).exists() or path.name in ("manifest.json", *self.damage):
                continue
            if not self.is_same and _OURS.fullmatch(path.name):
                left.append(path.name)
            elif path.is_dir():
                shutil.copytree(path, now / path.name, symlinks=True, copy_function=_link)
            else:
                _link(str(path), str(now / path.name))
        if self.damage:
            kept = aside(self.folder)
            return [f"the earlier results are kept in {kept}, as they cannot be read: {_reasons(self.damage)}"]
        return [f"of an earlier run with other results, now removed: {', '.join(left)}"] if left else []


def look(folder: Path, run: Run, now: Path) -> Earlier:
    """What stands in `folder`, where the results of `run` in `now` are to go."""
    damage = dict(problems(folder))
    try:
        saved = open_folder(folder)
    except InputError:
        return Earlier(folder, None, damage, is_same=False)
    manifest, is_trace = saved.manifest, re.compile(r"trace.*\.npz").fullmatch
    before = {name: entry for name, entry in manifest.files.items() if is_trace(name)}
    after = {name: entry for name, entry in entries(now).items() if is_trace(name)}
    own = list(run.settings), resolved(run.scenario), after
    return Earlier(folder, saved, damage, is_same=(manifest.settings, manifest.scenario, before) == own)


def bottlenecks(saved: Saved, run: Run) -> tuple[Bottlenecks, ...] | None:
    """What the steps of `run` wait for, as saved results of it say; None where no run looked. Raises InputError."""
    from sim.report.critical_path import shares
    from sim.report.present.bottlenecks import Bottlenecks

    found = {each.phase: each for each in saved.report().critical_path}
    result = []
    for part in run.passes:
        phase = part.scenario.workload.phase
        if phase not in found:
            return None
        own = shares(part.trace, part.topology)
        result.append(Bottlenecks(phase, part.span, own, tuple(found[phase].what_if)))
    return tuple(result)


def refuse_other(folder: Path, scenario: Mapping[str, Any], settings: Sequence[str], source: str | None) -> None:
    """Check that new results in `folder` do not replace those of another scenario file.

    Args:
        scenario: resolved, as a manifest holds it.
        source: its file; None where it is none.

    Raises:
        InputError: they would.
    """
    try:
        manifest = open_folder(folder).manifest
    except InputError:
        return  # nothing is there, or it is moved aside
    if (manifest.source, manifest.settings) != (source, list(settings)) or source is None:
        refuse_unlike(folder, manifest.scenario == scenario, manifest.source)


def _reasons(damage: Mapping[str, InputError]) -> str:
    return "; ".join(f"{name} {error.rule}, got {error.got!r}" for name, error in damage.items())


def _link(source: str, target: str) -> None:
    """The same file under another name where the file system can, else a copy."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
