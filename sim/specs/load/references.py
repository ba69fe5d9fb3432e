"""Files by kind and name, and the files they refer to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sim.errors import InputError, closest, suggest
from sim.specs.load.places import Path_, place_of
from sim.specs.load.yaml_text import read, shown

# Where a kind's files lie, relative to the data root, and which of its fields may name a file of another kind.
_FOLDERS = {
    "scenario": "scenarios",
    "topology": "topologies",
    "chip": "topologies/chips",
    "link": "topologies/links",
    "stack": "topologies/stacks",
    "nccl": "topologies/nccl",
    "network": "topologies/networks",
    "model": "scenarios/models",
    "suite": "scenarios/published",
}
_LISTED = {
    kind: f"`sim list {listed}` names those that are shipped"
    for kind, listed in (
        ("scenario", "scenarios"),
        ("topology", "topologies"),
        ("stack", "stacks"),
        ("model", "models"),
        ("suite", "suites"),
    )
}
REFERENCES: dict[str, dict[tuple[str, ...], str]] = {
    "scenario": {("topology",): "topology", ("stack",): "stack", ("model",): "model", ("memory_pool", "link"): "link"},
    "topology": {
        ("chip",): "chip",
        ("link",): "link",
        ("axes", "*", "link"): "link",
        ("link_types", "*"): "link",
        ("nccl",): "nccl",
        ("boxes", "of"): "topology",
        ("boxes", "rails", "link"): "link",
        ("boxes", "leaves", "link"): "link",
        ("boxes", "spines", "link"): "link",
    },
    "link": {("network",): "network"},
}


def data_root() -> Path:
    """Folder that holds `topologies/` and `scenarios/`: inside an installed package, else the repository."""
    package = Path(__file__).parents[2]
    packaged = package / "data"
    return packaged if packaged.is_dir() else package.parent


def shipped(kind: str) -> dict[str, Path]:
    """Shipped files of a kind, by name, in name order."""
    return {path.stem: path for path in sorted((data_root() / _FOLDERS[kind]).glob("*.yaml"))}


def find(kind: str, name: str, where: str, beside: Path) -> Path:
    """The file of a shipped name, or of a path as seen from the file that names it, from here or from the data root.

    Raises InputError, at `where`.
    """
    known = data_root() / _FOLDERS[kind] / f"{name}.yaml"
    if os.sep not in name and os.path.isfile(known):
        return known
    names = shipped(kind)
    candidates = [folder / name for folder in (beside, Path.cwd(), data_root())] if name else []
    for path in candidates:
        if os.path.exists(path) and not os.path.isdir(path):  # a file, a named pipe, /dev/stdin
            return Path(os.path.abspath(path))
    if any(map(os.path.isdir, candidates)):
        raise InputError(f"must be a {kind} file, not a folder", where=where, got=name)
    if os.sep not in name and not name.endswith((".yaml", ".yml")):
        raise InputError(f"no such {kind}", where=where, got=name, hint=suggest(name, names))
    near = closest(Path(name).stem, (path.stem for each in candidates for path in each.parent.glob("*.yaml")))
    meant = Path(name).with_name(f"{near}.yaml") if near else closest(Path(name).stem, names)
    hint = f"did you mean '{meant}'?" if meant else _LISTED.get(kind, "")
    raise InputError(f"no such {kind} file", where=where, got=name, hint=hint)


def expand(kind: str, value: Any, path: Path_, origins: dict[Path_, str], where: str, beside: Path) -> Any:
    """Replace a reference (and the references in what it names) by the mapping it stands for."""
    if isinstance(value, str):
        file = find(kind, value, where, beside)
        if path[-1:] == ("of",) and shown(file) in (origins.get(path[:i]) for i in range(len(path))):
            raise InputError(f"must be another {kind} than the one it stands in", where=where, got=value)
        value, where, beside = read(file), shown(file), file.parent
        origins[path] = where
    elif not isinstance(value, dict):
        hint = "nothing is given" if value is None else ""
        raise InputError(
            f"must be the name of a {kind}, a path or a mapping of fields", where=where, got=value, hint=hint
        )
    expand_inside((kind, ()), value, path, origins, beside)
    return value


def expand_inside(
    at: tuple[str, tuple[str, ...]], value: Mapping[str, Any], path: Path_, origins: dict[Path_, str], beside: Path
) -> None:
    """Replace the references in a mapping that stands `at` (kind of file, fields in it). Raises InputError."""
    kind, own = at
    for fields, child in REFERENCES.get(kind, {}).items():
        if not _fits(fields[: len(own)], own):
            continue
        for keys in _matches(value, fields[len(own) :]):
            holder: Any = value
            for key in keys[:-1]:
                holder = holder[key]
            place = place_of((*path, *keys), origins)
            holder[keys[-1]] = expand(child, holder[keys[-1]], (*path, *keys), origins, place, beside)


def _matches(value: Mapping[str, Any], fields: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    head, *rest = fields
    for key in list(value) if head == "*" else [head]:
        if key not in value:
            continue
        if not rest:
            yield (key,)
        elif isinstance(value[key], dict):
            for tail in _matches(value[key], tuple(rest)):
                yield (key, *tail)


def _fits(pattern: tuple[str, ...], fields: tuple[str, ...]) -> bool:
    return len(pattern) == len(fields) and all(p in ("*", f) for p, f in zip(pattern, fields, strict=True))


def inside(root: str, keys: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """(kind of the innermost file that may stand around `keys`, the fields in it)."""
    kind, fields = root, tuple[str, ...]()
    for key in keys:
        fields = (*fields, key)
        for pattern, child in REFERENCES.get(kind, {}).items():
            if _fits(pattern, fields):
                kind, fields = child, ()
                break
    return kind, fields


def kind_at(root: str, keys: tuple[str, ...]) -> str | None:
    """The kind of file that may stand at `keys`, None for a plain value."""
    kind, fields = inside(root, keys)
    return kind if not fields else None
