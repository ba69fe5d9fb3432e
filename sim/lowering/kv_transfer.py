"""Transfer of a prefill's KV cache, layer by layer, to the chips that decode (`KvTransferSpec`).

The prefill is lowered on its own chips; the messages of a layer are inserted there, on the links of the whole machine.
A receiver takes every part of its shard from one chip that holds it, and chips with copies take turns. Messages are
written one-sided into the receivers' memory: they hold no stream and no multiprocessor of either chip, and queue at
links whole, as all messages do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec.structs import replace

from sim import units
from sim.collectives.emit import ChipMessage, emit_message
from sim.errors import InputError, LayoutError
from sim.layouts.numpy_shards import ChipGrid
from sim.layouts.sharding import ITEM_BYTES, Sharded
from sim.lowering.machine_part import cut_machine
from sim.lowering.streams import Tasks
from sim.program import CacheTransfer, Ids, Kind, Labels, Occupancy, Program, ProgramBuilder, Waits, renumber
from sim.specs import Scenario
from sim.specs.kv_transfer import KvTransferSpec
from sim.topology.graph import Topology

if TYPE_CHECKING:
    from sim.lowering.emitter import Emitter

Region = tuple[range, range, range]
"""Sequences, positions and key-value heads; a latent cache counts as one head."""
_SHARDS = ("batch", "context", "heads")


class KvTransfer:
    """Messages of a scenario's transfer on its machine (`sim.lowering.placement.mesh_of`).

    Raises:
        InputError: no chips are left to decode.
    """

    def __init__(self, scenario: Scenario, spec: KvTransferSpec, machine: Topology) -> None:
        self._scenario, self._spec, self._machine = scenario, spec, machine
        self.part, *others = cut_machine(machine, (spec.axis,))
        if not others:
            rule = "must have more than one position: the first prefills, the others decode"
            raise InputError(rule, where=f"mesh.{spec.axis}", got=1)
        self._groups = len(others)
        self._grid = ChipGrid(self.part.topology)
        receivers = np.concatenate([other.chips for other in others]).astype(np.int32)
        self.chips = CacheTransfer(f"send({spec.axis}) cache", self.part.chips, receivers)
        self._others = np.setdiff1d(np.arange(len(machine.links)), self.part.links)
        self.other_links = tuple(machine.links[link].name for link in self._others)
        """Links of the machine that the part does not have."""

    # --- messages ----------------------------------------------------------------------------------------------------

    def send(
        self, emitter: Emitter, cached: Sequence[Sharded], written: Tasks, window: int | None = None, reach: float = 1.0
    ) -> None:
        """Appends the messages of what a layer caches to the program of the prefill's chips.

        Args:
            cached: BL... each, sharded alike.
            written: tasks after which it is there.
            window: positions that later queries see at most; None for all.
            reach: share of the prompt up to the last of the positions.
        """
        messages = [*self._messages(cached, window, reach)]
        if not messages:
            return
        first, own = np.full(self._machine.chips, -1), len(self.part.chips)
        event = emitter.builder.add("cache written", Kind.EVENT, emitter.chips, waits=Waits(written))
        first[self.part.chips] = event
        resources = np.full(self._machine.chips + len(self._machine.links), -1, dtype=np.int32)
        resources[self._machine.chips + self.part.links] = own + np.arange(len(self.part.links))
        resources[self._machine.chips + self._others] = emitter.other_links
        number = np.argsort(np.concatenate([self.part.chips, self.chips.receivers])).astype(np.int32)
        emitter.builder.insert(self._program(messages), number, resources, first, emitter.builder.layer)

    def _program(self, messages: Sequence[ChipMessage]) -> Program:
        """Returns the messages on the machine; its tasks without dependencies are the senders'."""
        machine, op = self._machine, self.chips.op
        names = [f"{chip}:compute" for chip in range(machine.chips)] + [link.name for link in machine.links]
        builder = ProgramBuilder(names)
        builder.layer, builder.dtypes[op] = 0, self._scenario.workload.kv_cache
        sent: dict[int, float] = defaultdict(float)
        for message in messages:
            sent[message.src] += message.size_bytes
        begins = builder.add(
            op,
            Kind.BEGIN,
            [*sent],
            Occupancy(flight_ps=units.to_ps(machine.software.collective_overhead_s)),
            labels=Labels(bytes=[*sent.values()], collective=builder.new_collective()),
        )
        begin_of = dict(zip(sent, begins, strict=True))
        leaving, coming = defaultdict[int, list[Ids]](list), defaultdict[int, list[Ids]](list)
        for message in messages:
            try:
                tasks = emit_message(builder, machine, message, np.array([begin_of[message.src]]))
            except InputError as error:
                raise error.within(op) from None
            leaving[message.src].append(tasks)
            coming[message.dst].append(tasks)
        _wait_for_all(builder, op, Kind.END, leaving, 0)
        _wait_for_all(builder, "cache arrived", Kind.EVENT, coming, -1)
        return builder.build()

    def _messages(self, cached: Sequence[Sharded], window: int | None, reach: float) -> Iterator[ChipMessage]:
        regions = [self._region(cached[0], rank) for rank in self._grid.chips]
        holders: dict[Region, list[int]] = defaultdict(list)
        for rank, region in enumerate(regions):
            holders[region].append(rank)
        length, positions = self._scenario.workload.tokens_per_step, cached[0].dim("L").size
        first = 0 if window is None else max(0, ceil(length - window - (reach * length - positions)))
        values = sum(prod(dim.size for dim in tensor.dims if dim.name not in "BLK") for tensor in cached)
        item = values * ITEM_BYTES[self._scenario.workload.kv_cache]
        taken = Counter[Region]()
        for receiver, wanted in zip(self.chips.receivers.tolist(), self._wanted(regions, cached[0]), strict=True):
            seen = wanted[0], range(max(wanted[1].start, first), wanted[1].stop), wanted[2]
            for held, ranks in holders.items():
                if count := _count_common(held, seen):
                    src = int(self.part.chips[ranks[taken[held] % len(ranks)]])
                    taken[held] += 1
                    yield ChipMessage(src, receiver, count * item, self.chips.op, 0)

    def _region(self, cached: Sharded, rank: int) -> Region:
        parts = zip(cached.dims, self._grid.region(cached, rank), strict=True)
        at = {dim.name: range(part.start, part.stop) for dim, part in parts}
        return at["B"], at["L"], at.get("K", range(1))

    def _wanted(self, regions: Sequence[Region], cached: Sharded) -> list[Region]:
        """Returns [receivers] the region that each keeps.

        Raises:
            LayoutError: sequences, positions or heads that the receivers do not divide.
        """
        if self._spec.shards is None:
            where, count = "layout.kv_transfer: groups of chips that decode", self._groups
            return [
                (_part(batch, group, count, f"the {len(batch)} sequences of a chip", where), positions, heads)
                for group in range(count)
                for batch, positions, heads in regions
            ]
        shards, receivers = self._spec.shards, len(self.chips.receivers)
        if receivers % prod(shards):
            rule = f"batch x context x heads must divide the {receivers} chips that decode"
            raise LayoutError(rule, where="layout.kv_transfer", got=prod(shards))
        whole = [range(cached.dim(name).size if cached.has(name) else 1) for name in "BLK"]
        what = [
            f"the {len(whole[0])} sequences",
            f"the {len(whole[1])} positions",
            f"{len(whole[2])} heads of the cache",
        ]
        wanted = []
        for index in np.ndindex(*shards):
            batch, positions, heads = (
                _part(whole[i], at, shards[i], what[i], f"layout.kv_transfer.{_SHARDS[i]}")
                for i, at in enumerate(index)
            )
            wanted += [(batch, positions, heads)] * (receivers // prod(shards))
        return wanted

    # --- on the machine ----------------------------------------------------------------------------------------------

    def on_machine(self, program: Program) -> Program:
        """Returns a program of the prefill's chips, with receivers numbered after these, on the machine."""
        machine, part = self._machine, self.part
        names = [f"{chip}:compute" for chip in range(machine.chips)] + [link.name for link in machine.links]
        mine = [*part.chips.tolist(), *(machine.chips + part.links).tolist()]
        for name in program.resources[len(mine) : len(program.resources) - len(self._others)]:
            chip, _, kind = name.partition(":")
            mine.append(len(names))
            names.append(f"{part.chips[int(chip)]}:{kind}")
        mine += (machine.chips + self._others).tolist()
        chips = np.concatenate([part.chips, self.chips.receivers]).astype(np.int32)
        columns: dict[str, Any] = {**renumber(program, chips, np.array(mine, dtype=np.int32))}
        return replace(program, resources=tuple(names), **columns)


def _wait_for_all(
    builder: ProgramBuilder, op: str, kind: Kind, messages: Mapping[int, Sequence[Ids]], instance: int
) -> None:
    """Appends a task on each chip that ends when all of its messages have arrived."""
    waits = [np.concatenate(tasks) for tasks in messages.values()]
    flat = np.array([len(each) for each in waits]), np.concatenate(waits)
    builder.add(op, kind, [*messages], waits=Waits(flat_deps=flat), labels=Labels(collective=instance))


def _count_common(one: Region, other: Region) -> int:
    return prod(max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(one, other, strict=True))


def _part(whole: range, index: int, count: int, what: str, where: str) -> range:
    """Returns one of `count` equal parts. Raises LayoutError."""
    if len(whole) % count:
        raise LayoutError(f"must divide {what}", where=where, got=count)
    size = len(whole) // count
    return range(whole.start + index * size, whole.start + (index + 1) * size)
