"""`sim plot`: draw the figures of a run again from its results."""

from __future__ import annotations

from typing import Annotated

import typer

from sim.cli.options import DrawnChips, Formats, ResultsFolder, Width, figure_form
from sim.cli.progress import progress
from sim.errors import InputError
from sim.terminal import echo


def plot(
    folder: ResultsFolder,
    figures: Annotated[list[str] | None, typer.Argument(help="Figures to draw; default: all.")] = None,
    formats: Formats = "png",
    width: Width = "",
    chips: DrawnChips = None,
) -> None:
    """Draw the figures of a run, or all of them and its page, again from its results, without simulating.

    --chip replaces the chips that the run was told to draw.
    """
    from sim.results import figures as pictures
    from sim.results import folder as outputs
    from sim.results import saved, scratch

    form = figure_form(formats, width)
    for name in figures or ():
        if name not in pictures.ALL_FIGURES:
            raise InputError(
                "no such figure", where="FIGURES", got=name, hint=f"there are {', '.join(pictures.ALL_FIGURES)}"
            )
    with progress(f"drawing {folder}"), scratch.reporting_write_errors(folder):
        chosen = figures or pictures.BY_DEFAULT
        results = saved.open_folder(folder)
        run = saved.restore_results(results)
        outputs.check_chips(run.scenario, chips or [], "--chip")
        run = run.choose_chips(chips) if chips else run
        drawn = pictures.draw(run, folder, form, results.analysis(run), chosen, page=not figures)
        saved.note_written(folder, drawn)
    for path in drawn:
        echo(str(path))
