"""The Chrome trace: well formed for Perfetto, and HolisticTraceAnalysis finds in it what the report says."""

import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.handmade import two_chips

from sim.export import chrome_trace
from sim.export.kernels import kernel_name
from sim.report.metrics import measure
from sim.results import folder as outputs
from sim.simulate.run import run
from sim.specs import load


def written(path: Path, **options: Any) -> dict[str, Any]:
    trace, topology = two_chips(layers=3)
    chrome_trace.write(trace, topology, path, **{"chips": [0, 1]} | options)
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def of_phase(data: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    return [event for event in data["traceEvents"] if event["ph"] == phase]


def test_no_lane_has_overlapping_slices(tmp_path: Path) -> None:
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in of_phase(written(tmp_path / "t.json"), "X"):
        lanes.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    assert len(lanes) == 2 * 3  # of each chip: compute, collectives, x+
    for slices in lanes.values():
        assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(slices))


def test_events_are_in_order_of_time(tmp_path: Path) -> None:
    times = [event["ts"] for event in written(tmp_path / "t.json")["traceEvents"]]
    assert times == sorted(times)


def test_every_send_leads_to_the_collective_it_arrives_in(tmp_path: Path) -> None:
    data = written(tmp_path / "t.json")
    starts, ends = of_phase(data, "s"), of_phase(data, "f")
    assert len(starts) == 3 * 3 * 2
    assert sorted(event["id"] for event in starts) == sorted(event["id"] for event in ends)
    slices = of_phase(data, "X")

    def around(event: dict[str, Any]) -> dict[str, Any]:
        """The slice an arrow's end binds to."""
        (found,) = (
            s
            for s in slices
            if (s["pid"], s["tid"]) == (event["pid"], event["tid"]) and s["ts"] <= event["ts"] < s["ts"] + s["dur"]
        )
        return found

    by_id = {event["id"]: event for event in ends}
    for start in starts:
        sent, received = around(start), around(by_id[start["id"]])
        assert received["name"] == kernel_name(sent["name"])
        assert received["pid"] == sent["args"]["to"] != sent["pid"]
        assert start["ts"] < by_id[start["id"]]["ts"]


def test_streams_names_and_ranks(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    data = written(path, chips=[1])
    assert data["distributedInfo"] == {"backend": "nccl", "rank": 1, "world_size": 2}
    assert '"rank": 1' in path.read_text()  # HolisticTraceAnalysis looks for this text, the space included
    kernels = [event for event in of_phase(data, "X") if event["cat"] == "kernel"]
    assert {event["name"] for event in kernels if event["args"]["stream"] >= chrome_trace.FIRST_COLLECTIVE_STREAM} == {
        "ncclDevKernel_AllGather x residual",
        "ncclDevKernel_ReduceScatter x q_wi",
        "ncclDevKernel_AllReduce x out",
    }
    assert all("stream" not in event["args"] for event in of_phase(data, "X") if event["cat"] == "link")
    assert of_phase(data, "s") == []  # nobody to receive
    names = {event["tid"]: event["args"]["name"] for event in of_phase(data, "M") if event["name"] == "thread_name"}
    assert names == {7: "stream 7: compute", 20: "stream 20: collectives", 100: "link x+", 101: "link x-"}


def test_collectives_tell_their_elements_and_number_format(tmp_path: Path) -> None:
    """2 MB of bf16 are 1,000,000 elements: of an all-gather the result, of a reduce-scatter what goes in."""
    events = [event for event in of_phase(written(tmp_path / "t.json"), "X") if "Collective name" in event["args"]]
    found = {event["args"]["Collective name"]: event["args"] for event in events}
    elements = {name: (args["In msg nelems"], args["Out msg nelems"]) for name, args in found.items()}
    assert elements == {
        "_allgather_base": (500_000, 1_000_000),
        "_reduce_scatter_base": (1_000_000, 500_000),
        "allreduce": (1_000_000, 1_000_000),
    }
    assert {(args["dtype"], args["Group size"], args["Process Group Ranks"]) for args in found.values()} == {
        ("BFloat16", 2, "[0, 1]")
    }


def test_a_run_tells_groups_formats_and_memory_though_few_chips_are_written(tmp_path: Path) -> None:
    """One chip stands for 64: a reduce-scatter over x, y and z is of all, one over x of every sixteenth."""
    settings = ["model.layers=1", "workload.weights=int8", "stack.collective_axes=at_once"]
    result = run(load.scenario("pope_table2_low_latency_prefill", settings))
    outputs.write(result, tmp_path, figure_form=None)
    data = json.loads((tmp_path / "trace.json").read_text())
    groups = {}
    for event in of_phase(data, "X"):
        if event["pid"] == 0 and "Collective name" in event["args"]:
            groups[event["name"].partition(" ")[2]] = event["args"]["Process Group Ranks"], event["args"]["dtype"]
    assert groups["xyz embedding"] == (str(list(range(64))), "BFloat16")
    assert groups["x norm"] == ("[0, 16, 32, 48]", "Float")
    (memory,) = {event["args"]["GiB"] for event in of_phase(data, "C") if event["name"] == "memory"}
    assert memory == pytest.approx(result.report.memory.used_bytes / 2**30, rel=1e-5)


def test_gathered_weights_have_the_format_of_weights() -> None:
    lowered = run(load.scenario("pope_table2_high_throughput_prefill", ["model.layers=1", "workload.weights=int8"]))
    formats = dict(lowered.passes[0].trace.program.dtypes)
    assert {dtype for op, dtype in formats.items() if op.endswith(" weights")} == {"int8"}
    assert {dtype for op, dtype in formats.items() if not op.endswith(" weights")} == {"bf16", "int32"}


@pytest.mark.parametrize("name", ["pope_table2_high_throughput_prefill", "palm540b_prefill_ws2d_b1"])
def test_a_trace_of_118_layers_is_small_enough_to_send(name: str, tmp_path: Path) -> None:
    outputs.write(run(load.scenario(name)), tmp_path, figure_form=None)
    assert (tmp_path / "trace.json").stat().st_size < 8_000_000


def long(tmp_path: Path, most: int | None) -> tuple[str, dict[str, Any]]:
    """Twenty layers of 12 tasks on each of two chips, of which no more than `most` may be written."""
    note = chrome_trace.write(*two_chips(layers=20), tmp_path / "t.json", [1, 0], most_tasks=most)
    return note, json.loads((tmp_path / "t.json").read_text())


def layers_of(data: dict[str, Any]) -> list[int]:
    return sorted({event["args"]["layer"] for event in of_phase(data, "X")})


def test_of_more_tasks_than_fit_the_first_and_last_layers_are_written(tmp_path: Path) -> None:
    """A layer takes 32 us and has 12 tasks on a chip, so 60 are two and a half layers on either side."""
    note, data = long(tmp_path, 60)
    assert layers_of(data) == [0, 1, 18, 19]
    assert note == "the first 64 us and the last 64 us of 640 us: 48 of 240 tasks of chip 1"
    assert data["otherData"] == {"note": note}
    (event,) = of_phase(data, "i")
    assert (event["name"], event["ts"]) == (note, 64.0)
    assert {event["pid"] for event in of_phase(data, "X")} == {1}


def test_a_layer_that_does_not_fit_is_cut(tmp_path: Path) -> None:
    note, data = long(tmp_path, 14)
    assert layers_of(data) == [0, 19]
    assert " of 240 tasks" in note
    assert 0 < len(of_phase(data, "X")) <= 14


def test_chips_that_are_asked_for_are_written_whole(tmp_path: Path) -> None:
    note, data = long(tmp_path, None)
    assert (note, layers_of(data)) == ("", list(range(20)))
    assert "otherData" not in data
    assert of_phase(data, "i") == []


def test_a_run_says_what_its_trace_leaves_out(tmp_path: Path, monkeypatch) -> None:
    result = run(load.scenario("palm540b_decode_ws2d", ["engine.layers=9"]))
    assert outputs.write(result, tmp_path, figure_form=None) == []
    monkeypatch.setattr(chrome_trace, "MOST_TASKS", 1000)
    (said,) = outputs.write(result, tmp_path, figure_form=None)
    assert said.startswith("trace.json has the first ")
    assert said.endswith("of chip 0; all of chips with --trace-chip")


@pytest.mark.parametrize(
    ("scenario", "settings", "chips"),
    [
        ("palm540b_decode_ws2d", ["engine.layers=4"], {0, 1}),  # all 64 do alike: two, for arrows between them
        ("energonai_pipeline", ["sweep=null", "figure=null", "layout.mesh.pipeline=4", "model.layers=4"], {0, 2, 4, 6}),
        ("palm540b_decode_ws2d", ["engine.layers=4", 'perturb={"stragglers":[{"chips":[9],"factor":2}]}'], {9}),
    ],
)
def test_a_run_writes_chips_that_differ(scenario: str, settings: list[str], chips: set[int], tmp_path: Path) -> None:
    result = run(load.scenario(scenario, settings))
    outputs.write(result, tmp_path, figure_form=None)
    data = json.loads((tmp_path / "trace.json").read_text())
    critical = result.passes[0].report.critical_chip
    assert {event["pid"] for event in data["traceEvents"]} == chips | {critical}


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    written(tmp_path / "a.json")
    written(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_holistic_trace_analysis_finds_the_same_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    trace, topology = two_chips(layers=3)
    chrome_trace.write(trace, topology, tmp_path / "rank0.json", chips=[0])
    measures = measure(trace, topology)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies deprecate each other
        analysis = pytest.importorskip("hta.trace_analysis").TraceAnalysis(
            trace_files={0: str(tmp_path / "rank0.json")}
        )
        overlap = analysis.get_comm_comp_overlap(visualize=False)["comp_comm_overlap_pctg"][0]
        breakdown = analysis.get_temporal_breakdown(visualize=False).iloc[0]
    # It prints percentages with two decimals.
    expected = 100 * measures.overlapped_communication_s[0] / measures.communication_s[0]
    assert overlap == pytest.approx(expected, rel=1e-3)
    assert breakdown["compute_time(us)"] == pytest.approx(measures.compute_s[0] * 1e6, rel=1e-3)
    assert breakdown["non_compute_time(us)"] == pytest.approx(measures.exposed_communication_s[0] * 1e6, rel=1e-3)
