"""Every view of every shipped scenario renders: text, JSON, figures, page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import product

import pytest
from rich.console import Console
from support.selection import each_once
from support.shipped import NAMES, every_case, phases, result, scenario

from sim.report.present.render import render
from sim.results import figures as pictures
from sim.results import page as html


@every_case
def test_the_report_renders_as_text(case):
    run, text = result(*case), io.StringIO()
    render(run.report, Console(file=text, width=120))
    assert run.scenario.name in text.getvalue()
    assert "nan" not in text.getvalue().lower().split()


@every_case
def test_the_report_is_json_of_finite_numbers(case):
    text = json.dumps(result(*case).report.to_dict(), allow_nan=False)
    assert json.loads(text)["scenario"] == result(*case).scenario.name


def kind_of(case: Sequence[str]) -> tuple[object, ...]:
    """What decides which parts a figure or the page has."""
    given = scenario(*case)
    return given.topology.kind, given.workload.phase == "generate", bool(given.pipeline), given.memory_pool is None


DRAWN = list({kind_of((name,)): (name,) for name in NAMES}.values())
"""One scenario of each kind."""
drawn_cases = pytest.mark.parametrize("case", DRAWN, ids=[case[0] for case in DRAWN])


@pytest.mark.parametrize(("case", "figure"), each_once(product(DRAWN, pictures.PHASE_FIGURES)), ids=str)
def test_every_figure_is_drawn(case, figure):
    from matplotlib import pyplot

    for _, part, _ in phases(case):
        if pictures.has_figure(figure, part):
            pictures.draw_figure(figure, part, "title").canvas.draw()
        pyplot.close("all")


@drawn_cases
def test_the_page_is_written(case, tmp_path):
    html.write([result(*case)], tmp_path / "report.html")
    assert scenario(*case).name in (tmp_path / "report.html").read_text(encoding="utf-8")
