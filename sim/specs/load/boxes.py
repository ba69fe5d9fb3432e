"""Machines of boxes: fields that their file leaves out come from the box."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from sim.specs.load.places import Path_

FIELDS = ("chip", "nccl", "reduces", "default_stack", "collectives")


def inherit(raw: dict[str, Any], path: Path_, origins: dict[Path_, str], fields: Sequence[str] = FIELDS) -> None:
    """Copies those of `fields` that the machine at `path` leaves out and the file of its box gives."""
    machine = _mapping(raw, path)
    box = _mapping(machine, ("boxes", "of"))
    for field in fields:
        if field not in FIELDS or field not in box or field in machine:
            continue
        machine[field] = copy.deepcopy(box[field])
        start = (*path, "boxes", "of", field)
        for origin in [origin for origin in origins if origin[: len(start)] == start]:
            origins[(*path, field, *origin[len(start) :])] = origins[origin]


def _mapping(value: Any, path: Path_) -> dict[str, Any]:
    """Returns the mapping at `path`; an empty one where there is something else."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
