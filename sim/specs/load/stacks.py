"""A software stack on one chip, from the file that says what the software reaches on each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.errors import InputError, suggest
from sim.specs.load.places import Path_
from sim.specs.load.references import find
from sim.specs.load.yaml_text import read, shown

_LATER = {"measured": "carried", "fitted": "carried"}
"""Basis of a value that another chip or another software takes."""
_DEEPEST = 8
"""References one after the other."""


def on_chip(stack: Mapping[str, Any], chip: Any, origins: dict[Path_, str], path: Path_) -> dict[str, Any]:
    """Returns a stack's constants for a chip as one mapping; a stack of one chip unchanged.

    Args:
        origins: by field the file that it was read from; those of values that another file gives are added.
        path: where the stack stands.

    Raises:
        InputError: the stack says nothing of this chip, or refers to what is not there.
    """
    chips = stack.get("chips")
    if not isinstance(chips, Mapping) or not isinstance(chip, str):
        return dict(stack)
    found = _Files(origins, path, str(stack.get("name"))).flat(stack, chip, 0)
    named = {field: stack[field] for field in ("name", "description") if field in stack}
    return {**found, **named, "chip": chip}


class _Files:
    """The files that values are read from."""

    def __init__(self, origins: dict[Path_, str], path: Path_, name: str) -> None:
        self.origins, self.path, self.name = origins, path, name
        self.where = origins.get(path, "")

    def flat(self, stack: Mapping[str, Any], chip: str, depth: int) -> dict[str, Any]:
        """The fields of a chip: those common to all chips, those it shares with another one, its own."""
        chips, name = stack.get("chips"), stack.get("name")
        common = {field: value for field, value in stack.items() if field not in ("name", "description", "chips")}
        common.pop("source", None)
        if not isinstance(chips, Mapping):
            return common
        if chip not in chips:
            near = suggest(chip, map(str, chips))
            hint = f"{near}; `stack: ideal` is of any chip"
            raise InputError(f"stack '{name}' says nothing of this chip", where=self.where, got=chip, hint=hint)
        if not isinstance(chips[chip], Mapping):
            rule = f"chips.{chip} must be a mapping of values, or of same_as"
            raise InputError(rule, where=self.where, got=chips[chip], hint="{same_as: CHIP}")
        own = dict(chips[chip])
        why, target = own.pop("source", ""), own.pop("same_as", None)
        shared = self.shared(stack, target, str(why), depth) if target is not None else {}
        for field, value in own.items():
            if isinstance(value, Mapping) and "same_as" in value:
                reason = str(value.get("source", ""))
                every = self.shared(stack, value["same_as"], reason, depth)
                if field not in every:
                    raise InputError(f"{value['same_as']} has no such value", where=self.where, got=field)
                own[field] = every[field]
        return {**shared, **common, **own}

    def shared(self, stack: Mapping[str, Any], target: Any, why: str, depth: int) -> dict[str, Any]:
        """The values of another chip, `CHIP` or `STACK/CHIP`, as values that were carried over."""
        if not isinstance(target, str) or depth == _DEEPEST:
            raise InputError(
                "same_as must name a chip, or STACK/CHIP, and lead to values", where=self.where, got=target
            )
        other, _, chip = target.rpartition("/")
        if other:
            file = find("stack", other, self.where, beside=Path())
            stack = read(file)
            self.origins.setdefault((*self.path, "same_as"), shown(file))
        found = self.flat(stack, chip, depth + 1)
        found.pop("fitted_on", None)  # of that chip's own values
        return {field: _carried(value, target, why) for field, value in found.items()}


def _carried(value: Any, target: str, why: str) -> Any:
    if not isinstance(value, Mapping) or "source" not in value:
        return value
    basis = str(value.get("basis") or "")
    source = f"as {target}{', ' + why if why else ''}: {value['source']}"
    origin = value.get("carried_from") or target
    return {**value, "basis": _LATER.get(basis, basis) or None, "source": source, "carried_from": origin}
