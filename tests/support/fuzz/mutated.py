"""Shipped files with something broken: keys removed or renamed, hostile values, damaged text."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from sim.specs import load
from sim.specs.load.references import expand
from sim.studies.sweep.points import NO_SWEEP

_MOST_CHIPS = 64
_DEEP: Any = "x"
for _ in range(60):
    _DEEP = [_DEEP]
_HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 2**31, 2**63, 10**12, 10**30, -(10**30), 10**400, 0.5, -0.0, 1e-300, 1e300),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "nan", "inf", "-1", "0", "1e999", "all", "auto", "none"),
    *("1 s", "0 s", "-1 s", "1e-18 s", "1e20 s", "1 B", "1e-9 B", "1e21 B", "1 B/s", "196 B/s", "1e21 B/s", "-5 GB/s"),
    *("nan GB/s", "inf s", "1 GB", "1 FLOP/s", "1e-20 FLOP/s", "0 %", "100 %", "-3 %", "1e-9 %", "1 furlong"),
    *(
        "=1+1",
        "$\\frac{",
        "a\nb",
        "\x1b[31m",
        "../../x",
        "/dev/null",
        "/",
        "x" * 5000,
        "\u202e",
        "[/red]",
        "0x10",
        "tpu_v4",
    ),
    *([], {}, [1, 2, 3], [None], {"a": 1}, {1: 2}, {None: None}, [[[]]], _DEEP, {"value": "1 s"}, {"value": None}),
)
_BYTES = (
    *("\x00", "\t", "&a [*a]", "*a", "!!bool x", "!!int ''", "!!python/name:os.system", "<<: {a: 1}", "- -", "{", "]"),
    *("'", "\ufeff", "0100", "1:0:0:0", "9" * 5000, "? [a]\n: b\n", "---\n", "%YAML 9.9\n", "a: &b [x, x]\n", "|\n"),
)
_CHANGES = {"hostile": 0.3, "remove": 0.1, "rename": 0.06, "scale": 0.38, "swap": 0.06, "wrap": 0.05, "add": 0.05}
"""Probability of each kind of change."""


def mutated_file(rng: np.random.Generator, folder: Path) -> list[str]:
    """Write a broken file to `folder` and return the command line, after `sim`, that reads it."""
    kind = str(rng.choice(["scenario", "topology", "collective", "suite"], p=[0.72, 0.1, 0.16, 0.02]))
    folder_kind = "topology" if kind == "collective" else kind
    data, sweeps = _shipped(rng, folder_kind)
    path = folder / f"{folder_kind}.yaml"
    if rng.random() < 0.2:
        text = _damaged(rng, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    else:
        for _ in range(int(rng.choice([1, 1, 2, 3]))):
            _mutate(rng, data)
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    if kind == "scenario":
        return ["sweep" if sweeps else "run", str(path)]
    if kind == "collective":
        name = str(
            rng.choice(["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast", "permute", "gather"])
        )
        return ["collective", name, "--topology", str(path), "--size", str(rng.choice(["1", "1000", "64MiB"]))]
    return ["topology", str(path)] if kind == "topology" else ["validate", str(path)]


def _shipped(rng: np.random.Generator, kind: str) -> tuple[dict[str, Any], bool]:
    """The mapping of a shipped file with references written out, made small; whether it has a sweep left."""
    names = sorted(load.shipped(kind))
    if kind == "topology":
        names = [name for name in names if load.topology_spec(name).chip_count <= _MOST_CHIPS]
    name = str(rng.choice(names))
    if kind == "suite":
        return yaml.safe_load(load.shipped(kind)[name].read_text(encoding="utf-8")), False
    data = expand(kind, name, (), {}, where="", beside=Path())
    if kind == "topology":
        return data, False
    least = data["layout"].get("mesh", {}).get("pipeline", 1)
    data.setdefault("engine", {})["layers"] = max(4, least) if "pool" not in str(data) else 8
    data.get("layout", {}).get("pipeline", {}).pop("stages", None)
    data["model"]["layers"] = data["engine"]["layers"]
    data["model"].pop("nominal_parameters", None)
    sweeps = "sweep" in data and bool(rng.random() < 0.3)
    if sweeps:
        data["sweep"] = {axis: _first_two(choices) for axis, choices in data["sweep"].items()}
    else:
        for setting in NO_SWEEP:
            data.pop(setting.partition("=")[0], None)
    return data, sweeps


def _first_two(choices: Any) -> Any:
    return dict(list(choices.items())[:2]) if isinstance(choices, dict) else choices[:2]


def _place(rng: np.random.Generator, data: Any) -> tuple[Any, Any]:
    """(holder, key) of a value inside, as likely near the root as deep inside a long table."""
    holder = data
    while True:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(holder[key], dict | list) or not holder[key] or rng.random() < 0.1:
            return holder, key
        holder = holder[key]


def _mutate(rng: np.random.Generator, data: dict[str, Any]) -> None:
    """One change at a random place."""
    if not data:
        return
    holder, key = _place(rng, data)
    old = holder[key]
    match str(rng.choice(list(_CHANGES), p=list(_CHANGES.values()))):
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[f"{key}s" if rng.random() < 0.5 else str(key)[1:]] = holder.pop(key)
        case "scale" if isinstance(old, int | float) and not isinstance(old, bool):
            holder[key] = old * type(old)(rng.choice([0, 2, 2, 3, 5, 1000, 10**6, -1]))
        case "scale" if isinstance(old, str) and old[:1].isdigit():
            number, _, unit = old.partition(" ")
            holder[key] = f"{number}e{int(rng.choice([-18, -9, -3, 3, 9, 12]))} {unit}"
        case "swap":
            other, there = _place(rng, data)
            holder[key] = copy.deepcopy(other[there])
        case "wrap":
            holder[key] = [old] if rng.random() < 0.5 else {"value": old}
        case "add" if isinstance(holder, dict):
            holder[str(rng.choice(["extra", "sweep", "perturb", "value", "kind"]))] = _hostile(rng)
        case _:
            holder[key] = _hostile(rng)


def _hostile(rng: np.random.Generator) -> Any:
    return copy.deepcopy(_HOSTILE[int(rng.integers(len(_HOSTILE)))])


def _damaged(rng: np.random.Generator, text: str) -> str:
    """Text with a piece cut out, repeated, or replaced by something YAML gives a meaning to."""
    start = int(rng.integers(len(text)))
    end = min(len(text), start + int(rng.integers(1, 30)))
    match int(rng.integers(4)):
        case 0:
            return text[:start] + text[end:]
        case 1:
            return text[:end] + text[start:]
        case 2:
            return text[:start]
        case _:
            value = text.find(": ", start) + 2
            return text[:value] + _BYTES[int(rng.integers(len(_BYTES)))] + text[text.find("\n", value) :]
