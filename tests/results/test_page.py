"""The page in a real browser: it opens without a network, shows the report's numbers, zooms, and says no errors."""

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from support.files import write
from typer.testing import CliRunner

from sim.api import load, report, simulate
from sim.cli import build_app
from sim.plots.colours import OP_COLOURS
from sim.program import Kind
from sim.report.critical_path import find_critical_path
from sim.report.ops import classify_ops
from sim.report.present.comparison import describe_speedup
from sim.units import format_percent, format_seconds

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
AFTER = "tiny,workload.batch=8,layout.overlap=collective_matmul"
in_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")


def sim(*arguments: str) -> None:
    done = CliRunner().invoke(build_app(()), list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of two runs and their comparison."""
    folder: Path = tmp_path_factory.mktemp("pages")
    scenario = str(write(folder))
    sim("run", scenario, "--out", str(folder), "--critical-path", "--explain")
    sim("run", scenario, "--out", str(folder), "--set", "workload.batch=8", "--set", "layout.overlap=collective_matmul")
    sim("compare", str(folder / "tiny"), str(folder / AFTER), "--out", str(folder))
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as drive:
        started = drive.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Page:
    """A page without a network, and what went wrong on it."""

    def __init__(self, browser: Any, path: Path, width: int = 1280) -> None:
        self.errors: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.context.set_offline(True)
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requested(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=60_000)

    def said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    def requested(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.errors.append(f"asks the network for {url}")

    def metric(self, label: str) -> str:
        return str(self.page.inner_text(f'[data-metric="{label}"]'))

    def span(self, timeline: str = "timeline") -> float:
        return float(self.page.get_attribute(f"#{timeline}", "data-span"))


@in_browser
def test_the_page_shows_the_numbers_of_the_report(out: Path, browser: Any):
    found = Page(browser, out / "tiny" / "report.html")
    report = json.loads((out / "tiny" / "report.json").read_text())
    assert found.metric("latency") == format_seconds(report["simulated"]["latency_s"])
    assert found.metric("MFU") == format_percent(report["simulated"]["mfu"])
    causes = report["critical_path"][0]["causes"]
    assert found.page.locator("#causes tbody tr").count() == len(causes)
    shares = [float(text.rstrip("%")) for text in found.page.locator("#causes td.bar span").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares) + 1e-9)  # each is printed with one decimal
    assert found.page.locator("#whatif tbody tr").count() == len(report["critical_path"][0]["what_if"])
    assert found.errors == []


@in_browser
def test_the_areas_of_the_whole_step_are_shares_of_its_time(tmp_path: Path, browser: Any):
    """The lane of the critical path, ten pixels for each of 118 layers: a colour covers what its class takes."""
    run = simulate(load("palm540b_decode_ws2d"))
    report(run, page=tmp_path / "report.html")
    path, program = find_critical_path(run.passes[0].trace), run.passes[0].trace.program
    taken = np.bincount(classify_ops(program)[program.op[path.task]] == "matmul", weights=path.length)
    page = Page(browser, tmp_path / "report.html").page
    page.click("#zoom-whole")
    plot = page.locator("#timeline .nsewdrag").first.bounding_box()
    tick = page.locator("#timeline .ytick text", has_text="critical path").bounding_box()
    height, top = 24, page.evaluate("window.scrollY")  # its bars are as high; timeline.js
    middle = top + tick["y"] + tick["height"] / 2
    box = {"x": plot["x"], "y": middle - height / 2, "width": plot["width"], "height": height}
    image = plt.imread(io.BytesIO(page.screenshot(clip=box, full_page=True)))[..., :3]
    blue = np.abs(image - np.array(to_rgb(OP_COLOURS["matmul"]))).max(axis=2) < 0.1
    drawn = (image < 0.97).any(axis=2)
    assert blue.sum() / drawn.sum() == pytest.approx(taken[1] / taken.sum(), abs=0.02)


@in_browser
def test_the_waterfall_has_groups_with_totals_reasons_and_the_published_line(tmp_path: Path, browser: Any):
    sim("run", "pope_table2_low_latency_decode", "--out", str(tmp_path), "--explain")
    folder = tmp_path / "pope_table2_low_latency_decode"
    (explained,) = json.loads((folder / "explain.json").read_text())
    page = Page(browser, folder / "report.html").page
    rows = page.locator(".waterfall tbody tr")
    texts = [cell.split("\t") for cell in rows.all_inner_texts()]
    bars = {bar["name"]: bar["why"] for bar in explained["bars"]}
    assert bars.items() <= {row[0]: row[-1] for row in texts}.items()
    assert page.locator(".waterfall .header td:first-child").all_inner_texts() == list(
        dict.fromkeys(bar["group"] for bar in explained["bars"])
    )
    assert page.inner_text(".waterfall th b") == f"published {format_seconds(explained['published_s'])}"
    axis, step, line = (
        page.locator(name).last.bounding_box() for name in (".waterfall th.track", ".total .track i", ".track s")
    )
    measured = (line["x"] - axis["x"]) / step["width"]
    assert measured == pytest.approx(explained["published_s"] / explained["bars"][-1]["running_s"], abs=0.01)


@pytest.mark.slow
def test_a_waterfall_that_is_drawn_again_is_the_same(out: Path):
    before = {name: (out / "tiny" / name).read_bytes() for name in ("waterfall.png", "report.html")}
    sim("plot", str(out / "tiny"))
    assert before == {name: (out / "tiny" / name).read_bytes() for name in before}


@in_browser
def test_buttons_and_dragging_zoom_the_timeline(out: Path, browser: Any):
    found = Page(browser, out / "tiny" / "report.html")
    report = json.loads((out / "tiny" / "report.json").read_text())
    whole = found.span()
    assert whole == pytest.approx(report["simulated"]["step_s"] * 1e6)
    found.page.click("#zoom-in")
    assert found.span() == pytest.approx(whole / 2)
    found.page.click("#zoom-layer")
    assert 0 < found.span() < whole
    bars = found.page.locator("#timeline .barlayer .point")
    assert bars.count() > 10
    box = found.page.locator("#timeline .nsewdrag").first.bounding_box()
    before, middle = found.span(), box["y"] + box["height"] / 2
    found.page.mouse.move(box["x"] + box["width"] * 0.25, middle)
    found.page.mouse.down()
    found.page.mouse.move(box["x"] + box["width"] * 0.75, middle, steps=4)
    found.page.mouse.up()
    found.page.wait_for_function(f"+document.getElementById('timeline').dataset.span < {0.6 * before}")
    assert found.span() == pytest.approx(before / 2, rel=0.02)  # by pixels of the screen
    found.page.click("#zoom-whole")
    assert found.span() == pytest.approx(whole)
    assert found.errors == []


@in_browser
def test_a_chip_is_chosen_by_what_it_is(tmp_path: Path, browser: Any):
    run = simulate(load("energonai_pipeline_queue", "layout.pipeline.requests=3"))
    report(run, page=tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html").page
    lanes = "[...document.querySelectorAll('#timeline .ytick text')].map((text) => text.textContent.trim())"
    stages = {name.split(":")[0].split("stage ")[1] for name in page.evaluate(lanes) if "compute" in name}
    assert stages == {"0 rank 0", "1 rank 0", "2 rank 0", "3 rank 0"}
    page.select_option("#chips", index=3)
    (only,) = [name for name in page.evaluate(lanes) if "compute" in name]
    assert only.startswith("chip ")


@in_browser
def test_arrows_lead_from_messages_to_their_arrival_when_zoomed_in(tmp_path: Path, browser: Any):
    run = simulate(load("energonai_pipeline_queue", "layout.pipeline.requests=2"))
    report(run, page=tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html").page
    arrows = "document.getElementById('timeline').layout.annotations"
    page.click("#zoom-whole")
    assert page.evaluate(arrows) == []
    trace = run.passes[0].trace
    program, ends = trace.program, trace.times["end"]
    sent = int(np.flatnonzero((program.chip == 0) & (program.kind == Kind.SEND) & (program.follows < 0))[0])
    hops = np.flatnonzero(program.follows == sent)
    arrival_ms = int(ends[hops[0]] if len(hops) else ends[sent]) / 1e9
    page.evaluate(f"Plotly.relayout('timeline', {{'xaxis.range[0]': 0, 'xaxis.range[1]': {2 * arrival_ms}}})")
    page.wait_for_function(f"{arrows}.length > 0")
    drawn = page.evaluate(arrows)
    assert len(drawn) <= 40
    first = min(drawn, key=lambda arrow: arrow["ax"])
    assert first["x"] == pytest.approx(arrival_ms, rel=1e-9)
    assert first["ax"] == pytest.approx(int(trace.times["free"][sent]) / 1e9, rel=1e-9)
    assert first["y"] < first["ay"]  # its own collective: chips of a stage are alike


@in_browser
def test_pointing_at_a_bar_tells_its_operation_bytes_and_source(out: Path, browser: Any):
    found = Page(browser, out / "tiny" / "report.html")
    texts = found.page.evaluate("document.getElementById('timeline').data[0].hovertext")
    matmul = next(text for text in texts if "GFLOP" in text)
    assert "<b>q_wi</b>" in "".join(texts)
    assert re.search(r"bound", matmul)
    assert "GB/s of memory" in matmul or "TFLOP/s" in matmul
    assert any("GB/s a link" in text for text in texts)
    found.page.hover("#timeline .barlayer .point >> nth=0", force=True)
    assert found.errors == []


@in_browser
def test_a_row_per_axis_and_direction_stands_beside_the_link_map(tmp_path: Path, browser: Any):
    run = simulate(load("palm540b_decode_ws2d", "engine.layers=1"))
    report(run, page=tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html").page
    kinds = page.locator("#links td:first-child").all_inner_texts()
    assert kinds == ["x+", "x-", "y+", "y-", "z+", "z-"]
    busy = [float(row.split("\t")[3].rstrip("%")) for row in page.locator("#links tbody tr").all_inner_texts()]
    assert max(busy) == pytest.approx(100 * run.report.links.utilisation, abs=0.05)  # all links of an axis are alike


@in_browser
def test_two_runs_side_by_side_with_the_difference(out: Path, browser: Any):
    found = Page(browser, out / f"tiny_vs_{AFTER}.html")
    reports = [json.loads((out / name / "report.json").read_text()) for name in ("tiny", AFTER)]
    assert found.page.inner_text("h1") == f"A: tiny B: {AFTER}"
    shown = found.page.locator('[data-metric="latency"]').all_inner_texts()
    assert shown == [format_seconds(report["simulated"]["latency_s"]) for report in reports]
    plots = [plot.bounding_box() for plot in found.page.locator("#memory .main-svg >> visible=true").all()]
    assert len({plot["x"] for plot in plots}) == 2
    left, right = min(plots, key=lambda plot: plot["x"]), max(plots, key=lambda plot: plot["x"])
    assert left["x"] + left["width"] <= right["x"]
    fields = found.page.locator("#fields tbody tr td:first-child").all_inner_texts()
    assert fields == ["workload.batch", "layout.overlap"]
    assert found.errors == []


@in_browser
def test_the_timelines_of_two_runs_have_one_axis(out: Path, browser: Any):
    found = Page(browser, out / f"tiny_vs_{AFTER}.html")
    reports = [json.loads((out / name / "report.json").read_text()) for name in ("tiny", AFTER)]
    steps = [report["simulated"]["step_s"] for report in reports]
    assert found.page.locator("#time .plot").count() == 1
    found.page.click("#zoom-whole")
    assert found.span() == pytest.approx(max(steps) * 1e6)
    lanes = [text.strip() for text in found.page.locator("#time .ytick text").all_text_contents()]
    half = len(lanes) // 2
    assert [lane[2:] for lane in lanes[:half]] == [lane[2:] for lane in lanes[half:]]  # the same machine
    assert [lane[:2] for lane in lanes] == half * ["A "] + half * ["B "]
    texts = [text["text"] for text in found.page.evaluate("document.getElementById('timeline').layout.annotations")]
    assert f"B {steps[1] / steps[0] - 1:+.1%}" in texts
    assert describe_speedup(*steps) in found.page.inner_text("#time p")
    assert found.errors == []


@in_browser
def test_hatched_is_what_the_report_calls_exposed(out: Path, browser: Any):
    """Two layers are wide enough that every bar is drawn by itself."""
    found = Page(browser, out / f"tiny_vs_{AFTER}.html")
    reports = [json.loads((out / name / "report.json").read_text()) for name in ("tiny", AFTER)]
    found.page.click("#zoom-whole")
    hatched = found.page.evaluate("(({ x, y }) => [x, y])(document.getElementById('timeline').data[1])")
    rows = sorted(set(hatched[1]))
    lengths_us = [sum(x for x, y in zip(*hatched, strict=True) if y == row) for row in rows]
    exposed_s = [report["simulated"]["exposed_communication_s"] for report in reports]
    assert lengths_us == pytest.approx([1e6 * each for each in exposed_s])


@in_browser
def test_a_layer_of_two_runs_begins_at_once(out: Path, browser: Any):
    found = Page(browser, out / f"tiny_vs_{AFTER}.html")
    found.page.click("#zoom-layer")
    begins, rows = found.page.evaluate("(({ base, y }) => [base, y])(document.getElementById('timeline').data[2])")
    left = found.page.evaluate("document.getElementById('timeline').layout.xaxis.range[0]")
    assert [
        sum(at == pytest.approx(left) for at, row in zip(begins, rows, strict=True) if row == one)
        for one in sorted(set(rows))
    ] == [1, 1]
    assert "begin together" in found.page.inner_text("#time")
    found.page.click("#zoom-whole")
    assert "begin together" not in found.page.inner_text("#time")


@in_browser
def test_no_label_is_cut_off_and_no_name_leaves_its_node(tmp_path: Path, browser: Any):
    """Names longer than any margin: lanes make room for them, chips have numbers instead."""
    chips = [f"accelerator_with_a_long_name_{chip}" for chip in range(4)]
    machine = {
        "name": "box",
        "kind": "graph",
        "chip": "chip.yaml",
        "link_types": {"cable": "link.yaml"},
        "nodes": dict.fromkeys(chips, "chip") | {"switch_with_a_long_name": "switch"},
        "links": [{"between": [chip, "switch_with_a_long_name"], "link": "cable"} for chip in chips],
    }
    layout = {"ffn": "tensor_parallel", "attention": "heads"}
    scenario = write(tmp_path, {"topology": machine, "scenario.layout": layout, "model.kv_heads": 4})
    sim("run", str(scenario), "--out", str(tmp_path))
    page = Page(browser, tmp_path / "tiny" / "report.html").page
    lanes = page.evaluate(
        """() => [...document.querySelectorAll("#time .ytick text")].map(
            (text) => text.getBoundingClientRect().left - text.closest("svg").getBoundingClientRect().left)"""
    )
    assert len(lanes) > 3
    assert min(lanes) >= 0
    written = page.evaluate(
        """() => [...document.querySelectorAll("#links .textpoint text")].map((text) => [text.textContent,
            text.getBoundingClientRect().width])"""
    )
    circles = page.evaluate(
        """() => [...document.querySelectorAll("#links .scatterlayer .points path.point")].map(
            (path) => path.getBoundingClientRect().width)"""
    )
    assert [text for text, _ in written] == ["0", "1", "2", "3"]
    assert max(width for _, width in written) < max(circles)


@in_browser
def test_on_a_narrow_screen_tables_and_texts_under_the_pointer_are_whole(tmp_path: Path, browser: Any):
    run = simulate(load("energonai_pipeline_queue", "layout.pipeline.requests=2"))
    report(run, page=tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html", width=390).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for inside, outside in page.evaluate(
        "[...document.querySelectorAll('.wide')].map((box) => [box.scrollWidth, box.clientWidth])"
    ):
        assert inside <= outside
    page.evaluate(
        """() => {
            const lengths = document.getElementById("timeline").data[0].hovertext.map((text) => text.length);
            Plotly.Fx.hover("timeline", [{ curveNumber: 0, pointNumber: lengths.indexOf(Math.max(...lengths)) }]);
        }"""
    )
    shown = page.locator("#timeline .hoverlayer .hovertext").bounding_box()
    plot = page.locator("#timeline .main-svg").first.bounding_box()
    assert plot["x"] <= shown["x"]
    assert shown["x"] + shown["width"] <= plot["x"] + plot["width"]


@in_browser
def test_names_in_the_timeline_are_where_they_are_read(tmp_path: Path, browser: Any):
    """Those of exposed collectives stand above the hatches, those of layers in the middle of what is seen of them."""
    run = simulate(load("deepseek_v3_chunk"))
    report(run, page=tmp_path / "report.html")
    page = Page(browser, tmp_path / "report.html").page
    page.click("#zoom-layer")
    data = page.evaluate("document.getElementById('timeline').data")
    bars, hatches = ([each[key] for key in ("base", "x", "y", "width")] for each in data[:2])
    named = [bar for *bar, text in zip(*bars, data[0]["text"], strict=True) if text]
    assert any("experts" in text for text in data[0]["text"])
    for base, length, y, width in zip(*hatches, strict=True):
        for other, its_length, its_y, its_width in named:
            beside = other + its_length <= base or base + length <= other
            assert beside or abs(y - its_y) >= (width + its_width) / 2 - 1e-9
    page.click("#zoom-in")
    left, right = page.evaluate("document.getElementById('timeline').layout.xaxis.range")
    layers = page.evaluate("(({ base, x }) => [base, x])(document.getElementById('timeline').data[2])")
    assert layers == [[pytest.approx(left)], [pytest.approx(right - left)]]


def test_a_page_is_one_small_file(out: Path):
    text = (out / "tiny" / "report.html").read_text()
    assert len(text) < 2.5e6
    assert not re.search(r"(src|href)=[\"']https?:", text)


def test_the_same_run_gives_the_same_page(out: Path, tmp_path: Path):
    from sim.results import folder as outputs
    from sim.results import page as html

    run = outputs.read(out / "tiny")
    for name in ("a", "b"):
        html.write([run], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
