"""Output to the terminal; text of users can neither move its cursor nor change its colours."""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys instead of showing them, line breaks and tabs excepted."""


def printable(text: str) -> str:
    r"""`text` with all that is no character to see as escapes, `\x1b`; line breaks and tabs stay."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line on standard output, or on standard error."""
    import typer

    typer.echo(printable(text), err=err)


def plain_console(*, stderr: bool = False, file: IO[str] | None = None) -> Console:
    """A console on which text is text: brackets are no markup, and control characters are escaped."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # of all that is printed, cells of tables included
            return super().render_str(printable(text), **options)

    return Plain(stderr=stderr, file=file, highlight=False, markup=False, emoji=False)


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line or a cell of plain parts and of (text, style) parts, such as ("12 ms", "bold")."""
    from rich.text import Text

    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in pairs))
