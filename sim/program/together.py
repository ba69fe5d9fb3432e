"""Programs of several jobs as one program: tasks of all, on the chips and links that each has of one machine."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec.structs import replace

from sim.program.builder import ProgramBuilder, Waits
from sim.program.columns import Kind, Program
from sim.topology.graph import Topology
from sim.topology.group import Group


def repeat_passes(program: Program, chips: int, passes: int) -> Program:
    """Returns a program that runs another one several times: a chip begins again when its tasks have ended."""
    if passes == 1:
        return program
    builder = ProgramBuilder(program.resources)
    every_chip, resources = (np.arange(count, dtype=np.int32) for count in (chips, len(program.resources)))
    begin = builder.add("begin", Kind.EVENT, every_chip)
    for _ in range(passes):
        before = len(builder)
        ends = builder.insert(program, every_chip, resources, begin)
        chip = program.chip[ends - before]
        counts, order = np.bincount(chip, minlength=chips), np.argsort(chip, kind="stable")
        begin = builder.add("begin", Kind.EVENT, every_chip, waits=Waits(flat_deps=(counts, ends[order])))
    return builder.build()


def join_programs(machine: Topology, jobs: Mapping[str, tuple[Program, Group]]) -> tuple[Program, tuple[slice, ...]]:
    """Joins programs into one on `machine`: all begin at once, and share the chips and links that they have in common.

    A task that is ready at the same time as one of an earlier job queues behind it. What is no chip's computation and
    no link, such as the host's launches, each job has to itself.

    Args:
        jobs: program of each job by its name, on the group's machine.

    Returns:
        The program, and the place of each job's tasks in it, in their order.
    """
    compute = [f"{chip}:compute" for chip in range(machine.chips)]
    names = [*compute, *(link.name for link in machine.links)]
    tables = []
    for job, (program, group) in jobs.items():
        own = program.resources[group.machine.chips + len(group.machine.links) :]
        others = np.arange(len(names), len(names) + len(own))
        tables.append(np.concatenate([group.chips, machine.chips + group.links, others]).astype(np.int32))
        names += [f"{name} of {job}" for name in own]
    builder = ProgramBuilder(names)
    places = []
    for (program, group), table in zip(jobs.values(), tables, strict=True):
        begin = builder.add("begin", Kind.EVENT, group.chips)
        start = len(builder)
        builder.insert(program, group.chips, table, begin)
        places.append(slice(start, len(builder)))
    # An op of one name may go along mesh axes of one name that are other chips of each job.
    return replace(builder.build(), axes=()), tuple(places)
