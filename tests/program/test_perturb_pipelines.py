"""Perturbed pipelines: late stages, failed links between and inside stages, waiting apart from transferring."""

from typing import Any

import numpy as np
import pytest
from support.pipelines import FREE, Times, scenario, times

from sim.errors import InputError
from sim.program import Kind
from sim.report.waiting import measure_waiting
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.run import run

ALL = {"in_flight": 100}
ACTIVATIONS = 4 * 16 * 64 * 2
"""Bytes of bf16 that one stage sends the next: B = 4, L = 16, E = 64."""


def stages(found: Times, count: int) -> list[int]:
    """Time of a batch on each stage, ps."""
    each = [{end - begin for (_, _, s), (begin, end) in found.passes.items() if s == stage} for stage in range(count)]
    assert all(len(different) == 1 for different in each)
    return [different.pop() for different in each]


def test_a_late_stage_sets_the_pace():
    """Stage 1 takes three times as long, d1' = 3 d1: n requests take d0 + d1' + d2 + (n - 1) max(d0, d1', d2)."""
    spec: dict[str, Any] = {"schedule": "non_blocking", "stages": [2, 2, 2], "requests": 7, "arrivals": ALL}
    plain = stages(times(scenario(**spec)), 3)
    late = times(scenario(**spec, more={"perturb": {"stragglers": [{"chips": [1], "factor": 3}]}}))
    expected = [plain[0], 3 * plain[1], plain[2]]
    assert stages(late, 3) == expected
    assert late.answered[-1] == sum(expected) + 6 * max(expected)


@pytest.mark.parametrize(("chip", "late_stage"), [(0, None), (1, 1), (2, None)])
def test_layers_of_a_straggler_are_those_of_the_model(chip: int, late_stage: int | None):
    """Of stages of 1, 3 and 2 layers stage 1 has layers 1 to 3: only its chip has operations of layer 2."""
    spec: dict[str, Any] = {"schedule": "non_blocking", "stages": [1, 3, 2], "requests": 1}
    perturb = {"stragglers": [{"chips": [chip], "delay": "1 ms", "layers": [2]}]}
    plain, late = times(scenario(**spec)), times(scenario(**spec, more={"perturb": perturb}))
    program = plain.trace.program
    operations = int(((program.layer == 2) & (program.kind == Kind.COMPUTE)).sum())
    assert operations > 0
    expected = stages(plain, 3)
    if late_stage is not None:
        expected[late_stage] += operations * 10**9
    assert stages(late, 3) == expected


def test_micro_batches_wait_for_a_late_stage_each():
    """m micro-batches: the sum of the stages and m - 1 times the slowest, with stage 0 twice as slow."""
    spec: dict[str, Any] = {"schedule": "blocking", "stages": [3, 3], "requests": 1, "microbatches": 4}
    plain = stages(times(scenario(**spec)), 2)
    late = times(scenario(**spec, more={"perturb": {"stragglers": [{"chips": [0], "factor": 2}]}}))
    assert late.answered == [2 * plain[0] + plain[1] + 3 * max(2 * plain[0], plain[1])]


@pytest.mark.parametrize("factor", [1, 3])
def test_the_receiver_waits_for_the_stage_before_it_and_then_both_transfer(factor: float):
    """One request: stage 1 posts its receive at 0 and waits a, the time of stage 0; the send takes both s."""
    given = scenario(
        schedule="blocking",
        stages=[3, 3],
        requests=1,
        microbatches=1,
        bandwidth="1 GB/s",
        more={"perturb": {"stragglers": [{"chips": [0], "factor": factor}]}},
    )
    a, _ = stages(times(given), 2)
    found = measure_waiting(simulate_pass(given).trace, 2)
    assert found is not None
    assert (found.waiting_s, found.transferring_s) == (a / 1e12 / 2, ACTIVATIONS / 1e9)
    assert (found.least_chip, found.least_s, found.most_chip, found.most_s) == (0, 0, 1, a / 1e12)


def test_a_sender_waits_for_a_late_receiver():
    """Stages of a < b, sends of s, three requests: stage 1 waits a once, stage 0 b - a before the second and third.

    Where the send does not block, the receiver takes what comes, and nobody waits in it.
    """
    spec: dict[str, Any] = {"schedule": "non_blocking", "stages": [3, 3], "requests": 3, "arrivals": ALL}
    more = {"perturb": {"stragglers": [{"chips": [1], "factor": 3}]}}
    blocking = scenario(**spec, bandwidth="10 GB/s", more=more)
    a, b = stages(times(blocking), 2)
    assert a < b
    found = measure_waiting(simulate_pass(blocking).trace, 2)
    assert found is not None
    assert found.waiting_s == pytest.approx((a + 2 * (b - a)) / 2e12, rel=1e-12)
    assert found.transferring_s == pytest.approx(3 * ACTIVATIONS / 10e9, rel=1e-12)
    goes_on = measure_waiting(
        simulate_pass(scenario(**spec, bandwidth="10 GB/s", send_blocks_stage=False, more=more)).trace, 2
    )
    assert goes_on is not None
    assert goes_on.waiting_s == 0


MESH = {f"{a}{b}": FREE for a in range(4) for b in range(a + 1, 4)}


def test_a_send_between_stages_goes_around_a_failed_link_of_a_graph():
    """Stage 0 to 1 over chip 2 or 3: one hop more of 1 us. A thin link is not taken where there is another way."""
    spec: dict[str, Any] = {"schedule": "non_blocking", "stages": [1, 1, 1, 1], "layers": 4, "requests": 1}
    fail = {"perturb": {"failed_links": ["0->1#0"]}}
    plain = times(scenario(**spec, graph=MESH))
    around = times(scenario(**spec, graph=MESH, more=fail))
    assert around.answered == [plain.answered[0] + 10**6]
    thin = times(scenario(**spec, graph=MESH | {"12": "1 GB/s"}, more=fail))
    # The send from stage 1 to stage 2 takes the thin link in any case: a chip forwards only where it must.
    assert thin.answered == [around.answered[0] + ACTIVATIONS * 1000]


def test_a_send_between_slabs_of_a_torus_goes_around_a_failed_link():
    """Rings of four along y in slabs of two: 0 -> 2 is two hops either way, and so is 1 -> 3."""
    spec: dict[str, Any] = {"schedule": "non_blocking", "torus": (2, 4), "stages": [3, 3], "requests": 1}
    given = scenario(
        **spec, layout="weight_stationary_2d", bandwidth="1 GB/s", more={"perturb": {"failed_links": ["1:y+"]}}
    )
    program = simulate_pass(given).lowered.program
    sends = np.flatnonzero([program.op_names[op].startswith("send(p)") for op in program.op.tolist()])
    ways: dict[tuple[int, int], list[str]] = {}
    for task in sends[(program.kind[sends] == Kind.SEND) & (program.layer[sends] == program.layer[sends[0]])]:
        way = ways.setdefault((int(program.chip[task]), int(program.peer[task])), [])
        way.append(program.resources[program.resource[task]])
    assert ways[0, 2] == ["0:y-", "3:y-"]
    assert ways[1, 3] == ["1:y-", "0:y-"]


def test_a_failed_link_inside_a_stage_opens_its_rings_and_no_others():
    """x is a ring of four in both slabs; with 4:x+ failed, stage 1 goes along lines, stage 0 as before."""
    spec: dict[str, Any] = {"schedule": "non_blocking", "torus": (4, 8), "stages": [3, 3], "requests": 1}
    spec |= {"layout": "weight_stationary_2d", "bandwidth": "0.1 GB/s", "ends": False}
    plain = stages(times(scenario(**spec)), 2)
    failed = stages(times(scenario(**spec, more={"perturb": {"failed_links": ["4:x+"]}})), 2)
    assert failed[0] == plain[0]
    assert failed[1] > plain[1]


def test_a_failed_port_cuts_a_stage_off():
    given = scenario(
        schedule="non_blocking", stages=[3, 3], requests=1, more={"perturb": {"failed_links": ["gpu1:ingress"]}}
    )
    with pytest.raises(InputError) as refused:
        run(given)
    assert str(refused.value) == (
        "send(p) activations 0->1: perturb.failed_links: failed links gpu1:ingress cut the machine: "
        "gpu0 cannot reach gpu1 without gpu1:ingress"
    )


def test_stages_that_are_wired_alike_and_no_others_share_their_passes():
    """The second stage of four has a slow link between its two chips; the third is as fast as without it."""
    spec: dict[str, Any] = {"schedule": "non_blocking", "stages": [1, 1, 1, 1], "layers": 4, "requests": 1, "tensor": 2}
    pairs = {"01": "1 GB/s", "23": "1 GB/s", "45": "1 GB/s", "67": "1 GB/s"}
    between = {f"{a}{a + 2}": FREE for a in range(6)}
    plain = stages(times(scenario(**spec, graph=pairs | between)), 4)
    slow = stages(times(scenario(**spec, graph=pairs | between | {"23": "0.1 GB/s"})), 4)
    assert [a == b for a, b in zip(plain, slow, strict=True)] == [True, False, True, True]


def test_jitter_of_repeated_pipelines_is_that_of_their_seeds():
    spec: dict[str, Any] = {"schedule": "non_blocking", "stages": [3, 3], "requests": 4, "bandwidth": "1 GB/s"}
    jitter = {"ops": "10 %", "links": "20 %"}

    def latency(seed: int) -> float:
        return simulate_pass(scenario(**spec, more={"perturb": {"seed": seed, "jitter": jitter}})).step_s

    alone = sorted(latency(seed) for seed in (5, 6, 7))
    report = run(scenario(**spec, more={"perturb": {"seed": 5, "repeats": 3, "jitter": jitter}})).report
    assert report.spread is not None
    assert [report.spread.lowest_s, report.spread.median_s, report.spread.highest_s] == alone
    assert len(set(alone)) == 3
    assert report.waiting is not None
    assert report.waiting.waiting_s > 0
