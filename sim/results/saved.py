"""Results as they are read back: what `sim run` wrote, checked before anything of it is used.

The manifest names every file that is read back with its size and hash. It holds a hash of itself. A file that is not
what was written is an error of one line; nothing is read from a file that is larger than its content may be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct, field
from msgspec.structs import replace
from pydantic import ValidationError

from sim import __version__
from sim.errors import InputError
from sim.program import trace_file
from sim.results.analysis import Analysis
from sim.results.scratch import keep
from sim.specs.load import plugin_files

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from sim.program import Period, Program
    from sim.report.present.explanation import Explanation
    from sim.results.saved_report import SavedPhase, SavedReport
    from sim.simulate.result import Run
    from sim.simulate.run import WrittenPhase
    from sim.specs import Scenario

_READ_BACK = re.compile(r"(report|explain)\.json|trace(_prefill|_decode)?\.npz")
"""Files that are read back, beside the manifest."""
_AGAIN = "run the scenario again"
_LARGEST_JSON_BYTES = 2**26
"""Largest size of a JSON file; assumed, 1,000 times that of the largest shipped scenario."""


class Entry(Struct, frozen=True):
    """One file of the results."""

    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: str


class Sealed(Struct, frozen=True):
    """Origin of a folder of results; its file holds a hash of itself."""

    version: str
    source: str | None
    """The scenario's file; None where it was no file."""


class Manifest(Sealed, frozen=True):
    """Origin of the results of a run, and their files by name."""

    settings: list[str]
    scenario: dict[str, Any]
    """Resolved."""
    files: dict[str, Entry]
    """Those that are read back."""
    written: list[str]
    """Names of all files and folders that this program wrote, exports and figures drawn later included."""
    chips: list[int] = field(default_factory=list)
    """Chips of `--chip`."""
    plugins: dict[str, str] = field(default_factory=dict)
    """Hash of the text of each plugin, by name."""


T = TypeVar("T")
S = TypeVar("S", bound=Sealed)


class Saved(Struct, frozen=True):
    """A folder of results, of which the manifest has been checked."""

    folder: Path
    manifest: Manifest

    def report(self) -> SavedReport:
        """Reads report.json. Raises InputError if it is not what was written."""
        from sim.results.saved_report import SavedReport

        return self._json("report.json", SavedReport)

    def explanations(self) -> list[Explanation] | None:
        """Explanations of the phases; None where the run had none. Raises InputError."""
        if "explain.json" not in self.manifest.files:
            return None
        from sim.report.present.explanation import Explanation

        explanations = self._json("explain.json", list[Explanation])
        for each in explanations:
            if not 0 < each.ideal_at <= len(each.bars):
                got = f"ideal_at {each.ideal_at} of {len(each.bars)} bars"
                raise damage_error(self.folder / "explain.json", got)
        return explanations

    def analysis(self, run: Run) -> Analysis:
        """Returns what `--explain` and `--critical-path` added to these results of `run`.

        Raises:
            InputError: a file is not what was written.
        """
        from sim.report.present.bottlenecks import Bottlenecks

        what_if = {each.phase: tuple(each.what_if) for each in self.report().critical_path}
        phases = ((part, part.scenario.workload.phase) for part in run.passes)
        bottlenecks = [
            Bottlenecks(phase, part.span, part.attribute_step(), what_if[phase])
            for part, phase in phases
            if phase in what_if
        ]
        return Analysis(self.explanations(), bottlenecks or None)

    def check(self, name: str) -> Path:
        """Returns the path of a file that is what was written. Raises InputError if it is not."""
        path, entry = self.folder / name, self.manifest.files.get(name)
        if entry is None:
            raise damage_error(path, "no such file in the manifest")
        if not path.is_file():
            raise damage_error(path, "a folder" if path.is_dir() else "no such file")
        try:
            is_written = path.stat().st_size == entry.size_bytes and _sha256(path) == entry.sha256
        except OSError as error:
            raise damage_error(path, str(error.strerror)) from None
        if not is_written:
            raise damage_error(path, "other content")
        return path

    def _json(self, name: str, model: type[T]) -> T:
        try:
            return msgspec.json.decode(_small(self.check(name)), type=model)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise damage_error(self.folder / name, str(error)) from None


def damage_error(path: Path, got: str) -> InputError:
    """Returns the error of a file that is not what a run wrote."""
    return InputError("must be what `sim run` wrote", where=str(path), got=got, hint=_AGAIN)


class Origin(Struct, frozen=True):
    """Origin of the results of a run, as a manifest holds it."""

    source: str | None
    """The scenario's file, or the files of several jobs; None where one is no file."""
    settings: list[str]
    scenario: dict[str, Any]
    """Resolved (`resolve_scenario`)."""
    chips: tuple[int, ...] = ()
    plugins: tuple[str, ...] = ()


def check_replaceable(folder: Path, new: Origin, *, is_named: bool = False) -> None:
    """Raises InputError where new results must not replace `folder`: not a run's, or another scenario file's.

    Args:
        is_named: the user named the folder, and its name does not have the settings, which may then be others.
    """
    if not (folder / "manifest.json").exists():
        if folder.is_dir() and any(folder.iterdir()):
            hint = "choose another folder with --out, or remove this one"
            raise InputError("must be empty or hold the results of a run", where=str(folder), hint=hint)
        return
    try:
        manifest = open_folder(folder).manifest
    except InputError:
        return  # `replaced` moves it aside
    is_same = new.source is not None and manifest.source == new.source
    if not is_same or not (is_named or manifest.settings == new.settings):
        refuse_unlike(folder, manifest.scenario == new.scenario, manifest.source)


def displace_results(folder: Path, fresh: Path) -> list[str]:
    """Returns messages on what is lost of `folder` when `fresh` takes its place; moves an unreadable one aside.

    A file that no command wrote, one of the user, stays: it is linked into `fresh`, unless a new file has its name.
    """
    if not (folder / "manifest.json").exists():
        return []
    try:
        written = {"manifest.json", *open_folder(folder).manifest.written}
    except InputError as error:
        return [f"moved the previous results to {move_aside(folder)}: manifest.json {error.rule}, got {error.got!r}"]
    previous, new = ({path.name for path in place.iterdir()} for place in (folder, fresh))
    for name in sorted(previous - new - written):
        keep(folder / name, fresh / name)
    lost = {
        "removed files of the previous run": previous & written - new,
        "replaced files that no run wrote": previous & new - written,
    }
    return [f"{what}: {', '.join(sorted(names))}" for what, names in lost.items() if names]


def refuse_unlike(folder: Path, is_alike: bool, source: str | None) -> None:
    """Raises InputError for a folder with the results of another scenario file, `source`."""
    if not is_alike:
        raise InputError(
            "must not hold the results of another scenario file",
            where=str(folder),
            hint=f"they are of {source or 'no file'}; choose another folder with --out, or rename the scenario",
        )


def move_aside(path: Path) -> Path:
    """Renames results that cannot be read back to the first free one of `NAME.damaged`, `NAME.damaged-2`, ..."""
    names = (path.with_name(f"{path.name}.damaged{end}") for end in ("", *(f"-{i}" for i in range(2, 10**4))))
    return path.rename(next(name for name in names if not os.path.lexists(name)))


def origin_of(run: Run) -> Origin:
    """Returns the origin of a run."""
    chips = sorted({chip for part in run.passes for chip in part.chosen_chips})
    scenario = resolve_scenario(run.scenario)
    return Origin(run.source, list(run.settings), scenario, tuple(chips), tuple(run.scenario.plugins))


def write_manifest(origin: Origin, folder: Path) -> None:
    """Writes manifest.json for the files in `folder`; the last file of a run."""
    manifest = Manifest(
        version=__version__,
        source=origin.source,
        settings=origin.settings,
        scenario=origin.scenario,
        written=sorted(path.name for path in folder.iterdir()),
        chips=list(origin.chips),
        plugins=plugin_files.hashes(origin.plugins),
        files={
            path.name: Entry(size_bytes=path.stat().st_size, sha256=_sha256(path))
            for path in sorted(folder.iterdir())
            if _READ_BACK.fullmatch(path.name)
        },
    )
    write_sealed(folder / "manifest.json", manifest)


def note_written(folder: Path, paths: Iterable[Path]) -> None:
    """Adds what a command wrote into the results in `folder` to their manifest."""
    manifest = open_folder(folder).manifest
    names = {path.relative_to(folder).parts[0] for path in paths}
    if names - set(manifest.written):
        written = sorted(names.union(manifest.written))
        write_sealed(folder / "manifest.json", replace(manifest, written=written))


def resolve_scenario(scenario: Scenario) -> dict[str, Any]:
    """Returns a scenario as a manifest holds it."""
    return scenario.model_dump(mode="json", exclude_none=True)


def open_folder(folder: Path) -> Saved:
    """Opens the results in `folder`; their files are checked when they are read.

    Raises:
        InputError: no folder of a run, or of another version of this program, or its manifest is damaged.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        rule = "must hold the results of a run" if folder.is_dir() else "no such folder"
        raise InputError(rule, where=str(folder), hint="write them with `sim run`")
    return Saved(folder, read_sealed(path, Manifest))


def write_sealed(path: Path, content: Sealed) -> None:
    """Writes a JSON file that holds a hash of itself."""
    data = msgspec.to_builtins(content)
    path.write_text(json.dumps({"sha256": _digest(data)} | data, indent=2) + "\n", encoding="utf-8")


def read_sealed(path: Path, model: type[S]) -> S:
    """Reads what `write_sealed` wrote. Raises InputError if the file is damaged or of another version."""
    try:
        data = msgspec.json.decode(_small(path))
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise damage_error(path, str(error)) from None
    if not isinstance(data, dict):
        raise damage_error(path, "no mapping of fields")
    expected = data.pop("sha256", None)
    version = data.get("version")
    if version != __version__:
        raise InputError(f"must be results of version {__version__}", where=str(path), got=version, hint=_AGAIN)
    if expected != _digest(data):
        raise damage_error(path, "other content")
    try:
        return msgspec.convert(data, model)
    except msgspec.ValidationError as error:
        raise damage_error(path, str(error)) from None


def restore_results(saved: Saved) -> Run:
    """Restores the run of a folder of results. Raises InputError if one of its files is damaged."""
    from sim.simulate.run import restore_run
    from sim.specs import Scenario

    folder = saved.folder
    if "jobs" in saved.manifest.scenario:
        hint = "run the jobs again with `sim run --together`"
        raise InputError("is not supported with results of several jobs", where=str(folder), hint=hint)
    report = saved.report()
    plugin_files.load_unchanged(saved.manifest.plugins, str(folder / "manifest.json"))
    try:
        scenario = Scenario.model_validate(saved.manifest.scenario)
    except ValidationError as error:
        raise damage_error(folder / "manifest.json", _first(error)) from None
    phases, reports = scenario.phases, report.phases or [report]
    if len(phases) != len(reports):
        raise damage_error(folder / "report.json", f"{len(reports)} phases of {len(phases)}")
    written = []
    for phase, saved_phase in zip(phases, reports, strict=True):
        suffix = f"_{phase.workload.phase}" if len(phases) > 1 else ""
        written.append(_written(saved.check(f"trace{suffix}.npz"), saved_phase))
    run = restore_run(scenario, written, report.spread)
    run = replace(run, settings=tuple(saved.manifest.settings), source=saved.manifest.source)
    return run.choose_chips(saved.manifest.chips)


def _written(path: Path, report: SavedPhase) -> WrittenPhase:
    """Reads a phase from trace.npz and the report; times are read when their number is known."""
    from sim.simulate.run import WrittenPhase

    def times(program: Program) -> tuple[npt.NDArray[np.void], tuple[Period, ...]]:
        with _naming(path):
            return trace_file.read_times(path, program)

    with _naming(path):
        kept = trace_file.read_kept(path)
    return WrittenPhase(report.simulated.latency_s, tuple(report.engine.shortcuts), kept, times)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raises any error of reading a file as an InputError that names it."""
    try:
        yield
    except Exception as error:  # what a damaged archive makes zipfile, zlib and numpy raise is not documented
        raise damage_error(path, str(error).partition("\n")[0]) from None


def _small(path: Path) -> bytes:
    """Returns the content of a JSON file. Raises InputError if it is larger than any that was written."""
    if path.stat().st_size > _LARGEST_JSON_BYTES:
        raise damage_error(path, f"{path.stat().st_size} bytes")
    return path.read_bytes()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(data: Mapping[str, Any]) -> str:
    """Returns the hash of JSON data without the hash itself."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _first(error: ValidationError) -> str:
    """Returns the first problem that pydantic found: `phases.0.simulated: Field required`."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
