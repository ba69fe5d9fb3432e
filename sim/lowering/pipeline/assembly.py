"""What schedules are written in: passes of stages, sends between stages, events, appended to one program."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from sim import units
from sim.collectives.emit import emit_message
from sim.errors import InputError
from sim.lowering.lowered import Lowered
from sim.lowering.pipeline.stages import Stage
from sim.program import Ids, Kind, Labels, Occupancy, ProgramBuilder, Waits
from sim.program.batches import StagePass
from sim.topology.folding import NotFoldableError
from sim.topology.graph import StandsFor, Topology

Tasks = tuple[Ids, ...]
"""Tasks to wait for: arrays with an entry for each chip of a stage."""

CONTROLLER = "controller"
"""The resource that the controller's calls hold, one after the other."""


class Assembly:
    """A program of a pipeline, as it grows."""

    def __init__(self, topology: Topology, stages: Sequence[Stage], passes: Sequence[Lowered]) -> None:
        self.topology, self.stages, self.passes = topology, tuple(stages), tuple(passes)
        compute = [f"{chip}:compute" for chip in range(topology.chips)]
        links = [link.name for link in topology.links]
        others = {name for part in passes for name in part.program.resources if name.endswith((":host", ":copy"))}
        kinds = sorted({name.partition(":")[2] for name in others}, reverse=True)
        rest = [f"{chip}:{kind}" for kind in kinds for chip in range(topology.chips)]
        self.builder = ProgramBuilder([*compute, *links, *rest, CONTROLLER])
        self._number = {name: i for i, name in enumerate([*compute, *links, *rest, CONTROLLER])}
        self._resources = [self._mapped(stage, part) for stage, part in zip(self.stages, self.passes, strict=True)]
        self.done: list[StagePass] = []
        """Passes so far, in the order appended."""

    def _mapped(self, stage: Stage, part: Lowered) -> Ids:
        """This program's resource for each resource of a stage's pass."""
        own = len(stage.topology.links)
        result = []
        for i, name in enumerate(part.program.resources):
            if stage.topology.chips <= i < stage.topology.chips + own:
                result.append(self.topology.chips + int(stage.links[i - stage.topology.chips]))
            else:
                chip, _, kind = name.partition(":")
                result.append(self._number[f"{stage.chips[int(chip)]}:{kind}"])
        return np.array(result, dtype=np.int32)

    def event(
        self, op: str, chips: Ids, after: Tasks, *, flight_s: float = 0.0, poll_s: float = 0.0, busy_s: float = 0.0
    ) -> Ids:
        """A moment on each chip once `after` has ended; with a `busy_s`, a call that the controller makes.

        Raises:
            NotFoldableError: a call, which waits for those to other chips, to a chip that stands for others.
        """
        if busy_s and self.topology.stands_for:
            raise NotFoldableError("the controller calls one chip after the other")
        return self.builder.add(
            op,
            Kind.EVENT,
            chips,
            Occupancy(
                self._number[CONTROLLER] if busy_s else -1, busy_ps=units.to_ps(busy_s), flight_ps=units.to_ps(flight_s)
            ),
            Waits(after, poll_ps=units.to_ps(poll_s)),
        )

    def all_of(self, op: str, chip: int, after: Ids) -> int:
        """A moment on one chip once all of `after` have ended."""
        counts = np.array([len(after)])
        return int(self.builder.add(op, Kind.EVENT, [chip], waits=Waits(flat_deps=(counts, after)))[0])

    def run(self, stage: Stage, request: int, part: int, after: Tasks) -> StagePass:
        """A pass of a stage, begun on each of its chips once `after` has ended there."""
        begin = self.event("begin", stage.chips, after)
        program = self.passes[stage.index].program
        ends = self.builder.insert(program, stage.chips, self._resources[stage.index], begin, layer=stage.first_layer)
        chip = program.chip[ends - (begin[-1] + 1)]
        order = np.argsort(chip, kind="stable")
        counts = np.bincount(chip, minlength=len(stage.chips))
        end = self.builder.add("end", Kind.EVENT, stage.chips, waits=Waits(flat_deps=(counts, ends[order])))
        self.done.append(StagePass(request, part, stage.index, begin, end))
        return self.done[-1]

    def send(
        self, src: Stage, dst: Stage, size: float, after: Tasks, posted: Tasks | None, what: str, dtype: str
    ) -> tuple[Ids, Ids]:
        """`size` bytes of `dtype` from each chip of a stage to that of the same rank of another: (when sent, there).

        Args:
            posted: tasks after which the receiver waits for it, None where it takes what comes.

        Raises:
            InputError: failed links leave no way.
            NotFoldableError: chips that stand for others, whose messages do not go as theirs.
        """
        if self.topology.stands_for:
            _check_alike(src, dst, self.topology.stands_for)
        op, builder, topology = f"send(p) {what} {src.index}->{dst.index}", self.builder, self.topology
        builder.dtypes[op] = dtype
        instance, overhead_ps = builder.new_collective(), units.to_ps(topology.collective_overhead_s)
        begins = [
            builder.add(
                op,
                Kind.BEGIN,
                stage.chips,
                Occupancy(flight_ps=overhead_ps),
                Waits(deps),
                Labels(bytes=size, collective=instance),
            )
            for stage, deps in ((src, after), (dst, after if posted is None else posted))
        ]
        met, _ = (  # a moment on both ends: a trace of one of them tells when the other has come
            builder.add(op, Kind.EVENT, stage.chips, waits=Waits(begins), labels=Labels(collective=instance))
            for stage in (src, dst)
        )
        sends: list[list[int]] = []
        for rank, (here, there) in enumerate(zip(src.chips.tolist(), dst.chips.tolist(), strict=True)):
            try:
                tasks = emit_message(builder, topology, here, there, size, op, met[rank : rank + 1], instance)
            except InputError as error:
                raise error.within(op) from None
            sends.append(tasks.tolist())
        arrived = [np.array(each, dtype=np.int32) for each in itertools.zip_longest(*sends, fillvalue=-1)]
        sent, there = (
            builder.add(op, Kind.END, stage.chips, waits=Waits((begin, *arrived)), labels=Labels(collective=instance))
            for stage, begin in zip((src, dst), begins, strict=True)
        )
        return sent, there


def _check_alike(src: Stage, dst: Stage, stands_for: StandsFor) -> None:
    """Whether the messages between two stages take links of the same kinds, and no two the same link.

    Raises:
        NotFoldableError: they do not.
    """
    pairs = zip(src.all_chips.tolist(), dst.all_chips.tolist(), strict=True)
    ways = [[link for way in stands_for.whole.ways(*pair) for link in way] for pair in pairs]
    kinds = [stands_for.link[way].tolist() for way in ways]
    links = [link for way in ways for link in way]
    if any(kind != kinds[0] for kind in kinds) or len(set(links)) < len(links):
        raise NotFoldableError(f"chips of stage {src.index} send to stage {dst.index} by different ways")
