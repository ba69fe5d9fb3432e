"""Errors a user can meet: one line that says where, which rule, what was got and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Self

from sim.terminal import printable

_LONGEST = 80
"""Characters of an offending value that a message repeats."""


class InputError(ValueError):
    """Bad input from a user: a file, a field, an option or a path. The command line turns it into exit code 2.

    Args:
        rule: what is required, as a statement.
        where: file and field path (`scenarios/x.yaml: layout.ffn`), or the option.
        got: the offending value.
        hint: what to do about it.
    """

    def __init__(self, rule: str, *, where: str = "", got: object = None, hint: str = "") -> None:
        self.rule, self.where, self.got, self.hint = rule, where, got, hint
        text = f"{where}: {rule}" if where else rule
        if got is not None:
            value = repr(got)
            text += f", got {value if len(value) <= _LONGEST else value[:_LONGEST] + ' ...'}"
        if hint:
            text += f"; {hint}"
        super().__init__(printable(" ".join(text.split())))

    def within(self, where: str) -> Self:
        """The same error, placed in a file or option."""
        return type(self)(
            self.rule, where=f"{where}: {self.where}" if self.where else where, got=self.got, hint=self.hint
        )


class LayoutError(InputError):
    """A layout step that its tensor's sharding does not allow, or a mesh that does not divide a dimension."""


class DeadlockError(RuntimeError):
    """The simulation stopped with tasks that never became ready; the message names them."""


def closest(got: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that looks most like `got`, upper or lower case; None if none does."""
    names = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(got.lower(), names, n=1, cutoff=0.6)
    return names[close[0]] if close else None


def suggest(got: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest allowed name, else the list of allowed names."""
    names = sorted(allowed)
    close = closest(got, names)
    if close:
        return f"did you mean '{close}'?"
    return f"choose from {', '.join(names)}" if names else ""
