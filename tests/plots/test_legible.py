"""Figures for papers: legible in a column of 3.3 inches, fonts that publishers take, the same bytes."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from support.handmade import two_chips
from support.legible import illegible
from support.selection import each_once
from support.shipped import NAMES, phases, result, scenario
from support.validations import sample

from sim import topology as machines
from sim.plots import busbw, calibration, comparison, figure, pareto, parity, timeline, topology, waterfall
from sim.plots.style import add_title, new_figure, page_width, points, save, shared_style, text_width, wrap
from sim.report.present.calibration import Determination, Direction, Fit, Series
from sim.results import figures as pictures
from sim.results.figures import FigureForm, write_figure
from sim.simulate.run import run
from sim.specs import load
from sim.specs.suite import Constant
from sim.studies.bench.collective import CollectiveSpec
from sim.studies.bench.groups import run_sizes
from sim.studies.explain import explain

COLUMN_IN = 3.3
WIDTHS_IN = (None, COLUMN_IN)
KINDS = {
    (given.topology.kind, bool(given.pipeline), given.memory_pool is None): name
    for name in NAMES
    for given in [scenario(name)]
}
"""A scenario of each kind of machine, with and without pipeline and memory pool."""


@pytest.mark.parametrize("name", ["llama3_70b_tp8_of_my_own_with_WIDE_LETTERS_and_so_on: one step", "WM_" * 20])
def test_a_title_of_one_long_name_is_not_cut(name: str):
    with page_width(COLUMN_IN):
        made = new_figure(COLUMN_IN, 2)
        made.subplots()
        add_title(made, f"{name}\nwith engine.layers=8")
        assert illegible(made) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "figure", "width_in"), each_once(product(KINDS.values(), pictures.PHASE_FIGURES, WIDTHS_IN)), ids=str
)
def test_text_of_a_run_is_large_enough_and_neither_cut_nor_covered(name: str, figure: str, width_in: float | None):
    for _, part, _ in phases((name,)):
        if pictures.has_figure(figure, part):
            with page_width(width_in):
                assert illegible(pictures.draw_figure(figure, part, f"{name}\nwith engine.layers=8")) == []


@pytest.mark.parametrize("name", ["tpu_v4_4x4x4", "tpu_v4_4x4x8_twisted", "dgx_h100", "dgx_h100_x2", "dgx1_v100"])
def test_text_of_a_machine_is_legible_in_a_column(name: str):
    with page_width(COLUMN_IN):
        assert illegible(topology.draw(machines.build(load.topology_spec(name, [])))) == []


def test_text_of_a_sweep_of_sizes_is_legible_in_a_column():
    spec = CollectiveSpec("all_reduce", (), 0.0, None, 1)
    rows = run_sizes("dgx_h100", spec, [2.0**power for power in range(10, 28)], [])
    with page_width(COLUMN_IN):
        assert illegible(busbw.draw(rows, "dgx_h100", settings="with algorithm=ring")) == []


def test_text_of_a_search_is_legible_in_a_column():
    front = tuple(pareto.Spot(10.0 * 2**i, 100.0 / 4**i, f"B{2**i}") for i in range(4))
    far = pareto.Spot(1e4, 1e4, "B1")
    lines = tuple(pareto.Line(f"weight gathered {name}", (*front, far), front) for name in ("x", "xy", "xyz"))
    made = pareto.Chart("a search", "latency, ms", "cost", lines, front, "batch B", notes=("constants " * 40,))
    with page_width(COLUMN_IN):
        assert illegible(pareto.draw(made)) == []


@pytest.mark.slow
@pytest.mark.parametrize("width_in", WIDTHS_IN, ids=str)
def test_text_of_a_parity_plot_is_legible(tmp_path: Path, width_in: float | None):
    found = sample("pope", tmp_path, 6)
    with page_width(width_in):
        assert illegible(parity.draw(found)) == []


@pytest.mark.parametrize("width_in", WIDTHS_IN, ids=str)
def test_text_of_a_fit_is_legible(width_in: float | None):
    bounds = {"collective_matmul_efficiency": (0.3, 1.0, ""), "op_overhead": (0.0, 6.0, "us"), "unused": (0.0, 1.0, "")}
    constants = {
        name: Constant(fields=[f"stack.{name}"], low=low, high=high, unit=unit)
        for name, (low, high, unit) in bounds.items()
    }
    series = tuple(
        Series(f"figure {i}, PaLM 540B multi-query", {f"{i}": 0.1 * i}, {} if i else {f"{i}": 0.2}, "too few" * (i > 1))
        for i in range(3)
    )
    free = Direction({"collective_matmul_efficiency": -0.2, "op_overhead": 1.0}, 0.03)
    unused = Direction({"unused": 0.25}, 0.02)
    fit = Fit(
        suite="pope",
        kind="scenarios",
        constants=constants,
        values=dict(zip(constants, (0.99, 0.01, 0.5), strict=True)),
        standard_errors=dict(zip(constants, (0.2, 0.5, float("inf")), strict=True)),
        residuals={},
        evaluations=1,
        settled=True,
        determinations=(Determination(tuple(constants), float("inf"), 0.02, (free, unused)),),
        series=series,
    )
    with page_width(width_in):
        assert illegible(calibration.draw(fit)) == []


@pytest.mark.slow
@pytest.mark.parametrize("width_in", WIDTHS_IN, ids=str)
def test_text_of_a_waterfall_is_legible(width_in: float | None):
    (found,) = explain(run(load.scenario("palm540b_decode_ws2d", ["engine.layers=2"])))
    with page_width(width_in):
        assert illegible(waterfall.draw(found, "with engine.layers=2")) == []


@pytest.mark.parametrize("width_in", WIDTHS_IN, ids=str)
def test_text_of_a_sweep_is_legible(width_in: float | None):
    lines = tuple(
        figure.Line(f"weight_gathered_{name}", (64.0, 4096.0, 2.0**20), (3.0, 2.0, i + 1.0), (2.0,) * 3, (True,) * 3)
        for i, name in enumerate(("x", "xy", "xyz"))
    )
    marks = (figure.Mark(512.0, "x / xy"), figure.Mark(2.0**17, "xy / xyz"))
    made = figure.Chart("palm540b_prefill_ws2d: step against batch", "tokens", "step, ms", "xy", lines, marks)
    with page_width(width_in):
        assert illegible(figure.draw(made)) == []


@pytest.mark.parametrize("is_bold", [False, True], ids=["normal", "bold"])
@pytest.mark.parametrize("width_in", WIDTHS_IN, ids=str)
def test_text_is_as_wide_as_it_is_measured(width_in: float | None, is_bold: bool):
    text = "simulated within 1.7 points in the median: 76 of llama3_70b_tp8"  # no letters that are set closer
    with page_width(width_in), shared_style():
        made = new_figure(8.0, 1.0)
        weight = "bold" if is_bold else "normal"
        for size in (6.0, 7.02, 8.4, 10.8):
            drawn = made.text(0.0, 0.5, text, fontsize=size, fontweight=weight).get_window_extent()
            # what is drawn ends with the last letter, not with the air behind it
            assert drawn.width / made.dpi == pytest.approx(text_width(text, size, is_bold=is_bold), rel=0.01)


def test_lines_are_as_long_as_fits_and_long_names_break_at_their_parts():
    width_in = text_width("llama3_70b_tp8_ladder", 8.0)
    assert wrap("decode of llama3_70b_tp8_ladder now", width_in, 8.0) == "decode of\nllama3_70b_tp8_ladder\nnow"
    assert wrap("of llama3_70b_tp8_ladder_residual now", width_in, 8.0) == "of llama3_70b_tp8_\nladder_residual now"
    assert "".join(wrap("W" * 40, width_in, 8.0).split("\n")) == "W" * 40
    assert all(text_width(line, 8.0) <= width_in for line in wrap("W" * 40, width_in, 8.0).split("\n"))
    assert wrap("a\n\nb", width_in, 8.0) == "a\n\nb"


def test_a_figure_of_a_page_has_its_width_and_letters_of_six_points_at_least():
    with page_width(COLUMN_IN):
        assert timeline.draw(*two_chips()).get_figwidth() == COLUMN_IN
        assert points(6.5) == 6.0
    assert points(6.5) == 6.5


@pytest.mark.slow
def test_a_pdf_has_truetype_outlines_and_the_same_bytes(tmp_path: Path):
    trace, machine = two_chips()
    paths = [
        write_figure(lambda: timeline.draw(trace, machine), tmp_path / name, FigureForm(("pdf",)))[0] for name in "ab"
    ]
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert b"/Type3" not in first
    assert b"/CIDFontType2" in first or b"/TrueType" in first


def test_text_of_an_svg_stays_text(tmp_path: Path):
    save(timeline.draw(*two_chips(), title="by hand"), tmp_path / "figure.svg")
    assert ">by hand</text>" in (tmp_path / "figure.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("width_in", WIDTHS_IN, ids=str)
def test_text_of_two_runs_one_above_the_other_is_legible(width_in: float | None):
    names = "llama3_70b_tp8_standard", "llama3_70b_tp8_ladder"
    (a,), (b,) = (result(name).passes for name in names)
    sides = [comparison.Side(name, part.trace, part.topology) for name, part in zip(names, (a, b), strict=True)]
    with page_width(width_in):
        assert illegible(comparison.draw(sides, a.span, "A above B")) == []
