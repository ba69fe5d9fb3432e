"""Settings of the command line, `--set a.b.c=value`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.errors import InputError
from sim.specs.load.boxes import inherit
from sim.specs.load.places import Path_
from sim.specs.load.references import expand, expand_inside, inside
from sim.specs.load.yaml_text import parse


def apply(root: str, raw: dict[str, Any], setting: str, origins: dict[Path_, str]) -> None:
    """Apply one `a.b.c=value`; the value is read as YAML, and a reference is expanded.

    Raises InputError.
    """
    key, separator, text = setting.partition("=")
    where = f"--set {key.strip()}"
    keys = tuple(key.strip().split("."))
    if not separator or not all(keys):
        raise InputError("must be key=value, such as layout.overlap=none", where="--set", got=setting)
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
