"""Turns pydantic's errors about a file into one line."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sim.errors import InputError, guess
from sim.specs import TEXT_RULES
from sim.specs.load.keys import advice, fields_at
from sim.specs.load.places import Path_, origin_of, place_of
from sim.specs.load.references import kind_at

_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "invalid_key": "a key must be text",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have no more than {max_length} characters",
    "too_short": "must have {min_length} or more entries",
    "too_long": "must have no more than {max_length} entries",
}
"""Rules, by pydantic's type of error."""

_MOST_KEYS = 6
"""Keys that a message names."""

_USUAL = {"d_head": "d_model / heads in most models", "kv_heads": "heads where each has keys and values of its own"}
"""Fields that few files of others give."""


def translate(
    kind: str, error: ValidationError, raw: Any, origins: Mapping[Path_, str], settings: Sequence[str]
) -> InputError:
    """The first error, unknown keys first (a typo in a key also reports its field as missing)."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), _innermost(problems, raw))
    path, context, got = _path(first["loc"], raw), first.get("ctx", {}), first.get("input")
    at, hint = path, ""
    match first["type"]:
        case "extra_forbidden":
            path, keys = path[:-1], _keys(problems, first)
            rule, got = f"unknown key{'s' * (len(keys) > 1)} {_listed(keys)}{_of_a(kind, path)}", None
            file = _file_at(kind, raw, (*path, keys[0]), origins)
            hint = advice(keys[:_MOST_KEYS], fields_at(kind, first["loc"][:-1]), *file)
        case "missing" | "union_tag_not_found":
            keys = _keys(problems, first) if first["type"] == "missing" else ["kind"]
            rule, got = f"{_listed(keys)} {'are' if len(keys) > 1 else 'is'} required{_of_a(kind, path)}", None
            hint = "; ".join(f"'{key}' is {_USUAL[key]}" for key in keys if key in _USUAL)
        case "union_tag_invalid":
            rule, got = f"must be one of {_plain(context['expected_tags'])}", context["tag"]
            at = path = (*path, "kind")
            hint = _did_you_mean(got, context["expected_tags"])
        case "rule":
            rule, got, hint = context["rule"], context["got"], context["hint"]
            at = path = (*path, *context["field"])
            if settings and not place_of(at, origins).startswith("--set"):
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
    if first["loc"][-1:] == ("[key]",):  # a key stands in the file of its mapping, its value perhaps in another
        return InputError(rule, where=f"{place_of(path[:-1], origins)}.{path[-1]}", got=got, hint=hint)
    return InputError(rule, where=place_of(at, origins, len(at) - len(path)), got=got, hint=hint)


def _innermost(problems: Sequence[Mapping[str, Any]], raw: Any) -> Mapping[str, Any]:
    """The first problem, or the first one inside what it is of: of a union, the form that was meant."""
    path = _path(problems[0]["loc"], raw)
    for problem in problems:
        own = _path(problem["loc"], raw)
        if len(own) > len(path) and own[: len(path)] == path:
            return problem
    return problems[0]


def _keys(problems: Sequence[Mapping[str, Any]], first: Mapping[str, Any]) -> list[str]:
    """The keys of all problems of one type in one mapping."""
    return [str(p["loc"][-1]) for p in problems if (p["type"], p["loc"][:-1]) == (first["type"], first["loc"][:-1])]


def _listed(keys: Sequence[str]) -> str:
    """`'a', 'b' and 'c'`; of a file of another program the first few."""
    shown = [reprlib.repr(key) for key in keys]
    if len(shown) > _MOST_KEYS:
        shown[_MOST_KEYS:] = [f"{len(shown) - _MOST_KEYS} others"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


def _file_at(kind: str, raw: Any, path: Path_, origins: Mapping[Path_, str]) -> tuple[str, Any, Path_]:
    """(kind, content, where in it) of the file that holds what stands at `path`; of all, where it was set."""
    start = origin_of(path, origins)
    found = kind_at(kind, tuple(map(str, start))) if start else kind
    if found is None or origins[start].startswith("--set"):
        return kind, raw, path[:-1]
    for part in start:
        raw = raw[part]
    return found, raw, path[len(start) : -1]


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
    return guess(got, _plain(expected).split(", ")) if isinstance(got, str) else ""


def _of_a(kind: str, path: Path_) -> str:
    """` of a chip`, for the fields of a whole file."""
    at = kind_at(kind, tuple(map(str, path))) if path else kind
    return f" of a {at}" if at else ""


def _path(loc: tuple[str | int, ...], raw: Any) -> Path_:
    """Returns the path of an error in `raw`: pydantic's without its own steps (member of a union, bare `value`)."""
    path: Path_ = ()
    for part in loc:
        if part in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(part, int):
            path, raw = (*path, part), raw[part]
    return path
