"""Plugins by file and name: found, loaded once, and loaded again where their text changed.

A plugin is a file of Python, the name of an entry point of group `collective_sim.plugins`, or an installed module. A
file is read from its text alone: no compiled copy is written beside it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from sim.errors import InputError, closest
from sim.specs import plugins
from sim.specs.load.places import Path_, origin_of, place_of
from sim.specs.load.references import data_root
from sim.specs.load.yaml_text import shown
from sim.specs.plugins import Plugin

ENTRY_POINTS = "collective_sim.plugins"
"""Group of entry points by which installed packages name their plugins."""

_loaded: dict[str, Plugin] = {}
_modules: dict[str, ModuleType] = {}
"""Modules of the loaded plugins, by their names."""
_in_use: list[str] = []
"""Plugins of the command line, which every scenario uses beside its own."""


def use(names: Iterable[str], where: str = "--plugin") -> None:
    """Loads plugins for every scenario that is loaded from now on. Raises InputError, at `where`."""
    for name in names:
        _in_use.append(load(name, where, Path()))


def in_use() -> tuple[str, ...]:
    """Returns the plugins that every scenario uses, for another process to `use`."""
    return tuple(dict.fromkeys(_in_use))


@contextmanager
def using(names: Iterable[str]) -> Iterator[None]:
    """Every scenario that is loaded in the block uses these plugins too."""
    before = list(_in_use)
    try:
        use(names)
        yield
    finally:
        _in_use[:] = before


def load(name: str, where: str, beside: Path) -> str:
    """Loads a plugin; one that is loaded already only if its text has changed since.

    Args:
        name: a file as seen from `beside`, from here or from the data root; an entry point; or a module.

    Returns:
        The name by which any process on this computer finds it.

    Raises:
        InputError: no such plugin, at `where`; or an error while it is loaded, at its file and line.
    """
    if name.endswith(".py") or os.sep in name:
        file = _file(name, where, beside)
        return _load(_portable(file), file, file.read_bytes())
    module, file = _module(name, where)
    return _load(name, file, b"".join(path.read_bytes() for path in _sources(file)), module)


def load_all(raw: dict[str, Any], file: str, origins: Mapping[Path_, str]) -> None:
    """Loads the plugins that a scenario or suite names, and those in use, and puts their full names in their place.

    Args:
        file: of the scenario or suite.
    """
    given = raw.get("plugins", [])
    if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
        return  # validation says what is wrong
    named = [
        load(name, place_of(path, origins), Path() if origin_of(path, origins) else Path(file).parent)
        for name, path in ((name, ("plugins", i)) for i, name in enumerate(given))
    ]
    if named or _in_use:
        raw["plugins"] = list(dict.fromkeys((*named, *_in_use)))


def loaded_module(file: Path) -> ModuleType | None:
    """Returns the module of the plugin that was loaded from a file; None if no plugin was."""
    names = (name for name, plugin in _loaded.items() if plugin.file.resolve() == file.resolve())
    return next((_modules[name] for name in names), None)


def hashes(names: Sequence[str]) -> dict[str, str]:
    """Returns the hash of the text of each loaded plugin, by name."""
    return {name: _loaded[name].sha256 for name in names}


def load_unchanged(written: Mapping[str, str], where: str) -> None:
    """Loads the plugins of results that were written. Raises InputError where one has changed since."""
    for name, sha256 in written.items():
        try:
            load(name, where, Path())
        except InputError as error:
            raise error if error.where.startswith(where) else error.within(where) from None
        if _loaded[name].sha256 != sha256:
            rule = f"plugin {_loaded[name].label} must be as it was when the results were written"
            raise InputError(rule, where=where, hint="run the scenario again")


def installed() -> dict[str, str]:
    """Returns entry points of installed packages: the module of each name."""
    from importlib.metadata import entry_points

    return {each.name: each.module for each in entry_points(group=ENTRY_POINTS)}


def _file(name: str, where: str, beside: Path) -> Path:
    candidates = [folder / name for folder in (beside, Path.cwd(), data_root())]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        near = closest(Path(name).name, (path.name for each in candidates for path in each.parent.glob("*.py")))
        hint = f"did you mean '{Path(name).with_name(near)}'?" if near else ""
        raise InputError("no such plugin file", where=where, got=name, hint=hint)
    return found.resolve()


def _portable(file: Path) -> str:
    """Returns a shipped file as seen from the data root, any other by its absolute path."""
    root = data_root().resolve()
    return str(file.relative_to(root) if file.is_relative_to(root) else file)


def _module(name: str, where: str) -> tuple[str, Path]:
    """Returns the module of an entry point or of that name, and its file."""
    known = installed()
    module = known.get(name, name)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.has_location or spec.origin is None:
        near = closest(name, known)
        hint = f"did you mean '{near}'?" if near else "write ./NAME.py for a file"
        raise InputError("must be a .py file, an entry point or an installed module", where=where, got=name, hint=hint)
    return module, Path(spec.origin)


def _sources(file: Path) -> list[Path]:
    return sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]


def _load(name: str, file: Path, text: bytes, module: str = "") -> str:
    """Loads a plugin from its text, or from an installed module."""
    plugin = Plugin(name, file, shown(file), hashlib.sha256(text).hexdigest())
    before = _loaded.get(name)
    if before and before.sha256 == plugin.sha256:
        return name
    if before:
        plugins.forget(_loaded.pop(name))
    with plugins.registering(plugin), plugins.naming(plugin):
        _modules[name] = _import(module) if module else _execute(plugin, text)
    _loaded[name] = plugin
    return name


def _import(module: str) -> ModuleType:
    """Runs a module, and what it imports of its own package, so that all of its functions are registered."""
    for known in [each for each in sys.modules if each == module or each.startswith(f"{module}.")]:
        del sys.modules[known]
    return importlib.import_module(module)


def _execute(plugin: Plugin, text: bytes) -> ModuleType:
    module = ModuleType(f"collective_sim_plugin_{plugin.file.stem}")
    module.__file__ = str(plugin.file)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(text, str(plugin.file), "exec"), module.__dict__)
    return module
