"""A scenario and the files it refers to, written to a folder, tiny and easy to break."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

FILES: dict[str, dict[str, Any]] = {
    "scenario": {
        "name": "tiny",
        "topology": "topology.yaml",
        "model": "model.yaml",
        "workload": {"phase": "decode", "batch": 4, "context": 8, "generate": 2, "weights": "bf16"},
        "layout": {"ffn": "weight_stationary_2d", "attention": "batch"},
    },
    "topology": {
        "name": "square",
        "kind": "torus",
        "chip": "chip.yaml",
        "link": "link.yaml",
        "axes": {"x": {"size": 2, "wrap": True}, "y": {"size": 2, "wrap": True}},
    },
    "chip": {
        "name": "chip",
        "peak": {"bf16": {"value": "1 TFLOP/s", "source": "made up"}},
        "hbm_bandwidth": "1 GB/s",
        "hbm_capacity": "1 GiB",
    },
    "link": {"name": "link", "bandwidth": {"value": "1 GB/s", "source": "made up"}, "latency": "1 us"},
    "model": {
        "name": "model",
        "layers": 2,
        "d_model": 16,
        "d_ff": 32,
        "heads": 4,
        "kv_heads": 1,
        "d_head": 4,
        "vocabulary": 64,
        "ffn": "swiglu",
        "block": "parallel",
    },
}

DROP = object()
"""As a value: remove the field."""


def write(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """Write all five files, with `{"link.latency": "2 us"}` changed, and return the scenario's path.

    A change of a whole file, `{"link": ...}`, may be text or any YAML value.
    """
    files: dict[str, Any] = copy.deepcopy(FILES)
    for field, value in (changes or {}).items():
        *path, last = field.split(".")
        holder: Any = files
        for key in path:
            holder = holder[key]
        if value is DROP:
            del holder[last]
        else:
            holder[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    for kind, data in files.items():
        text = data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        (folder / f"{kind}.yaml").write_text(text, encoding="utf-8")
    return folder / "scenario.yaml"
