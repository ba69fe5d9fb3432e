"""Looped collective matmuls as tasks (Pope et al. section 3.5): the matmul is cut into pieces, piece i waits for the
arrival of its shard, and the next shard moves under it. A loop is one operation of the compute stream.

A piece and the shard that moves meanwhile hold each other up: both take longer by the share of the shorter of the two
that does not pass under the longer, `roofline_overlap`, as FLOPs and bytes of one operation do. This assumes that what
both need is the chip's memory, and takes what rows of whole steps determine, one share for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim import units
from sim.collectives.emit import LoopedSends
from sim.collectives.loop import all_gather_loop, closes, form_around, reduce_scatter_loop
from sim.collectives.schedule import Schedule
from sim.layouts.collective_matmul import piece_of_arrival, shift_after
from sim.lowering.costs import Work
from sim.lowering.emitter import Emitter
from sim.lowering.pieces import Launches
from sim.lowering.streams import Tasks
from sim.lowering.work import through_memory
from sim.program import Ids, Kind, Labels, Occupancy, Waits
from sim.specs import LoopForm
from sim.specs.uses import Axes

Picoseconds = npt.NDArray[np.int64]


def gathering_loop(
    emitter: Emitter, name: str, pieces: Sequence[Launches], size: float, axis: str, inputs: Tasks
) -> Tasks:
    """Appends an all-gather of `size` bytes looped with the matmul on it; what chips send directly is copied to memory
    that others can address before."""
    form, length = loop_form(emitter, axis), emitter.group_size((axis,))
    if form == "direct":
        inputs = emitter.compute(f"{name} copy", memory_work(emitter, 2 * size / length), inputs)
    plan = all_gather_loop(emitter.topology, axis, form)
    needed_by = piece_of_arrival(plan, form, length)
    loop = _ContendedLoop(emitter, pieces, plan, size, needed_by - 1)
    waits = emitter.streams.wait_list("compute", inputs)
    op = _label(emitter, "all_gather", axis, name)
    sent = emitter.emit(plan, size, op, waits, emitter.scenario.workload.activations, LoopedSends(loop.sends_ps)).sends
    for piece in range(len(pieces)):
        lanes = [(needed_by == piece) & (plan.direction == direction) for direction in (1, -1)]
        arrived = tuple(emitter.arrivals(plan, sent[lane], np.flatnonzero(lane)) for lane in lanes if lane.any())
        loop.launch(name, piece, (*inputs, *arrived))
    return emitter.streams.last("compute")


def scattering_loop(
    emitter: Emitter, name: str, pieces: Sequence[Launches], size: float, axis: str, inputs: Tasks
) -> Tasks:
    """Appends a matmul looped with the reduce-scatter of its `size` bytes; sums that were sent directly are added up by
    a kernel of its own."""
    form = loop_form(emitter, axis)
    plan = reduce_scatter_loop(emitter.topology, axis, form)
    loop = _ContendedLoop(emitter, pieces, plan, size, plan.step + 1)
    done = np.stack([loop.launch(name, piece, inputs)[0] for piece in range(len(pieces))])
    op = _label(emitter, "reduce_scatter", axis, name)
    # A chip enters once it has something to send; the send of step i carries what piece i computed.
    dtype = emitter.scenario.workload.activations
    needs = done[plan.step, plan.src]
    sent = emitter.emit(plan, size, op, (done[0],), dtype, LoopedSends(loop.sends_ps, needs))
    emitter.streams.append("compute", (), (done[-1], sent.end))
    if form == "direct":
        emitter.compute(f"{name} sum", memory_work(emitter, size * (1 + 1 / len(pieces))))
    return emitter.streams.last("compute")


class _ContendedLoop:
    """Pieces and sends of a loop, each delayed by what runs concurrently."""

    def __init__(
        self, emitter: Emitter, pieces: Sequence[Launches], plan: Schedule, size: float, concurrent_piece: Ids
    ) -> None:
        """`concurrent_piece` [sends]: the piece that runs while each send is on its way, which may be none of
        `pieces`."""
        self.emitter, self.pieces = emitter, pieces
        self.chip = emitter.topology.chip.in_collective_matmuls
        _, _, message_ps = _send_times(emitter, plan, size * plan.share)
        shift_ps = np.zeros(len(pieces), dtype=np.int64)
        paired = (concurrent_piece >= 0) & (concurrent_piece < len(pieces))
        np.maximum.at(shift_ps, concurrent_piece[paired], message_ps[paired])
        piece_ps = [sum(emitter.duration_ps(work, self.chip) for work in launches) for launches in pieces]
        self.pieces_ps = contention_ps(emitter, np.array(piece_ps, dtype=np.int64), shift_ps)
        """[pieces] additional time."""
        delayed = paired & plan.arrives(emitter.topology)
        self.sends_ps = np.where(delayed, self.pieces_ps[np.where(delayed, concurrent_piece, 0)], 0)
        """[sends] additional time."""

    def launch(self, name: str, piece: int, inputs: Tasks) -> Tasks:
        """Appends the launches of one piece, one after the other; returns the tasks that end the last."""
        added_ps = int(self.pieces_ps[piece])
        for work in self.pieces[piece]:
            done = self.emitter.compute(name, work, inputs, self.chip, added_ps)
            added_ps = 0
        return done


def memory_work(emitter: Emitter, size: float) -> Work:
    """Returns the work of a kernel that reads and writes `size` bytes in all."""
    return Work(0.0, through_memory(size, emitter.topology.chip.on_chip_bytes))


def contention_ps(emitter: Emitter, piece_ps: Picoseconds, shift_ps: Picoseconds) -> Picoseconds:
    """Returns the additional time of pieces and the hops beside them: the exposed share of the shorter, ps."""
    shorter = np.minimum(piece_ps, shift_ps)
    return np.rint((1.0 - emitter.topology.chip.roofline_overlap) * shorter).astype(np.int64)


def weight_loop(
    emitter: Emitter, name: str, pieces: Sequence[Launches], size: float, axes: Axes, inputs: Tasks
) -> Tasks:
    """Appends pieces that each multiply with one shard of `size` bytes while it moves on to the next chip of a ring.

    Loops are nested, the first axis innermost. Each shift runs under the piece that multiplies with what it sends; the
    next waits for it, on whatever axis: collectives run in program order, one at a time.
    """
    lengths = [emitter.group_size((axis,)) for axis in axes]
    op = emitter.label("all_gather", axes, f"{name} weights")
    overhead = units.to_ps(emitter.topology.software.collective_overhead_s)
    instance = emitter.builder.new_collective()
    waits = emitter.streams.wait_list("compute", inputs)
    emitter.builder.dtypes[op] = emitter.scenario.workload.weights
    slow_ppm = emitter.slow_ppm(all_gather_loop(emitter.topology, axes[0], "one_way"), size)
    slows = emitter.chips if slow_ppm else -1
    begin = emitter.builder.add(
        op,
        Kind.BEGIN,
        emitter.chips,
        Occupancy(flight_ps=overhead, slows=slows, slow_ppm=slow_ppm),
        Waits((*waits, *emitter.launch(op))),
        Labels(bytes=size * len(pieces), collective=instance),
    )
    arrived: Tasks = ()  # arrivals of the shards in hand
    for piece, (work,) in enumerate(pieces):
        compute_done = emitter.streams.last("compute")
        along = shift_after(piece, lengths)
        if along is None:
            emitter.compute(name, work, (*inputs, *arrived))
            break
        plan, rows = _first_hops(emitter, axes[along], size)
        busy_ps, flight_ps, message_ps = _send_times(emitter, plan, np.full(len(plan), size))
        (contended_ps,) = contention_ps(
            emitter, np.array([emitter.duration_ps(work)]), message_ps[rows].max(keepdims=True)
        ).tolist()
        emitter.compute(name, work, (*inputs, *arrived), added_ps=contended_ps)
        starts, row_of_task = plan.follows[rows] < 0, np.full(len(plan) + 1, -1, dtype=np.int64)
        row_of_task[rows] = len(emitter.builder) + np.arange(len(rows))
        arrives = plan.arrives(emitter.topology)
        sends = emitter.builder.add(
            op,
            Kind.SEND,
            plan.src[rows],
            Occupancy(
                emitter.topology.chips + plan.link[rows],
                busy_ps=busy_ps[rows],
                flight_ps=(flight_ps + arrives * contended_ps)[rows],
            ),
            Waits(
                [np.where(starts, ids[plan.src[rows]], -1) for ids in (begin, *compute_done, *arrived)],
                follows=row_of_task[plan.follows[rows]],
            ),
            Labels(peer=plan.dst[rows], bytes=size, collective=instance),
        )
        arrived = (emitter.arrivals(plan, sends, rows),)
    end = emitter.builder.add(
        op,
        Kind.END,
        emitter.chips,
        Occupancy(slows=slows, slow_ppm=-slow_ppm),
        Waits((begin, *arrived)),
        Labels(collective=instance),
    )
    emitter.streams.append("compute", (), (*emitter.streams.last("compute"), end))
    return emitter.streams.last("compute")


def _label(emitter: Emitter, kind: str, axis: str, name: str) -> str:
    """Names a looped collective, and notes in the program whether copy engines carry it out."""
    op = emitter.label(kind, (axis,), name)
    if loop_form(emitter, axis) == "direct":
        emitter.builder.copied[op] = None
    return op


def _send_times(
    emitter: Emitter, plan: Schedule, sizes: npt.NDArray[np.float64]
) -> tuple[Picoseconds, Picoseconds, Picoseconds]:
    """Returns the time on its link, the flight, and the time of the whole message, each [sends] ps.

    Args:
        sizes: [sends] bytes.
    """
    links, head = [emitter.topology.links[link] for link in plan.link.tolist()], plan.heads()
    busy_ps = np.array([link.busy_ps(size) for link, size in zip(links, sizes.tolist(), strict=True)], dtype=np.int64)
    flight_ps = np.array([link.latency_ps for link in links], dtype=np.int64)
    longest_ps, flown_ps = np.zeros_like(busy_ps), np.zeros_like(flight_ps)
    np.maximum.at(longest_ps, head, busy_ps)
    np.add.at(flown_ps, head, flight_ps)
    return busy_ps, flight_ps, (longest_ps + flown_ps)[head]


def _first_hops(emitter: Emitter, axis: str, size: float) -> tuple[Schedule, npt.NDArray[np.int64]]:
    """Returns the schedule around an axis, and the rows of its first hop, chip by chip."""
    plan = all_gather_loop(emitter.topology, axis, "one_way")
    return plan, np.flatnonzero(plan.step == 0)


def is_loopable(emitter: Emitter, axes: Axes) -> bool:
    """Returns True if a collective over `axes` is looped with its matmul: around one axis that closes."""
    looped = emitter.scenario.overlap == "collective_matmul" and len(axes) == 1 and emitter.group_size(axes) > 1
    return looped and closes(emitter.topology, axes[0])


def loop_form(emitter: Emitter, axis: str) -> LoopForm:
    """Returns the loop form of the scenario or the stack. By default it is that of the released code: the latency form
    to decode, the throughput form to prefill (Pope et al. 3.5). Two chips without a wraparound have one link each way,
    and swap."""
    scenario = emitter.scenario
    default = "bidirectional_latency" if scenario.workload.phase == "decode" else "bidirectional_throughput"
    form: LoopForm = scenario.collectives.get("collective_matmul", scenario.stack.loop_form or default)  # type: ignore[assignment]
    return form_around(emitter.topology, axis, form)
