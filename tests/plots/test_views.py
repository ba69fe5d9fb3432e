"""Every view of every shipped scenario renders: text, JSON, figures, page."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from rich.console import Console
from support.selection import each_once
from support.shipped import NAMES, every_case, phases, result, scenario

from sim.report.lanes import layer_times
from sim.report.metrics import critical_chip
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


@every_case
def test_timelines_name_each_layer_of_the_scenario_once_for_each_batch(case):
    for given, part, _ in phases(case):
        critical = critical_chip(part.trace, part.topology.chips)
        times, first, layers, batches = layer_times(part.trace, critical), 0, given.layers, 1
        if stages := part.lowered.batches:
            chip = part.topology.chip_number(critical)
            stage = next(i for i, chips in enumerate(stages.chips) if chip in chips)
            first, layers = sum(stages.layers[:stage]), stages.layers[stage]
            batches = sum(each.stage == stage for each in stages.passes)
        assert times.layer.tolist() == list(range(first, first + layers)) * batches
        assert times.batch.tolist() == [batch for batch in range(batches) for _ in range(layers)]
        assert (np.diff(times.edges) > 0).all()


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
