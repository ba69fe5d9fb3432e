"""Sections of reports from plugins, below those of the report itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from sim.errors import InputError
from sim.report.present.text import Block, Line, Table
from sim.report.report import Report
from sim.specs.plugins import names_of, owner

SECTIONS: dict[str, Callable[[Report], Iterable[Table | Line]]] = {}
"""By name: (report) -> tables and lines that stand together; none where there is nothing to say."""


def plugin_sections(report: Report, plugins: Sequence[str]) -> Iterator[Block]:
    """Yields the sections that the plugins of a scenario add to its report.

    Raises:
        InputError: a section is something else than tables and lines.
    """
    for name in names_of("report", plugins):
        block = list(SECTIONS[name](report))
        if not all(isinstance(part, Table | Line) for part in block):
            plugin = owner("report", name)
            rule = "a report must yield Table and Line of sim.plugins"
            raise InputError(rule, where=f"{plugin.label}: {name}" if plugin else name, got=block)
        if block:
            yield block
