"""What a chip waits for is no transfer and not idle; and terminal and page tell the same of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.pipelines import scenario

from sim.program import Kind
from sim.report.breakdown import compute_breakdown, stage_shares
from sim.report.critical_path import CALL, JOIN, attribute_step
from sim.report.pipeline import report_stages
from sim.report.present import text
from sim.report.present.explanation import Scale
from sim.report.present.render import render
from sim.report.spans import collective_spans
from sim.results.page.data import page_data
from sim.simulate.result import Run
from sim.simulate.run import find_bottlenecks, run
from sim.specs import load

SIZE = 4 * 16 * 64 * 2
"""Bytes of the activations of the small pipeline: B L E in bf16."""
POOL = {
    "memory_pool": {"offload_every": 3, "to": "host", "link": {"name": "l", "bandwidth": "1 MB/s", "latency": "0 s"}}
}


def test_joins_of_streams_have_a_row_of_their_own():
    """Of standard nothing hides the time from the end of a sum to what waits for it; there are two sums a layer."""
    layers = 3
    done = run(load.scenario("llama3_70b_tp8_standard", [f"engine.layers={layers}"]))
    simulated, (part,) = done.report.simulated, done.passes
    joins_s = 2 * layers * part.topology.chip.stream_wait_s
    assert joins_s > 0
    assert simulated.stream_wait_s == pytest.approx(joins_s, abs=2e-12 * layers)
    assert simulated.idle_s == 0
    causes = {share.name: share.time_s for share in attribute_step(part.trace, part.topology).causes}
    assert causes[JOIN] == pytest.approx(simulated.stream_wait_s, rel=1e-9)
    assert CALL not in causes


def test_joins_saved_by_joining_at_once_are_those_of_the_report():
    done = run(load.scenario("llama3_70b_tp8_standard", ["engine.layers=2"]))
    (found,) = find_bottlenecks(done)
    saved = {each.name: each.saved_s for each in found.what_if}
    assert saved["streams joined at once"] == pytest.approx(done.report.simulated.stream_wait_s, rel=1e-9)


@pytest.mark.parametrize("schedule", ["non_blocking", "blocking"])
def test_waiting_for_the_stage_before_is_a_bubble_and_no_transfer(schedule: str):
    """The last of two stages on one chip each: exposed are its four receives, SIZE bytes at 1 GB/s each."""
    more = {"microbatches": 1} if schedule == "blocking" else {}
    done = run(scenario(schedule=schedule, stages=[4, 2], requests=4, bandwidth="1 GB/s", **more))
    simulated, pipeline = done.report.simulated, done.report.pipeline
    assert pipeline is not None
    assert pipeline.passes is not None
    last = pipeline.passes.stages[1]
    assert simulated.exposed_communication_s == pytest.approx(4 * SIZE * 1e-9, rel=1e-9)
    assert simulated.bubble_s == pytest.approx(pipeline.total_s - last.busy_s - 4 * SIZE * 1e-9, rel=1e-9)
    assert simulated.bubble_s > last.fill_s - 1.01 * SIZE * 1e-9
    assert simulated.idle_s == pytest.approx(0, abs=1e-12)


def test_a_send_begins_for_both_its_ends_when_the_later_one_enters():
    (part,) = run(scenario(schedule="non_blocking", stages=[4, 2], requests=4, bandwidth="1 GB/s")).passes
    spans, program = collective_spans(part.trace), part.trace.program
    starts = part.trace.times["start"]
    for instance in set(program.collective[program.kind == Kind.SEND].tolist()):
        entered = starts[(program.collective == instance) & (program.kind == Kind.BEGIN)]
        own = spans.start[program.collective[spans.task] == instance]
        assert own.tolist() == [entered.max()] * 2


SMALL: dict[str, dict[str, Any]] = {
    "pipeline": {"schedule": "non_blocking", "stages": [4, 2], "tensor": 2, "bandwidth": "1 GB/s", "requests": 4},
    "micro-batches": {"schedule": "blocking", "stages": [3, 3], "bandwidth": "1 GB/s", "requests": 2},
    "controller": {
        "schedule": "non_blocking",
        "stages": [3, 3],
        "requests": 3,
        "controller": {"rpc": "50 us", "poll": "2 ms"},
    },
    "memory pool": {"schedule": "blocking", "stages": [3, 3], "requests": 2, "more": POOL},
}


@pytest.fixture(params=SMALL)
def done(request: pytest.FixtureRequest) -> Run:
    return run(scenario(**SMALL[request.param]))


def test_the_parts_of_a_chips_time_add_up_and_are_those_of_the_report(done: Run):
    (part,) = done.passes
    parts = compute_breakdown(part.trace, part.topology, part.lowered.batches)
    assert sum(parts.values()) == pytest.approx(part.trace.makespan_ps * 1e-12, rel=1e-12)
    assert done.report.chip_s == pytest.approx(part.trace.makespan_ps * 1e-12, rel=1e-12)
    for name, time_s in done.report.waits_s.items():
        assert parts.get(name, 0.0) == pytest.approx(time_s, rel=1e-12)
    assert parts["idle"] == pytest.approx(done.report.simulated.idle_s, abs=1e-15)


def test_layers_on_their_way_are_waited_for():
    done = run(scenario(**SMALL["memory pool"]))
    assert done.report.simulated.copy_wait_s > 0


def test_terminal_and_page_tell_the_same(done: Run):
    """Every table and line that the page gets is printed, and of a pipeline its stages and percentiles are there."""
    console = Console(width=260, record=True, file=io.StringIO())
    render(done.report, console)
    lines = console.export_text().splitlines()
    printed = {" ".join(line.split()) for line in lines}
    data = page_data(done, (), ())
    blocks = [*data["overall"], *data["memory"], *data["phases"][0]["step"]]
    parts = [part for block in blocks for part in block]
    for part in parts:
        rows = [[part["text"]]] if "text" in part else [part["columns"], *sum(part["groups"], ())]
        assert {" ".join(" ".join(row).split()) for row in rows} <= printed
    assert ["stage", "layers", "chips"] in [list(part.get("columns", ()))[:3] for part in parts]
    assert any("95% within" in part.get("text", "") for part in parts)
    assert data["headline"][0]["label"] == "latency per request, mean"
    assert lines[1].startswith("latency per request, mean ")
    *bars, step = data["phases"][0]["waterfall"]["rows"]
    assert sum(bar["to"] - bar["from"] for bar in bars) == pytest.approx(step["to"], rel=1e-9)
    assert step["so_far"] == Scale(done.report.chip_s).time(done.report.chip_s)


def test_a_line_of_a_published_value_names_its_source():
    done = run(load.scenario("pope_table2_low_latency_decode"))
    first, *_ = text.overall_blocks(done.report)
    assert done.report.published is not None
    assert done.report.published.source in first[1].text


def test_shares_of_the_stages_add_up_to_their_bubbles_in_every_number_of_bins():
    (part,) = run(load.scenario("energonai_pipeline_queue", ["layout.pipeline.requests=3"])).passes
    trace, batches = part.trace, part.lowered.batches
    bubbles = [stage.bubble for stage in report_stages(trace, batches)]
    for bins in (1, 7):
        edges = np.arange(bins + 1) * trace.makespan_ps // bins
        stages = stage_shares(trace, part.topology, batches, edges)
        for shares, bubble in zip(stages, bubbles, strict=True):
            assert sum(shares.values()) == pytest.approx(np.ones(bins), abs=1e-9)
            outside = shares["pipeline bubble"] @ np.diff(edges) / trace.makespan_ps
            # a chip may still send its last result when its batch has left the stage, which is no bubble of the chip
            assert outside == pytest.approx(bubble, abs=0.01)
            assert outside <= bubble + 1e-9
    fill = stage_shares(trace, part.topology, batches, np.array([0, 1000]))
    assert [list(shares) for shares in fill[1:]] == [["pipeline bubble"]] * 3  # the first request is on stage 0
