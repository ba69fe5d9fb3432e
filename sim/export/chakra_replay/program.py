"""From matched nodes to a program: every node as tasks of its chip, and what the replay of the program shows.

`is_cpu_op` says where a computation runs: on the chip's compute resource, or on its host, which works beside it. A
computation without the attribute runs on the host, the default of the schema's own feeder (`ETFeederNode` of
github.com/mlcommons/chakra), and the notes say how many do. The attribute has no meaning for messages and collectives,
which always go over the links.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from sim.engine import simulate
from sim.errors import InputError
from sim.export.chakra import Node, NodeType
from sim.export.chakra_reader import read
from sim.export.chakra_replay.communicators import Ranks
from sim.export.chakra_replay.matching import Collective, match
from sim.export.chakra_replay.nodes import SIMULATED, Notes, RankNode, shorten
from sim.export.chakra_replay.order import order_nodes
from sim.export.chakra_replay.tasks import Tasks
from sim.program import Program
from sim.report.critical_path import attribute_step
from sim.report.present.bottlenecks import Bottlenecks
from sim.report.what_if import run_what_ifs
from sim.topology.chip import Chip
from sim.topology.graph import Topology

_SHOWN = 8
"""Names that a note lists."""


class TracedProgram(Struct, frozen=True, eq=False):
    """The program of the traces of all ranks."""

    program: Program
    dtype: str
    """Number format of most computations on the chips, by which their limits are told."""
    notes: tuple[str, ...]


class Replayed(Struct, frozen=True):
    """Time of the traces by cause, and omissions of the traces."""

    bottlenecks: Bottlenecks
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON data, seconds."""
        return {**self.bottlenecks.to_dict(), "notes": list(self.notes)}


def load(prefix: Path, topology: Topology, groups: Mapping[str, Ranks] | None = None) -> TracedProgram:
    """Returns the program of the traces PREFIX.0.et, PREFIX.1.et, ..., one per chip of the machine.

    Args:
        groups: ranks of each communicator group, instead of those that the traces say.

    Raises:
        InputError: a file is missing or no Chakra trace, or the ranks do not fit the machine or each other.
    """
    form = re.compile(re.escape(prefix.name) + r"\.(\d+)\.et")
    names = [path.name for path in prefix.parent.iterdir()] if prefix.parent.is_dir() else []
    there = {int(match[1]) for name in names if (match := form.fullmatch(name))}
    chips = topology.chips
    if there and there != set(range(chips)):
        rule = f"must have one trace per chip of {topology.name}, ranks 0 to {chips - 1}"
        beyond, missing = sorted(there.difference(range(chips))), sorted(set(range(chips)).difference(there))
        got = f"also rank {beyond[-1]}" if beyond else f"none of rank {missing[0]}"
        raise InputError(rule, where=str(prefix), got=got, hint="replay on a machine with as many chips as ranks")
    ranks = [read(Path(f"{prefix}.{rank}.et")) for rank in range(chips)]
    try:
        return build_program(ranks, topology, groups)
    except InputError as error:
        raise error.within(str(prefix)) from None


def build_program(
    ranks: Sequence[Sequence[Node]], topology: Topology, groups: Mapping[str, Ranks] | None = None
) -> TracedProgram:
    """Returns the program of the nodes of every rank.

    Raises:
        InputError: nodes that do not fit the machine or each other, or none.
    """
    notes = Notes()
    nodes = [[RankNode(rank, node) for node in rank_nodes] for rank, rank_nodes in enumerate(ranks)]
    if not any(nodes):
        raise InputError("must have nodes, got none on any rank", hint="there is nothing to replay")
    matched = match(nodes, topology, groups, notes)
    units: list[RankNode | Collective] = [
        each for each in matched.nodes.values() if each.node.type != NodeType.COMM_COLL
    ]
    units += matched.collectives
    members = [unit.members if isinstance(unit, Collective) else (unit,) for unit in units]
    unit_of = {each.key: number for number, unit in enumerate(members) for each in unit}

    def needs(rank_nodes: Sequence[RankNode]) -> list[int]:
        deps = [dep for each in rank_nodes for dep in matched.parents[each.key]]
        senders = [matched.sender_of[each.key] for each in rank_nodes if each.key in matched.sender_of]
        return [unit_of[key] for key in (*deps, *senders)]

    def priority(number: int) -> tuple[int, ...]:
        """Returns the order of a node: a receiving node follows the one that sends."""
        first = members[number][0]
        sender = matched.sender_of.get(first.key)
        return (sender[1] if sender else first.node.id), sender is not None, first.rank

    tasks = Tasks(matched, topology, _common_format(matched.nodes.values(), topology.chip, notes), notes)
    needed = {number: needs(unit) for number, unit in enumerate(members)}
    for number in order_nodes(needed, priority, lambda number: str(units[number])):
        unit = units[number]
        if isinstance(unit, Collective):
            tasks.add_collective(unit)
        else:
            tasks.add(unit)
    _note_unused(matched.nodes.values(), notes)
    return TracedProgram(tasks.builder.build(), tasks.dtype, notes.lines())


def _common_format(nodes: Iterable[RankNode], chip: Chip, notes: Notes) -> str:
    """Returns the number format of most computations, of those that the chip computes in; else the chip's first."""
    computations = [each for each in nodes if each.node.type == NodeType.COMP]
    formats = Counter(each.dtype for each in computations)
    common = next((name for name, _ in formats.most_common() if name in chip.peak_flops), next(iter(chip.peak_flops)))
    measured = [each for each in computations if each.node.duration_us and each.quantity("num_ops")]
    on_chip = [each for each in measured if each.flag("is_cpu_op") is False]
    others = Counter(each.dtype for each in on_chip if each.dtype not in chip.peak_flops)
    for name, count in others.items():
        which = f"in {shorten(name)}" if name else "without a number format"
        notes.count(f"limits of {{n}} computations {which} are told by the rate of {chip.name} in {common}", count)
    return common


def _note_unused(nodes: Iterable[RankNode], notes: Notes) -> None:
    unused = sorted({name for each in nodes for name in each.node.attributes} - SIMULATED)
    if unused:
        more = f" and {len(unused) - _SHOWN} more" if len(unused) > _SHOWN else ""
        notes.count(f"attributes that change nothing here: {', '.join(map(shorten, unused[:_SHOWN]))}{more}")


def simulate_traces(traced: TracedProgram, topology: Topology) -> Replayed:
    """Returns the critical path of a replayed program, and what would shorten it.

    Raises:
        InputError: nothing in the traces takes time.
    """
    trace = simulate(traced.program)
    if not trace.makespan_ps:
        raise InputError(
            "must have nodes that take time, got durations and sizes of 0 only; there is nothing to replay"
        )
    shares = attribute_step(trace, topology)
    return Replayed(
        Bottlenecks("replayed", "the replayed traces", shares, run_what_ifs(trace, topology, shares)), traced.notes
    )
