"""Output to the terminal; text of users can neither move its cursor nor change its colours."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
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


_UNLIMITED = 100_000
"""Characters of a line that goes into a file or to another program: none is broken or cut."""
_LONGEST_TEXT = 100
"""Characters of a cell of text before it takes another line."""


def plain_console(*, stderr: bool = False, file: IO[str] | None = None) -> Console:
    """A console on which text is text: brackets are no markup, and control characters are escaped.

    Lines fit the terminal; where there is none they are as long as they need.
    """
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:  # of all that is printed, cells of tables included
            return super().render_str(printable(text), **options)

    console = Plain(stderr=stderr, file=file, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def new_table(columns: Sequence[str], texts: Collection[str] = (), title: str = "") -> Table:
    """Returns a table without rows. Its columns are numbers, at the right, but for the first and `texts`.

    Args:
        columns: titles.
        texts: those of columns of text that may take several lines.
    """
    from rich import box
    from rich.table import Table

    look: dict[str, Any] = {"pad_edge": False, "show_edge": False, "collapse_padding": True}
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, **look)
    for i, column in enumerate(columns):
        if column in texts:
            table.add_column(column, overflow="fold", max_width=_LONGEST_TEXT)
        else:
            table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def styled(*parts: str | tuple[str, str]) -> Text:
    """A line or a cell of plain parts and of (text, style) parts, such as ("12 ms", "bold")."""
    from rich.text import Text

    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((printable(text), style) for text, style in pairs))
