"""Where an overlap is slower than none, the report says so, by how much and why."""

import itertools

import pytest
from support.selection import each_once

from sim.collectives.loop import LoopForm
from sim.report.metrics import measure
from sim.report.overlap import _PARTS, explain_slower_overlap
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.latency import step_s
from sim.simulate.run import run
from sim.specs import load
from sim.specs.uses import PRESETS
from sim.units import format_seconds

WORKLOADS = (
    "{phase: prefill, batch: 64, prompt: 64, weights: int8}",
    "{phase: decode, batch: 64, context: 64, generate: 1, weights: int8}",
)
MACHINES = ("stack.op_overhead=0 s", "stack.op_overhead=20 us", "topology.link.latency=20 us")
RINGS = [form for form in LoopForm.__args__ if form != "direct"]  # which is of routes that join the chips
TORI = [
    ("palm540b_decode_ws2d", (f"layout.ffn={layout}", f"collectives.collective_matmul={form}"), "collective_matmul")
    for layout, form in itertools.product(PRESETS, RINGS)
]
BOXES = [("llama3_70b_tp8_standard", (), overlap) for overlap in ("micro_batches", "chunked_matmul")]
CASES = [
    (name, (*own, f"workload={workload}", machine, "engine.layers=3"), overlap)
    for (name, own, overlap), workload, machine in itertools.product([*TORI, *BOXES], WORKLOADS, MACHINES)
    if name.startswith("palm") or "link" not in machine
]


def of_overlap(notes):
    return [note for note in notes if note.startswith("overlap") and "slower" in note]


@pytest.mark.parametrize(
    ("name", "settings", "overlap"), each_once(CASES, lambda name, settings, overlap: (name, overlap, *settings[-5:]))
)
def test_the_report_says_when_an_overlap_is_slower_than_none(name, settings, overlap):
    """With both times and the difference; a difference that does not show in a tenth of a percent is none."""
    scenario, plain = (load.scenario(name, [*settings, f"layout.overlap={kind}"]) for kind in (overlap, "none"))
    with_s, without_s = step_s(scenario), step_s(plain)
    notes = of_overlap(run(scenario).report.notes)
    assert not of_overlap(run(plain).report.notes)
    if with_s < 1.001 * without_s:
        assert not notes
        return
    (note,) = notes
    times = f"{format_seconds(with_s)} instead of {format_seconds(without_s)}"
    assert note.startswith(
        f"overlap {overlap} is slower than none in {scenario.workload.phase}, {times} ({with_s / without_s - 1:+.1%}): "
    )
    assert " more " in note


def test_both_happen():
    """Some of the cases above are slower, some are not."""
    slower = set()
    for name, settings, overlap in CASES[:: len(CASES) // 12]:
        times = [step_s(load.scenario(name, [*settings, f"layout.overlap={kind}"])) for kind in (overlap, "none")]
        slower.add(times[0] > times[1])
    assert slower == {True, False}


@pytest.mark.parametrize(("name", "settings", "overlap"), CASES[::7])
def test_the_parts_that_the_note_is_made_of_add_up_to_the_step(name, settings, overlap):
    found = simulate_pass(load.scenario(name, [*settings, f"layout.overlap={overlap}"]))
    own = measure(found.trace, found.topology, periods=found.periods)
    assert sum(part.seconds(own) for part in _PARTS) == pytest.approx(own.makespan_s, rel=1e-9)
    assert explain_slower_overlap(overlap, "decode", own, own) == ()
