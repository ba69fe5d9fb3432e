"""Looped collective matmuls as tasks (Pope et al. section 3.5): the matmul is cut into pieces, piece i waits for the
arrival of its shard, and the next shard moves under it. A loop is one operation of the compute stream."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim import units
from sim.collectives import schedule
from sim.collectives.loop import LoopForm, all_gather_loop, reduce_scatter_loop
from sim.looped import piece_of_arrival, shift_after
from sim.lowering.emitter import Emitter
from sim.lowering.pieces import Launches
from sim.lowering.streams import Tasks
from sim.partition import Axes
from sim.program import Ids, Kind


def gathering_loop(to: Emitter, name: str, pieces: Sequence[Launches], size: float, axis: str, inputs: Tasks) -> Tasks:
    """An all-gather of `size` bytes and the matmul on it."""
    form, length = loop_form(to), to.ways((axis,))
    plan = all_gather_loop(to.topology, axis, form)
    waits = to.streams.waits("compute", inputs)
    op = to.label("all_gather", (axis,), name)
    sent = to.emit(plan, size, op, waits, to.scenario.workload.activations).sends
    needed_by = piece_of_arrival(plan, form, length)
    for piece, launches in enumerate(pieces):
        lanes = [(needed_by == piece) & (plan.direction == direction) for direction in (1, -1)]
        arrived = tuple(to.arrivals(plan, sent, lane) for lane in lanes if lane.any())
        _launch_all(to, name, launches, (*inputs, *arrived))
    return to.streams.last("compute")


def scattering_loop(to: Emitter, name: str, pieces: Sequence[Launches], size: float, axis: str, inputs: Tasks) -> Tasks:
    """A matmul and the reduce-scatter of its `size` bytes."""
    plan = reduce_scatter_loop(to.topology, axis, loop_form(to))
    done = np.stack([_launch_all(to, name, launches, inputs)[0] for launches in pieces])
    op = to.label("reduce_scatter", (axis,), name)
    # A chip enters once it has something to send; the send of step i carries what piece i computed.
    dtype = to.scenario.workload.activations
    sent = to.emit(plan, size, op, (done[0],), dtype, needs=done[plan.step, plan.src])
    to.streams.put("compute", (), (done[-1], sent.end))
    return to.streams.last("compute")


def _launch_all(to: Emitter, name: str, launches: Launches, inputs: Tasks) -> Tasks:
    """The launches of one piece, one after the other; the tasks that end the last."""
    for work in launches:
        done = to.compute(name, work, inputs)
    return done


def weight_loop(to: Emitter, name: str, pieces: Sequence[Launches], size: float, axes: Axes, inputs: Tasks) -> Tasks:
    """Pieces that each multiply with one shard of `size` bytes, while it moves on to the next chip of a ring.

    Loops are nested, the first axis innermost. Each shift runs under the piece that multiplies with what it sends; the
    next waits for it, on whatever axis: collectives run in program order, one at a time.
    """
    lengths = [to.ways((axis,)) for axis in axes]
    op = to.label("all_gather", axes, f"{name} weights")
    overhead = units.to_ps(to.topology.collective_overhead_s)
    instance = to.builder.new_collective()
    waits = to.streams.waits("compute", inputs)
    to.builder.dtypes[op] = to.scenario.workload.weights
    slow_ppm = to.slow_ppm(schedule(to.topology, "permute", axes[:1]), size)
    slows = to.chips if slow_ppm else -1
    begin = to.builder.add(
        op,
        Kind.BEGIN,
        to.chips,
        flight_ps=overhead,
        deps=(*waits, *to.launch(op)),
        bytes=size * len(pieces),
        collective=instance,
        slows=slows,
        slow_ppm=slow_ppm,
    )
    here: Tasks = ()  # arrivals of the shards in hand
    for piece, launches in enumerate(pieces):
        before = to.streams.last("compute")
        _launch_all(to, name, launches, (*inputs, *here))
        along = shift_after(piece, lengths)
        if along is None:
            break
        after = (begin, *before, *here)
        here = (_shift(to, op, axes[along], size, after, instance),)
    end = to.builder.add(
        op, Kind.END, to.chips, deps=(begin, *here), collective=instance, slows=slows, slow_ppm=-slow_ppm
    )
    to.streams.put("compute", (), (*to.streams.last("compute"), end))
    return to.streams.last("compute")


def _shift(to: Emitter, op: str, axis: str, size: float, after: Sequence[Ids], instance: int) -> Ids:
    """Every chip sends `size` bytes one hop on; [chips] tasks that bring each chip its arrival."""
    plan = schedule(to.topology, "permute", (axis,))
    links = [to.topology.links[link] for link in plan.link.tolist()]
    sends = to.builder.add(
        op,
        Kind.SEND,
        plan.src,
        peer=plan.dst,
        busy_ps=[link.busy_ps(size) for link in links],
        flight_ps=[link.latency_ps for link in links],
        resource=to.topology.chips + plan.link,
        deps=[ids[plan.src] for ids in after],
        bytes=size,
        collective=instance,
    )
    return to.arrivals(plan, sends, np.ones(len(plan), dtype=np.bool_))


def loops(to: Emitter, axes: Axes) -> bool:
    """Whether a collective over `axes` is looped with its matmul: around one ring; a line has none to go around."""
    looped = to.scenario.layout.overlap == "collective_matmul" and len(axes) == 1 and to.ways(axes) > 1
    return looped and to.topology.axis(axes[0]).ring


def loop_form(to: Emitter) -> LoopForm:
    """The released code uses the latency form to decode and the throughput form to prefill (Pope et al. 3.5)."""
    default = "bidirectional_latency" if to.scenario.workload.phase == "decode" else "bidirectional_throughput"
    form: LoopForm = to.scenario.collectives.get("collective_matmul", default)  # type: ignore[assignment]
    return form
