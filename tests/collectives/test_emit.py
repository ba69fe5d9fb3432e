"""What a collective's sends wait for, beside each other."""

import numpy as np
from support.handmade import ring
from support.machines import graph

from sim.collectives import schedule
from sim.collectives.emit import ChipMessage, CollectiveCall, LoopedSends, emit, emit_message
from sim.engine import simulate
from sim.program import Kind, Occupancy, ProgramBuilder


def test_a_send_waits_for_the_task_it_needs_whatever_its_number():
    """Every send of chip 0 needs task 0, those of chip 1 nothing more."""
    topology = ring(2)
    builder = ProgramBuilder([*(f"{chip}:compute" for chip in range(2)), *(link.name for link in topology.links)])
    needed = builder.add("matmul", Kind.COMPUTE, [0], Occupancy(0, busy_ps=7))
    plan = schedule(topology, "all_gather", ("x",))
    needs = np.where(plan.src == 0, needed[0], np.int32(-1))
    made = emit(
        builder,
        topology,
        CollectiveCall(plan, 1e6, "all_gather(x) a"),
        looped=LoopedSends(np.zeros(len(plan), dtype=np.int64), needs),
    )
    program = builder.build()
    waits = [int(needed[0]) in program.dependencies(send).tolist() for send in made.sends.tolist()]
    assert waits == (plan.src == 0).tolist()


def test_a_message_goes_over_all_its_equally_good_ways_at_once():
    """Two ways to the chip opposite on a square of 50 GB/s: 50 kB take 0.5 us over each, and two hops of 1 us."""
    topology = graph("01", "12", "23", "30", chips=4)
    builder = ProgramBuilder([*(f"{chip}:compute" for chip in range(4)), *(link.name for link in topology.links)])
    begin = builder.add("send", Kind.BEGIN, [0])
    arrived = emit_message(builder, topology, ChipMessage(0, 2, 50e3, "send"), begin)
    trace = simulate(builder.build())
    assert trace.times["end"][arrived].tolist() == [2_500_000] * 2
    assert trace.program.bytes[arrived].sum() == 50e3
