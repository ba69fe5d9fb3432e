"""Communicator groups: which ranks take part in the collectives of a name.

A group's ranks are those that a file says (ASTRA-sim's: JSON, {"name": [rank, ...]}), or that PyTorch's node
`## process_group:init ##` lists, or else all ranks that have a collective of that name. A collective without a name is
of all ranks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from sim.errors import InputError, suggest
from sim.export.chakra import NodeType
from sim.export.chakra_replay.nodes import Notes, RankNode, shorten

Ranks = tuple[int, ...]

_INIT = "## process_group:init ##"


def read_groups(path: Path, ranks: int) -> dict[str, Ranks]:
    """Returns the ranks of each group of a file.

    Args:
        ranks: number of ranks of the trace.

    Raises:
        InputError: no such file, or no groups of these ranks.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError("must be JSON", where=str(path), got=str(error)) from None
    if not isinstance(groups, dict):
        raise InputError('must be groups by name, {"name": [rank, ...]}', where=str(path), got=type(groups).__name__)
    return {name: _checked(members, ranks, f"{path}: {shorten(name)}") for name, members in groups.items()}


def _checked(members: object, ranks: int, where: str) -> Ranks:
    numbers = members if isinstance(members, list) else []
    valid = [each for each in numbers if isinstance(each, int) and not isinstance(each, bool) and 0 <= each < ranks]
    if not valid or len(valid) != len(numbers) or len(set(valid)) != len(valid):
        raise InputError(f"must be a list of different ranks from 0 to {ranks - 1}", where=where, got=members)
    return tuple(sorted(valid))


class Communicators:
    """The groups of all ranks."""

    def __init__(self, nodes: Iterable[RankNode], ranks: int, given: Mapping[str, Ranks] | None, notes: Notes) -> None:
        self._all = tuple(range(ranks))
        self._given, self._notes = given, notes
        self._listed: dict[tuple[int, str], Ranks] = {}
        self._carriers: dict[str, set[int]] = defaultdict(set)
        for each in nodes:
            if each.node.name == _INIT:
                self._list(each)
            elif each.node.type == NodeType.COMM_COLL and (name := each.text("pg_name")):
                self._carriers[name].add(each.rank)

    def _list(self, init: RankNode) -> None:
        """Reads the groups that PyTorch lists as JSON in the inputs of a node."""
        text = init.node.inputs
        try:
            listed = json.loads(text[text.index("[{") : text.rindex("}]") + 2])
            groups = {str(entry["pg_name"]): entry["ranks"] for entry in listed}
        except (ValueError, KeyError, TypeError, RecursionError):
            self._notes.count("{n} lists of process groups are not understood: groups are those of the collectives")
            return
        for name, members in groups.items():  # PyTorch lists no ranks for the group of all
            self._listed[init.rank, name] = _checked(
                members or list(self._all), len(self._all), f"{init}: {shorten(name)}"
            )

    def ranks(self, member: RankNode) -> Ranks:
        """Returns the ranks of the group of a collective's node.

        Raises:
            InputError: the file names no such group, or the rank is not in it.
        """
        name = member.text("pg_name")
        if not name:
            return self._all
        if self._given is not None and name not in self._given:
            raise member.wrong("pg_name", "must be a group of the file of groups", name, suggest(name, self._given))
        carriers = tuple(sorted(self._carriers[name]))
        listed = self._given[name] if self._given is not None else self._listed.get((member.rank, name), carriers)
        if member.rank not in listed:
            raise member.wrong(
                "pg_name", f"must be a group of this rank; '{shorten(name)}' has ranks {_list_of(listed)}", name
            )
        return listed


def _list_of(ranks: Ranks) -> str:
    return ", ".join(map(str, ranks[:8])) + (f", ... ({len(ranks)} ranks)" if len(ranks) > 8 else "")
