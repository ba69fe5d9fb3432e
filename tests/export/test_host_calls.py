"""The host's side of a Kineto trace: every kernel has its launch, and HolisticTraceAnalysis finds the critical path."""

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sim.results import folder as outputs
from sim.simulate.run import run
from sim.specs import load

RUNS = {
    "llama3_70b_tp8_ladder": ["model.layers=3"],  # a captured graph
    "llama3_70b_tp8_p2p_disabled_decode": ["model.layers=2"],
    "palm540b_decode_ws2d": ["model.layers=2"],
    "energonai_pipeline_queue": [],  # the host launches every kernel
    "pmep_gpt3_host": [],  # with copies, which have no launch in the run
}


def export(name: str, folder: Path) -> tuple[Any, int, Path]:
    done = run(load.scenario(name, RUNS[name]))
    chip = done.report.critical_chip
    (path,) = outputs.export(done, folder, "kineto", [chip])
    return done, chip, path


@pytest.mark.parametrize("name", RUNS)
def test_every_kernel_is_launched_before_it_starts_within_a_step(tmp_path: Path, name: str) -> None:
    _, _, path = export(name, tmp_path)
    events = json.loads(path.read_text())["traceEvents"]
    kernels = [event for event in events if event.get("cat") in ("kernel", "gpu_memcpy")]
    launches = {
        event["args"]["correlation"]: event
        for event in events
        if event["name"] in ("cudaLaunchKernel", "cudaMemcpyAsync") and event["cat"] == "cuda_runtime"
    }
    steps = [event for event in events if event["name"].startswith("ProfilerStep#")]
    operators = {event["args"]["External id"]: event for event in events if event.get("cat") == "cpu_op"}
    assert len(kernels) == len(launches) == len(operators)
    for kernel in kernels:
        launch = launches[kernel["args"]["correlation"]]
        operator = operators[kernel["args"]["External id"]]
        assert 0 <= operator["ts"] < launch["ts"] < launch["ts"] + launch["dur"] < operator["ts"] + operator["dur"]
        assert launch["dur"] > 0
        assert launch["ts"] <= kernel["ts"]
        within = [step for step in steps if step["ts"] <= operator["ts"] < step["ts"] + step["dur"]]
        assert len(within) == 1
    ids = Counter((event["ph"], event["id"]) for event in events if event.get("cat") == "ac2g")
    assert ids == Counter((phase, number) for phase in "sf" for number in launches)


@pytest.mark.parametrize("name", RUNS)
def test_a_wait_names_the_record_of_a_kernel_on_another_stream_that_has_ended(tmp_path: Path, name: str) -> None:
    _, _, path = export(name, tmp_path)
    events = [event for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    launched = {event["args"]["External id"]: event for event in events if event["cat"] in ("kernel", "gpu_memcpy")}
    records = {event["args"]["correlation"]: event for event in events if event["name"] == "cudaEventRecord"}
    waits = {event["args"]["correlation"]: event for event in events if event["name"] == "cudaStreamWaitEvent"}
    syncs = [event for event in events if event["cat"] == "cuda_sync"]
    assert syncs
    assert {event["args"]["correlation"] for event in syncs} == set(waits)
    for sync in syncs:
        record = records[sync["args"]["wait_on_cuda_event_record_corr_id"]]
        source = launched[record["args"]["External id"]]
        target = launched[waits[sync["args"]["correlation"]]["args"]["External id"]]
        assert source["args"]["stream"] == sync["args"]["wait_on_stream"] != target["args"]["stream"]
        assert source["ts"] + source["dur"] <= sync["ts"] + 1e-6
        assert sync["ts"] <= target["ts"]
        assert record["ts"] < waits[sync["args"]["correlation"]]["ts"]


def test_a_stage_of_a_pipeline_has_a_step_for_every_batch(tmp_path: Path) -> None:
    done, _, path = export("energonai_pipeline_queue", tmp_path)
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["name"] for event in events if event["name"].startswith("ProfilerStep#")]
    assert names == [f"ProfilerStep#{number}" for number in range(done.scenario.pipeline.requests)]


def pandas_is_too_new() -> bool:
    """HolisticTraceAnalysis 0.5 passes both `axis` and `columns` to `drop`, which pandas 3 refuses."""
    pandas = pytest.importorskip("pandas")
    return int(pandas.__version__.partition(".")[0]) >= 3


@pytest.mark.skipif(pandas_is_too_new(), reason="HolisticTraceAnalysis' critical path needs pandas 2")
@pytest.mark.parametrize("name", ["llama3_70b_tp8_ladder", "palm540b_decode_ws2d"])
def test_holistic_trace_analysis_finds_the_critical_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Its path has all compute and exposed communication; a wait between streams has no length there."""
    monkeypatch.setenv("HTA_DISABLE_NS_ROUNDING", "1")
    done, chip, path = export(name, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hta = pytest.importorskip("hta.trace_analysis", reason="needs HolisticTraceAnalysis")
        analysis = hta.TraceAnalysis(trace_files={chip: str(path)})
        graph, success = analysis.critical_path_analysis(rank=chip, annotation="ProfilerStep", instance_id=0)
    assert success
    breakdown = graph.get_critical_path_breakdown()
    simulated = done.report.simulated
    expected_s = simulated.compute_s + simulated.exposed_communication_s
    assert breakdown.duration.sum() == pytest.approx(expected_s * 1e6, rel=1e-3)
    on_path = breakdown[breakdown.s_name.fillna("").str.startswith("nccl")].duration.sum()
    assert on_path == pytest.approx(simulated.exposed_communication_s * 1e6, rel=1e-2)
