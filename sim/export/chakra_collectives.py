"""Chakra nodes of whole collectives: what every rank computes, and the collectives and messages that it takes part in.

    compute                            COMP_NODE       duration, num_ops, tensor_size, dtype
    launches, events, waits            COMP_NODE       duration, is_cpu_op
    copies from and to a memory pool   MEM_LOAD_NODE, MEM_STORE_NODE   duration, tensor_size
    a chip's part in a collective      COMM_COLL_NODE  comm_type, comm_size, pg_name
    a message between pipeline stages  COMM_SEND_NODE and COMM_RECV_NODE
    a wait for an event of another rank, such as room in a queue: a message of one byte

Durations are those of the run, interference and polling included. They are whole microseconds in the schema: what
rounding leaves is carried on to the next node of the same rank, so that sums are exact. The exact duration is there as
`busy_ps` too, which `sim replay` reads.

A collective that is looped with a matmul is one node beside the matmul. The pieces that need no more than what the loop
begins with are one node, and so are those that need the last shard, which wait for the collective.

The size of an all-gather is what one rank puts in, as in ASTRA-sim; of other collectives it is the whole buffer. A
collective of all ranks has no `pg_name`. Other groups are named by whole numbers from 1 on, as ASTRA-sim requires.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct, field

from sim.export.attributes import Value
from sim.export.chakra import CollectiveType, Node, NodeType
from sim.program import Ints, Kind, Program
from sim.program.trace import Trace
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_groups

CONTROL_BYTES = 1
"""Size of a message that only tells another rank that something has happened."""

COPY_TYPES = {"fetch": NodeType.MEM_LOAD, "evict": NodeType.MEM_STORE}
"""Types of the copies of a memory pool, by op."""

_PS_PER_US = 1_000_000
_Deps = tuple[int, ...]
"""Ids of nodes of one rank."""


class CollectiveNodes(Struct, frozen=True):
    """The nodes of every rank, and the process groups that they name."""

    ranks: list[list[Node]]
    groups: dict[str, tuple[int, ...]]
    """Ranks of each group, by `pg_name`."""


def collective_nodes(trace: Trace, topology: Topology, dtype: str = "") -> CollectiveNodes:
    """Returns the nodes of a run.

    Args:
        topology: the machine with all its chips.
        dtype: number format of the computations, where it is known.
    """
    nodes = _Nodes(trace, topology, dtype)
    for task in nodes.starting_tasks().tolist():
        nodes.add(task)
    return CollectiveNodes(nodes.ranks, nodes.groups.ranks)


class _Nodes:
    """The nodes made so far, and with which of them a task ends."""

    def __init__(self, trace: Trace, topology: Topology, dtype: str) -> None:
        program = trace.program
        self.ranks: list[list[Node]] = [[] for _ in range(topology.chips)]
        self.groups = _Groups(program, topology)
        self._program, self._dtype = program, dtype
        self._kind, self._chip, self._peer, self._instance, self._op, self._layer = (
            getattr(program, name).tolist() for name in ("kind", "chip", "peer", "collective", "op", "layer")
        )
        self._types = [_collective_type(op) for op in program.op_names]
        self._duration_ps = _durations_ps(trace).tolist()
        self._carried_ps = [[0, 0] for _ in self.ranks]
        """Remainder of rounding of each chip, of its computations and of its other tasks."""
        self._is_last_arrival = _last_arrivals(trace).tolist()
        self._pieces = _pieces(program, self._types, self._is_last_arrival)
        self._message_bytes = _message_bytes(program)
        self._nodes_of: dict[int, _Deps] = {}
        """By task."""
        self._part: dict[tuple[int, int], list[int]] = defaultdict(list)
        """By (instance, chip): the nodes of the chip's part in a collective or an exchange of messages."""
        self._entered: dict[tuple[int, int], _Deps] = {}
        """By (instance, chip): what the chip's part in an exchange of messages waits for."""
        self._told: dict[tuple[int, int], int] = {}
        """By (task, chip): the node at which the chip learns that the task of another chip has ended."""
        self._last_launch: dict[int, int] = {}
        self._tags = 0

    def starting_tasks(self) -> npt.NDArray[np.int64]:
        """Returns the tasks with which nodes begin: all but messages and ends of collectives."""
        program = self._program
        inside = np.array([each is not None for each in self._types])[program.op] & (program.kind == Kind.SEND)
        return np.flatnonzero(~inside & (program.kind != Kind.END))

    def add(self, task: int) -> None:
        """Adds the nodes of a task, after those of the tasks before it."""
        instance, kind = self._instance[task], self._kind[task]
        if task in self._nodes_of:
            return
        if instance < 0 and kind != Kind.SEND:
            self._add_work(task)
        elif kind == Kind.BEGIN and (collective := self._types[self._op[task]]) is not None:
            self._add_collective(task, collective)
        elif kind == Kind.BEGIN:
            deps = self._program.dependencies(task).tolist()
            local = [dep for dep in deps if self._chip[dep] == self._chip[task]]  # others come with the message
            self._entered[instance, self._chip[task]] = self._deps_of(local, self._chip[task])
        elif kind == Kind.SEND and self._types[self._op[task]] is None:
            self._add_message(task)

    def _deps_of(self, tasks: Iterable[int], chip: int) -> _Deps:
        """Returns the nodes of a chip with which tasks end, once each."""
        return tuple(dict.fromkeys(node for task in tasks for node in self._ends_of(task, chip)))

    def _ends_of(self, task: int, chip: int) -> _Deps:
        instance = self._instance[task]
        if self._kind[task] == Kind.SEND and self._peer[task] == chip:
            # A collective ends with its last message; a piece of a matmul that needs an earlier one does not wait.
            waits = self._types[self._op[task]] is None or self._is_last_arrival[task]
            return tuple(self._part[instance, chip]) if waits else ()
        if self._chip[task] != chip:
            return (self._tell(task, chip),)
        if instance < 0:
            return self._nodes_of[task]
        return tuple(self._part[instance, chip]) or self._entered[instance, chip]

    def _append(
        self, task: int, chip: int, kind: NodeType, deps: _Deps, attributes: dict[str, Value], duration_us: int = 0
    ) -> int:
        rank = self.ranks[chip]
        if self._layer[task] >= 0:
            attributes["layer"] = self._layer[task]
        rank.append(Node(len(rank), self._program.op_names[self._op[task]], kind, deps, duration_us, attributes))
        return len(rank) - 1

    def _add_work(self, task: int) -> None:
        """Adds what a chip, its host or its copy engine does by itself."""
        chip, kind, op = self._chip[task], self._kind[task], self._program.op_names[self._op[task]]
        deps = self._deps_of(self._program.dependencies(task).tolist(), chip)
        on_chip, pieces = kind == Kind.COMPUTE, self._pieces.get(task, [task])
        exact_ps = sum(self._duration_ps[piece] for piece in pieces)
        attributes: dict[str, Value] = {"is_cpu_op": not on_chip, "busy_ps": exact_ps}
        if on_chip:
            attributes["num_ops"] = round(float(self._program.flops[pieces].sum()))
        if on_chip or kind == Kind.COPY:
            attributes["tensor_size"] = round(float(self._program.bytes[pieces].sum()))
        if on_chip and self._dtype:
            attributes["dtype"] = self._dtype
        if kind == Kind.LAUNCH:  # a host has one launch after the other in its queue
            deps = tuple(dict.fromkeys((*deps, *self._nodes_of.get(self._last_launch.get(chip, -1), ()))))
            self._last_launch[chip] = task
        node_type = COPY_TYPES[op] if kind == Kind.COPY else NodeType.COMP
        duration_us = self._rounded_us(exact_ps, chip, on_chip)
        node = self._append(task, chip, node_type, deps, attributes, duration_us)
        self._nodes_of |= dict.fromkeys(pieces, (node,))

    def _rounded_us(self, duration_ps: int, chip: int, on_chip: bool) -> int:
        carried = self._carried_ps[chip]
        exact_ps = carried[on_chip] + duration_ps
        duration_us = max(0, round(exact_ps / _PS_PER_US))
        carried[on_chip] = exact_ps - duration_us * _PS_PER_US
        return duration_us

    def _add_collective(self, task: int, collective: CollectiveType) -> None:
        chip = self._chip[task]
        name, size = self.groups.name_of(task)
        total_bytes = float(self._program.bytes[task])
        per_rank = collective in (CollectiveType.ALL_GATHER, CollectiveType.GATHER)
        attributes: dict[str, Value] = {
            "is_cpu_op": False,
            "comm_type": int(collective),
            "comm_size": max(1, round(total_bytes / size if per_rank else total_bytes)),
        }
        if name:
            attributes["pg_name"] = name
        deps = self._deps_of(self._program.dependencies(task).tolist(), chip)
        node = self._append(task, chip, NodeType.COMM_COLL, deps, attributes)
        self._part[self._instance[task], chip].append(node)

    def _add_message(self, task: int) -> None:
        """Adds both ends of a message with the first of its sends. It starts once both ranks are ready for it."""
        src, dst, instance = self._chip[task], self._peer[task], self._instance[task]
        size = self._message_bytes.pop((instance, src, dst), None)
        if size is None:
            return
        received_after = self._entered.get((instance, dst), ())  # no part of its own in a one-sided message
        sent_after = self._entered[instance, src]
        if received_after:
            sent_after = (*sent_after, self._message(task, dst, src, CONTROL_BYTES, received_after)[1])
        sent, received = self._message(task, src, dst, size, sent_after, received_after)
        self._part[instance, src].append(sent)
        self._part[instance, dst].append(received)

    def _tell(self, task: int, chip: int) -> int:
        """Returns the node at which a chip learns that a task of another chip has ended."""
        if (task, chip) not in self._told:
            deps = self._ends_of(task, self._chip[task])
            self._told[task, chip] = self._message(task, self._chip[task], chip, CONTROL_BYTES, deps)[1]
        return self._told[task, chip]

    def _message(
        self, task: int, src: int, dst: int, size: int, sent_after: _Deps, received_after: _Deps = ()
    ) -> tuple[int, int]:
        """Adds a message; returns its sending and its receiving node."""
        ends: dict[str, Value] = {"comm_src": src, "comm_dst": dst, "comm_tag": self._tags, "comm_size": size}
        self._tags += 1
        sent = self._append(task, src, NodeType.COMM_SEND, sent_after, {"is_cpu_op": False, **ends})
        received = self._append(task, dst, NodeType.COMM_RECV, received_after, {"is_cpu_op": False, **ends})
        return sent, received


class _Groups(Struct):
    """Names and ranks of the groups in which collectives run."""

    program: Program
    topology: Topology
    ranks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """By name; the group of all ranks has none."""
    _names: dict[tuple[int, ...], str] = field(default_factory=dict)
    _of_op: dict[int, list[tuple[int, ...]]] = field(default_factory=dict)
    """By op: the group of each chip."""

    def name_of(self, begin: int) -> tuple[str, int]:
        """Returns the name of the group with which a chip begins a collective, empty for all ranks, and its size."""
        op = int(self.program.op[begin])
        if op not in self._of_op:
            self._of_op[op] = self._groups_of(op)
        members = self._of_op[op][int(self.program.chip[begin])]
        if len(members) == self.topology.chips:
            return "", len(members)
        if members not in self._names:
            name = self._names[members] = str(len(self._names) + 1)
            self.ranks[name] = members
        return self._names[members], len(members)

    def _groups_of(self, op: int) -> list[tuple[int, ...]]:
        program = self.program
        groups: list[tuple[int, ...]] = [()] * self.topology.chips
        axes = dict(program.axes).get(program.op_names[op])
        begun = np.unique(program.chip[(program.op == op) & (program.kind == Kind.BEGIN)])
        for members in mesh_groups(self.topology, axes).tolist() if axes else [begun.tolist()]:
            for chip in members:
                groups[chip] = tuple(sorted(members))
        return groups


def _collective_type(op: str) -> CollectiveType | None:
    """Returns the type of a collective by the name of its op; None for an exchange of messages, and for compute."""
    name = op.partition("(")[0].upper()
    return CollectiveType.__members__.get(name)


def _durations_ps(trace: Trace) -> Ints:
    """Returns [N] what each task takes in the run, from when it holds its resource; with polling, the wait for it."""
    program, times = trace.program, trace.times
    start = times["start"].copy()
    for task in np.flatnonzero(program.poll_ps > 0):
        deps = program.dependencies(int(task))
        start[task] = times["end"][deps].max(initial=0) if len(deps) else start[task]
    result: Ints = times["end"] - start
    return result


def _last_arrivals(trace: Trace) -> npt.NDArray[np.bool_]:
    """Returns [N] True for each message of a collective that is the last to arrive at its receiver."""
    program = trace.program
    sends = np.flatnonzero((program.kind == Kind.SEND) & (program.collective >= 0) & (program.followers() < 0))
    key = program.collective[sends].astype(np.int64) * (int(program.peer.max(initial=0)) + 1) + program.peer[sends]
    _, exchange = np.unique(key, return_inverse=True)
    last = np.zeros(int(exchange.max(initial=-1)) + 1, dtype=np.int64)
    np.maximum.at(last, exchange, trace.times["end"][sends])
    result = np.zeros(len(program), dtype=np.bool_)
    result[sends] = trace.times["end"][sends] == last[exchange]
    return result


def _pieces(
    program: Program, types: Sequence[CollectiveType | None], is_last_arrival: Sequence[bool]
) -> dict[int, list[int]]:
    """Returns the computations that are one node, by the first of them.

    They follow each other on a chip, and no task but the next one waits for any but the last. None of them waits for
    more than the first does, but for messages of a collective that are not its last.
    """
    waiter = np.repeat(np.arange(len(program)), np.diff(program.dep_offset))
    of_collective = np.array([each is not None for each in types])[program.op] & (program.kind == Kind.SEND)
    dependents = np.bincount(program.deps[~of_collective[waiter]], minlength=len(program)).tolist()
    ignored = of_collective & ~np.array(is_last_arrival)
    computations = np.flatnonzero(program.kind == Kind.COMPUTE).tolist()
    chip, op, layer = (getattr(program, name).tolist() for name in ("chip", "op", "layer"))
    latest: dict[int, list[int]] = {}
    needs: dict[int, set[int]] = {}
    result: dict[int, list[int]] = {}
    for task in computations:
        deps = program.dependencies(task)
        waits = set(deps[~ignored[deps]].tolist())
        run = latest.get(chip[task])
        if run:
            first, before = run[0], run[-1]
            same = (op[first], layer[first]) == (op[task], layer[task])
            if same and before in waits and dependents[before] == 1 and waits - {before} <= needs[first]:
                run.append(task)
                continue
        latest[chip[task]] = result[task] = [task]
        needs[task] = waits
    return result


def _message_bytes(program: Program) -> dict[tuple[int, int, int], int]:
    """Returns the size of each message outside collectives, by (instance, sender, receiver), all its ways together."""
    exchanges = [_collective_type(name) is None for name in program.op_names]
    heads = np.flatnonzero((program.kind == Kind.SEND) & (program.follows < 0) & np.array(exchanges)[program.op])
    sizes: dict[tuple[int, int, int], float] = defaultdict(float)
    columns = (program.collective, program.chip, program.peer, program.bytes)
    for instance, src, dst, size in zip(*(column[heads].tolist() for column in columns), strict=True):
        sizes[instance, src, dst] += size
    return {key: max(1, round(size)) for key, size in sizes.items()}
