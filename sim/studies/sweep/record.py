"""The file of a sweep: a row is appended as soon as it is there, and an interrupted sweep goes on from it.

Beside it, sweep.json says what the rows are of, and sweep.sha256 has a hash of every row. A row that is not what was
written is simulated again.
"""

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
from sim.results.saved import Sealed, move_aside, read_sealed, refuse_unlike, write_sealed
from sim.specs import Scenario
from sim.studies.sweep.points import Point
from sim.studies.sweep.rows import NOTES_SEPARATOR, Row, parse_outcome, row_columns

_LONGEST_ROW_BYTES = 2**16
"""Largest size of a row; assumed, more than labels, figures and an error of one line take."""


class Mark(Sealed, frozen=True):
    """Origin of the rows of a sweep: sweep.json."""

    of: str
    """Hash of the scenario, its points and the version."""


class Record:
    """Rows in a CSV file, written one by one; beside it what they are of."""

    def __init__(self, path: Path, scenario: Scenario, points: Sequence[Point], source: str | None) -> None:
        """Raises InputError where an axis has the name of a column of results."""
        axes = tuple(points[0].choices)
        for axis in axes:
            if axis in (taken := (*row_columns(Row({})),)):
                hint = f"so are {', '.join(name for name in taken[:6] if name != axis)}, ..."
                raise InputError("must not have the name of a column of results", where="sweep", got=axis, hint=hint)
        self._path, self._axes, self._points = path, axes, points
        self._mark, self._hashes = path.with_suffix(".json"), path.with_suffix(".sha256")
        self._most_bytes = (len(points) + 1) * _LONGEST_ROW_BYTES
        described = [scenario.model_dump_json(), [point.settings for point in points], __version__]
        of = hashlib.sha256(json.dumps(described).encode()).hexdigest()
        self._expected = Mark(version=__version__, of=of, source=source)

    def interrupted(self) -> dict[int, Row]:
        """Returns rows by the number of their point, if this sweep was begun and not finished; else none.

        Raises:
            InputError: the rows are those of another scenario file.
        """
        try:
            mark = read_sealed(self._mark, Mark)
        except InputError:
            return {}
        if mark.of != self._expected.of:
            refuse_unlike(self._path.parent, mark.source == self._expected.source is not None, mark.source)
            return {}
        try:
            text = _text(self._path, self._most_bytes)
            hashes = set(_text(self._hashes, self._most_bytes).split())
            rows = self._rows(text[: text.rfind("\n") + 1], hashes)  # a row that was cut off in writing is none
        except (OSError, ValueError, csv.Error):
            return {}
        return rows if len(rows) < len(self._points) else {}

    def keep_damaged(self) -> Path | None:
        """Moves rows aside that sweep.json does not describe; returns their new path, None without such rows."""
        try:
            read_sealed(self._mark, Mark)
        except InputError:
            return move_aside(self._path) if self._path.is_file() else None
        return None

    def _rows(self, text: str, hashes: set[str]) -> dict[int, Row]:
        """Returns rows that are what was written."""
        numbers = {tuple(_cell(point.choices[axis]) for axis in self._axes): i for i, point in enumerate(self._points)}
        names, rows = _names(self._axes), {}
        for values in csv.reader(io.StringIO(text)):
            number = numbers.get(tuple(values[: len(self._axes)]))
            if number is not None and _hash(values) in hashes:
                row = dict(zip(names, values, strict=True))
                error = row["error"].removeprefix("'") or None
                notes = tuple(row["notes"].split(NOTES_SEPARATOR)) if row["notes"] else ()
                rows[number] = Row(self._points[number].choices, parse_outcome(row), error, notes)
        return rows

    @contextmanager
    def open(self, known: dict[int, Row]) -> Iterator[Writer]:
        """Opens a file that begins with the known rows, and appends more."""
        fresh = self._path.with_name(f".{self._path.name}")
        with fresh.open("w", encoding="utf-8", newline="") as file:
            Writer(file, self._axes).all([known[number] for number in sorted(known)])
            fresh.replace(self._path)  # the old rows are never in no file
            if not known:  # of this sweep from here on; before, the file had the rows of another
                write_sealed(self._mark, self._expected)
            with self._hashes.open("a" if known else "w", encoding="utf-8") as hashes:
                yield Writer(file, self._axes, hashes)

    def in_order(self, rows: Sequence[Row]) -> None:
        """Writes all rows again in the order of the points, which several processes do not keep."""
        fresh = self._path.with_name(f".{self._path.name}")
        with fresh.open("w", encoding="utf-8", newline="") as file:
            Writer(file, self._axes).all(rows)
        fresh.replace(self._path)


def _cell(text: str) -> str:
    """Returns text as a spreadsheet shows it: text that it would take for a formula begins with an apostrophe.

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

    def __init__(self, file: TextIO, axes: Sequence[str], hashes: TextIO | None = None) -> None:
        """`hashes`: takes the hash of every row, before the row; None where it has them."""
        self._file, self._axes, self._hashes = file, axes, hashes
        self._csv = csv.writer(file, lineterminator="\n")

    def all(self, rows: Sequence[Row]) -> None:
        """Writes the head of the table and rows."""
        self._write(_names(self._axes))
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """Writes one row; it is in the file when this returns."""
        found = ["" if value is None else str(value) for value in row_columns(row).values()]
        values = [*(_cell(row.choices[axis]) for axis in self._axes), *found[:-2], *map(_cell, found[-2:])]
        if self._hashes:
            self._hashes.write(f"{_hash(values)}\n")
            self._hashes.flush()
        self._write(values)

    def _write(self, values: Sequence[str]) -> None:
        self._csv.writerow(values)
        self._file.flush()


def _names(axes: Sequence[str]) -> list[str]:
    return [*map(_cell, axes), *row_columns(Row({}))]


def _hash(values: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(values)).encode()).hexdigest()


def _text(path: Path, most_bytes: int) -> str:
    """Reads the text of a file. Raises OSError, ValueError."""
    if path.stat().st_size > most_bytes:
        raise ValueError(f"{path} has more than {most_bytes} bytes")
    return path.read_text("utf-8")
