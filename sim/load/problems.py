"""What is wrong with a file, in one line, from what pydantic says."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sim.errors import InputError, closest, suggest
from sim.load.places import Path_, place_of
from sim.load.references import kind_at
from sim.specs import FILE_KINDS, TEXT_RULES

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


def translate(
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
    return InputError(rule, where=place_of(at, origins, len(at) - len(path)), got=got, hint=hint)


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
    at = kind_at(kind, tuple(map(str, path))) if path else kind
    return f" of a {at}" if at else ""


def _path(loc: tuple[str | int, ...], raw: Any) -> Path_:
    """Where in `raw` an error is: pydantic's path without its own steps (the member of a union, a bare `value`)."""
    path: Path_ = ()
    for part in loc:
        if part in raw if isinstance(raw, dict) else isinstance(raw, list) and isinstance(part, int):
            path, raw = (*path, part), raw[part]
    return path


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
