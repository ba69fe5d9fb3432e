"""Report of several jobs on one machine on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sim.report.present.render import print_blocks
from sim.report.present.text import Block, Line, Table
from sim.report.together import JobReport, TogetherReport
from sim.terminal import plain_console, styled
from sim.units import format_bytes, format_count, format_percent, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

_LINKS_SHOWN = 8


def render(report: TogetherReport, console: Console | None = None) -> None:
    """Prints the report on `console` (default: standard output)."""
    console = console or plain_console()
    console.print(styled((report.name, "bold"), f" on {report.machine}, {format_count(report.chips, 'chip')}"))
    print_blocks(_blocks(report), console)
    for note in report.notes:
        console.print(f"note: {note}")


def _blocks(report: TogetherReport) -> Iterator[Block]:
    numbers = {job.name: f"job {i}" for i, job in enumerate(report.jobs, start=1)}
    columns = ("job", "chips", "alone", "together", "slow-down")
    yield [Table(columns, (tuple(_job(numbers[job.name], job) for job in report.jobs),))]
    columns = ("critical chip", "compute", "exposed", "other", "waits for links")
    yield [
        Table(columns, tuple(_parts(numbers[job.name], job) for job in report.jobs)),
        Line("other: waits, and computation for other jobs; waits for links: of all messages, mean over the chips"),
    ]
    yield [_chips(report), *_links(report, numbers)]
    memory = report.memory
    used = f"memory of the fullest chip: {format_bytes(memory.used_bytes)} of {format_bytes(memory.capacity_bytes)}"
    yield [Line(used, warns=not memory.fits)]


def _job(number: str, job: JobReport) -> tuple[str, ...]:
    passes = f", {job.phase} x {job.passes}" if job.passes > 1 else f", {job.phase}"
    times = (format_seconds(each.time_s) for each in (job.alone, job.together))
    return f"{number}: {job.name}{passes}", f"{len(job.chips)}", *times, f"{job.slow_down:.3f}x"


def _parts(number: str, job: JobReport) -> tuple[tuple[str, ...], ...]:
    rows = []
    for name, times in (("alone", job.alone), ("together", job.together)):
        parts = (times.compute_s, times.exposed_communication_s, times.other_s, times.link_wait_s)
        rows.append((f"{number} {name}", *map(format_seconds, parts)))
    return tuple(rows)


def _chips(report: TogetherReport) -> Line:
    if not report.shared_chips:
        return Line("no chip has several jobs")
    return Line(f"{format_count(len(report.shared_chips), 'chip')} of several jobs")


def _links(report: TogetherReport, numbers: Mapping[str, str]) -> Iterator[Table | Line]:
    links = report.shared_links
    if not links:
        yield Line("no link carries messages of several jobs")
        return
    rows = tuple(
        (link.name, format_percent(link.utilisation), *(format_seconds(link.busy_s.get(name, 0.0)) for name in numbers))
        for link in links[:_LINKS_SHOWN]
    )
    yield Table(("link of several jobs", "busy", *(f"by {number}" for number in numbers.values())), (rows,))
    if len(links) > _LINKS_SHOWN:
        less = format_percent(links[_LINKS_SHOWN].utilisation)
        yield Line(f"{len(links) - _LINKS_SHOWN:,} more, busy {less} of the time or less; report.json has all")
