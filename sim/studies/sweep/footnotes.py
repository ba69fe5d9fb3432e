"""Footnotes of a table of rows: each note once, with its number at the rows that have it."""

from __future__ import annotations

from collections.abc import Iterator

from sim.studies.sweep.rows import Row


class Footnotes:
    """Notes of printed rows, numbered in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def marks_of(self, row: Row) -> str:
        """Returns the numbers of a row's notes: ` (1) (3)`."""
        return "".join(f" ({self._numbers.setdefault(note, len(self._numbers) + 1)})" for note in row.notes)

    @property
    def lines(self) -> Iterator[str]:
        """A line for each note of the rows so far."""
        return (f"({number}) {note}" for note, number in self._numbers.items())
