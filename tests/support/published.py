"""Rows of measurements and suites that read them, written to a folder, tiny and easy to break."""

from __future__ import annotations

import copy
import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from support import files

ROW = {
    "case_id": "step",
    "source": "made up",
    "system": "",
    "model": "tiny",
    "chips": 4,
    "mesh": "2x2",
    "phase": "decode_step",
    "batch": 4,
    "input_tokens": 0,
    "context_tokens": 8,
    "generated_tokens": 1,
    "ffn_layout": "weight_stationary_2d",
    "attention_layout": "batch",
    "weight_dtype": "bfloat16",
    "activation_dtype": "bfloat16",
    "metric": "latency_s",
    "value": 1e-3,
    "reading_error_pct": "",
}

SUITE: dict[str, Any] = {
    "name": "made_up",
    "rows": "rows.csv",
    "base": "scenario.yaml",
    "tolerance": {"median": "5 %", "nine_in_ten": "12 %", "worst": "20 %"},
    "models": {"tiny*": {}},
}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str] = ROW) -> Path:
    """Rows of a CSV file, each `ROW` with the fields that differ."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(columns), extrasaction="ignore")
        table.writeheader()
        table.writerows(ROW | dict(row) for row in rows)
    return path


def write_suite(folder: Path, rows: Iterable[Mapping[str, Any]] = ({},), **fields: Any) -> str:
    """The tiny scenario, a suite on it with `fields` changed, and its rows; the suite's path."""
    files.write(folder)
    write_rows(folder / "rows.csv", rows)
    suite = copy.deepcopy(SUITE) | fields
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    return str(path)
