"""Pipelines against their algebra, to the picosecond where sends are free; queues, controllers and bad schedules."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pipelines import scenario, times

from sim.closed_form import pipeline as form
from sim.errors import InputError
from sim.results.analysis import Analysis
from sim.simulate.run import run

UNEVEN = [1, 3, 2]
ALL = {"in_flight": 100}
"""All requests are there from the start."""


def durations(found: Any, stages: int) -> list[int]:
    """Time of a batch on each stage, ps; it is the same for all of them."""
    each = [{end - begin for (_, _, s), (begin, end) in found.passes.items() if s == stage} for stage in range(stages)]
    assert all(len(different) == 1 for different in each)
    return [different.pop() for different in each]


@pytest.mark.parametrize("layers", [[2, 2, 2], UNEVEN, [4, 1, 1]])
@pytest.mark.parametrize("blocks", [True, False])
def test_non_blocking_results_come_as_often_as_the_slowest_stage_allows(layers: list[int], blocks: bool):
    found = times(scenario(schedule="non_blocking", stages=layers, requests=7, send_blocks_stage=blocks, arrivals=ALL))
    stage = durations(found, 3)
    expected = form.predict_non_blocking(stage, 7)
    assert found.answered[-1] == expected.total == sum(stage) + 6 * max(stage)
    assert set(np.diff(found.answered).tolist()) == {max(stage)} == {expected.interval}
    assert found.passes[0, 0, 2][0] == expected.fill
    drain = found.answered[-1] - found.passes[6, 0, 0][1]
    assert drain <= expected.drain if blocks else drain == expected.drain  # a stage that is held back is done later


def test_requests_in_flight_are_enough_when_there_are_as_many_as_stages():
    """Of two, three equal stages do no more than two in the time of three."""
    one_each, fewer = (
        times(scenario(schedule="non_blocking", stages=[2, 2, 2], requests=9, arrivals={"in_flight": n}, ends=False))
        for n in (3, 2)
    )
    stage = durations(one_each, 3)
    slowest, total = max(stage), sum(stage)
    assert np.diff(one_each.answered)[2:].max() <= max(slowest, -(-total // 3) + slowest)
    assert fewer.answered[-1] - fewer.answered[-3] == total  # two requests per walk through all stages


@pytest.mark.parametrize("layers", [[2, 2, 2], UNEVEN])
@pytest.mark.parametrize("under_way", [1, 2, 3, 5])
@pytest.mark.parametrize("schedule", ["non_blocking", "bounded_queue"])
def test_decode_steps_of_a_full_pipeline(layers: list[int], under_way: int, schedule: str):
    """n requests under way: a step takes all stages, or the slowest n times, and nothing drains between two steps.

    Also of the first that count: others came before, and fill the pipeline.
    """
    more = {"queue": {"capacity": 8, "retry": "1 us"}} if schedule == "bounded_queue" else {"send_blocks_stage": False}
    given = {"stages": layers, "requests": 5, "arrivals": {"in_flight": under_way}, "phase": "decode", "ends": False}
    found = run(scenario(schedule=schedule, **given, **more)).report
    one = run(scenario(schedule=schedule, **given | {"arrivals": {"in_flight": 1}}, **more)).report
    assert found.pipeline
    assert found.pipeline.passes
    assert one.pipeline
    assert one.pipeline.passes
    stage = [each.pass_s for each in one.pipeline.passes.stages]
    assert found.simulated.step_s == pytest.approx(max(sum(stage), under_way * max(stage)), rel=1e-9)
    assert found.pipeline.passes.latency_max_s == pytest.approx(found.simulated.step_s, rel=1e-9)
    assert (found.pipeline.passes.warm_up, found.pipeline.requests) == (under_way if under_way > 1 else 0, 5)


@pytest.mark.parametrize("layers", [[2, 2, 2], UNEVEN])
@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_blocking_drains_between_requests(layers: list[int], microbatches: int):
    found = times(scenario(schedule="blocking", stages=layers, requests=3, microbatches=microbatches))
    stage = durations(found, 3)
    one = sum(stage) + (microbatches - 1) * max(stage)
    expected = form.predict_blocking(stage, 3, microbatches)
    assert found.answered == [one, 2 * one, 3 * one]
    assert (expected.total, expected.interval) == (3 * one, one)


def test_blocking_utilisation_is_m_over_m_plus_p_minus_1_of_equal_stages():
    for m in (1, 2, 4, 8):
        assert form.predict_blocking([5, 5, 5, 5], 10, m).utilisation == m / (m + 3)
        assert form.predict_blocking([5, 5, 5, 5], 10, m).total == 10 * (m + 3) * 5


def test_sequential_takes_every_stage_in_turn():
    found = times(scenario(schedule="sequential", stages=UNEVEN, requests=3))
    stage = durations(found, 3)
    assert found.answered == [sum(stage), 2 * sum(stage), 3 * sum(stage)]


def test_fasterTransformers_micro_batches():  # noqa: N802
    """Batch 16 of 128 tokens on two stages: 8 x 128 = 1024 tokens each, not above 1024; of 256, 4 x 256."""
    from sim.lowering.pipeline.lower_pipeline import microbatches

    def count(batch: int, prompt: int, tokens: int = 1024) -> int:
        given = scenario(schedule="blocking", stages=[3, 3], batch=batch, prompt=prompt, microbatch_tokens=tokens)
        assert given.pipeline is not None
        return microbatches(given, given.pipeline)

    assert count(16, 128) == 2
    assert count(16, 256) == 4
    assert count(16, 256, tokens=8192) == 2
    assert count(15, 128) == 1  # two stages do not divide 15: it stays whole, and 15 is odd


def test_a_full_queue_holds_back_the_stages_before_it():
    """Three stages of 1, 2 and 9 layers, capacity 1, no retry: by hand, with times a < b < c of a batch.

    Stage 1 takes batch 1 at a+b (its queue has it at 2a, it is free at a+b) and is done at a+2b. Batch 2 lies in its
    queue by then; stage 2 took batch 0 at a+b and is busy until a+b+c. Its queue takes batch 1 at a+2b: there is room,
    batch 0 was taken out. Batch 2, done on stage 1 at a+3b, finds batch 1 in the queue until a+b+c: stage 1 waits until
    then. Stage 0 finds the queue of stage 1 full with batch 3 until stage 1 takes that, at a+b+c.
    """
    queue = {"capacity": 1, "retry": "0 s"}
    found = times(
        scenario(schedule="bounded_queue", layers=12, stages=[1, 2, 9], requests=6, queue=queue, arrivals=ALL)
    )
    a, b, c = durations(found, 3)
    assert a < b
    assert c > 2 * b
    begins = {key: begin for key, (begin, _) in found.passes.items()}
    assert begins[1, 0, 1] == a + b
    assert begins[2, 0, 1] == a + 2 * b
    assert begins[1, 0, 2] == a + b + c
    assert begins[3, 0, 1] == a + b + c  # batch 2 left stage 1 when batch 1 left the queue
    expected = form.start_times_of_bounded_queue([a, b, c], 6, 1, 0)
    assert [[begins[k, 0, s] for s in range(3)] for k in range(6)] == expected


@pytest.mark.parametrize("capacity", [1, 2, 3])
@pytest.mark.parametrize("retry_us", [0, 3, 100])
def test_bounded_queues_follow_their_recurrence(capacity: int, retry_us: int):
    queue = {"capacity": capacity, "retry": f"{retry_us} us"}
    found = times(scenario(schedule="bounded_queue", layers=9, stages=[1, 2, 6], requests=8, queue=queue, arrivals=ALL))
    stage = durations(found, 3)
    expected = form.start_times_of_bounded_queue(stage, 8, capacity, retry_us * 10**6)
    assert [[found.passes[k, 0, s][0] for s in range(3)] for k in range(8)] == expected


def test_the_report_of_a_queue_has_its_closed_form():
    queue = {"capacity": 1, "retry": "100 us"}
    given = scenario(schedule="bounded_queue", layers=9, stages=[1, 2, 6], requests=8, queue=queue, arrivals=ALL)
    report = run(given).report.pipeline
    assert report is not None
    assert report.passes is not None
    assert report.passes.total_difference == pytest.approx(0, abs=1e-9)
    assert report.interval_s == pytest.approx(report.passes.closed_form.interval, rel=1e-9)


@pytest.mark.parametrize("layers", [[6], [4, 1, 1], [3, 2, 1]])
@pytest.mark.parametrize("requests", [1, 2, 7])
@pytest.mark.parametrize(
    "spec",
    [
        {"schedule": "non_blocking", "arrivals": ALL},
        {"schedule": "blocking", "microbatches": 4},
        {"schedule": "sequential"},
        {"schedule": "bounded_queue", "queue": {"capacity": 1, "retry": "0 s"}, "arrivals": ALL},
    ],
    ids=lambda spec: spec["schedule"],
)
def test_every_figure_of_a_closed_form_is_simulated_where_no_stage_is_held_back(
    layers: list[int], requests: int, spec: dict[str, Any]
):
    """The first stage is the slowest, so none after it ever waits for room."""
    more = {"layout": {"logits": "none"}}
    found = run(scenario(stages=layers, requests=requests, more=more, **spec)).report.pipeline
    assert found is not None
    passes = found.passes
    assert passes is not None
    expected, (first, *_, last) = passes.closed_form, (passes.stages[0], *passes.stages)
    assert passes.total_s == pytest.approx(expected.total, rel=1e-9)
    assert last.fill_s == pytest.approx(expected.fill, rel=1e-9, abs=1e-15)
    assert first.drain_s == pytest.approx(expected.drain, rel=1e-9, abs=1e-12)
    assert first.busy_s / passes.total_s == pytest.approx(expected.utilisation, rel=1e-9)
    if requests > 2:
        assert passes.interval_s == pytest.approx(expected.interval, rel=1e-9)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 12), st.integers(1, 60), st.integers(1, 3))
def test_calls_bound_a_pipeline_and_change_nothing_where_they_are_quick(
    stage: list[int], requests: int, call: int, capacity: int
):
    """The last call of K requests is over at K calls at the earliest, and the last stage is still to come."""
    for free in (
        form.predict_non_blocking(stage, requests),
        form.predict_sequential(stage, requests),
        form.predict_bounded_queue(stage, requests, capacity, 0),
    ):
        called = form.limit_call_rate(free, call, requests, stage[-1])
        assert called.interval == max(free.interval, call)
        assert called.total == max(free.total, requests * call + stage[-1])
        assert called.utilisation * called.total == pytest.approx(free.utilisation * free.total)
        assert form.limit_call_rate(free, 0, requests, stage[-1]) == free


def test_the_fullest_stage_is_that_with_the_caches_of_all_requests_under_way():
    """The ends hold the embedding, the middle most layers: of one request the ends need more, of 20 the middle."""
    given = {"schedule": "non_blocking", "stages": [1, 4, 1], "more": {"model": {"vocabulary": 4096}}}
    cache = 2 * 4 * 16 * 2 * 4 * 16  # keys and values of 4 heads of 16 in bf16, of 4 sequences of 16, in one layer

    def held(requests: int) -> float:
        spec = given | {"requests": requests, "arrivals": {"in_flight": requests}}
        return run(scenario(**spec)).report.memory.kv_cache_bytes

    assert held(1) == 1 * cache
    assert held(20) == 20 * 4 * cache


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 12))
def test_a_queue_with_room_for_all_is_a_non_blocking_pipeline(stage: list[int], requests: int):
    taken = form.start_times_of_bounded_queue(stage, requests, requests, 0)
    assert taken[-1][-1] + stage[-1] == form.predict_non_blocking(stage, requests).total


def test_sends_cost_what_they_move():
    """Every rank sends all of B L E, FasterTransformer's only its share, which the next stage then gathers."""
    whole = times(scenario(schedule="non_blocking", tensor=2, stages=[3, 3], requests=1, bandwidth="1 GB/s"))
    shares = times(
        scenario(schedule="blocking", tensor=2, stages=[3, 3], requests=1, microbatches=1, bandwidth="1 GB/s")
    )
    size = 4 * 16 * 64 * 2
    assert whole.sent("send(p) activations") == [size, size]
    assert shares.sent("send(p) activations") == [size / 2, size / 2]
    assert shares.count("all_gather(t) activations") == 2
    assert whole.count("all_gather(t) activations") == 0


def test_a_stage_whose_sends_do_not_block_goes_on_while_they_move():
    blocks, goes_on = (
        times(
            scenario(schedule="non_blocking", stages=[3, 3], requests=6, bandwidth="0.1 GB/s", send_blocks_stage=each)
        )
        for each in (True, False)
    )
    stage = durations(goes_on, 2)
    send = 4 * 16 * 64 * 2 * 10_000  # ps at 0.1 GB/s
    assert set(np.diff(blocks.answered)[1:].tolist()) == {max(stage) + send}
    assert set(np.diff(goes_on.answered)[1:].tolist()) == {max(*stage, send)}


def test_a_single_controller_calls_worker_after_worker():
    """The call to worker w ends at (w + 1) t; stage 0 begins with its last rank, at 2 t of two."""
    controller = {"rpc": "50 us"}
    found = times(scenario(schedule="non_blocking", tensor=2, stages=[3, 3], requests=1, controller=controller))
    assert found.begins(0, 0) == [50_000_000, 100_000_000]
    every = times(
        scenario(
            schedule="non_blocking", tensor=2, stages=[3, 3], requests=1, controller=controller | {"kind": "multi"}
        )
    )
    assert every.begins(0, 0) == [50_000_000, 50_000_000]


def test_a_result_is_there_at_the_next_poll_and_the_call_back():
    controller = {"rpc": "50 us", "result_poll": "1 ms"}
    found = times(scenario(schedule="non_blocking", stages=[3, 3], requests=1, controller=controller))
    called, done = 100_000_000, found.passes[0, 0, 1][1]  # the last worker's call, 2 x 50 us
    waits = -(-(done - called) // 10**9)
    assert found.answered == [called + waits * 10**9 + 50_000_000]


def test_open_loop_requests_come_when_they_come():
    found = times(
        scenario(schedule="non_blocking", stages=[3, 3], requests=3, arrivals={"times": ["0 s", "1 ms", "1 ms"]})
    )
    assert found.arrived == [0, 10**9, 10**9]
    stage = durations(found, 2)
    assert found.answered == [sum(stage), 10**9 + sum(stage), 10**9 + sum(stage) + max(stage)]


def test_poisson_arrivals_are_those_of_their_seed():
    one, again, other = (
        times(
            scenario(schedule="blocking", requests=5, stages=[3, 3], arrivals={"every": "1 ms", "seed": seed})
        ).arrived
        for seed in (1, 1, 2)
    )
    assert one == again != other


def test_stages_take_what_remains_at_the_end():
    report = run(scenario(schedule="non_blocking", layers=11, pipeline=4, requests=1)).report
    assert report.pipeline is not None
    assert report.pipeline.passes is not None
    assert [stage.layers for stage in report.pipeline.passes.stages] == [2, 3, 3, 3]


def test_a_torus_is_cut_into_slabs():
    found = run(
        scenario(schedule="non_blocking", torus=(2, 4), stages=[3, 3], requests=4, layout="weight_stationary_2d")
    ).report
    assert found.pipeline is not None
    assert found.pipeline.passes is not None
    assert [stage.chips for stage in found.pipeline.passes.stages] == [(0, 1, 4, 5), (2, 3, 6, 7)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue": {"capacity": 0, "retry": "1 ms"}, "schedule": "bounded_queue"}, "at least 1"),
        ({"schedule": "bounded_queue"}, "must be given if, and only if, schedule is 'bounded_queue'"),
        ({"stages": [3, 4]}, "must add up to the 6 layers"),
        ({"stages": [6]}, "layers of each of the 2 stages"),
        ({"schedule": "sequential", "arrivals": {"in_flight": 2}}, "must be 1 for schedule"),
        ({"phase": "decode", "arrivals": {"every": "1 ms"}}, "must be in_flight for decode steps"),
        ({"arrivals": {"in_flight": 2, "every": "1 ms"}}, "must have exactly one of in_flight, times and every"),
        ({"arrivals": {"times": ["0 s"]}}, r"arrivals.times: must have a time for each of the 2 requests, got 1; requ"),
        ({"arrivals": {"times": ["0 s", "1 s", "2 s"]}}, "must have a time for each of the 2 requests, got 3; requ"),
        ({"schedule": "non_blocking", "microbatches": 2}, "requires 'schedule: blocking'"),
        (
            {"schedule": "blocking", "tensor": 2, "more": {"layout": {"residual": "desync4"}}},
            "is not supported with schedule 'blocking'",
        ),
        ({"pipeline": 3, "torus": (2, 4), "layout": "weight_stationary_2d"}, "must divide the longest axis"),
    ],
)
def test_inconsistent_schedules_are_refused(change: dict[str, Any], message: str):
    given = {"schedule": "non_blocking", "requests": 2, "pipeline": 2} | change
    with pytest.raises(InputError, match=message):
        run(scenario(**given))


def test_the_critical_path_of_a_polling_pipeline_adds_up_to_the_whole():
    from sim.report.critical_path import find_critical_path

    controller = {"rpc": "50 us", "poll": "2 ms", "result_poll": "1 ms"}
    trace = times(scenario(schedule="non_blocking", stages=[3, 3], requests=4, controller=controller)).trace
    path = find_critical_path(trace)
    assert int(path.length.sum()) == trace.makespan_ps
    assert (path.start[1:] == path.end[:-1]).all()


def test_a_run_of_a_pipeline_or_a_pool_is_drawn(tmp_path: Any):
    from sim.results import figures as pictures

    link = {"name": "link", "bandwidth": "1 GB/s", "latency": "0 s"}
    pool = {"memory_pool": {"offload_every": 3, "to": "host", "link": link}}
    result = run(scenario(schedule="blocking", stages=[3, 3], requests=2, more=pool))
    drawn = pictures.draw(result, tmp_path, pictures.FigureForm(("svg",)), Analysis(), figures=["stages", "memory"])
    assert [path.name for path in drawn[:2]] == ["stages.svg", "memory.svg"]
    assert "stage 1, 3 layers" in drawn[0].read_text()
    assert "host, layers of chip" in drawn[1].read_text()
