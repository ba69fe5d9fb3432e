"""Plugins: which functions come from files and modules outside this package, and what goes wrong in them.

A plugin registers functions while it is loaded (`sim.specs.load.plugin_files`) with the decorators of `sim.plugins`.
They stand in the same dicts as the shipped ones. A name is registered once; loading a changed plugin again replaces its
functions.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

from msgspec import Struct

from sim.errors import InputError

Kind = Literal["collective", "preset", "residual_scheme", "pipeline_schedule", "closed_form", "report"]
"""What a plugin may add; the name of its decorator."""
P = ParamSpec("P")
R = TypeVar("R")


class Plugin(Struct, frozen=True):
    """A file or module that was loaded."""

    name: str
    """As scenarios hold it: a path or the name of a module; empty for functions of this session."""
    file: Path
    label: str
    """Its file, for messages."""
    sha256: str

    def place_of(self, error: BaseException) -> str:
        """Returns `file:line`, the line of the plugin that raised the error or called what raised it."""
        lines = [each.lineno for each in traceback.extract_tb(error.__traceback__) if each.filename == str(self.file)]
        if isinstance(error, SyntaxError) and error.filename == str(self.file):
            lines.append(error.lineno)
        return f"{self.label}:{lines[-1]}" if lines else self.label


SESSION = Plugin("", Path(), "this session", "")
"""Owner of what a script or notebook registers by itself."""


class _Entry(Struct, frozen=True):
    plugin: Plugin
    places: tuple[tuple[dict[str, Any], str], ...]
    about: str


_entries: dict[tuple[Kind, str], _Entry] = {}
_loading: list[Plugin] = [SESSION]
"""The plugin that is being loaded is the last."""


@contextmanager
def registering(plugin: Plugin) -> Iterator[None]:
    """What is registered in the block is the plugin's; nothing of it stays where the block fails."""
    _loading.append(plugin)
    try:
        yield
    except BaseException:
        forget(plugin)
        raise
    finally:
        _loading.pop()


def register(kind: Kind, name: str, about: Callable[..., Any], *places: tuple[dict[str, Any], str, Any]) -> None:
    """Adds an entry of the plugin that is being loaded to dicts.

    Args:
        about: the function, of which `sim list` shows the summary.
        places: (dict, key, value) of each.

    Raises:
        InputError: the name belongs to something else.
    """
    plugin, known = _loading[-1], _entries.get((kind, name))
    if known and known.plugin == plugin == SESSION:
        _remove(kind, name)
    elif known or any(key in table for table, key, _ in places):
        owner = known.plugin.label if known else "this package"
        raise InputError(f"must be a new name of a {kind}; {owner} has one", got=name)
    for table, key, value in places:
        table[key] = value
    _entries[kind, name] = _Entry(plugin, tuple((table, key) for table, key, _ in places), summary(about))


def summary(function: Callable[..., Any]) -> str:
    """Returns the first paragraph of a docstring in one line."""
    return " ".join((function.__doc__ or "").strip().partition("\n\n")[0].split())


def forget(plugin: Plugin) -> None:
    """Removes what a plugin registered."""
    for kind, name in [key for key, entry in _entries.items() if entry.plugin == plugin]:
        _remove(kind, name)


def _remove(kind: Kind, name: str) -> None:
    for table, key in _entries.pop((kind, name)).places:
        del table[key]


def owner(kind: Kind, name: str) -> Plugin | None:
    """Returns the plugin that registered a name; None for shipped ones."""
    entry = _entries.get((kind, name))
    return entry.plugin if entry else None


def registered(kind: Kind) -> dict[str, str]:
    """Returns names from outside with the summaries of their docstrings."""
    return {name: entry.about for (each, name), entry in _entries.items() if each == kind}


def names_of(kind: Kind, plugins: Iterable[str]) -> tuple[str, ...]:
    """Returns the names that these plugins, or this session, registered."""
    allowed = {*plugins, SESSION.name}
    return tuple(name for (each, name), entry in _entries.items() if each == kind and entry.plugin.name in allowed)


def guarded(function: Callable[P, R]) -> Callable[P, R]:
    """Returns the function of the plugin that is being loaded, whose errors become one line with its file and line."""
    plugin = _loading[-1]
    if plugin is SESSION:
        return function

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with naming(plugin):
            return function(*args, **kwargs)

    return call


@contextmanager
def naming(plugin: Plugin) -> Iterator[None]:
    """Errors in the block name the plugin's file and line; those by which this package decides something stay."""
    try:
        yield
    except MemoryError:
        raise
    except InputError as error:
        if error.where.startswith(plugin.label):
            raise
        raise error.within(plugin.place_of(error)) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] == __name__.partition(".")[0]:
            raise
        raise InputError(f"{type(error).__name__}: {error}", where=plugin.place_of(error)) from error
