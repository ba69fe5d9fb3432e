"""Random values that satisfy a JSON Schema, so that a new field of a file is drawn without a change here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sim.specs import load
from sim.specs.load import schema

SCHEMAS: dict[str, Any] = {kind: json.loads(text) for kind, text in schema.schemas().items()}

_UNITS: dict[str, tuple[Mapping[str, float], tuple[float, float], tuple[float, float]]] = {
    "B/s": ({"B/s": 1.0, "MB/s": 1e6, "GB/s": 1e9}, (1e8, 3e12), (1e-3, 1e20)),
    "B": ({"B": 1.0, "KiB": 1024.0, "GB": 1e9}, (1e3, 1e11), (1e-3, 1e20)),
    "s": ({"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}, (1e-8, 1e-3), (1e-15, 1e7)),
    "FLOP/s": ({"GFLOP/s": 1e9, "TFLOP/s": 1e12}, (1e10, 1e15), (1e-3, 1e20)),
    "%": ({"%": 1.0}, (1.0, 100.0), (1e-9, 100.0)),
}
"""Units of a quantity, its usual values and its extreme ones (SI units)."""

_COUNTS: dict[str, Sequence[int]] = {
    "layers": (1, 2, 3, 4, 8),
    "d_model": (16, 32, 48, 64),
    "d_ff": (32, 64, 96, 128),
    "heads": (1, 2, 4, 8, 12),
    "kv_heads": (1, 2, 4, 8),
    "d_head": (4, 8, 16),
    "vocabulary": (32, 64, 100),
    "batch": (1, 2, 4, 8, 16),
    "prompt": (1, 4, 16, 64),
    "context": (1, 7, 64, 500),
    "generate": (1, 2, 5),
    "static_cache": (64, 600),
    "rows": (8, 64, 128),
    "columns": (8, 64, 256),
    "at_once": (1, 4, 132),
    "requests": (1, 2, 4, 6),
    "microbatch_tokens": (8, 64, 1024),
    "seed": (0, 1, 7),
    "repeats": (1, 1, 1, 3),
}
"""Values of small models and short runs; 1 to 8 of any other count."""

_TEXTS = ("a note", "$x_1$ of 50 %", "=1+1", "ünï ✓", "[red]bold[/]", "<b>&amp;")


@dataclass(frozen=True)
class RandomValues:
    """Draws values of one kind of file.

    Args:
        rng: every draw comes from it.
        kind: of file, a key of SCHEMAS.
        extreme: probability that a quantity lies far outside of what machines have.
    """

    rng: np.random.Generator
    kind: str
    extreme: float = 0.01

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def choice(self, options: Sequence[Any]) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def definition(self, name: str, omitted: Sequence[str] = ()) -> Any:
        """A mapping for the model of that name, without the fields omitted."""
        definitions = SCHEMAS[self.kind]["$defs"]
        rest = {key: value for key, value in definitions[name]["properties"].items() if key not in omitted}
        return self.value({**definitions[name], "properties": rest}, name)

    def value(self, part: Mapping[str, Any], field: str) -> Any:
        """A value of a (sub)schema that stands in `field`."""
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            return self.value(SCHEMAS[self.kind]["$defs"][name], field)
        if "const" in part:
            return part["const"]
        if "enum" in part:
            return self.choice(part["enum"])
        for union in ("anyOf", "oneOf"):
            if union in part and "properties" not in part:  # else a rule about the fields
                return self._one_of(part[union], field)
        return getattr(self, f"_{part['type']}")(part, field)

    def _one_of(self, options: Sequence[Mapping[str, Any]], field: str) -> Any:
        options = [option for option in options if option.get("type") != "null"]
        names = [option for option in options if "shipped name" in option.get("description", "")]
        if names and self.chance(0.5):
            kind = {"link_types": "link", "of": "topology"}.get(field, field)
            return self.choice(list(load.shipped(kind))) if kind in SCHEMAS else self.value(names[0], field)
        return self.value(self.choice([option for option in options if option not in names]), field)

    def _object(self, part: Mapping[str, Any], field: str) -> dict[str, Any]:
        required, optional = part.get("required", ()), self.choice((0.05, 0.2, 0.5))
        found = {
            name: self.value(own, name)
            for name, own in part.get("properties", {}).items()
            if name in required or self.chance(optional)
        }
        more = part.get("additionalProperties")
        if isinstance(more, dict):
            names = part.get("propertyNames", {}).get("enum", ("first", "second"))
            found |= {name: self.value(more, field) for name in names}
        for more in part.get("patternProperties", {}).values():
            found |= {name: self.value(more, field) for name in "xyz"[: int(self.rng.integers(1, 4))]}
        return found

    def _array(self, part: Mapping[str, Any], field: str) -> list[Any]:
        least = part.get("minItems", 0)
        count = int(self.rng.integers(least, min(part.get("maxItems", least + 2), least + 3) + 1))
        return [self.value(part["items"], field) for _ in range(count)]

    def _string(self, part: Mapping[str, Any], field: str) -> str:
        if "number with a unit" not in part.get("description", "") and "examples" not in part:
            return f"n{self.rng.integers(100)}" if "pattern" in part else self.choice(_TEXTS)
        units, usual, extreme = _UNITS[
            part["examples"][0]
            .partition(" ")[2]
            .replace("GiB", "B")
            .replace("us", "s")
            .replace("GB/s", "B/s")
            .replace("TFLOP", "FLOP")
        ]
        if units.keys() >= {"us"} and self.chance(0.15):
            return "0 s"
        low, high = np.log(extreme if self.chance(self.extreme) else usual)
        name = self.choice(list(units))
        return f"{float(np.exp(self.rng.uniform(low, high))) / units[name]:.6g} {name}"

    def _integer(self, part: Mapping[str, Any], field: str) -> int:
        least = max(part.get("minimum", -(10**9)), part.get("exclusiveMinimum", -(10**9)) + 1)
        values = [number for number in _COUNTS.get(field, (0, 1, 2, 3, 4, 8)) if number >= max(least, 0)]
        return int(min(self.choice(values), part.get("maximum", 10**9)))

    def _number(self, part: Mapping[str, Any], field: str) -> float:
        least, most = part.get("minimum", 0.0), part.get("maximum", 1.0)
        if self.chance(0.2):
            return float(min(1.0, most))
        return float(np.round(self.rng.uniform(max(least, 0.01 * min(most, 4.0)), min(most, 4.0)), 4))

    def _boolean(self, part: Mapping[str, Any], field: str) -> bool:
        return self.chance(0.5)
