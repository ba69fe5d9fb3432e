"""Figures of a run: drawn again from what was written, the same bytes, in every format."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from support.files import write
from typer.testing import CliRunner

from sim.cli import build_app
from sim.errors import InputError
from sim.lowering.placement import mesh_of
from sim.plots import node_link
from sim.plots.style import shorten, text_width
from sim.results import figures as pictures
from sim.results import folder as outputs
from sim.results.analysis import Analysis
from sim.simulate.run import find_bottlenecks, run
from sim.specs import load

OPTIONAL = {"memory": "memory_pool:", "stages": "pipeline:", **dict.fromkeys(pictures.OF_EXPERTS, "experts:")}
"""Figures of scenarios that have these."""
DRAWN = [name for name in pictures.FIGURES if name not in OPTIONAL]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a small scenario, with everything in it."""
    folder: Path = tmp_path_factory.mktemp("run")
    scenario = str(write(folder))
    options = ["--out", str(folder / "out"), "--critical-path", "--explain", "--format", "png,svg"]
    done = CliRunner().invoke(build_app(()), ["run", scenario, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / "out" / "tiny"


@pytest.mark.slow
def test_every_figure_is_written_in_every_format(results: Path):
    for name in (*DRAWN, "waterfall"):
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / f"{name}.svg").read_text().startswith("<?xml")


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_drawn_again_has_the_same_bytes(results: Path, name: str):
    before = {suffix: (results / f"{name}.{suffix}").read_bytes() for suffix in ("png", "svg")}
    done = CliRunner().invoke(
        build_app(()), ["plot", str(results), name, "--format", "png,svg"], catch_exceptions=False
    )
    assert done.output.split() == [str(results / f"{name}.{suffix}") for suffix in ("png", "svg")]
    assert {suffix: (results / f"{name}.{suffix}").read_bytes() for suffix in ("png", "svg")} == before


def test_a_run_read_back_is_the_run(results: Path):
    again = outputs.read(results)
    report = json.loads((results / "report.json").read_text())
    report.pop("critical_path")
    assert json.loads(json.dumps(again.report.to_dict())) == report


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with settings."""
    folder: Path = tmp_path_factory.mktemp("changed")
    options = ["--out", str(folder / "out"), "--explain", "--format", "svg", "--set", "workload.batch=32"]
    done = CliRunner().invoke(build_app(()), ["run", str(write(folder)), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return folder / "out" / "tiny,workload.batch=32"


@pytest.mark.parametrize("name", [*DRAWN, "waterfall"])
def test_figures_name_the_settings_of_their_run(results: Path, changed: Path, name: str):
    assert "with workload.batch=32" in (changed / f"{name}.svg").read_text()
    assert "workload.batch=" not in (results / f"{name}.svg").read_text()


def test_settings_are_read_back_and_stand_on_the_page(changed: Path):
    again = outputs.read(changed)
    assert again.settings == ("workload.batch=32",)
    assert "<title>tiny with workload.batch=32</title>" in (changed / "report.html").read_text()


def test_a_long_line_below_a_title_is_cut_where_the_figure_ends():
    room_in = text_width("a" * 15, 8.5)
    assert shorten("a" * 15, room_in, 8.5) == "a" * 15
    cut = shorten("a" * 16, room_in, 8.5)
    assert set(cut[:-1]) == {"a"}
    assert cut[-1] == "…"
    assert text_width(cut, 8.5) <= room_in < text_width(f"a{cut}", 8.5)


@pytest.mark.parametrize("chips", [2, 8])
def test_boxes_of_switches_stay_apart(chips: int):
    """Also of a machine of which some chips are used: its other switches stand above one another."""
    topology = mesh_of(load.scenario("energonai_gpt3_drce", [f"layout.mesh.tensor={chips}"]))
    boxes = [node for node in node_link.drawing(topology).nodes if node.half_width is not None]
    for one, other in itertools.combinations(boxes, 2):
        if one.at[1] == other.at[1]:
            assert abs(one.at[0] - other.at[0]) > one.half_width + other.half_width


@pytest.mark.parametrize("scenario", ["palm540b_prefill_ws2d_b1"])
def test_times_read_back_are_those_simulated(tmp_path: Path, scenario: str):
    done = run(load.scenario(scenario, ["engine.layers=1"]))
    outputs.write(done, tmp_path, figure_form=None)
    again = outputs.read(tmp_path)
    assert np.array_equal(again.passes[0].trace.times, done.passes[0].trace.times)
    assert again.report == done.report


def test_the_critical_path_in_the_report_is_as_long_as_the_step(results: Path):
    report = json.loads((results / "report.json").read_text())
    (found,) = report["critical_path"]
    assert found["step_s"] == report["simulated"]["step_s"]
    for group in ("causes", "ops"):
        assert sum(share["time_s"] for share in found[group]) == pytest.approx(found["step_s"], rel=1e-12)
    saved = [each["saved_s"] for each in found["what_if"]]
    assert saved == sorted(saved, reverse=True)


def test_what_is_no_run_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="must hold the results of a run"):
        outputs.read(tmp_path)
    with pytest.raises(InputError, match="nowhere: no such folder; write them with `sim run`"):
        outputs.read(tmp_path / "nowhere")


def test_unknown_figures_and_formats_are_named(results: Path):
    with pytest.raises(InputError, match="no such figure, got 'timelime'; there are timeline"):
        CliRunner().invoke(build_app(()), ["plot", str(results), "timelime"], catch_exceptions=False)
    with pytest.raises(InputError, match="no such format, got 'gif'; there are png, svg, pdf"):
        CliRunner().invoke(build_app(()), ["plot", str(results), "--format", "gif"], catch_exceptions=False)


def test_a_chip_without_links_is_run_drawn_and_read_back(tmp_path: Path):
    alone = {"x": {"size": 1, "wrap": False}, "y": {"size": 1, "wrap": False}}
    done = run(load.scenario(str(write(tmp_path, {"topology.axes": alone}))))
    (tmp_path / "out").mkdir()
    outputs.write(done, tmp_path / "out", figure_form=pictures.FigureForm())
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {f"{name}.png" for name in DRAWN}
    assert outputs.read(tmp_path / "out").report == done.report
    assert done.report.links.busiest == ()


GPUS = """
name: gpus
topology: dgx_h100
model: palm_8b
workload: {phase: decode, batch: 8, context: 64, generate: 2, weights: fp16, activations: fp16, kv_cache: fp16}
layout: {ffn: tensor_parallel, attention: heads}
engine: {layers: 4}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("dgx_h100", "dgx1_v100"),
        ("engine:", "memory_pool: {offload_every: 2, to: host, prefetch_layers: 1, link: pcie_gen5_x16}\nengine:"),
        ("heads}", "heads, mesh: {tensor: 4, pipeline: 2}, pipeline: {schedule: non_blocking}}"),
    ],
    ids=["switch", "graph", "memory_pool", "pipeline"],
)
def test_figures_and_page_of_every_kind_of_run(tmp_path: Path, old: str, new: str):
    scenario = tmp_path / "gpus.yaml"
    scenario.write_text(GPUS.replace(old, new) if old else GPUS)
    done = run(load.scenario(str(scenario)))
    drawn = pictures.draw(done, tmp_path, pictures.FigureForm(), Analysis(bottlenecks=find_bottlenecks(done)))
    expected = {f"{name}.png" for name in pictures.FIGURES if OPTIONAL.get(name, "") in new}
    assert {path.name for path in drawn} == expected | {"report.html"}
