"""`sim export`: write the traces of a run for other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.cli.options import ResultsFolder, one_of
from sim.cli.progress import progress
from sim.errors import InputError
from sim.terminal import echo


def export(
    folder: ResultsFolder,
    form: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="kineto, perfetto or chakra.",
            autocompletion=one_of(lambda: ("kineto", "perfetto", "chakra")),
        ),
    ],
    chips: Annotated[
        list[int] | None, typer.Option("--chip", min=0, help="Chip to write, repeatable; default: all. Not for chakra.")
    ] = None,
    messages: Annotated[
        bool, typer.Option("--messages", help="Write every message into chakra traces, not a node per collective.")
    ] = False,
) -> None:
    """Write the traces of a run for other tools.

    kineto: a file per rank as PyTorch's profiler writes it, for HolisticTraceAnalysis. perfetto: TrackEvents with
    nanoseconds. chakra: an execution trace per rank, for ASTRA-sim (with its network, system and command) and
    `sim replay`.
    """
    from sim.results import folder as outputs
    from sim.results import saved, scratch

    if messages and form != "chakra":
        raise InputError("requires the format chakra", where="--messages", got=form)
    with progress(f"reading {folder}"):
        run = outputs.read(folder)
        outputs.check_chips(run.scenario, chips or [], "--chip")
    with progress(f"writing {form}"), scratch.reporting_write_errors(folder):
        paths = outputs.export(run, folder, form, chips, messages=messages)
        saved.note_written(folder, paths)
    for path in paths:
        echo(str(path))
