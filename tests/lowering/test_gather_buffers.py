"""Weights gathered ahead take buffers: as many as the trace shows to be in use, and no more than the report says."""

import itertools

import numpy as np
import pytest

from sim.engine import simulate
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.simulate.run import run
from sim.specs import load
from sim.specs.uses import PRESETS
from sim.units import PS_PER_S

GATHERED = [name for name in PRESETS if name.startswith("weight_gathered")]
STREAMS = ("compute_stream", "own_stream")
ENDLESS = ("topology.link.bandwidth=1000 TB/s", "topology.link.latency=0 s", "stack.collective_overhead=0 s")


def lowered(layout, *settings, layers=6, model="palm_62b"):
    """A prefill of 64 sequences on a 2x2x2 torus, all chips and all layers."""
    own = (
        "topology=tpu_v4_2x2x2",
        f"model={model}",
        f"engine.layers={layers}",
        "workload={phase: prefill, batch: 64, prompt: 32, weights: bf16}",
        f"layout.ffn={layout}",
        "layout.overlap=none",
        "stack.collective_axes=at_once",  # so that a gather is one collective
    )
    scenario = load.scenario("palm540b_decode_ws2d", [*own, *settings])
    return scenario, lower(scenario, mesh_of(scenario))


def most_bytes_in_use(trace):
    """Bytes of gathered weights at the fullest moment of the fullest chip, looked up task by task.

    A gather fills its buffer from the moment its chip enters until the matmul of its name and layer has ended. A shard
    of a loop is there from the moment it is sent until its piece has ended and it has left for the next chip.
    """
    program, times = trace.program, trace.times
    events = {}

    def held(chip, since, until, size):
        events.setdefault(chip, []).extend([(int(since), 1, size), (int(until), 0, -size)])

    of = {}
    for task in range(len(program)):
        name, kind = program.op_names[program.op[task]], Kind(program.kind[task])
        own = name.removesuffix(" weights").rpartition(") ")[2]
        chip = int(program.peer[task] if kind == Kind.SEND else program.chip[task])
        of.setdefault((own, int(program.layer[task]), chip, kind, name.endswith(" weights")), []).append(task)
    for (own, layer, chip, kind, weights), begins in of.items():
        if kind != Kind.BEGIN or not weights:
            continue
        pieces = of[own, layer, chip, Kind.COMPUTE, False]
        if len(pieces) == 1:
            held(chip, times["start"][begins[0]], times["end"][pieces[0]], program.bytes[begins[0]])
            continue
        arrivals = of[own, layer, chip, Kind.SEND, True]
        for arrived, piece in zip(arrivals, pieces[1:], strict=True):
            sent = [
                t for t in range(len(program)) if arrived in program.dependencies(t) and program.kind[t] == Kind.SEND
            ]
            until = max([times["end"][piece], *times["free"][sent]])
            held(chip, times["start"][arrived], until, program.bytes[arrived])
    found = 0.0
    for own in events.values():
        found = max(found, max(itertools.accumulate(size for _, _, size in sorted(own))))
    return found


@pytest.mark.parametrize("block", ["parallel", "serial"])
@pytest.mark.parametrize("prefetch", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("layout", GATHERED)
def test_buffers_of_gathers_that_run_ahead_are_those_reported(layout, prefetch, block):
    """All are in use where links are endlessly fast and no activations are gathered between; else no more."""
    ahead = ("layout.communication=own_stream", f"layout.prefetch={prefetch}", f"layout.block={block}")
    for settings, full in ((ENDLESS, layout == "weight_gathered_xyz"), ((), False)):
        _, made = lowered(layout, *ahead, *settings)
        most = most_bytes_in_use(simulate(made.program))
        assert most <= made.gather_buffer_bytes
        assert most == made.gather_buffer_bytes or not full


@pytest.mark.parametrize("communication", STREAMS)
@pytest.mark.parametrize("overlap", ["none", "collective_matmul"])
@pytest.mark.parametrize("layout", GATHERED)
def test_no_more_is_in_use_than_reported_whatever_overlaps(layout, overlap, communication):
    settings = (f"layout.communication={communication}", f"layout.overlap={overlap}")
    _, made = lowered(layout, *settings, layers=2)
    most = most_bytes_in_use(simulate(made.program))
    assert 0 < most <= made.gather_buffer_bytes
    if communication == "compute_stream":
        assert most == made.gather_buffer_bytes


@pytest.mark.parametrize("prefetch", [0, 1, 4, 7])
def test_layers_repeat_however_far_gathers_run_ahead(prefetch):
    """The pass of 40 layers takes what it takes when every layer is lowered and simulated by itself."""
    ahead = ("layout.communication=own_stream", f"layout.prefetch={prefetch}")
    times = []
    for shortcuts in ("auto", "chips"):
        scenario, _ = lowered("weight_gathered_xyz", *ahead, f"engine.shortcuts={shortcuts}", layers=40)
        times.append(run(scenario).report.simulated.latency_s)
    assert times[0] == times[1]


def test_further_ahead_is_no_slower_and_takes_more_memory():
    """Six layers, gathered over all chips."""
    steps, buffers = [], []
    for prefetch in range(5):
        _, made = lowered("weight_gathered_xyz", "layout.communication=own_stream", f"layout.prefetch={prefetch}")
        steps.append(simulate(made.program).makespan_ps / PS_PER_S)
        buffers.append(made.gather_buffer_bytes)
    assert steps == sorted(steps, reverse=True)
    assert steps[0] > steps[1]
    assert (np.diff(buffers) > 0).all()
