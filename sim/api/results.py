"""Results in a notebook: a run and a sweep that draw themselves and turn into pandas frames."""

from __future__ import annotations

import html
from collections.abc import Sequence
from io import StringIO
from typing import TYPE_CHECKING

from msgspec import Struct

from sim.errors import InputError, guess
from sim.simulate.result import Run
from sim.terminal import plain_console

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from sim.api.frames import Frames
    from sim.studies.sweep.rows import Row
    from sim.studies.sweep.study import Study


class SimulatedRun(Run, frozen=True):
    """A run with its figures and tables."""

    def plot(self, figure: str = "timeline", phase: str = "") -> Figure:
        """Draws a figure, one of `sim.results.figures.PHASE_FIGURES`.

        Args:
            phase: prefill or decode, if the run has both; default: the last.

        Raises:
            InputError: no such figure or phase, or the phase has nothing to show in it.
        """
        from sim.results.figures import PHASE_FIGURES, draw_figure, has_figure

        if figure not in PHASE_FIGURES:
            raise InputError(
                f"figure must be one of {', '.join(PHASE_FIGURES)}", got=figure, hint=guess(figure, PHASE_FIGURES)
            )
        phases = {part.scenario.workload.phase: part for part in self.passes}
        if phase and phase not in phases:
            raise InputError(f"phase must be one of {', '.join(phases)}", got=phase)
        part = phases[phase] if phase else self.passes[-1]
        if not has_figure(figure, part):
            raise InputError(f"the run has nothing to show in figure '{figure}'", got=self.scenario.name)
        return draw_figure(figure, part, " ".join((self.scenario.name, self.settings_text)).strip())

    def to_pandas(self) -> Frames:
        """Returns frames `ops`, `links` and `critical_path` of one step. Raises InputError: pandas is not installed."""
        from sim.api.frames import run_frames

        return run_frames(self.passes)


class Sweep(Struct, frozen=True):
    """Rows of a sweep."""

    study: Study
    rows: Sequence[Row]

    def __repr__(self) -> str:
        runs = sum(row.outcome is not None for row in self.rows)
        axes = ", ".join(self.study.axes)
        return f"Sweep({self.study.scenario.name} over {axes}: {runs} of {len(self.rows)} points run)"

    def _repr_html_(self) -> str:
        """Returns the tables of the terminal."""
        from sim.studies.sweep.table import render

        text = StringIO()
        render(self.rows, self.study.axes, self.study.figure, plain_console(file=text))
        return f"<pre>{html.escape(text.getvalue())}</pre>"

    def plot(self) -> Figure:
        """Draws the figure of the sweep. Raises InputError: the scenario has no figure, or no point of it runs."""
        from sim.plots import figure
        from sim.studies.sweep.chart import build_panels

        if self.study.figure is None or not any(row.outcome for row in self.rows):
            raise InputError("requires a figure and a point that runs", where=self.study.scenario.name)
        predictions = self.study.predict_points(dict(enumerate(self.rows)))
        return figure.draw_panels(build_panels(self.study.scenario, self.study.figure, list(self.rows), predictions))

    def to_pandas(self) -> pd.DataFrame:
        """Returns a point per row. Raises InputError: pandas is not installed."""
        from sim.api.frames import sweep_frame

        return sweep_frame(self.rows)
