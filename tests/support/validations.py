"""The shipped suites, each validated once per process, and a sample of their rows."""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from sim.report.present.validation import Validation
from sim.specs import load
from sim.studies.validate.validate import validate


@functools.cache
def validation(name: str) -> Validation:
    return validate(name)


def sample(name: str, folder: Path, count: int) -> Validation:
    """The validation of `count` rows of a suite or more, spaced evenly over its file; of all if it has fewer."""
    path = load.path("suite", name)
    with (path.parent / load.suite(name).rows).open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    rows_path = folder / "rows.csv"
    with rows_path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows[:: max(1, len(rows) // count)]])
    return validate(name, rows_path)
