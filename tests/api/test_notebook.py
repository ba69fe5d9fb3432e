"""What a notebook shows: one line or one screen per result, figures, frames, and the studies of the command line."""

import sys

import pytest
from matplotlib.figure import Figure

from sim import api
from sim.errors import InputError
from sim.lowering.placement import mesh_of
from sim.studies.search import Work

SCREEN = 24 * 200
"""Characters of a screen."""


@pytest.fixture(scope="module")
def run():
    return api.simulate(api.load("palm540b_decode_ws2d", "engine.layers=4"))


@pytest.fixture(scope="module")
def generation():
    return api.simulate(api.load("llama3_70b_tp8_generate", "engine.layers=3", "engine.steps=mean"))


def test_every_result_is_shown_on_one_screen(run, generation):
    part = run.passes[0]
    for shown in (run, generation):
        assert len(repr(shown)) < SCREEN
        assert len(repr(shown).splitlines()) <= 24
    for shown in (part, part.part, part.part.program, part.topology, mesh_of(run.scenario), part.lowered, run.report):
        assert len(repr(shown)) < 500, type(shown)
        assert "\n" not in repr(shown)
    assert "tpu_v4_4x4x4, 64 chips: latency 77.9 ms" in repr(run.report)


def test_run_and_report_show_different_things(run):
    assert "exposed" in run.report._repr_html_()
    assert run.report.shortcuts[0] in run._repr_html_()
    assert run.report.shortcuts[0] not in run.report._repr_html_()


@pytest.mark.parametrize("figure", ["timeline", "breakdown", "links", "roofline"])
def test_a_run_draws_its_figures(run, figure: str):
    assert isinstance(run.plot(figure), Figure)


def test_a_figure_that_is_not_there_is_one_line(run, generation):
    assert isinstance(generation.plot("breakdown", phase="prefill"), Figure)
    for arguments, said in (
        (("timelin",), "links_over_time, shards, got 'timelin'; did you mean 'timeline'"),
        (("timeline", "prefill"), "phase must be one of decode, got 'prefill'"),
        (("memory",), "the run has nothing to show in figure 'memory'"),
    ):
        with pytest.raises(InputError, match=said):
            run.plot(*arguments)


def test_frames_hold_the_figures_of_the_report(run, generation):
    pytest.importorskip("pandas")
    frames = run.to_pandas()
    assert list(frames.ops["op"]) == [op.op for op in run.report.ops]
    assert len(frames.links) == 64 * 6
    assert frames.links["utilisation"].max() == run.report.links.utilisation
    assert frames.links["bytes"].sum() == run.report.links.total_bytes
    path = frames.critical_path
    assert path["end_s"].iloc[-1] == pytest.approx(run.report.simulated.step_s)
    assert (path["start_s"].iloc[1:].to_numpy() == path["end_s"].iloc[:-1].to_numpy()).all()
    assert set(generation.to_pandas().ops["phase"]) == {"prefill", "decode"}


def test_without_pandas_it_says_so(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="requires pandas; pip install"):
        run.to_pandas()


def test_runs_are_explained_and_compared(run):
    (explanation,) = api.explain(run)
    assert explanation.step_s == pytest.approx(run.report.simulated.step_s)
    other = api.simulate(api.load("palm540b_decode_ws2d", "engine.layers=4", "layout.overlap=none"))
    comparison = api.compare(run, other)
    for shown in (explanation, comparison):
        assert len(repr(shown)) < 500
        assert shown._repr_html_().startswith("<table>")


def test_a_sweep_has_rows_a_figure_and_a_frame():
    sweep = api.sweep("pope_fig8_attention", "engine.layers=2")
    assert repr(sweep).endswith(f"{len(sweep.rows)} of {len(sweep.rows)} points run)")
    assert sweep._repr_html_().startswith("<pre>")
    assert isinstance(sweep.plot(), Figure)
    pytest.importorskip("pandas")
    frame = sweep.to_pandas()
    assert list(frame["latency_s"]) == [row.outcome.simulated.latency_s for row in sweep.rows]


@pytest.mark.slow
def test_a_search_and_a_validation_show_themselves():
    found = api.search(Work("llama3_8b", "decode", [8]), ["tpu_v5e_2x4"])
    assert len(repr(found)) < 500
    assert found._repr_html_().startswith("<table>")
    result = api.validate("pope")
    assert len(repr(result)) < 500
    assert result._repr_html_().startswith("<table>")


def test_plugins_are_given_to_load(tmp_path):
    (tmp_path / "form.py").write_text("from sim.plugins import closed_form\n@closed_form\ndef guess(s): return 0.5\n")
    scenario = api.load("palm540b_decode_ws2d", "engine.layers=2", plugins=[tmp_path / "form.py"])
    assert api.simulate(scenario).report.plugin_forms == {"guess": 0.5}
    assert not api.load("palm540b_decode_ws2d").plugins
