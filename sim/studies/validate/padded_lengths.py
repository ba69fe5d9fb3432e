"""Tables of the real lengths of padded batches that a benchmark drew, as CSV: columns batch, padded, lengths.

A row gives the real length of each sequence of a batch, separated by spaces, for one batch size and padded length.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

from sim.errors import InputError


@lru_cache(maxsize=16)
def read_lengths(path: Path) -> dict[tuple[int, int], tuple[int, ...]]:
    """Returns the real lengths by (batch, padded length). Raises InputError if the file cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            return {
                (int(row["batch"]), int(row["padded"])): tuple(int(length) for length in row["lengths"].split())
                for row in table
            }
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except (KeyError, ValueError, csv.Error):
        rule = "a table of lengths must have whole numbers in columns batch, padded and lengths"
        raise InputError(rule, where=str(path)) from None


def lengths_of_batch(path: Path, batch: int, padded: int) -> tuple[int, ...]:
    """Returns the real lengths of one batch. Raises InputError if the table does not have it."""
    table = read_lengths(path)
    if (batch, padded) not in table:
        hint = "add a row with its lengths"
        raise InputError("no such batch and padded length", where=str(path), got=f"{batch} x {padded}", hint=hint)
    return table[batch, padded]
