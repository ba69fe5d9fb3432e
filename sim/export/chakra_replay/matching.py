"""Which nodes of different ranks belong together: the two ends of a message, and the members of a collective.

Both are matched in the order in which each rank comes to them: after a node's parents, and by id where the parents
leave it open. A collective whose `involved_dim` leaves out mesh axes is one collective per position on those axes; its
flags begin with the axis that varies fastest over the ranks, as in ASTRA-sim: the last axis of the mesh.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from msgspec import Struct

from sim.collectives import COLLECTIVES
from sim.errors import InputError
from sim.export.chakra import CollectiveType, NodeType
from sim.export.chakra_replay.communicators import Communicators, Ranks
from sim.export.chakra_replay.nodes import Key, Notes, RankNode, shorten
from sim.export.chakra_replay.order import order_nodes
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_positions

SIMULATED_TYPES = {each: each.name.lower() for each in CollectiveType if each.name.lower() in COLLECTIVES}


class Collective(Struct, frozen=True):
    """One collective of one group."""

    members: tuple[RankNode, ...]
    """By rank."""
    kind: str
    size: float
    """Bytes, as the nodes say."""

    def __str__(self) -> str:
        first = self.members[0]
        name = first.text("pg_name")
        return f"{self.kind} of {f'group {shorten(name)!r}' if name else 'all ranks'} ({first})"

    @property
    def ranks(self) -> Ranks:
        return tuple(member.rank for member in self.members)


class Matched(Struct, frozen=True, eq=False):
    """Nodes of all ranks, their parents in the trace, and what they have to do with each other."""

    nodes: Mapping[Key, RankNode]
    parents: Mapping[Key, tuple[Key, ...]]
    sender_of: Mapping[Key, Key]
    """Receiving node -> sending node."""
    collectives: Sequence[Collective]


def match(
    ranks: Sequence[Sequence[RankNode]], topology: Topology, given: Mapping[str, Ranks] | None, notes: Notes
) -> Matched:
    """Matches the nodes of all ranks.

    Args:
        given: ranks of each group, where a file says them.

    Raises:
        InputError: a node without its counterpart, or members of a collective that disagree.
    """
    nodes = {each.key: each for rank in ranks for each in rank}
    parents = {each.key: _parents(each, nodes, notes) for each in nodes.values()}
    ordered = [each for rank in ranks for each in _in_order_of_rank(rank, parents)]
    groups = Communicators(nodes.values(), len(ranks), given, notes)
    return Matched(nodes, parents, _messages(ordered, len(ranks)), _collectives(ordered, topology, groups))


def _parents(each: RankNode, nodes: Mapping[Key, RankNode], notes: Notes) -> tuple[Key, ...]:
    """Returns the parents that are there: a tool that collects only some nodes leaves the ids of the others."""
    deps = [(each.rank, dep) for dep in each.node.deps]
    present = tuple(dep for dep in deps if dep in nodes)
    notes.count("{n} parents are not in the trace: nobody waits for them", len(deps) - len(present))
    return present


def _in_order_of_rank(rank: Sequence[RankNode], parents: Mapping[Key, tuple[Key, ...]]) -> list[RankNode]:
    by_id = {each.node.id: each for each in rank}
    needs = {id: [dep for _, dep in parents[each.key]] for id, each in by_id.items()}
    return [by_id[id] for id in order_nodes(needs, lambda id: (id,), lambda id: str(by_id[id]))]


def _messages(ordered: Sequence[RankNode], ranks: int) -> dict[Key, Key]:
    """Returns the sending node of every receiving one."""
    waiting: dict[tuple[int, int, int], deque[RankNode]] = defaultdict(deque)
    for each in ordered:
        if each.node.type == NodeType.COMM_SEND:
            ends = each.ends(sends=True)
            if not 0 <= ends[1] < ranks:
                raise each.wrong("comm_dst", f"must be a rank from 0 to {ranks - 1}", ends[1])
            waiting[ends].append(each)
    messages = {}
    for each in ordered:
        if each.node.type != NodeType.COMM_RECV:
            continue
        ends = each.ends(sends=False)
        if not waiting[ends]:
            rule = f"must receive a message that rank {ends[0]} sends with tag {ends[2]}, got no such sending node"
            raise InputError(rule, where=str(each), hint="check comm_src and comm_tag")
        sender = waiting[ends].popleft()
        sent, received = sender.required("comm_size"), each.quantity("comm_size")
        if received is not None and received != sent:
            raise each.wrong("comm_size", f"must be that of the sending node {sender.node.id}, {sent}", received)
        messages[each.key] = sender.key
    for queue in waiting.values():
        for each in queue:
            _, dst, tag = each.ends(sends=True)
            rule = f"must send a message that rank {dst} receives with tag {tag}, got no such receiving node"
            raise InputError(rule, where=str(each), hint="check comm_dst and comm_tag")
    return messages


def _collectives(ordered: Sequence[RankNode], topology: Topology, groups: Communicators) -> list[Collective]:
    calls: dict[tuple[str, Ranks], dict[int, list[RankNode]]] = defaultdict(lambda: defaultdict(list))
    for each in ordered:
        if each.node.type == NodeType.COMM_COLL:
            calls[each.text("pg_name"), groups.ranks(each)][each.rank].append(each)
    collectives = []
    for (name, ranks), by_rank in calls.items():
        counts = {rank: len(by_rank.get(rank, ())) for rank in ranks}
        fewest, most = (choose(counts, key=counts.__getitem__) for choose in (min, max))
        if counts[fewest] < counts[most]:
            rule = f"a collective must have one node on every rank of its group {shorten(name)!r}"
            unmatched = by_rank[most][counts[fewest]]
            raise InputError(rule, where=str(unmatched), got=f"{counts[fewest]} of {counts[most]} on rank {fewest}")
        for members in zip(*(by_rank[rank] for rank in ranks), strict=True):
            collectives += [_collective(part) for part in _parts(members, topology)]
    return collectives


def _parts(members: Sequence[RankNode], topology: Topology) -> list[list[RankNode]]:
    """Returns the members with the same position on the axes that `involved_dim` leaves out."""
    flags = members[0].flags("involved_dim")
    for member in members:
        if member.flags("involved_dim") != flags:
            raise _disagreement(member, members[0], "involved_dim", member.flags("involved_dim"), flags)
    if all(flags):
        return [list(members)]
    if len(flags) != len(topology.mesh):
        rule = f"must have a flag for each of the {len(topology.mesh)} mesh axes of {topology.name}"
        raise members[0].wrong("involved_dim", rule, flags)
    at = mesh_positions(topology, [axis.name for axis in topology.mesh]).tolist()
    parts: dict[tuple[int, ...], list[RankNode]] = defaultdict(list)
    for member in members:
        here = zip(at[member.rank], reversed(flags), strict=True)
        parts[tuple(position for position, involved in here if not involved)].append(member)
    return list(parts.values())


def _collective(members: Sequence[RankNode]) -> Collective:
    first = members[0]
    number, size = first.whole("comm_type"), first.required("comm_size")
    for member in members:
        for name, expected in (("comm_type", number), ("comm_size", size)):
            if (got := member.quantity(name)) != expected:
                raise _disagreement(member, first, name, got, expected)
    if number is None:
        raise first.wrong("comm_type", "must be given")
    if number not in SIMULATED_TYPES:
        names = {each.value: f" ({each.name.lower()})" for each in CollectiveType}
        known = ", ".join(f"{each}{names[each]}" for each in SIMULATED_TYPES)
        rule = "must be a collective that is simulated"
        raise first.wrong("comm_type", rule, f"{number}{names.get(number, '')}", f"choose from {known}")
    return Collective(tuple(members), SIMULATED_TYPES[CollectiveType(number)], size)


def _disagreement(member: RankNode, first: RankNode, name: str, got: object, expected: object) -> InputError:
    return member.wrong(name, f"must be the same on all ranks of a collective, {expected} on rank {first.rank}", got)
