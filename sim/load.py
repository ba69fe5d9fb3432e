"""From files to validated specs: references expanded, `--set` applied, and errors that name file and field."""

from __future__ import annotations

import copy
import functools
import os
import re
import types
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from sim.errors import InputError, closest, suggest
from sim.specs import FILE_KINDS, TEXT_RULES, AnySuite, Model, Scenario, TopologySpec

# Where a kind's files lie, relative to the data root, and which of its fields may name a file of another kind.
_FOLDERS = {
    "scenario": "scenarios",
    "topology": "topologies",
    "chip": "topologies/chips",
    "link": "topologies/links",
    "nccl": "topologies/nccl",
    "model": "scenarios/models",
    "suite": "scenarios/published",
}
REFERENCES: dict[str, dict[tuple[str, ...], str]] = {
    "scenario": {("topology",): "topology", ("model",): "model", ("memory_pool", "link"): "link"},
    "topology": {("chip",): "chip", ("link",): "link", ("link_types", "*"): "link", ("nccl",): "nccl"},
}

_OTHER_EXPERIMENT = ("topology", "model", "workload")
"""Settings that make it another experiment than the published one; layout and collectives are how that was run."""

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


def place(kind: str, name: str) -> str:
    """The file of a shipped name or a path, for messages. Raises InputError."""
    return _shown(_find(kind, name, "", Path()))


def topology_spec(name: str, settings: Sequence[str] = ()) -> TopologySpec:
    """The machine of a shipped name or a path. Raises InputError."""
    result: TopologySpec = _load("topology", name, settings)
    return result


def model(name: str) -> Model:
    """The transformer of a shipped name or a path. Raises InputError."""
    result: Model = _load("model", name, ())
    return result


def suite(name: str) -> AnySuite:
    """The validation suite of a shipped name or a path. Raises InputError."""
    result: AnySuite = _load("suite", name, ())
    return result


def path(kind: str, name: str) -> Path:
    """The file of a shipped name or a path. Raises InputError."""
    return _find(kind, name, "", Path())


def _load(kind: str, name: str, settings: Sequence[str]) -> Any:
    origins: dict[Path_, str] = {}
    raw = _expand(kind, name, (), origins, where="", beside=Path())
    for setting in settings:
        _apply(kind, raw, setting, origins)
    if kind == "scenario" and any(setting.startswith(_OTHER_EXPERIMENT) for setting in settings):
        raw.pop("reference", None)  # what was published was measured in the file's experiment
    try:
        return _adapter(kind).validate_python(raw)
    except ValidationError as error:
        raise _translate(kind, error, raw, origins, settings) from None


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(FILE_KINDS[kind])


# --- reading ---------------------------------------------------------------------------------------------------------


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe YAML in which a key given twice is an error, `1e9` is a number, and `off` and a date are text."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        problem = f"key '{key}' is given twice" if isinstance(key, Hashable) else "a key must be text"
        if not isinstance(key, Hashable) or key in seen:
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        seen.add(key)
    result: dict[Any, Any] = loader.construct_mapping(node, deep=True)
    return result


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":bool"))]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark and not where.startswith("--set") else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise InputError(f"must be valid YAML: {problem}", where=f"{where}{place}") from None
    except (ValueError, RecursionError):
        raise InputError(
            "must be YAML without numbers of thousands of digits or as many brackets", where=where
        ) from None


@functools.lru_cache(maxsize=64)
def _read_cached(path: Path, modified_ns: int) -> dict[str, Any]:
    where = _shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("must be a text file in UTF-8", where=where) from None
    data = _parse(text, where)
    if data is None:
        raise InputError("the file is empty; it must hold a mapping of fields", where=where)
    if not isinstance(data, dict):
        raise InputError("must hold a mapping of fields", where=where, got=data)
    return data


def _read(path: Path) -> dict[str, Any]:
    try:
        return copy.deepcopy(_read_cached(path, path.stat().st_mtime_ns))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=_shown(path)) from None


def _shown(path: Path) -> str:
    """As the user would type it: relative to the current folder when inside it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _find(kind: str, name: str, where: str, beside: Path) -> Path:
    """The file of a shipped name, or of a path as seen from the file that names it, from here or from the data root."""
    names = shipped(kind)
    if name in names:
        return names[name]
    candidates = [folder / name for folder in (beside, Path.cwd(), data_root())] if name else []
    for path in candidates:
        if os.path.isfile(path):
            return Path(os.path.abspath(path))
    if any(map(os.path.isdir, candidates)):
        raise InputError(f"must be a {kind} file, not a folder", where=where, got=name)
    if os.sep not in name and not name.endswith((".yaml", ".yml")):
        raise InputError(f"no such {kind}", where=where, got=name, hint=suggest(name, names))
    near = closest(Path(name).stem, (path.stem for each in candidates for path in each.parent.glob("*.yaml")))
    hint = f"did you mean '{Path(name).with_name(f'{near}.yaml')}'?" if near else suggest(Path(name).stem, names)
    raise InputError(f"no such {kind} file", where=where, got=name, hint=hint)


def _expand(kind: str, value: Any, path: Path_, origins: dict[Path_, str], where: str, beside: Path) -> Any:
    """Replace a reference (and the references in what it names) by the mapping it stands for."""
    if isinstance(value, str):
        file = _find(kind, value, where, beside)
        value, where, beside = _read(file), _shown(file), file.parent
        origins[path] = where
    elif not isinstance(value, dict):
        hint = "nothing is given" if value is None else ""
        raise InputError(
            f"must be the name of a {kind}, a path or a mapping of fields", where=where, got=value, hint=hint
        )
    for fields, child in REFERENCES.get(kind, {}).items():
        for keys in _matches(value, fields):
            holder = value
            for key in keys[:-1]:
                holder = holder[key]
            place = _where((*path, *keys), origins)
            holder[keys[-1]] = _expand(child, holder[keys[-1]], (*path, *keys), origins, place, beside)
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
    value = _parse(text, where)
    holder: Any = raw
    for i, part in enumerate(keys[:-1]):
        if part not in holder:
            origins.setdefault(keys[: i + 1], where)
        elif not isinstance(holder[part], dict):
            raise InputError(f"'{part}' holds a value, not fields", where=where, got=holder[part])
        holder[part] = dict(holder.get(part, {}))  # what an alias shares stays as it is
        holder = holder[part]
    kind = _kind_at(root, keys)
    # Drop origins of what is replaced, so that an error names the setting and not the file it overrode.
    for path in [p for p in origins if p[: len(keys)] == keys]:
        del origins[path]
    origins[keys] = where
    holder[keys[-1]] = _expand(kind, value, keys, origins, where, Path()) if kind else value


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


# --- errors ----------------------------------------------------------------------------------------------------------

_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "invalid_key": "a key must be text",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have no more than {max_length} entries",
}
"""What pydantic's types of error mean to a user."""


def _translate(
    kind: str, error: ValidationError, raw: Any, origins: Mapping[Path_, str], settings: Sequence[str]
) -> InputError:
    """The first error, unknown keys first (a typo in a key also reports its field as missing)."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path, context, got = _path(first["loc"], raw), first.get("ctx", {}), first.get("input")
    at, hint = path, ""
    match first["type"]:
        case "extra_forbidden":
            path, key = path[:-1], str(path[-1])
            rule, got, hint = f"unknown key {key!r}", None, suggest(key, _fields_at(kind, first["loc"][:-1]))
            rule += _of_a(kind, path)
        case "missing" | "union_tag_not_found":
            key = str(first["loc"][-1]) if first["type"] == "missing" else "kind"
            rule, got = f"'{key}' is required{_of_a(kind, path)}", None
        case "union_tag_invalid":
            rule, got = f"must be one of {_plain(context['expected_tags'])}", context["tag"]
            at = path = (*path, "kind")
            hint = _did_you_mean(got, context["expected_tags"])
        case "rule":
            rule, got, hint = context["rule"], context["got"], context["hint"]
            at = path = (*path, *context["field"])
            if settings and not _where(at, origins).startswith("--set"):
                hint += f"{'; ' if hint else ''}with --set {' --set '.join(settings)}"
        case _:
            rules = dict.fromkeys(_rule(p) for p in problems if _path(p["loc"], raw) == path)
            rule = " or ".join(rules).replace(" or must be ", " or ")
            if got is None:
                hint = "nothing is given"
            elif first["type"] == "literal_error":
                hint = _did_you_mean(got, context["expected"])
            elif (
                first["type"] in ("int_type", "float_type")
                and re.fullmatch("[0-9.]+", str(got))
                and isinstance(got, str)
            ):
                hint = "write it without quotes"
            elif isinstance(error_of := context.get("error"), InputError):
                hint = error_of.hint
    return InputError(rule, where=_where(at, origins, len(at) - len(path)), got=got, hint=hint)


def _rule(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    match problem["type"]:
        case "value_error":
            error = context["error"]
            return error.rule if isinstance(error, InputError) else str(error)
        case "string_pattern_mismatch":
            return TEXT_RULES[context["pattern"]]
        case "literal_error":
            names = _plain(context["expected"])
            return f"must be one of {names}" if "," in names else f"must be '{names}'"
        case other:
            return _RULES[other].format(**context) if other in _RULES else f"{problem['msg']}"


def _plain(expected: str) -> str:
    """`a, b, c` from pydantic's "'a', 'b' or 'c'"."""
    return ", ".join(re.findall(r"'([^']*)'", expected))


def _did_you_mean(got: object, expected: str) -> str:
    close = closest(got, _plain(expected).split(", ")) if isinstance(got, str) else None
    return f"did you mean '{close}'?" if close else ""


def _of_a(kind: str, path: Path_) -> str:
    """` of a chip`, for the fields of a whole file."""
    at = _kind_at(kind, tuple(map(str, path))) if path else kind
    return f" of a {at}" if at else ""


def _path(loc: tuple[str | int, ...], raw: Any) -> Path_:
    """Where in `raw` an error is: pydantic's path without its own steps (the member of a union, a bare `value`)."""
    path: Path_ = ()
    for part in loc:
        if part in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(part, int):
            path, raw = (*path, part), raw[part]
    return path


def _where(path: Path_, origins: Mapping[Path_, str], hidden: int = 0) -> str:
    """`file: field.path`, or the setting; the last `hidden` parts of the path count for the file and are not shown."""
    place = _origin(path, origins)
    rest = _dotted(path[len(place) : len(path) - hidden])
    return f"{origins[place]}: {rest}" if rest else origins[place]


def _origin(path: Path_, origins: Mapping[Path_, str]) -> Path_:
    """Longest known prefix of `path`."""
    return max((p for p in origins if path[: len(p)] == p), key=len, default=())


def _dotted(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _fields_at(kind: str, loc: Path_) -> set[str]:
    """Field names allowed at pydantic's path, for suggestions."""
    models = _models(FILE_KINDS[kind])
    for part in loc:
        kinds = [m for m in models if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)]
        inside = [x for m in models if part in m.model_fields for x in _models(m.model_fields[str(part)].annotation)]
        models = kinds or inside or models  # neither: the key of a mapping of models
    return {field for model in models for field in model.model_fields}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None and not isinstance(annotation, types.UnionType):
        return []
    return [m for a in get_args(annotation) for m in _models(a)]
