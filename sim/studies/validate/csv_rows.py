"""Rows of a CSV file of measurements: text, numbers and names, and errors that name the line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import TypeVar

from sim.errors import InputError, suggest

C = TypeVar("C")


def read_rows(source: Path, case: Callable[[Row], C | None]) -> tuple[C, ...]:
    """A case per row; None leaves a row out."""
    try:
        with source.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            found = [case(Row(row, f"{source}:{table.line_num}")) for row in table]
            cases = tuple(each for each in found if each is not None)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(source)) from None
    except (UnicodeDecodeError, csv.Error):
        raise InputError("must be a CSV file in UTF-8", where=str(source)) from None
    if not cases:
        raise InputError("must hold a row", where=str(source))
    return cases


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a CSV file; whatever is wrong with a value is an InputError that names the line."""

    values: Mapping[str, str]
    where: str

    def get(self, name: str) -> str:
        """Text, empty where there is none."""
        return self.values.get(name) or ""

    def cell(self, name: str) -> str:
        """Text that must be there."""
        if not self.get(name):
            raise InputError(f"a row needs a value in column '{name}'", where=self.where)
        return self.get(name)

    def number(self, name: str) -> int:
        """A whole number."""
        try:
            return int(self.cell(name))
        except ValueError:
            rule = f"column '{name}' must be a whole number"
            raise InputError(rule, where=self.where, got=self.cell(name)) from None

    def real(self, name: str, *, zero: bool = False) -> float:
        """A number above 0."""
        value = _real(self.cell(name))
        if not (0 < value < inf or (zero and value == 0)):
            rule = f"column '{name}' must be a number {'of at least' if zero else 'above'} 0"
            raise InputError(rule, where=self.where, got=self.cell(name))
        return value

    def one_of(self, name: str, allowed: Iterable[str]) -> str:
        """A known name."""
        if (got := self.cell(name)) not in allowed:
            raise InputError(f"unknown {name}", where=self.where, got=got, hint=suggest(got, allowed))
        return got


def _real(text: str) -> float:
    """Not a number where the text is none."""
    try:
        return float(text)
    except ValueError:
        return nan


def positive(values: Mapping[str, str], column: str) -> float | None:
    """Returns a number above 0 of an optional column; None where the row has nothing in it. Raises InputError."""
    text = values.get(column)
    if not text:
        return None
    if not 0 < (value := _real(text)) < inf:
        raise InputError(f"column '{column}' must be a number above 0", got=text)
    return value
