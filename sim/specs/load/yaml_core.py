"""YAML of the 1.2 core schema, built from the events of PyYAML's parser.

Differences to PyYAML's own loaders, which read YAML 1.1: booleans are `true` and `false` only, `1e9` is a number,
`0100` is 100, and `1:0:0`, `1_000` and a date are text. Tags are not supported. An alias is a copy of what it names, so
that nothing is shared, and how many values the aliases expand to is counted before they are copied.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import yaml
from msgspec import Struct, field

MOST_VALUES = 100_000
"""Scalars, lists and mappings of a file, each alias counted in full."""
DEEPEST = 100
"""Lists and mappings inside each other."""
LONGEST_NUMBER = 1_000
"""Characters of a number: far above what is meant, and below what Python refuses to print."""

_Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = object()
"""The key `<<`, written without quotes."""
_NO_KEY = object()

_CORE: tuple[tuple[re.Pattern[str], Callable[[str], Any]], ...] = tuple(
    (re.compile(pattern), read)
    for pattern, read in (
        (r"null|Null|NULL|~|", lambda text: None),
        (r"true|True|TRUE", lambda text: True),
        (r"false|False|FALSE", lambda text: False),
        (r"[-+]?[0-9]+", int),
        (r"0o[0-7]+", lambda text: int(text[2:], 8)),
        (r"0x[0-9a-fA-F]+", lambda text: int(text[2:], 16)),
        (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
        (r"[-+]?\.(inf|Inf|INF)", lambda text: float(text.replace(".", ""))),
        (r"\.(nan|NaN|NAN)", lambda text: float("nan")),
    )
)
"""Types of plain scalars, tried in this order (YAML 1.2.2, section 10.3.2); any other is text."""


def load(text: str) -> Any:
    """The one document of a YAML text, None for an empty one.

    Raises:
        yaml.YAMLError: not YAML, or YAML that is not supported here; with the place where it is known.
    """
    builder = _Builder()
    for event in yaml.parse(text, Loader=_Parser):
        builder.take(event)
    return builder.document


class _Open(Struct):
    """A list or mapping whose end has not come."""

    value: list[Any] | dict[Any, Any]
    event: Any
    """Its start."""
    counted: int
    """Values counted before it."""
    key: Any = _NO_KEY
    """The key of a mapping whose value comes next."""
    merged: dict[Any, Any] | None = None
    """Merges the mappings of `<<`; keys of the mapping itself win."""


class _Builder(Struct):
    """Takes one event after the other."""

    document: Any = None
    documents: int = 0
    counted: int = 0
    waiting: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)
    """Values by name, and how many values each counts."""

    def take(self, event: Any) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise _wrong("a file holds one document", event)
            case yaml.AliasEvent():
                if event.anchor not in self.anchors:
                    raise _wrong(f"found undefined alias '{event.anchor}'", event)
                value, size = self.anchors[event.anchor]
                self._count(size, event)
                self._put(copy.deepcopy(value), event)
            case yaml.ScalarEvent():
                self._count(1, event)
                self._finish(_scalar(event), event, size=1)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(self.waiting) == DEEPEST:
                    raise _wrong(f"lists and mappings must be at most {DEEPEST} deep", event)
                _refuse_tag(event)
                value = [] if isinstance(event, yaml.SequenceStartEvent) else {}
                self.waiting.append(_Open(value, event, self.counted))
                self._count(1, event)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                done = self.waiting.pop()
                value = done.value if done.merged is None else done.merged | dict(done.value)
                self._finish(value, done.event, self.counted - done.counted)

    def _count(self, values: int, event: Any) -> None:
        self.counted += values
        if self.counted > MOST_VALUES:
            raise _wrong(f"a file holds at most {MOST_VALUES:,} values, each alias counted in full", event)

    def _finish(self, value: Any, event: Any, size: int) -> None:
        """A value that may have a name."""
        if event.anchor is not None:
            self.anchors[event.anchor] = value, size
        self._put(value, event)

    def _put(self, value: Any, event: Any) -> None:
        """Put a value where it belongs: into the innermost list or mapping that is open."""
        if not self.waiting:
            self.document = value
            return
        top = self.waiting[-1]
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key is _NO_KEY:
            top.key = self._key(top, value, event)
        elif top.key is _MERGE:
            top.key, top.merged = _NO_KEY, _merged(value, event)
        else:
            top.value[top.key] = value
            top.key = _NO_KEY

    def _key(self, mapping: _Open, value: Any, event: Any) -> Any:
        if isinstance(value, list | dict):
            raise _wrong("a key must be text", event)
        merge = value == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        if (mapping.merged is not None) if merge else (value in mapping.value):
            raise _wrong(f"key '{value}' is given twice", event)
        return _MERGE if merge else value


def _merged(value: Any, event: Any) -> dict[Any, Any]:
    """The mapping, or the mappings of which the first wins, that `<<` brings."""
    found: dict[Any, Any] = {}
    for each in reversed(value if isinstance(value, list) else [value]):
        if not isinstance(each, dict):
            raise _wrong("'<<' must be a mapping or a list of mappings", event)
        found |= each
    return found


def _scalar(event: Any) -> Any:
    _refuse_tag(event)
    if not event.implicit[0]:  # in quotes, or a block of text
        return event.value
    for pattern, read in _CORE:
        if pattern.fullmatch(event.value):
            if len(event.value) > LONGEST_NUMBER:
                raise _wrong(f"a number must have at most {LONGEST_NUMBER:,} digits", event)
            return read(event.value)
    return event.value


def _refuse_tag(event: Any) -> None:
    if event.tag is not None:
        tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        raise _wrong(f"tags such as '{tag[:40]}' are not supported; leave it out", event)


def _wrong(problem: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
