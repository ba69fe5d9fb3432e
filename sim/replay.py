"""Chakra execution traces on the machines of this project: every rank's nodes as tasks of its chip.

A computation takes the time the trace says, or else the roofline of its FLOPs and bytes; a message goes over the
machine's links; a collective is done by the machine's own algorithm, over all chips or the mesh axes that
`involved_dim` names. Nodes of traces that this program wrote hold the very links they say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import prod
from pathlib import Path

import numpy as np

from sim import units
from sim.collectives import algorithm_of, schedule
from sim.collectives.emit import emit
from sim.costs import Work, cost, launch_columns
from sim.engine import simulate
from sim.errors import InputError
from sim.export.chakra import COLLECTIVES, Node, NodeType, read
from sim.program import Ids, Kind, Program, ProgramBuilder
from sim.report.bottlenecks import Bottlenecks
from sim.report.critical_path import shares
from sim.report.what_if import what_if
from sim.topology.graph import Topology

_Unit = tuple[str, int, int]
"""("node", rank, id), or ("collective", group number, how many before it)."""


def load(prefix: Path, topology: Topology) -> Program:
    """The program of the traces PREFIX.0.et, PREFIX.1.et, ..., one per chip of the machine.

    Raises:
        InputError: a file is missing or no Chakra trace, or the ranks do not fit the machine or each other.
    """
    return program_of([read(Path(f"{prefix}.{rank}.et")) for rank in range(topology.chips)], topology)


def program_of(ranks: Sequence[Sequence[Node]], topology: Topology) -> Program:
    """The program of the nodes of every rank.

    Raises:
        InputError: nodes that do not fit the machine or each other.
    """
    return _Replay(ranks, topology).program()


def replayed(program: Program, topology: Topology) -> Bottlenecks:
    """The critical path of a replayed program, and what would shorten it."""
    trace = simulate(program)
    found = shares(trace, topology)
    return Bottlenecks("replayed", "the replayed traces", found, what_if(trace, topology, found))


class _Replay:
    """Nodes that wait for each other, rank by rank, and the tasks made of them so far."""

    def __init__(self, ranks: Sequence[Sequence[Node]], topology: Topology) -> None:
        self.topology = topology
        self.resource = {f"{chip}:compute": chip for chip in range(topology.chips)}
        self.resource |= {link.name: topology.chips + link.index for link in topology.links}
        held = (name for nodes in ranks for node in nodes for name in _held(node))
        engines = dict.fromkeys(name for name in held if name.endswith((":host", ":copy")))
        self.resource |= {name: len(self.resource) + i for i, name in enumerate(engines)}
        self.builder = ProgramBuilder(list(self.resource))
        self.nodes = {(rank, node.id): node for rank, nodes in enumerate(ranks) for node in nodes}
        self.made: dict[tuple[int, int], Ids] = {}
        self.message: dict[tuple[int, int], tuple[int, int]] = {}
        """Receiving node -> sending node."""
        self.unit: dict[tuple[int, int], _Unit] = {}
        self.members: dict[_Unit, list[tuple[int, int]]] = defaultdict(list)
        self._match()

    def _match(self) -> None:
        """Messages with their receivers, the nodes of a collective with each other, in the order of their ids."""
        waiting: dict[tuple[object, ...], list[tuple[int, int]]] = defaultdict(list)
        groups: dict[object, int] = {}
        done: dict[tuple[int, object], int] = defaultdict(int)
        for key in sorted(self.nodes, key=lambda key: (key[1], key[0])):
            node, rank = self.nodes[key], key[0]
            self.unit[key] = ("node", *key)
            if node.type == NodeType.COMM_SEND:
                waiting[_ends(node)].append(key)
            elif node.type == NodeType.COMM_COLL:
                group = node.attributes.get("pg_name", "")
                self.unit[key] = ("collective", groups.setdefault(group, len(groups)), done[rank, group])
                done[rank, group] += 1
            self.members[self.unit[key]].append(key)
        for key in sorted(self.nodes, key=lambda key: (key[1], key[0])):
            node = self.nodes[key]
            if node.type == NodeType.COMM_RECV:
                sent = waiting[_ends(node)]
                if not sent:
                    raise InputError("no rank sends what this node receives", where=_name(key, node))
                self.message[key] = sent.pop(0)

    def program(self) -> Program:
        """All tasks, each after those it waits for; of those that may come next the one of the lowest id."""
        needs: dict[_Unit, set[_Unit]] = {}
        for unit, keys in self.members.items():
            deps = {(rank, dep) for rank, id in keys for dep in self.nodes[rank, id].deps}
            for missing in (dep for dep in deps if dep not in self.nodes):
                raise InputError(
                    "waits for a node that is not there", where=_name(keys[0], self.nodes[keys[0]]), got=missing[1]
                )
            sends = {self.message[key] for key in keys if key in self.message}
            needs[unit] = {self.unit[key] for key in deps | sends}
        waiters: dict[_Unit, list[_Unit]] = defaultdict(list)
        for unit, own in needs.items():
            for need in own:
                waiters[need].append(unit)
        left = {unit: len(own) for unit, own in needs.items()}
        ready = [(self._order(unit), unit) for unit, number in left.items() if not number]
        heapify(ready)
        emitted = 0
        while ready:
            _, unit = heappop(ready)
            self._emit(unit)
            emitted += 1
            for waiter in waiters[unit]:
                left[waiter] -= 1
                if not left[waiter]:
                    heappush(ready, (self._order(waiter), waiter))
        if emitted < len(needs):
            stuck = self.members[next(unit for unit, number in left.items() if number)][0]
            raise InputError("nodes wait for each other in a circle", where=_name(stuck, self.nodes[stuck]))
        return self.builder.build()

    def _order(self, unit: _Unit) -> tuple[int, bool, int]:
        """A receiving node comes right after the one that sends."""
        rank, id = self.members[unit][0]
        received = self.message.get((rank, id))
        return (received[1] if received else id), received is not None, rank

    def _emit(self, unit: _Unit) -> None:
        keys = self.members[unit]
        if unit[0] == "collective":
            return self._collective(keys)
        key = keys[0]
        node, chip = self.nodes[key], key[0]
        after = [self.made[chip, dep] for dep in node.deps]
        if "resources" in node.attributes:
            self.made[key] = self._as_written(node, chip, after)
        elif node.type == NodeType.COMM_SEND:
            self.made[key] = self._send(node, chip, after)
        elif node.type == NodeType.COMP:
            work = Work(float(_number(node, "num_ops")), float(_number(node, "tensor_size")))
            dtype = next(iter(self.topology.chip.peak_flops))
            roofline_ps = units.to_ps(cost(self.topology.chip, work, dtype).roofline_s)
            columns = launch_columns(self.topology.chip, work, dtype)
            columns["busy_ps"] = node.duration_us * 1_000_000 or roofline_ps
            here = np.array([chip])
            self.made[key] = self.builder.add(
                node.name,
                Kind.COMPUTE,
                chip,
                resource=here,
                deps=after,
                **columns,
            )
        else:  # what is received is there; memory and metadata nodes take no time of their own
            arrived = [self.made[self.message[key]]] if key in self.message else []
            flight_ps = 0 if arrived else node.duration_us * 1_000_000
            self.made[key] = self.builder.add(node.name, Kind.EVENT, chip, flight_ps=flight_ps, deps=[*after, *arrived])
        return None

    def _as_written(self, node: Node, chip: int, after: list[Ids]) -> Ids:
        """A task of this program, with the resources it held."""
        names, slows = _held(node), str(node.attributes.get("slows", ""))
        for name in (*names, *([slows] if slows else [])):
            if name not in self.resource:
                rule = f"{self.topology.name} has no such link"
                raise InputError(rule, where=node.name, got=name, hint="replay on the machine of the trace")
        sends = node.type in (NodeType.COMM_SEND, NodeType.METADATA)
        kind = Kind.SEND if sends else Kind.COMPUTE if names else Kind.EVENT
        held = np.array([[self.resource[name] for name in names]], dtype=np.int32) if names else None
        return self.builder.add(
            node.name,
            kind,
            chip,
            busy_ps=_number(node, "busy_ps"),
            flight_ps=_number(node, "flight_ps"),
            resource=held,
            deps=after,
            peer=_number(node, "comm_dst") if node.type == NodeType.COMM_SEND else -1,
            bytes=_number(node, "comm_size" if sends else "tensor_size"),
            flops=_number(node, "num_ops"),
            compute_ps=_number(node, "compute_ps"),
            memory_ps=_number(node, "memory_ps"),
            slows=self.resource[slows] if slows else -1,
            slow_ppm=_number(node, "slow_ppm"),
        )

    def _send(self, node: Node, chip: int, after: list[Ids]) -> Ids:
        """A message over the machine: link by link, or all links at once where it cuts through."""
        topology, size, dst = self.topology, float(_number(node, "comm_size")), _number(node, "comm_dst")
        if not 0 <= dst < topology.chips:
            raise InputError(f"{topology.name} has chips 0 to {topology.chips - 1}", where=node.name, got=dst)
        route = topology.route(chip, dst)
        hops = [route] if topology.cut_through and route else [(link,) for link in route]
        task = self.builder.add(node.name, Kind.EVENT, chip, deps=after)
        for hop in hops:
            links = [topology.links[link] for link in hop]
            task = self.builder.add(
                node.name,
                Kind.SEND,
                chip,
                busy_ps=max(link.busy_ps(size) for link in links),
                flight_ps=sum(link.latency_ps for link in links),
                resource=np.array([[topology.chips + link for link in hop]], dtype=np.int32),
                deps=[task],
                peer=dst,
                bytes=size,
            )
        return task

    def _collective(self, keys: list[tuple[int, int]]) -> None:
        """A collective of all chips, by the machine's own algorithm."""
        topology, first = self.topology, self.nodes[keys[0]]
        where = _name(keys[0], first)
        if sorted(rank for rank, _ in keys) != list(range(topology.chips)):
            rule = f"a collective must have one node on each of the {topology.chips} chips"
            raise InputError(rule, where=where, got=f"nodes on {len(keys)}")
        kind = COLLECTIVES.get(_number(first, "comm_type"))
        if kind is None:
            known = ", ".join(f"{number} ({name})" for number, name in COLLECTIVES.items())
            raise InputError(
                "comm_type is not simulated", where=where, got=_number(first, "comm_type"), hint=f"known are {known}"
            )
        for rank, id in keys:
            node = self.nodes[rank, id]
            for name in ("comm_type", "comm_size"):
                if _number(node, name) != _number(first, name):
                    rule = f"the nodes of a collective must have the same {name}, {_number(first, name)} on rank 0"
                    raise InputError(rule, where=_name((rank, id), node), got=_number(node, name))
        size = float(_number(first, "comm_size"))
        involved = first.attributes.get("involved_dim", ())
        flags = involved if isinstance(involved, tuple) else ()
        axes = tuple(axis.name for i, axis in enumerate(topology.axes) if i >= len(flags) or flags[i])
        if kind == "all_gather":  # a rank's part in the trace, the whole array here
            size *= prod(topology.axis(name).size for name in axes)
        plan = schedule(topology, kind, axes, algorithm_of(topology, kind, None, size), size)
        waits = [[self.made[rank, dep] for dep in self.nodes[rank, id].deps] for rank, id in sorted(keys)]
        most = max(map(len, waits))
        after = [np.array([own[k][0] if k < len(own) else -1 for own in waits], dtype=np.int32) for k in range(most)]
        end = emit(self.builder, topology, plan, size, f"{kind}({''.join(axes)}) {first.name}", after).end
        for key in keys:
            self.made[key] = end[key[0] : key[0] + 1]


def _ends(node: Node) -> tuple[object, ...]:
    """What a sending and a receiving node must have in common."""
    return tuple(node.attributes.get(name) for name in ("comm_src", "comm_dst", "comm_tag"))


def _held(node: Node) -> list[str]:
    """Names of the resources of a task that this program wrote."""
    return [name for name in str(node.attributes.get("resources", "")).split(",") if name]


def _number(node: Node, name: str) -> int:
    value = node.attributes.get(name, 0)
    return value if isinstance(value, int) else 0


def _name(key: tuple[int, int], node: Node) -> str:
    return f"rank {key[0]}, node {key[1]} ({node.name})"
