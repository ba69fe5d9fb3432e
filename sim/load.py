"""From files to validated specs: references expanded, `--set` applied, and errors that name file and field."""

from __future__ import annotations

import copy
import difflib
import functools
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sim.errors import InputError, suggest
from sim.specs import FILE_KINDS, Model, Scenario, TopologySpec

# Where a kind's files lie, relative to the data root, and which of its fields may name a file of another kind.
_FOLDERS = {
    "scenario": "scenarios",
    "topology": "topologies",
    "chip": "topologies/chips",
    "link": "topologies/links",
    "model": "scenarios/models",
}
REFERENCES: dict[str, dict[tuple[str, ...], str]] = {
    "scenario": {("topology",): "topology", ("model",): "model"},
    "topology": {("chip",): "chip", ("link",): "link", ("link_types", "*"): "link"},
}

Path_ = tuple[str | int, ...]


def data_root() -> Path:
    """Folder that holds `topologies/` and `scenarios/`: inside an installed package, else the repository."""
    packaged = Path(__file__).parent / "data"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent


def shipped(kind: str) -> dict[str, Path]:
    """Shipped files of a kind, by name, in name order."""
    return {path.stem: path for path in sorted((data_root() / _FOLDERS[kind]).glob("*.yaml"))}


def scenario(name: str, settings: Sequence[str] = ()) -> Scenario:
    """The scenario of a shipped name or a path, with `key=value` settings applied.

    Raises:
        InputError: anything wrong in the file, in a file it refers to, or in a setting.
    """
    result: Scenario = _load("scenario", name, settings)
    return result


def topology_spec(name: str, settings: Sequence[str] = ()) -> TopologySpec:
    """The machine of a shipped name or a path. Raises InputError."""
    result: TopologySpec = _load("topology", name, settings)
    return result


def model(name: str) -> Model:
    """The transformer of a shipped name or a path. Raises InputError."""
    result: Model = _load("model", name, ())
    return result


def _load(kind: str, name: str, settings: Sequence[str]) -> Any:
    origins: dict[Path_, str] = {}
    raw = _expand(kind, name, (), origins, where="")
    for setting in settings:
        _apply(kind, raw, setting, origins)
    return _validate(kind, raw, origins)


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which a key given twice is an error."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    result: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return result


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"must be valid YAML: {problem}", where=f"{where}{place}") from None


@functools.lru_cache(maxsize=64)
def _read_cached(path: str, modified_ns: int) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("must be a text file in UTF-8", where=path) from None
    data = _parse(text, path)
    if data is None:
        raise InputError("the file is empty; it must hold a mapping of fields", where=path)
    if not isinstance(data, dict):
        raise InputError("must hold a mapping of fields", where=path, got=type(data).__name__)
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        return copy.deepcopy(_read_cached(str(path), path.stat().st_mtime_ns))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _find(kind: str, name: str, where: str) -> Path:
    """A path if it looks like one (folder or .yaml), else a shipped name."""
    candidate = Path(name)
    if candidate.is_dir() and (os.sep in name or name in (".", "..") or not _is_shipped(kind, name)):
        raise InputError(f"must be a {kind} file, not a folder", where=where or name, got=name if where else None)
    if candidate.suffix in (".yaml", ".yml") or os.sep in name:
        packaged = data_root() / candidate
        for path in (candidate, packaged):
            if path.is_file():
                return path
        known = (*shipped(kind), *(f"{_FOLDERS[kind]}/{stem}.yaml" for stem in shipped(kind)))
        raise InputError(
            f"no such {kind} file", where=where or name, got=name if where else None, hint=suggest(name, known)
        )
    if _is_shipped(kind, name):
        return shipped(kind)[name]
    raise InputError(f"no {kind} '{name}'", where=where, hint=suggest(name, shipped(kind)))


def _is_shipped(kind: str, name: str) -> bool:
    return name in shipped(kind)


def _expand(kind: str, value: Any, path: Path_, origins: dict[Path_, str], where: str) -> Any:
    """Replace a reference (and the references in what it names) by the mapping it stands for."""
    if isinstance(value, str):
        file = _find(kind, value, where)
        value = _read(file)
        origins[path] = str(file)
    if isinstance(value, dict):
        base = origins[_origin(path, origins)] if origins else ""
        for fields, child in REFERENCES.get(kind, {}).items():
            for keys in _matches(value, fields):
                holder = value
                for key in keys[:-1]:
                    holder = holder[key]
                child_where = f"{base}: {_dotted(keys)}" if base else _dotted(keys)
                holder[keys[-1]] = _expand(child, holder[keys[-1]], (*path, *keys), origins, child_where)
    return value


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


# --- settings --------------------------------------------------------------------------------------------------------


def _apply(root: str, raw: dict[str, Any], setting: str, origins: dict[Path_, str]) -> None:
    """Apply one `a.b.c=value`; the value is read as YAML, and a reference is expanded."""
    key, separator, text = setting.partition("=")
    where = f"--set {key.strip()}"
    keys = tuple(key.strip().split("."))
    if not separator or not all(keys):
        raise InputError("must be key=value, such as layout.overlap=none", where="--set", got=setting)
    holder: Any = raw
    for part in keys[:-1]:
        holder = holder.setdefault(part, {})
        if not isinstance(holder, dict):
            raise InputError(f"'{part}' holds a value, not fields", where=where)
    value = _parse(text, where)
    kind = _kind_at(root, keys)
    # Drop origins of what is replaced, so that an error names the setting and not the file it overrode.
    for path in [p for p in origins if p[: len(keys)] == keys]:
        del origins[path]
    origins[keys] = where
    holder[keys[-1]] = _expand(kind, value, keys, origins, where) if kind else value


def _kind_at(root: str, keys: tuple[str, ...]) -> str | None:
    """The kind of file that may stand at `keys`, None for a plain value."""
    kind, fields = root, tuple[str, ...]()
    for key in keys:
        fields = (*fields, key)
        for pattern, child in REFERENCES.get(kind, {}).items():
            if len(pattern) == len(fields) and all(p in ("*", f) for p, f in zip(pattern, fields, strict=True)):
                kind, fields = child, ()
                break
    return kind if not fields else None


# --- validation ------------------------------------------------------------------------------------------------------


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(FILE_KINDS[kind])


def _validate(kind: str, raw: Any, origins: dict[Path_, str]) -> Any:
    try:
        return _adapter(kind).validate_python(raw)
    except ValidationError as error:
        raise _translate(kind, error, origins) from None


def _translate(kind: str, error: ValidationError, origins: dict[Path_, str]) -> InputError:
    """The first error, unknown keys first (a typo in a key also reports its field as missing)."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = tuple(part for part in first["loc"] if not (isinstance(part, str) and part in ("torus", "switch", "graph")))
    path = tuple(part for part in path if part != "value" or first["type"] == "extra_forbidden")
    got = first.get("input")
    hint = ""
    match first["type"]:
        case "extra_forbidden":
            rule = f"unknown key '{path[-1]}'"
            hint = suggest(str(path[-1]), _fields_at(kind, path[:-1], error))
            path, got = path[:-1], None
        case "missing":
            rule, path, got = f"'{path[-1]}' is required", path[:-1], None
        case "literal_error":
            expected = [part.strip("' ") for part in first["ctx"]["expected"].replace(" or ", ",").split(",")]
            rule = f"must be one of {', '.join(expected)}"
            if isinstance(got, str) and difflib.get_close_matches(got, expected, n=1):
                hint = suggest(got, expected)
        case "value_error":
            rule = str(first["ctx"]["error"])
            got = None if isinstance(got, dict) else got
        case "greater_than" | "greater_than_equal":
            rule = first["msg"].replace("Input should be", "must be")
        case "model_type" | "dict_type":
            rule = "must be a mapping of fields"
        case _:
            rule = first["msg"].replace("Input should be", "must be").replace("String should", "must")
    place = _origin(path, origins)
    origin = origins.get(place, "")
    rest = _dotted(path[len(place) :])
    where = f"{origin}: {rest}" if origin and rest else origin or rest
    return InputError(rule, where=where, got=got if isinstance(got, str | int | float | list) else None, hint=hint)


def _origin(path: Path_, origins: Mapping[Path_, str]) -> Path_:
    """Longest known prefix of `path`."""
    return max((p for p in origins if path[: len(p)] == p), key=len, default=())


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _fields_at(kind: str, path: Path_, error: ValidationError) -> list[str]:
    """Field names allowed at `path`, for suggestions."""
    annotation: Any = FILE_KINDS[kind]
    names = _model_fields(annotation)
    for part in path:
        annotations = [m.model_fields[part].annotation for m in names if part in m.model_fields]
        if not annotations:  # inside a dict of models: step to its value type
            continue
        names = [m for a in annotations for m in _model_fields(a)]
    return sorted({field for m in names for field in m.model_fields})


def _model_fields(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None and not isinstance(annotation, types.UnionType):
        return []
    return [m for a in get_args(annotation) for m in _model_fields(a)]
