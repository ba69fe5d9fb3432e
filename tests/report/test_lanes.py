"""Lanes of a timeline: multiprocessors that collectives keep busy, and collectives of copy engines."""

import numpy as np
import pytest

from sim.export import chrome_trace, perfetto
from sim.plots import timeline
from sim.report import spans as sp
from sim.report.lanes import Held, build_lanes, multiprocessors_held
from sim.results.page.timeline import timeline_data
from sim.simulate.run import run
from sim.specs import load

HALVES = "layout={ffn: tensor_parallel, overlap: token_halves, communication: own_stream, mesh: {tensor: 8}}"
ASYNCHRONOUS = ("layout={ffn: megatron_sequence_parallel, overlap: collective_matmul}", "collectives={}")


def simulated(*settings, name="vllm_llama3_70b_tp8"):
    (part,) = run(load.scenario(name, ["model.layers=2", *settings])).passes
    return part


@pytest.fixture(scope="module")
def halves():
    return simulated(HALVES)


@pytest.fixture(scope="module")
def asynchronous():
    return simulated(*ASYNCHRONOUS)


def test_means_and_peaks_of_held_multiprocessors():
    """8 from 0 to 10 and 24 from 10 to 30: 8 at first, 16 on average around 10, at most 24."""
    held = Held(np.array([0, 10, 30]), np.array([8.0, 24.0, 0.0]), 132)
    assert held.means(np.array([0, 5, 15, 30, 40])).tolist() == [8.0, 16.0, 24.0, 0.0]
    assert [held.peak(0, 5), held.peak(5, 15), held.peak(30, 40)] == [8.0, 24.0, 0.0]


def test_kernels_on_multicast_memory_hold_their_blocks_from_begin_to_end(halves):
    """32 thread blocks of all-reduces on multicast memory (stack vllm); others are NCCL's, of other channels."""
    held = multiprocessors_held(halves.trace, halves.topology, 0)
    collectives, program = sp.collective_spans(halves.trace).of_lane(0), halves.trace.program
    names = np.array(program.op_names)[program.op[collectives.task]]
    sums = collectives.where(np.char.startswith(names, "all_reduce"))
    assert len(sums) > 4
    for start, end in zip(sums.start.tolist(), sums.end.tolist(), strict=True):
        assert held.means(np.array([start, end])) == pytest.approx(32, abs=132e-6)  # whole parts per million
    assert held.total == 132


def test_collectives_that_hold_nothing_have_no_lane_of_multiprocessors():
    part = simulated("engine.layers=2", name="palm540b_decode_ws2d")
    assert multiprocessors_held(part.trace, part.topology, 0) is None
    assert all(lane["kind"] != "held" for lane in timeline_data(part)["lanes"])


def test_loops_of_copy_engines_have_a_lane_of_their_own(asynchronous):
    program = asynchronous.trace.program
    assert set(program.copied) == {
        f"{kind}(t) {name}"
        for kind, names in (("all_gather", ("qkv", "wi")), ("reduce_scatter", ("o", "wo")))
        for name in names
    }
    lanes = [
        lane for lane in build_lanes(asynchronous.trace, asynchronous.topology, [0])[0] if lane.kind == "collectives"
    ]
    ops = {lane.label: {program.op_names[op] for op in program.op[lane.spans.task]} for lane in lanes}
    assert ops["copy engine"] == set(program.copied)
    assert not ops["collectives"] & set(program.copied)
    everything = sp.collective_spans(asynchronous.trace).of_lane(0)
    assert sum(len(lane.spans) for lane in lanes) == len(everything)


def test_pictures_and_traces_show_both(halves, asynchronous, tmp_path):
    drawn = timeline.draw(halves.trace, halves.topology)
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert "multiprocessors\n32 of 132 at most" in labels
    held = [lane for lane in timeline_data(halves)["lanes"] if lane["kind"] == "held"]
    assert [max(lane["count"]) for lane in held] == [pytest.approx(32, rel=1e-3)]
    chrome_trace.write(halves.trace, halves.topology, tmp_path / "halves.json", [0])
    assert '"name":"busy with collectives"' in (tmp_path / "halves.json").read_text()
    chrome_trace.write(asynchronous.trace, asynchronous.topology, tmp_path / "asynchronous.json", [0])
    text = (tmp_path / "asynchronous.json").read_text()
    assert '"cat":"gpu_memcpy","name":"Memcpy all_gather(t) qkv"' in text
    assert "copy engine" in text
    perfetto.write(halves.trace, halves.topology, tmp_path / "halves.pb", [0])
    assert b"busy with collectives, multiprocessors" in (tmp_path / "halves.pb").read_bytes()
