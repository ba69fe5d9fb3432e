"""Builder of a pipeline's program: passes of stages, messages between stages, events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from sim import units
from sim.collectives.emit import ChipMessage, emit_message
from sim.errors import InputError
from sim.lowering.lowered_pass import LoweredPass
from sim.lowering.pipeline.stages import Stage
from sim.program import Ids, Kind, Labels, Occupancy, ProgramBuilder, Waits
from sim.program.batches import StagePass
from sim.topology.folding import NotFoldableError
from sim.topology.graph import Folding, Topology

Tasks = tuple[Ids, ...]
"""Tasks to wait for: arrays with an entry for each chip of a stage."""

CONTROLLER = "controller"
"""The resource that the controller's calls hold, one after the other."""


class Message(Struct, frozen=True):
    """Payload that each chip of a stage sends to the chip of the same rank of another stage."""

    content: str
    """`activations` or `tokens`."""
    size_bytes: float
    dtype: str


class PipelineBuilder:
    """Builds the program of a pipeline: passes of stages, messages between stages and events."""

    def __init__(self, topology: Topology, stages: Sequence[Stage], passes: Sequence[LoweredPass]) -> None:
        self.topology, self.stages, self.passes = topology, tuple(stages), tuple(passes)
        compute = [f"{chip}:compute" for chip in range(topology.chips)]
        links = [link.name for link in topology.links]
        others = {name for part in passes for name in part.program.resources if name.endswith((":host", ":copy"))}
        kinds = sorted({name.partition(":")[2] for name in others}, reverse=True)
        rest = [f"{chip}:{kind}" for kind in kinds for chip in range(topology.chips)]
        self.program = ProgramBuilder([*compute, *links, *rest, CONTROLLER])
        self._number = {name: i for i, name in enumerate([*compute, *links, *rest, CONTROLLER])}
        self._resources = [
            self._map_resources(stage, part) for stage, part in zip(self.stages, self.passes, strict=True)
        ]
        self.passes_done: list[StagePass] = []
        """Passes in the order appended."""

    def _map_resources(self, stage: Stage, part: LoweredPass) -> Ids:
        """Returns this program's resource for each resource of a stage's pass."""
        links = len(stage.topology.links)
        result = []
        for i, name in enumerate(part.program.resources):
            if stage.topology.chips <= i < stage.topology.chips + links:
                result.append(self.topology.chips + int(stage.links[i - stage.topology.chips]))
            else:
                chip, _, kind = name.partition(":")
                result.append(self._number[f"{stage.chips[int(chip)]}:{kind}"])
        return np.array(result, dtype=np.int32)

    def event(
        self, op: str, chips: Ids, after: Tasks, *, flight_s: float = 0.0, poll_s: float = 0.0, busy_s: float = 0.0
    ) -> Ids:
        """Appends an event on each chip after `after`; with a `busy_s`, a call that the controller makes.

        Raises:
            NotFoldableError: a call, which waits for those to other chips, to a chip that stands for others.
        """
        if busy_s and self.topology.folding:
            raise NotFoldableError("the controller calls one chip after the other")
        return self.program.add(
            op,
            Kind.EVENT,
            chips,
            Occupancy(
                self._number[CONTROLLER] if busy_s else -1, busy_ps=units.to_ps(busy_s), flight_ps=units.to_ps(flight_s)
            ),
            Waits(after, poll_ps=units.to_ps(poll_s)),
        )

    def join(self, op: str, chip: int, after: Ids) -> int:
        """Appends an event on one chip after all of `after`."""
        counts = np.array([len(after)])
        return int(self.program.add(op, Kind.EVENT, [chip], waits=Waits(flat_deps=(counts, after)))[0])

    def run(self, stage: Stage, request: int, part: int, after: Tasks) -> StagePass:
        """Appends a pass of a stage, begun on each of its chips after `after`."""
        begin = self.event("begin", stage.chips, after)
        program = self.passes[stage.index].program
        ends = self.program.insert(program, stage.chips, self._resources[stage.index], begin, layer=stage.first_layer)
        chip = program.chip[ends - (begin[-1] + 1)]
        order = np.argsort(chip, kind="stable")
        counts = np.bincount(chip, minlength=len(stage.chips))
        end = self.program.add("end", Kind.EVENT, stage.chips, waits=Waits(flat_deps=(counts, ends[order])))
        self.passes_done.append(StagePass(request, part, stage.index, begin, end))
        return self.passes_done[-1]

    def send(
        self, src: Stage, dst: Stage, message: Message, after: Tasks, posted: Tasks | None = None
    ) -> tuple[Ids, Ids]:
        """Sends a message from each chip of a stage to the chip of the same rank of another stage.

        Returns the tasks that end it on the sender and on the receiver.

        Args:
            posted: tasks after which the receiver posts its receive; None if it receives whenever the message arrives.

        Raises:
            InputError: failed links leave no route.
            NotFoldableError: the chips are representatives of others whose messages take other routes.
        """
        if self.topology.folding:
            _check_same_routes(src, dst, self.topology.folding)
        op, program, topology = f"send(p) {message.content} {src.index}->{dst.index}", self.program, self.topology
        program.dtypes[op] = message.dtype
        instance, overhead_ps = program.new_collective(), units.to_ps(topology.software.collective_overhead_s)
        begins = [
            program.add(
                op,
                Kind.BEGIN,
                stage.chips,
                Occupancy(flight_ps=overhead_ps),
                Waits(deps),
                Labels(bytes=message.size_bytes, collective=instance),
            )
            for stage, deps in ((src, after), (dst, after if posted is None else posted))
        ]
        met, _ = (  # a moment on both ends: a trace of one of them tells when the other has come
            program.add(op, Kind.EVENT, stage.chips, waits=Waits(begins), labels=Labels(collective=instance))
            for stage in (src, dst)
        )
        sends: list[list[int]] = []
        for rank, (here, there) in enumerate(zip(src.chips.tolist(), dst.chips.tolist(), strict=True)):
            try:
                tasks = emit_message(
                    program, topology, ChipMessage(here, there, message.size_bytes, op, instance), met[rank : rank + 1]
                )
            except InputError as error:
                raise error.within(op) from None
            sends.append(tasks.tolist())
        arrived = [np.array(each, dtype=np.int32) for each in itertools.zip_longest(*sends, fillvalue=-1)]
        sent, there = (
            program.add(op, Kind.END, stage.chips, waits=Waits((begin, *arrived)), labels=Labels(collective=instance))
            for stage, begin in zip((src, dst), begins, strict=True)
        )
        return sent, there


def _check_same_routes(src: Stage, dst: Stage, folding: Folding) -> None:
    """Checks that the messages between two stages take links of the same kinds, and no two the same link.

    Raises:
        NotFoldableError: they do not.
    """
    pairs = zip(src.all_chips.tolist(), dst.all_chips.tolist(), strict=True)
    ways = [[link for way in folding.machine.ways(*pair) for link in way] for pair in pairs]
    kinds = [folding.representative_link[way].tolist() for way in ways]
    links = [link for way in ways for link in way]
    if any(kind != kinds[0] for kind in kinds) or len(set(links)) < len(links):
        raise NotFoldableError(f"chips of stage {src.index} send to stage {dst.index} by different ways")
