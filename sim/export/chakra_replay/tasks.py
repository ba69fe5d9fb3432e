"""Tasks of nodes and collectives on the resources of a machine."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from sim import units
from sim.collectives import algorithm_of, schedule
from sim.collectives.emit import ChipMessage, CollectiveCall, emit, emit_message
from sim.collectives.groups import longer_axes
from sim.errors import InputError
from sim.export.chakra import NodeType
from sim.export.chakra_replay.matching import Collective, Matched
from sim.export.chakra_replay.nodes import Key, Notes, RankNode
from sim.lowering.costs import Work, cost, launch
from sim.program import FULL_PPM, Ids, Kind, Labels, Occupancy, Program, ProgramBuilder, Waits
from sim.report.ops import parse_op
from sim.topology.graph import Topology
from sim.topology.group import Group, group_of
from sim.topology.mesh import joined

_KINDS = {"compute": Kind.COMPUTE, "host": Kind.LAUNCH, "copy": Kind.COPY}
"""Kind of a task that this program wrote, by the engine of the chip that it holds."""


class Tasks:
    """The tasks made so far."""

    def __init__(self, matched: Matched, topology: Topology, dtype: str, notes: Notes) -> None:
        """`dtype` is the number format of computations that do not say theirs."""
        self.dtype = dtype
        self._matched, self._topology, self._notes = matched, topology, notes
        names = [f"{chip}:compute" for chip in range(topology.chips)]
        names += [link.name for link in topology.links]
        names += [f"{chip}:{engine}" for engine in ("host", "copy") for chip in range(topology.chips)]
        self._resource = {name: i for i, name in enumerate(names)}
        self.builder = ProgramBuilder(names)
        self._made: dict[Key, Ids] = {}
        """Tasks with which each node ends."""

    def add(self, each: RankNode) -> None:
        """Adds the tasks of a node that is of no collective, after those of its parents."""
        after = self._ends_of(self._matched.parents[each.key])
        if each.key in self._matched.sender_of:
            after += self._ends_of([self._matched.sender_of[each.key]])
        if "resource" in each.node.attributes:
            made = self._as_written(each, after)
        elif each.node.type == NodeType.COMM_SEND:
            made = self._message(each, after)
        elif each.node.type == NodeType.COMP:
            made = self._computation(each, after)
        elif each.node.type == NodeType.COMM_RECV:
            self._note_simulated(each)
            made = self.builder.add(each.node.name, Kind.EVENT, each.rank, waits=Waits(after))
        elif each.node.type == NodeType.INVALID:
            raise InputError("must have a type of the schema", where=str(each), got="INVALID_NODE")
        else:
            memory = each.node.type in (NodeType.MEM_LOAD, NodeType.MEM_STORE)
            flight_ps = self._duration_ps(each) if memory else each.node.duration_us * 1_000_000
            made = self.builder.add(each.node.name, Kind.EVENT, each.rank, Occupancy(flight_ps=flight_ps), Waits(after))
        self._made[each.key] = made

    def _ends_of(self, nodes: Sequence[Key]) -> list[Ids]:
        """Returns the tasks, one in each array, with which these nodes end."""
        return [self._made[node][way : way + 1] for node in nodes for way in range(len(self._made[node]))]

    def _as_written(self, each: RankNode, after: list[Ids]) -> Ids:
        """Returns a task of this program, with the resources it held."""
        node = each.node
        held, slows = each.text("resource"), each.text("slows")
        for name in (held, slows):
            if name and name not in self._resource:
                rule = f"must be links of {self._topology.name}"
                raise each.wrong("resource", rule, name, "replay on the machine of the trace")
        sends = node.type in (NodeType.COMM_SEND, NodeType.METADATA)
        engine, follows = held.rpartition(":")[2], bool(each.flag("follows"))
        if follows and len(after) != 1:
            raise each.wrong("follows", "must be of a message with one parent", len(after), "export the trace again")
        return self.builder.add(
            node.name,
            Kind.SEND if sends else _KINDS.get(engine, Kind.EVENT),
            each.rank,
            Occupancy(
                self._resource[held] if held else -1,
                busy_ps=each.whole("busy_ps") or 0,
                flight_ps=each.whole("flight_ps") or 0,
                slows=self._resource[slows] if slows else -1,
                slow_ppm=each.whole("slow_ppm") or 0,
                yields_ppm=FULL_PPM if (yields := each.whole("yields_ppm")) is None else yields,
            ),
            Waits(() if follows else after, follows=after[0] if follows else -1),
            Labels(
                peer=each.ends(sends=True)[1] if node.type == NodeType.COMM_SEND else -1,
                bytes=each.quantity("comm_size" if sends else "tensor_size") or 0.0,
                flops=each.quantity("num_ops") or 0.0,
                compute_ps=each.whole("compute_ps") or 0,
                memory_ps=each.whole("memory_ps") or 0,
                overhead_ps=each.whole("overhead_ps") or 0,
            ),
        )

    def _computation(self, each: RankNode, after: list[Ids]) -> Ids:
        on_host = each.flag("is_cpu_op")
        if on_host is None:
            self._notes.count("{n} computations without is_cpu_op run on the host, as the schema's feeder takes them")
            on_host = True
        work = Work(each.quantity("num_ops") or 0.0, each.quantity("tensor_size") or 0.0)
        known = each.dtype in self._topology.chip.peak_flops
        resource = self._resource[f"{each.rank}:{'host' if on_host else 'compute'}"]
        occupancy, labels = launch(self._topology.chip, work, each.dtype if known else self.dtype, resource)
        occupancy = replace(occupancy, busy_ps=self._duration_ps(each))
        kind = Kind.EVENT if on_host else Kind.COMPUTE
        return self.builder.add(each.node.name, kind, each.rank, occupancy, Waits(after), labels)

    def _duration_ps(self, each: RankNode) -> int:
        """Returns the time the trace says, else the roofline of the node's FLOPs and bytes."""
        if (exact_ps := each.whole("busy_ps")) is not None:
            return exact_ps
        if each.node.duration_us:
            return each.node.duration_us * 1_000_000
        work = Work(each.quantity("num_ops") or 0.0, each.quantity("tensor_size") or 0.0)
        if not work.flops and not work.bytes:
            self._notes.count("{n} nodes have no duration, num_ops or tensor_size: they take no time")
            return 0
        chip = self._topology.chip
        dtype = each.dtype if each.dtype and work.flops else self.dtype
        which = "" if each.dtype or not work.flops else " and a number format"
        self._notes.count(f"{{n}} nodes without a duration{which} take the roofline of {chip.name} in {dtype}")
        try:
            return units.to_ps(cost(chip, work, dtype).roofline_s)
        except InputError as error:
            raise error.within(str(each)) from None

    def _message(self, each: RankNode, after: list[Ids]) -> Ids:
        """Returns a message over the machine."""
        name, size, dst = each.node.name, each.required("comm_size"), each.ends(sends=True)[1]
        self._note_simulated(each)
        begin = self.builder.add(name, Kind.EVENT, each.rank, waits=Waits(after))
        return (
            begin
            if dst == each.rank
            else emit_message(self.builder, self._topology, ChipMessage(each.rank, dst, size, name), begin)
        )

    def add_collective(self, collective: Collective) -> None:
        """Adds a collective by the algorithm of the group's machine; each member takes part after its parents."""
        first = collective.members[0]
        for member in collective.members:
            self._note_simulated(member)
        group = group_of(self._topology, collective.ranks)
        starts = [
            self.builder.add(
                member.node.name, Kind.EVENT, member.rank, waits=Waits(self._ends_of(self._matched.parents[member.key]))
            )
            for member in collective.members
        ]
        if len(starts) == 1:
            self._notes.count("{n} collectives are of a group of one rank: they take no time")
            self._made[first.key] = starts[0]
            return
        try:
            program = _program(group, collective.kind, collective.size, first.node.name)
        except InputError as error:
            raise error.within(str(first)) from None
        resources = np.concatenate([group.chips, self._topology.chips + group.links]).astype(np.int32)
        ends = self.builder.insert(program, group.chips, resources, np.concatenate(starts))
        for member, end in zip(collective.members, ends.tolist(), strict=True):
            self._made[member.key] = np.array([end], dtype=np.int32)

    def _note_simulated(self, each: RankNode) -> None:
        if each.node.duration_us:
            self._notes.count("{n} nodes of messages and collectives are simulated: their durations are not used")
        if each.flag("is_cpu_op"):
            self._notes.count("{n} nodes of messages and collectives are marked is_cpu_op: they use the links")


@functools.lru_cache(maxsize=256)
def _program(group: Group, kind: str, size: float, name: str) -> Program:
    """Returns a collective of all chips of a group's machine; the last task of each chip ends it."""
    machine = group.machine
    axes = longer_axes(machine)
    if kind in ("all_gather", "gather"):  # a rank's part in the trace, the whole array here
        size *= machine.chips
    plan = schedule(machine, kind, axes, algorithm_of(machine, kind, None, size), size)
    builder = ProgramBuilder([*(f"{chip}:compute" for chip in range(machine.chips)), *(x.name for x in machine.links)])
    emit(builder, machine, CollectiveCall(plan, size, f"{kind}({joined(axes)}) {parse_op(name).operand}"))
    return builder.build()
