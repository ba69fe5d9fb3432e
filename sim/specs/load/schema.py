"""JSON Schema of every kind of file, for editors that complete and check while one types."""

from __future__ import annotations

import ast
import functools
import inspect
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sim.specs import Strict
from sim.specs.file_kinds import FILE_KINDS, file_model
from sim.specs.load import REFERENCES
from sim.specs.load.keys import models_of

_KIND_OF = {model.__name__: kind for kind in FILE_KINDS for model in models_of(file_model(kind))}
"""Kind of file that a model describes, by the model's name, which is the title of its schema."""

_CARRIED: dict[str, Any] = {
    "type": "object",
    "description": "the value of another chip or stack",
    "properties": {
        "same_as": {"type": "string", "description": "CHIP of this file, or STACK/CHIP"},
        "source": {"type": "string", "description": "why it is taken over"},
    },
    "required": ["same_as"],
    "additionalProperties": False,
}


def schemas() -> dict[str, str]:
    """Schema text of each kind of file."""
    return {kind: json.dumps(_schema(kind), indent=2, sort_keys=True) + "\n" for kind in FILE_KINDS}


def write(folder: Path) -> list[Path]:
    """Write `KIND.json` for every kind into `folder`; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, text in schemas().items():
        paths.append(folder / f"{kind}.json")
        paths[-1].write_text(text, encoding="utf-8")
    return paths


@functools.cache
def field_docs(model: type[Strict]) -> dict[str, str]:
    """Returns the text below each field of a model's class, its base classes included, by the field's name."""
    docs = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, Strict) or "[" in base.__name__:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                docs[ast.unparse(field.target)] = inspect.cleandoc(str(below.value.value))
    return docs


def _models(base: type[Strict] = Strict) -> Iterator[type[Strict]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _schema(kind: str) -> dict[str, Any]:
    schema = TypeAdapter(file_model(kind)).json_schema()
    definitions = schema.get("$defs", {})
    docs = {model.__name__: field_docs(model) for model in _models()}
    for part in (schema, *definitions.values()):
        for name, text in docs.get(part.get("title", ""), {}).items():
            if name in part["properties"]:
                part["properties"][name]["description"] = text
        for fields in REFERENCES.get(_KIND_OF.get(part.get("title", ""), ""), {}):
            _allow_name(part, fields, definitions)
        if part.get("title") == "StackChip":
            own = part["properties"]
            own.update({name: {"anyOf": [_CARRIED, field]} for name, field in own.items() if name != "same_as"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _allow_name(part: dict[str, Any], fields: tuple[str, ...], definitions: dict[str, Any]) -> None:
    """Lets a name stand where `fields` lead from a (sub)schema, if they lead anywhere in it."""
    head, *rest = fields
    properties = part.get("patternProperties" if head == "*" else "properties", {})
    for key in [key for key in properties if head in ("*", key)]:
        if not rest:
            properties[key] = _or_name(properties[key])
            continue
        field = properties[key]
        option = field["anyOf"][0] if "anyOf" in field else field  # a mapping that may be left out
        inside = definitions[option["$ref"].rpartition("/")[2]] if "$ref" in option else option
        _allow_name(inside, tuple(rest), definitions)


def _or_name(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [{"type": "string", "description": "a shipped name, or the path of a file"}, schema]}
