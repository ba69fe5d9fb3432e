"""Report of several jobs on one machine: each alone and together, and the links and chips that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct, to_builtins

from sim.program import Kind
from sim.program.batches import Batches
from sim.program.trace import Trace
from sim.report.memory import Memory
from sim.report.metrics import measure
from sim.report.spans import lengths, link_spans
from sim.topology.graph import Topology
from sim.topology.group import Group
from sim.units import PS_PER_S

ASSUMPTION = (
    "a chip is assumed to take the operations of its jobs one at a time, in the order in which they are ready; a link "
    "takes their messages likewise"
)


class JobTimes(Struct, frozen=True):
    """Times of all passes of a job, seconds; but for `time_s` and `link_wait_s` on its critical chip."""

    time_s: float
    compute_s: float
    exposed_communication_s: float
    other_s: float
    """Neither compute nor communication: bubbles, waits, and the chip's computation for other jobs."""
    link_wait_s: float
    """Time that messages wait for links, mean over the chips of the sum over their messages."""


class JobReport(Struct, frozen=True):
    """One job alone on its chips, and together with the others."""

    name: str
    phase: str
    passes: int
    chips: tuple[int, ...]
    """Numbers in the machine."""
    alone: JobTimes
    together: JobTimes
    memory: Memory
    notes: tuple[str, ...] = ()

    @property
    def slow_down(self) -> float:
        """Time together / time alone."""
        return self.together.time_s / self.alone.time_s


class SharedLink(Struct, frozen=True):
    """A link that several jobs use."""

    name: str
    busy_s: dict[str, float]
    """Time that messages of each job hold it, by job, s."""
    utilisation: float
    """Busy time / time until the last of these jobs ends."""


class TogetherReport(Struct, frozen=True):
    """Report of several jobs on one machine."""

    name: str
    machine: str
    chips: int
    jobs: tuple[JobReport, ...]
    shared_links: tuple[SharedLink, ...]
    """The busiest first."""
    shared_chips: tuple[int, ...]
    memory: Memory
    """Of the chip that holds most, all its jobs together."""

    @property
    def time_s(self) -> float:
        """Time until the last job ends, s."""
        return max(job.together.time_s for job in self.jobs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the figures assume and leave out."""
        first = min(self.jobs, key=lambda job: job.together.time_s)
        is_shared = bool(self.shared_chips or self.shared_links)
        notes = [ASSUMPTION] if is_shared else []
        if is_shared and first.together.time_s < self.time_s:
            notes.append(
                f"{first.name} ends first, and from then on the others have the machine without it: the slow-downs of "
                "these are those of the whole time; --passes lets it run longer"
            )
        return (*notes, *(f"{job.name}: {note}" for job in self.jobs for note in job.notes))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as JSON data."""
        jobs = [
            {
                "name": job.name,
                "phase": job.phase,
                "passes": job.passes,
                "chips": list(job.chips),
                "alone": to_builtins(job.alone),
                "together": to_builtins(job.together),
                "slow_down": job.slow_down,
                "memory": to_builtins(job.memory),
            }
            for job in self.jobs
        ]
        return {
            "name": self.name,
            "topology": {"name": self.machine, "chips": self.chips},
            "time_s": self.time_s,
            "jobs": jobs,
            "shared_links": [to_builtins(link) for link in self.shared_links],
            "shared_chips": list(self.shared_chips),
            "memory": to_builtins(self.memory) | {"fits": self.memory.fits},
            "notes": list(self.notes),
        }


def measure_job(trace: Trace, machine: Topology, batches: Batches | None) -> JobTimes:
    """Measures a job on its own machine."""
    measures = measure(trace, machine, batches)
    chip, program = measures.critical_chip, trace.program
    sends = np.flatnonzero((program.kind == Kind.SEND) & (program.resource >= 0))
    waits_ps = (trace.times["start"][sends] - trace.times["ready"][sends]).sum()
    others = (measures.stream_wait_s, measures.copy_wait_s, measures.bubble_s, measures.idle_s)
    return JobTimes(
        time_s=measures.makespan_s,
        compute_s=float(measures.compute_s[chip]),
        exposed_communication_s=float(measures.exposed_communication_s[chip]),
        other_s=float(sum(each[chip] for each in others)),
        link_wait_s=float(waits_ps) / PS_PER_S / machine.chips,
    )


def find_shared_links(machine: Topology, jobs: Sequence[tuple[str, Trace, Group]]) -> tuple[SharedLink, ...]:
    """Returns the links that carry messages of several jobs, the busiest first.

    Args:
        jobs: name, trace and part of the machine of each job.
    """
    busy_s = np.zeros((len(jobs), len(machine.links)))
    ends_s = np.array([trace.makespan_ps for _, trace, _ in jobs]) / PS_PER_S
    for row, (_, trace, group) in zip(busy_s, jobs, strict=True):
        row[group.links] = lengths(link_spans(trace, group.machine), len(group.links)) / PS_PER_S
    uses = busy_s > 0
    shared = []
    for link in np.flatnonzero(uses.sum(axis=0) > 1).tolist():
        users = np.flatnonzero(uses[:, link]).tolist()
        total_s = float(busy_s[:, link].sum())
        by_job = {jobs[user][0]: float(busy_s[user, link]) for user in users}
        shared.append(SharedLink(machine.links[link].name, by_job, total_s / float(ends_s[users].max())))
    return tuple(sorted(shared, key=lambda each: -each.utilisation))


def add_memory(jobs: Sequence[JobReport]) -> tuple[Memory, tuple[int, ...]]:
    """Returns the memory of the fullest chip, all its jobs together, and the chips of several jobs."""
    count = Counter(chip for job in jobs for chip in job.chips)

    def of_chip(chip: int) -> Memory:
        held = [job.memory for job in jobs if chip in job.chips]
        return Memory(
            sum(each.weights_bytes for each in held),
            sum(each.kv_cache_bytes for each in held),
            held[0].capacity_bytes,
            sum(each.gather_buffer_bytes for each in held),
        )

    fullest = max((of_chip(chip) for chip in count), key=lambda memory: memory.used_bytes)
    return fullest, tuple(chip for chip in sorted(count) if count[chip] > 1)
