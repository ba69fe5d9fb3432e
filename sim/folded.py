"""From the trace of the chip that stands for all to that of any chips: each has the same tasks at the same times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sim.program import Kind
from sim.topology.graph import Topology
from sim.trace import Trace


def of_chips(trace: Trace, whole: Topology, chips: Sequence[int]) -> Trace:
    """The tasks of `chips` of the machine `whole`, chip after chip, on their own resources, waiting for nothing.

    `trace` is of the one chip of `whole.folded()`: its resources are its compute, its links and, where there is one,
    its host, and links are numbered chip after chip.
    """
    program, tasks = trace.program, len(trace.program)
    ports = len(whole.links) // whole.chips
    chip = np.repeat(np.asarray(chips, dtype=np.int32), tasks)

    def moved(resource: np.ndarray, owner: np.ndarray) -> np.ndarray:
        link, host = whole.chips + owner * ports + resource - 1, whole.chips + len(whole.links) + owner
        there = np.where(resource <= 0, np.where(resource < 0, -1, owner), np.where(resource <= ports, link, host))
        return there.astype(np.int32)

    def tiled(column: np.ndarray) -> np.ndarray:
        return np.tile(column, len(chips))

    held = np.diff(program.resource_offset)
    owner = np.repeat(chip, tiled(held))
    resource = moved(tiled(program.resource), owner)
    first = np.full(tasks, -1, dtype=np.int32)
    first[held > 0] = program.resource[program.resource_offset[:-1][held > 0]]
    link = moved(tiled(first), chip) - whole.chips
    ends = np.array([*(end.dst for end in whole.links), -1], dtype=np.int32)
    sends = tiled((program.kind == Kind.SEND) & (first > 0))
    per_task = ("busy_ps", "flight_ps", "op", "layer", "kind", "bytes", "flops", "collective", "slow_ppm", "poll_ps")
    hosts = [f"{c}:host" for c in range(whole.chips)] if len(program.resources) > 1 + ports else []
    names = [f"{c}:compute" for c in range(whole.chips)] + [end.name for end in whole.links] + hosts
    columns: dict[str, Any] = {name: tiled(getattr(program, name)) for name in per_task}
    own = replace(
        program,
        resources=tuple(names),
        chip=chip,
        peer=ends[np.where(sends, link, -1)],
        slows=moved(tiled(program.slows), chip),
        resource=resource,
        resource_offset=np.concatenate(([0], np.cumsum(tiled(held)))),
        deps=np.empty(0, dtype=np.int32),
        dep_offset=np.zeros(tasks * len(chips) + 1, dtype=np.int64),
        **columns,
    )
    return Trace(own, tiled(trace.times))
