"""Completion of `--set KEY=VALUE` in the shell, from the schemas of files: keys, nested ones, and values with names."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from importlib.resources import files
from typing import Any

from sim.terminal import echo

Node = dict[str, Any]
"""A part of a JSON schema."""

_BESIDE_A_MACHINE = ("perturb", "stack")
"""Fields of a scenario that settings of a machine may name."""


def completed_setting(kind: str) -> Callable[[str], list[str]]:
    """Returns a completion of settings of a scenario or a machine: of `layout.o`, and of the values of a field."""

    def found_for(text: str) -> list[str]:
        more = list_settings("scenario", text) if kind == "topology" else []
        return list_settings(kind, text) + [each for each in more if each.startswith(_BESIDE_A_MACHINE)]

    def complete(incomplete: str) -> list[str]:
        found = found_for(incomplete)
        while len(found) == 1 and found[0].endswith((".", "=")) and (inside := found_for(found[0])):
            found = inside
        return found

    return complete


def list_settings(kind: str, text: str) -> list[str]:
    """Returns what may stand where an unfinished setting ends: keys, with `.` where keys follow, or values."""
    from sim.specs.load.settings import OF_THE_MACHINE

    schema = json.loads((files("sim.specs") / "schemas" / f"{kind}.json").read_text(encoding="utf-8"))
    key, equals, value = text.partition("=")
    *holders, last = key.split(".")
    nodes = [schema]
    if kind == "scenario":  # fields of its machine that need no `topology.`
        machine = list(_properties(schema, list(_inside(schema, nodes, "topology"))))
        nodes += [{"properties": {field: own}} for field, own in machine if field in OF_THE_MACHINE]
    for name in holders + ([last] if equals else []):
        nodes = list(_inside(schema, nodes, name))
    if equals:
        names = [*_values(schema, nodes), *_shipped(kind, (*holders, last))]
        return [f"{key}={name}" for name in names if name.startswith(value)]
    prefix = "".join(f"{name}." for name in holders)
    found: dict[str, None] = {}
    for name, own in _properties(schema, nodes):
        if name.startswith(last):
            inner = list(_inside(schema, nodes, name))
            if not _only_mapping(schema, own):
                found[f"{prefix}{name}="] = None
            if any(True for _ in _properties(schema, inner)):
                found[f"{prefix}{name}."] = None
    return list(found)


@contextmanager
def joining_bash_words(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Lets the block, which prints completions, see a setting as one word, as other shells have it.

    Bash splits words at `=`, and takes completions of what stands behind it.
    """
    if environ.get("_SIM_COMPLETE") != "complete_bash":
        yield
        return
    word, printed = join_bash_words(environ), io.StringIO()
    try:
        with redirect_stdout(printed):
            yield
    finally:
        cut = word.rpartition("=")[0] + "=" if "=" in word else ""
        echo("\n".join(line.removeprefix(cut) for line in printed.getvalue().splitlines()))


def join_bash_words(environ: MutableMapping[str, str]) -> str:
    """Joins words that bash has split at `=`; returns the one that is to be completed."""
    words, place = environ["COMP_WORDS"].split("\n"), int(environ["COMP_CWORD"])
    while "=" in words[1 : place + 1]:
        at = words.index("=", 1)
        value = words[at + 1] if at < place else ""
        words[at - 1 : at + 2] = [f"{words[at - 1]}={value}"]
        place -= min(2, place - at + 1)
    environ["COMP_WORDS"], environ["COMP_CWORD"] = "\n".join(words), str(place)
    return words[place] if place < len(words) else ""


def _alternatives(schema: Node, node: Node) -> Iterator[Node]:
    """Yields the forms that a node may have, references followed."""
    if "$ref" in node:
        yield from _alternatives(schema, schema["$defs"][node["$ref"].rpartition("/")[2]])
    forms = [form for key in ("anyOf", "oneOf", "allOf") for form in node.get(key, ())]
    for form in forms:
        yield from _alternatives(schema, form)
    if not forms and "$ref" not in node:
        yield node


def _properties(schema: Node, nodes: list[Node]) -> Iterator[tuple[str, Node]]:
    """Yields the fields of nodes."""
    for node in nodes:
        for form in _alternatives(schema, node):
            yield from form.get("properties", {}).items()


def _inside(schema: Node, nodes: list[Node], name: str) -> Iterator[Node]:
    """Yields what a field of nodes may hold; of a mapping with any keys, what each of them may."""
    for found, own in _properties(schema, nodes):
        if found == name:
            yield own
    for node in nodes:
        for form in _alternatives(schema, node):
            if isinstance(any_key := form.get("additionalProperties"), dict):
                yield any_key


def _only_mapping(schema: Node, node: Node) -> bool:
    """Returns True for a field that only its own fields can set, such as `layout`."""
    return all("properties" in form for form in _alternatives(schema, node))


def _values(schema: Node, nodes: list[Node]) -> Iterator[str]:
    """Yields the names that a value may be, each once."""
    names: dict[str, None] = {}
    for node in nodes:
        for form in _alternatives(schema, node):
            names |= dict.fromkeys(map(str, form.get("enum", ())))
            if "const" in form:
                names[str(form["const"])] = None
            if form.get("type") == "boolean":
                names |= {"true": None, "false": None}
            if form.get("type") == "null":
                names["null"] = None
    yield from names


def _shipped(kind: str, path: tuple[str, ...]) -> list[str]:
    """Returns the shipped files that a field may name."""
    from sim.specs.load.references import kind_at, shipped
    from sim.specs.load.settings import OF_THE_MACHINE

    at = ("topology", *path) if kind == "scenario" and path[0] in OF_THE_MACHINE else path
    named = kind_at(kind, at)
    return list(shipped(named)) if named else []
