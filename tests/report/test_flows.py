"""Arrows of messages: they end when the message has passed its last link, inside the collective that takes it."""

import numpy as np
import pytest

from sim.api import load, simulate
from sim.program import Kind
from sim.report.flows import Receivers
from sim.report.lanes import build_lanes


@pytest.mark.parametrize("name", ["llama3_8b_tp8_ladder", "palm540b_decode_ws2d"])
def test_every_message_of_a_collective_arrives_in_it(name: str):
    (part,) = simulate(load(name, "engine.layers=1", "engine.shortcuts=layers")).passes
    trace, topology, program = part.trace, part.topology, part.trace.program
    lanes = build_lanes(trace, topology, range(topology.chips))
    tracks = {chip: [100 * chip + k for k in range(len(rows))] for chip, rows in lanes.items()}
    receivers = Receivers.build(trace, topology.chips, lanes, tracks)
    arrived: dict[int, int] = {}
    for rows in lanes.values():
        for lane in rows:
            if lane.kind == "link":
                flows = receivers.flows_of(trace, lane.spans)
                assert len(flows.task) == len(lane.spans)
                assert (flows.track // 100 == program.peer[flows.task]).all()
                assert ((flows.begin_ps < flows.arrival_ps) & (flows.arrival_ps <= flows.end_ps)).all()
                arrived |= dict(zip(flows.task.tolist(), flows.arrival_ps.tolist(), strict=True))
    sends = program.kind == Kind.SEND
    last = np.setdiff1d(np.flatnonzero(sends), program.follows[program.follows >= 0])
    first = [task for task in arrived if program.follows[task] < 0]
    # each message has one last hop; over a switch two hops, on a torus one, and no arrow ends before the last
    assert sorted(arrived[task] for task in first) == sorted(trace.times["end"][last].tolist())
