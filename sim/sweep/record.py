"""The file of a sweep: a row is appended as soon as it is there, and an interrupted sweep goes on from it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sim import __version__
from sim.errors import InputError
from sim.specs import Scenario
from sim.sweep.points import Point
from sim.sweep.rows import Row, columns, outcome_of


class Record:
    """Rows in a CSV file, written one by one; beside it what they are of."""

    def __init__(self, path: Path, scenario: Scenario, axes: Sequence[str], points: Sequence[Point]) -> None:
        """Raises InputError where an axis has the name of a column of results."""
        for axis in axes:
            if axis in (own := (*columns(None), "error")):
                hint = f"so are {', '.join(name for name in own[:6] if name != axis)}, ..."
                raise InputError("is the name of a column of results", where="sweep", got=axis, hint=hint)
        self._path, self._axes, self._points = path, tuple(axes), points
        self._mark = path.with_suffix(".json")
        described = [scenario.model_dump_json(), [point.settings for point in points], __version__]
        self._of = {"version": __version__, "of": hashlib.sha256(json.dumps(described).encode()).hexdigest()}

    def interrupted(self) -> dict[int, Row]:
        """Rows by the number of their point, where this sweep was begun and not finished; else none."""
        try:
            if json.loads(self._mark.read_text("utf-8")) != self._of:
                return {}
            text = self._path.read_text("utf-8")
            found = self._rows(text[: text.rfind("\n") + 1])  # a row that was cut off in writing is none
        except (OSError, ValueError, KeyError):
            return {}
        return found if len(found) < len(self._points) else {}

    def _rows(self, text: str) -> dict[int, Row]:
        numbers = {tuple(_cell(point.choices[axis]) for axis in self._axes): i for i, point in enumerate(self._points)}
        found = {}
        for values in csv.DictReader(io.StringIO(text)):
            if None in values or None in values.values():
                continue
            number = numbers[tuple(values[_cell(axis)] for axis in self._axes)]
            found[number] = Row(
                self._points[number].choices, outcome_of(values), values["error"].removeprefix("'") or None
            )
        return found

    @contextmanager
    def open(self, known: dict[int, Row]) -> Iterator[Writer]:
        """A file that begins with the rows already known, and takes more."""
        fresh = self._path.with_name(f".{self._path.name}")
        with fresh.open("w", encoding="utf-8", newline="") as file:
            writer = Writer(file, self._axes)
            writer.all([known[number] for number in sorted(known)])
            fresh.replace(self._path)  # the old rows are never in no file
            if not known:  # of this sweep from here on; before, the file had the rows of another
                self._mark.write_text(json.dumps(self._of) + "\n", "utf-8")
            yield writer

    def in_order(self, rows: Sequence[Row]) -> None:
        """Write all rows anew, as several processes do not give them in the order of the points."""
        fresh = self._path.with_name(f".{self._path.name}")
        with fresh.open("w", encoding="utf-8", newline="") as file:
            Writer(file, self._axes).all(rows)
        fresh.replace(self._path)


def _cell(text: str) -> str:
    """The text as a spreadsheet shows it: what it would take for a formula begins with an apostrophe, as that itself.

    A number stays as it is.
    """
    if not text.startswith(_FORMULA) or _NUMBER.fullmatch(text):
        return text
    return f"'{text}"


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""How a cell begins that spreadsheets calculate (OWASP, CSV injection); and the apostrophe that keeps them from it."""
_NUMBER = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")


class Writer:
    """Appends rows to an open file."""

    def __init__(self, file: TextIO, axes: Sequence[str]) -> None:
        self._file, self._axes = file, axes
        self._csv = csv.writer(file, lineterminator="\n")

    def all(self, rows: Sequence[Row]) -> None:
        """The head of the table and rows."""
        self._write([*map(_cell, self._axes), *columns(None), "error"])
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """One row, in the file when this returns."""
        values = ["" if value is None else value for value in columns(row.outcome).values()]
        self._write([*(_cell(row.choices[axis]) for axis in self._axes), *values, _cell(row.error or "")])

    def _write(self, values: Sequence[object]) -> None:
        self._csv.writerow(values)
        self._file.flush()
