"""Fields of a suite whose keys are patterns: the first that fits counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sim.errors import InputError, listed
from sim.specs.suite import Settings


def entry(name: str, patterns: Mapping[str, Settings], keys: Sequence[str], where: str) -> Settings:
    """Returns the first entry of the suite's field `name` whose pattern fits one of the keys. Raises InputError."""
    for pattern, settings in patterns.items():
        if any(fnmatchcase(key, pattern) for key in keys):
            return settings
    rule = f"must fit a pattern of the suite's '{name}'"
    raise InputError(rule, where=where, got=keys[0], hint=f"add a pattern; there are {listed(list(patterns))}")


def first(patterns: Mapping[str, Any], name: str) -> Any:
    """Returns the value of the first pattern that fits, else an empty mapping."""
    return next((value for pattern, value in patterns.items() if fnmatchcase(name, pattern)), {})
