"""Settings of the command line, `--set a.b.c=value`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sim import units
from sim.errors import InputError
from sim.specs.load.boxes import inherit
from sim.specs.load.keys import fields_at
from sim.specs.load.places import Path_
from sim.specs.load.references import expand, expand_inside, inside
from sim.specs.load.yaml_text import parse

RELATIVE = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)x")
"""A factor on the value that stands in the files, such as `0.5x`."""
OF_THE_MACHINE = ("chip", "link")
"""Fields of a scenario's machine that a setting may name without `topology.`"""


def apply(root: str, raw: dict[str, Any], setting: str, origins: dict[Path_, str]) -> None:
    """Applies one `a.b.c=value`: the value is read as YAML, `0.5x` is half of what was there, a reference is expanded.

    Raises InputError.
    """
    key, separator, text = setting.partition("=")
    where = f"--set {key.strip()}"
    keys = tuple(key.strip().split("."))
    if not separator or not all(keys):
        raise InputError("must be key=value, such as layout.overlap=none", where="--set", got=setting)
    if root == "scenario" and keys[0] in OF_THE_MACHINE:
        keys = ("topology", *keys)
    value = parse(text, where)
    holder: Any = raw
    for i, part in enumerate(keys[:-1]):
        if part not in holder:
            inherit(raw, keys[:i], origins, (part,))
        if part not in holder:
            origins.setdefault(keys[: i + 1], where)
        elif not isinstance(holder[part], dict):
            raise InputError(f"'{part}' holds a value, not fields", where=where, got=holder[part])
        holder = holder.setdefault(part, {})
    known = keys[-1] in holder or keys[-1] in fields_at(root, keys[:-1])  # else the key is what is wrong
    if known and isinstance(value, str) and (factor := RELATIVE.fullmatch(value.strip())):
        value = _scaled(holder.get(keys[-1]), float(factor[1]), where)
    kind, fields = inside(root, keys)
    # Drop origins of what is replaced, so that an error names the setting and not the file it overrode.
    for path in [p for p in origins if p[: len(keys)] == keys]:
        del origins[path]
    origins[keys] = where
    if not fields:
        value = expand(kind, value, keys, origins, where, Path())
    elif isinstance(value, dict):
        expand_inside((kind, fields), value, keys, origins, Path())
    holder[keys[-1]] = value


def _scaled(value: Any, factor: float, where: str) -> Any:
    """Returns a value of a file times a factor, in the file's unit. Raises InputError for what is no number."""
    number = value["value"] if isinstance(value, dict) and "value" in value else value
    if isinstance(number, str) and (parts := re.fullmatch(units.PATTERN, number)):
        return f"{float(parts[1]) * factor!r} {parts[2]}"
    if isinstance(number, int | float) and not isinstance(number, bool):
        product = number * factor
        return int(product) if isinstance(number, int) and product.is_integer() else product
    raise InputError(
        "a factor such as 0.5x requires a number in the file", where=where, got=number, hint="give a value"
    )
