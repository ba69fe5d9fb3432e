"""YAML as it is meant here, and files of it."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from sim.errors import InputError


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


def parse(text: str, where: str) -> Any:
    """What YAML text says. Raises InputError, at `where`."""
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
    where = shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("must be a text file in UTF-8", where=where) from None
    data = parse(text, where)
    if data is None:
        raise InputError("the file is empty; it must hold a mapping of fields", where=where)
    if not isinstance(data, dict):
        raise InputError("must hold a mapping of fields", where=where, got=data)
    return data


def read(path: Path) -> dict[str, Any]:
    """The mapping that a file holds. Raises InputError."""
    try:
        return copy.deepcopy(_read_cached(path, path.stat().st_mtime_ns))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=shown(path)) from None


def shown(path: Path) -> str:
    """As the user would type it: relative to the current folder when inside it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
