"""The table of fields in scenarios/README.md: `PYTHONPATH=tests python -m support.field_tables` writes it.

A field has its text in the specs, and for an example the value of the first shipped scenario that sets it.
"""

from __future__ import annotations

import json
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import WithJsonSchema

from sim.specs import Model, Scenario, StackSpec, Strict
from sim.specs.experts import ExpertsSpec
from sim.specs.load import shipped
from sim.specs.load.schema import field_docs

ROOT = Path(__file__).parents[2]
README = ROOT / "scenarios/README.md"
BLOCK = re.compile(r"(?<=<!-- fields -->\n).*?(?=<!-- end of fields -->)", flags=re.S)
OTHER_FILES = (Model, StackSpec)
"""Models of files of their own; of a model the fields of its experts are told, which scenarios change."""
ELSEWHERE = {("topology",), ("mesh",), ("presets",), ("layout", "prefill"), ("layout", "decode")}
"""Fields whose keys are told in the text, or are those of another field."""


def models_in(annotation: Any) -> list[type[Strict]]:
    if isinstance(annotation, type):
        fields = issubclass(annotation, Strict) and "value" not in annotation.model_fields
        return [annotation] if fields and not issubclass(annotation, OTHER_FILES) else []
    return [model for inside in typing.get_args(annotation) for model in models_in(inside)]


def names_in(annotation: object, metadata: Iterable[object] = ()) -> list[str]:
    """Returns the shipped names of a field that also takes names of plugins or of the file itself."""
    for part in (*metadata, *getattr(annotation, "__metadata__", ())):
        schema = part.json_schema if isinstance(part, WithJsonSchema) else None
        names = [name for option in (schema or {}).get("anyOf", ()) for name in option.get("enum", ())]
        if names:
            return names
    return [name for inside in typing.get_args(annotation) for name in names_in(inside)]


def fields_of(model: type[Strict], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields (keys that lead to a field, its text), those of a mapping after it."""
    docs = field_docs(model)
    for name, field in model.model_fields.items():
        keys = (*before, name)
        choices = [str(value) for value in literals(field.annotation)] or names_in(field.annotation, field.metadata)
        yield keys, docs.get(name, "") + (f" One of {', '.join(choices)}." if choices else "")
        if keys == ("model",):
            yield ("model", "experts"), field_docs(Model)["experts"]
            yield from fields_of(ExpertsSpec, ("model", "experts"))
        if keys not in ELSEWHERE and name != "link":
            for inside in models_in(field.annotation):
                yield from fields_of(inside, keys)


def literals(annotation: Any) -> list[Any]:
    if isinstance(annotation, type):
        return []
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [value for inside in typing.get_args(annotation) for value in literals(inside)]


def values_at(data: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    if not keys:
        yield data
    elif isinstance(data, list):
        for each in data:
            yield from values_at(each, keys)
    elif isinstance(data, dict) and keys[0] in data:
        yield from values_at(data[keys[0]], keys[1:])


def example_of(keys: tuple[str, ...], scenarios: list[Any]) -> str:
    found = [value for data in scenarios for value in values_at(data, keys)]
    small = [value for value in found if len(json.dumps(value)) < 60]
    if not small:
        return ""
    text = yaml.safe_dump(small[0], default_flow_style=True, width=1000, sort_keys=False).split("\n...")[0].strip()
    return f"`{text}`"


def table() -> str:
    scenarios = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in shipped("scenario").values()]
    scenarios += [{"model": yaml.safe_load(path.read_text(encoding="utf-8"))} for path in shipped("model").values()]
    rows = ["| field | for example | what it is |", "|---|---|---|"]
    for keys, text in fields_of(Scenario):
        cells = (f"`{'.'.join(keys)}`", example_of(keys, scenarios), " ".join(text.split()).replace("|", "\\|"))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    README.write_text(BLOCK.sub(lambda _: table(), README.read_text(encoding="utf-8")), encoding="utf-8")
