"""A sweep as it is planned: its scenario, its points, its figure and the user's own predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from sim.simulate.result import describe_settings
from sim.specs import FigureSpec, Scenario, load
from sim.specs.basis import rests_on
from sim.studies.sweep import predictions
from sim.studies.sweep.chart import figure_of
from sim.studies.sweep.points import Point, list_points, settings_of_points, swept_axes
from sim.studies.sweep.rows import Row


class Study(Struct, frozen=True):
    """A sweep before anything of it is simulated."""

    name: str
    """Shipped name or path of the scenario's file."""
    scenario: Scenario
    axes: list[str]
    """Axes that the settings leave."""
    points: list[Point]
    figure: FigureSpec | None
    forms: Mapping[str, Callable[[Scenario], float]]
    """The user's own closed forms by name."""
    settings: tuple[str, ...] = ()
    """Those of every point."""

    @property
    def settings_text(self) -> str:
        """Text `with key=value, ...`, for titles; empty where nothing was changed."""
        return describe_settings(self.settings)

    def predict_points(self, rows: Mapping[int, Row]) -> dict[str, dict[tuple[str, float], float]]:
        """Returns the user's own predictions of rows by number of their point, as `predictions.predict_points` does."""
        if self.figure is None:
            return {}
        numbered = ((self.points[i], row) for i, row in rows.items())
        return predictions.predict_points(self.name, self.figure, self.forms, numbered)


def list_assumptions(name: str, points: Iterable[Point]) -> tuple[str, ...]:
    """Returns what points of the scenario in file `name` rest on, each line once, in order."""
    return tuple(dict.fromkeys(rests_on(load.scenario(name, point.settings)).text for point in points))


def plan_sweep(name: str, scenario: Scenario, settings: Sequence[str]) -> Study:
    """Plans the sweep of a scenario that was loaded from file `name` with settings.

    Raises:
        InputError: there is nothing to sweep, or the figure cannot be drawn.
    """
    axes = list(swept_axes(scenario, settings))
    planned = list_points(scenario, settings)
    figure = figure_of(scenario, axes)
    kept = settings_of_points(settings)
    if figure:
        title = figure.title or scenario.description or scenario.name
        head, *below = [*title.splitlines(), *filter(None, [describe_settings(kept)])]
        figure = figure.model_copy(update={"title": f"{head}\n{'; '.join(below)}" if below else head})
    forms = predictions.load_forms(figure, load.path("scenario", name).parent) if figure else {}
    return Study(name, scenario, axes, planned, figure, forms, kept)
