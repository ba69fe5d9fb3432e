"""Figures of sweeps: what is drawn is what was measured, and the shipped ones reproduce the paper's orderings."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.plots.figure import Chart, Line, Mark, draw, draw_panels
from sim.plots.style import save, shared_style
from sim.specs import load
from sim.studies.sweep import chart, points, published, rows
from sim.studies.sweep.rows import Figures, Outcome, Row
from sim.studies.validate.csv_rows import Row as CsvRow

SWEEPS = [name for name in load.shipped("scenario") if load.scenario(name).sweep]
DRAWN = [name for name in SWEEPS if chart.figure_of(load.scenario(name), list(load.scenario(name).sweep))]
"""Not those over variants alone, which are tables."""
POPE = [name for name in load.shipped("scenario") if name.startswith("pope_")]


def line(label: str = "a", **changes) -> Line:
    values = {"x": (1.0, 2.0, 4.0), "y": (3.0, 2.0, 1.0), "closed_form": (2.0, 1.0, 0.5), "fits": (True,) * 3}
    return Line(label, **(values | changes))


def drawn(*lines: Line, log: str = "", marks: tuple[Mark, ...] = ()) -> Chart:
    return Chart("title", "batch", "latency, s", log, lines, marks)


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_a_line_is_simulated_with_markers_closed_form_dashed_and_published_hollow():
    (axes,) = draw(drawn(line(published=((1.0, 2.5),)))).axes
    form, simulated, paper = axes.get_lines()
    assert (form.get_marker(), form.is_dashed()) == ("None", True)
    assert list(form.get_ydata()) == [2.0, 1.0, 0.5]
    assert (simulated.get_marker(), simulated.get_linestyle()) == ("o", "-")
    assert list(simulated.get_ydata()) == [3.0, 2.0, 1.0]
    assert (paper.get_linestyle(), paper.get_markerfacecolor()) == ("None", "none")
    assert paper.get_markersize() > simulated.get_markersize()
    assert form.get_color() == simulated.get_color() == paper.get_color()


def test_two_lines_differ_in_colour_and_in_marker():
    (axes,) = draw(drawn(*(line(str(i)) for i in range(7)))).axes
    simulated = axes.get_lines()[1::2]
    looks = {(each.get_color(), each.get_marker()) for each in simulated}
    assert len(looks) == len({each.get_color() for each in simulated}) == 7


def test_panels_have_axes_of_their_own_and_a_line_looks_the_same_in_each():
    made = draw_panels({"left": drawn(line("a"), line("b")), "right": drawn(line("b"), line("c", fits=(True,) * 3))})
    left, right = made.axes
    assert [axes.get_title(loc="left") or axes.get_title() for axes in made.axes] == ["left", "right"]
    assert left.get_lines()[3].get_color() == right.get_lines()[1].get_color()
    assert len({each.get_color() for axes in made.axes for each in axes.get_lines()}) == 3
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()][:3] == ["a", "b", "c"]


def test_panels_are_an_axis_of_the_sweep_without_published_points():
    with pytest.raises(InputError, match=r"figure\.panels: must be an axis of the sweep, got 'nothing'"):
        load.scenario("overlap_decode", ["figure.panels=nothing"])
    scenario = load.scenario("overlap_decode", ["figure.published={Ladder: [d2-decode-b4-lat]}"])
    with pytest.raises(InputError, match=r"figure\.panels: is not supported with published or predictions"):
        chart.figure_of(scenario, list(scenario.sweep))


def test_the_legend_covers_nothing_and_explains_what_is_there():
    made = draw(drawn(line(published=((1.0, 2.5),), fits=(True, True, False)), line("b"), marks=(Mark(2.0, "x"),)))
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts() if text.get_text()] == [
        "a",
        "b",
        "simulated",
        "closed form, the paper's",
        "published",
        "does not fit in memory",
        "equal volumes, closed form",
    ]
    with shared_style():
        made.canvas.draw()
    assert legend.get_window_extent().x0 >= made.axes[0].get_window_extent().x1


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
@pytest.mark.parametrize("count", [1, 3])
def test_any_axes_and_any_number_of_points_can_be_drawn(tmp_path, log, count):
    nothing = (math.nan,) * count
    one = line(x=(1.0, 2.0, 4.0)[:count], y=(3.0, 2.0, 1.0)[:count], closed_form=nothing, fits=(True,) * count)
    save(draw(drawn(one, log=log)), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0


def test_every_value_of_x_is_named_in_full():
    (axes,) = draw(drawn(line(x=(64.0, 131072.0, 2097152.0)), log="x")).axes
    assert [axes.xaxis.get_major_formatter()(x, 0) for x in axes.xaxis.get_majorticklocs()] == ["64", "128Ki", "2Mi"]


# --- the shipped figures ---------------------------------------------------------------------------------------------


def outcomes(name: str, **choices: str) -> dict[tuple[str, ...], Outcome]:
    """Outcomes of some points of a shipped sweep; of an axis named by its last part only the `|`-separated values."""
    base = load.scenario(name)
    wanted = {axis: choices[axis.rpartition(".")[2]].split("|") for axis in base.sweep}
    found = {}
    for point in points.list_points(base):
        if all(point.choices[axis] in values for axis, values in wanted.items()):
            row = rows.run_point(name, point)
            assert row.error is None
            found[tuple(point.choices.values())] = row.outcome
    return found


@pytest.mark.parametrize("name", POPE)
def test_a_scenario_of_the_paper_loads_and_cites_it(name):
    scenario = load.scenario(name)
    assert scenario.name == name
    assert "Pope et al. 2022" in scenario.description
    assert scenario.sweep or scenario.reference


@pytest.mark.parametrize("name", SWEEPS)
def test_every_point_of_a_shipped_sweep_is_a_good_scenario(name):
    for point in points.list_points(load.scenario(name)):
        load.scenario(name, point.settings)


@pytest.mark.parametrize("name", DRAWN)
def test_published_points_stand_at_points_that_are_swept(name):
    scenario = load.scenario(name)
    figure = chart.figure_of(scenario, list(scenario.sweep))
    assert figure is not None
    if figure.x not in scenario.sweep:
        return
    beside = published.published_points(figure).values()
    if not beside:  # a sweep over quantities with units has no published points
        return
    swept = set(map(float, scenario.sweep[figure.x]))
    for points_beside in beside:
        assert {x for x, _ in points_beside} <= swept


@pytest.mark.parametrize("name", DRAWN)
def test_a_shipped_figure_is_drawn_with_its_published_points(name, tmp_path: Path):
    scenario = load.scenario(name)
    axes = list(scenario.sweep)
    figure = chart.figure_of(scenario, axes)
    planned = points.list_points(scenario)
    first = rows.run_point(name, planned[0])
    assert first.error is None
    made = [
        Row(point.choices, first.outcome) for point in planned
    ]  # one outcome stands for all: only drawing is tested
    panels = chart.build_panels(scenario, figure, made)
    drawn_lines = [line for panel in panels.values() for line in panel.lines]
    assert sum(len(each.published) for each in drawn_lines) == sum(map(len, figure.published.values()))
    lines = len({chart.line_of(figure, row) for row in made})
    shown = len(planned) if figure.relative_to is None else len(planned) * (lines - 1) // lines  # but the baseline
    assert sum(len(each.x) for each in drawn_lines) == shown
    save(draw_panels(panels), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_figure_6_more_chips_are_faster_and_two_dimensions_scale_further():
    step = {
        key: outcome.simulated.step_s
        for key, outcome in outcomes(
            "pope_fig6_1d_2d",
            ffn="1D weight-stationary|2D weight-stationary",
            topology="4x4x4|8x4x4|4x8x8",
        ).items()
    }
    for ffn in ("1D weight-stationary", "2D weight-stationary"):
        small, middle, large = (step[ffn, mesh] for mesh in ("4x4x4", "8x4x4", "4x8x8"))
        assert small > middle > large
    assert step["2D weight-stationary", "8x4x4"] < step["1D weight-stationary", "8x4x4"]
    assert step["2D weight-stationary", "4x8x8"] < step["1D weight-stationary", "4x8x8"]


def test_figure_7_gathered_weights_win_at_large_batches_only():
    mfu = {
        key: outcome.simulated.mfu
        for key, outcome in outcomes(
            "pope_fig7_weight_gathered", layout="2D weight-stationary|weight-gathered XYZ", batch="64|512"
        ).items()
    }
    stationary, gathered = ([mfu[name, b] for b in ("64", "512")] for name in dict.fromkeys(k[0] for k in mfu))
    assert gathered[0] < stationary[0]
    assert gathered[1] > stationary[1]


def test_figure_8_only_attention_over_batch_stays_flat_with_the_context():
    step = {
        key: outcome.simulated.step_s
        for key, outcome in outcomes(
            "pope_fig8_attention",
            attention="multi-query, batch|multi-query, heads|multi-head",
            context="128|8192",
        ).items()
    }
    assert step["multi-query, batch", "8192"] < 1.3 * step["multi-query, batch", "128"]
    assert step["multi-query, heads", "8192"] > 3 * step["multi-query, heads", "128"]
    assert step["multi-head", "8192"] > 3 * step["multi-head", "128"]


def test_the_more_tokens_the_more_axes_the_weights_are_gathered_over():
    found = outcomes(
        "pope_crossover",
        layout="2D weight-stationary|weight-gathered X|weight-gathered XY|weight-gathered XYZ",
        prompt="4|4096",
    )
    ends = [
        {name: outcome.simulated.latency_s for (name, p), outcome in found.items() if p == at} for at in ("4", "4096")
    ]
    few, many = (min(end, key=end.__getitem__) for end in ends)
    assert (few, many) == ("2D weight-stationary", "weight-gathered XYZ")
    assert list(ends[0].values()) == sorted(ends[0].values())  # at few tokens each further axis costs more


def test_the_crossovers_are_those_of_the_papers_volumes():
    marks = chart.build_chart(load.scenario("pope_crossover"), load.scenario("pope_crossover").figure, []).marks
    assert [(mark.label.replace("\n", " "), mark.x) for mark in marks] == [
        ("2D = X", 18432),  # E
        ("X = XY", 73728),  # F X^2 Y / n
        ("2D = XYZ", 147456),  # E F / (E/X + F/(Y Z))
        ("XY = XYZ", 884736),  # F X Y (n - X Y) / n
    ]


# --- speed-ups -------------------------------------------------------------------------------------------------------


def _of(label: str, batch: str, latency_s: float, form_s: float) -> Row:
    def figures(seconds: float) -> Figures:
        return Figures(seconds, seconds, None, seconds, 1 / seconds, 0.1, 8 * seconds)

    outcome = Outcome(8, 1, figures(latency_s), 0.0, True, 1.0, figures(form_s), None)
    return Row({"scheme": label, "workload.batch": batch}, outcome)


def test_a_speed_up_is_over_the_baseline_of_its_own_panel():
    """Ladder takes 1 s, standard 2 s in one panel and 3 s in the other."""
    scenario = load.scenario("llama3_70b_tp8_schemes")
    figure = scenario.figure.model_copy(update={"x": "tokens", "y": "latency", "panels": "workload.batch"})
    steps = {("standard", "1"): 2.0, ("ladder", "1"): 1.0, ("standard", "4"): 3.0, ("ladder", "4"): 1.0}
    panels = chart.build_panels(scenario, figure, [_of(*which, step, step) for which, step in steps.items()])
    assert {label: [(each.label, each.y) for each in panel.lines] for label, panel in panels.items()} == {
        "1": [("ladder", (2.0,))],
        "4": [("ladder", (3.0,))],
    }


@pytest.mark.parametrize("y", ["latency", "tpot", "tokens_per_s", "cost"])
def test_a_speed_up_is_more_than_1_of_times_and_of_rates_alike(y: str):
    """Ladder takes 2 s where standard takes 3: 1.5 times as fast; by the closed form 1 s and 2 s: twice."""
    scenario = load.scenario("llama3_70b_tp8_schemes")
    figure = scenario.figure.model_copy(update={"y": y})
    rows = [_of("standard", "1", 3.0, 2.0), _of("ladder", "1", 2.0, 1.0), _of("ladder", "4", 2.0, 1.0)]
    made = chart.build_chart(scenario, figure, rows)
    (ladder,) = made.lines  # the baseline itself would be a line at 1, which is marked
    assert made.equal_at == 1
    assert "speed-up over standard" in made.y_label
    assert made.form == "closed form, per sublayer"
    assert ladder.y[0] == pytest.approx(1.5)
    assert ladder.closed_form[0] == pytest.approx(2.0)
    assert math.isnan(ladder.y[1])  # nothing to compare with at this batch


def test_the_baseline_of_a_figure_must_be_one_of_its_lines():
    scenario = load.scenario("llama3_70b_tp8_schemes", ["figure.relative_to=laddr"])
    with pytest.raises(InputError, match=r"must be a line.*ladder"):
        chart.figure_of(scenario, list(scenario.sweep))


def test_where_the_baseline_is_not_swept_the_figure_shows_what_there_is():
    """All schemes but one are set away: no line to compare with, so values as they are."""
    scenario = load.scenario("llama3_70b_tp8_schemes")
    figure = chart.figure_of(scenario, ["workload.batch"])
    assert figure.relative_to is None
    assert figure.lines == ()


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        (["0.5 us", "64 us"], (1e-6, "us")),
        (["1 ms", "2 us"], (1e-3, "ms")),
        (["31 GB/s", "0.45 TB/s"], (1e9, "GB/s")),
        ([1, 64], (1.0, "")),
    ],
)
def test_the_unit_of_the_x_axis_is_one_to_read_in(values, unit):
    assert chart._x_unit(values) == unit


# --- words -----------------------------------------------------------------------------------------------------------


def test_the_latency_of_a_link_is_not_that_of_the_run():
    sets = ["sweep={topology.link.latency: [1 us, 2 us]}"]
    scenario = load.scenario("palm540b_decode_ws2d", sets)
    made = chart.build_chart(scenario, chart.figure_of(scenario, list(scenario.sweep)), [])
    assert (made.x_label, made.y_label) == ("link latency, us", "latency of all steps, s")


def test_stalls_stand_beside_their_formula_and_variants_named_by_numbers_on_an_axis():
    """24 layers of which every fourth is fetched from the host: its figure is drawn over the number of layers."""
    scenario = load.scenario("pmep_gpt3_host")
    planned = [point for point in points.list_points(scenario) if point.choices["layers"] in ("20", "24")][:2]
    made = chart.build_chart(scenario, scenario.figure, [rows.run_point("pmep_gpt3_host", point) for point in planned])
    (one,) = made.lines
    assert (made.x_label, one.x) == ("layers", (20.0, 24.0))
    assert one.y[1] > 100  # PCI Express does not hide 8 sequences
    assert one.y == pytest.approx(one.closed_form, rel=0.02)


def test_the_tokens_of_a_published_total_are_those_of_prefill_and_decoding():
    """2 sequences of 80 and 20 tokens on 4 chips in 10 s: 200 tokens, a prefill and 20 steps."""
    case = {"batch": "2", "chips": "4", "input_tokens": "80", "context_tokens": "80", "generated_tokens": "20"}
    case |= {"metric": "latency_s", "value": "10"}

    def figures(phase: str, *names: str) -> list[float]:
        return [published.y_of(CsvRow(case | {"phase": phase}, "rows"), name) for name in names]

    names = "tokens_per_s", "cost", "step"
    assert figures("total", *names, "latency") == [200 / 10, 4 * 10 / 200, 10 / 21, 10]
    assert figures("prefill", *names, "ttft") == [160 / 10, 4 * 10 / 160, 10, 10]
    assert figures("decode_total", *names, "tpot") == [40 / 10, 4 * 10 / 40, 10 / 20, 10 / 20]
    assert figures("decode_step", *names, "tpot") == [2 / 10, 4 * 10 / 2, 10, 10]
    for name in ("ttft", "tpot"):
        with pytest.raises(InputError, match=f"phase total, has no '{name}'"):
            figures("total", name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "totals"}, "unknown phase, got 'totals'; did you mean 'total'?"),
        ({"value": "0"}, "column 'value' must be a number above 0, got '0'"),
        ({"batch": "two"}, "column 'batch' must be a number above 0, got 'two'"),
    ],
)
def test_a_published_row_that_is_wrong_is_refused(change: dict[str, str], message: str):
    case = {"phase": "total", "batch": "2", "chips": "4", "input_tokens": "80", "generated_tokens": "20"}
    with pytest.raises(InputError) as caught:
        published.y_of(CsvRow(case | {"metric": "latency_s", "value": "10"} | change, "rows"), "cost")
    assert str(caught.value) == f"rows: {message}"
