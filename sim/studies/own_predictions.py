"""Predictions of a user's own: functions found by name, and columns of rows."""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from sim.closed_form.plugin_forms import PLUGIN_FORMS, seconds
from sim.errors import InputError
from sim.specs.load import plugin_files


def load_function(name: str, folder: Path, where: str) -> Callable[..., float]:
    """Returns a plugin's closed form, or the function `module:function` of a file in `folder` or an installed module.

    Its results are checked.

    Raises:
        InputError: there is no such module or function, or it cannot be imported; the result raises it for a call that
            fails or returns no number above 0.
    """
    if name in PLUGIN_FORMS:
        return _plugin_form(name)
    module_name, _, function_name = name.partition(":")
    try:
        module = _module(module_name, folder)
    except Exception as error:  # a user's module may raise anything
        rule = f"must be module:function of a module that can be imported ({type(error).__name__}: {error})"
        raise InputError(rule, where=where, got=name, hint=f"put {module_name}.py beside the file") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"must name a function of module {module_name}", where=where, got=name)

    def checked(*arguments: Any) -> float:
        try:
            value = float(function(*arguments))
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{name} failed ({type(error).__name__}: {error})", where=where) from None
        if not 0 < value < math.inf:
            raise InputError(f"{name} must return seconds above 0", where=where, got=value)
        return value

    return checked


def _plugin_form(name: str) -> Callable[..., float]:
    def checked(*arguments: Any) -> float:
        time_s = seconds(name, PLUGIN_FORMS[name].function(*arguments))
        if time_s is None:
            raise InputError("must return seconds for every row and point that it is set beside", where=name)
        return time_s

    return checked


def _module(name: str, folder: Path) -> ModuleType:
    """Returns a module of a file in the folder, the plugin's if it was loaded as one, else an installed one."""
    file = folder / f"{name.replace('.', '/')}.py"
    if not file.is_file():
        return importlib.import_module(name)
    if (plugin := plugin_files.loaded_module(file)) is not None:
        return plugin
    spec = importlib.util.spec_from_file_location(f"own_predictions_{name.replace('.', '_')}", file)
    if spec is None or spec.loader is None:
        raise ImportError(str(file))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
