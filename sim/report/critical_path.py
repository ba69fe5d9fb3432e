"""The critical path of a trace, over tasks and resources: the chain of events that determines the time of the step.

From the task that ends last one goes back in time. A task that started the moment it was ready waited for a
dependency, the one that ended then, or for the head of its message from the link before. One that was ready earlier
waited for a resource: for the task that released it. So every picosecond of the step belongs to exactly one task,
either while it holds its resource or while its message flies, and the parts add up to the step exactly. (The critical
path method of Kelley and Walker 1959, with resource edges as in the critical chains of scheduling; where several chains
are equally long, that of the lowest task ids.)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.program import Ids, Ints, Kind, Program
from sim.program.trace import Trace
from sim.report.ops import COLLECTIVES, EXCHANGE_KERNEL, classify_ops
from sim.report.roofline import is_memory_bound
from sim.report.spans import sums_ps
from sim.topology.graph import Link, Topology
from sim.units import PS_PER_S, to_ps

COMPUTE, MEMORY, OP_OVERHEAD = "compute", "memory-bound compute", "launches of operations"
SLOWED, TRANSFER, QUEUEING = "slowed by communication", "transfer", "queueing"
LATENCY, START, LAUNCH = "link latency", "message startup", "launches of collectives"
KERNEL = "kernels of collectives"
JOIN, COPY, CALL = "joins of streams", "copies of a memory pool", "host calls and polling"
CAUSES = {
    COMPUTE: "operations limited by the matmul rate",
    MEMORY: "operations limited by memory bandwidth",
    OP_OVERHEAD: "fixed time beside every operation, and launches by the host",
    SLOWED: "operations at a reduced rate while a collective of their chip is in progress",
    TRANSFER: "messages holding their links: bytes / bandwidth",
    QUEUEING: "messages of another collective holding a link that the path waits for",
    LATENCY: "messages in flight, after their link is free again",
    START: "what software takes to start a message of a collective and to see it, beside the link's latency",
    LAUNCH: "fixed time at the start of every collective",
    KERNEL: "what kernels of a collective take at least, beside its messages, and those that send and receive tokens",
    JOIN: "one stream waits for another, after a collective",
    COPY: "layers on their way from or to another memory",
    CALL: "requests on their way, calls, workers that look for work or room, the host between steps and in traces",
}
"""Causes of time on the path, and their definitions."""

_FLIGHTS = {Kind.BEGIN: LAUNCH, Kind.END: LAUNCH, Kind.COMPUTE: OP_OVERHEAD, Kind.JOIN: JOIN, Kind.EVENT: CALL}
"""Cause of a flight by kind of task; any other flight is a message's."""

_HELD = {Kind.LAUNCH: OP_OVERHEAD, Kind.EVENT: CALL, Kind.COPY: COPY}
"""Cause of the time that a task holds its resource, for kinds that neither compute nor send."""


class Path(Struct, frozen=True, eq=False):
    """The segments of the path, [n] each, in order of time; each begins where the one before ends."""

    task: Ints
    start: Ints
    end: Ints
    flies: npt.NDArray[np.bool_]
    """True if the task's message is in flight (or its collective is launched); False if it holds its resource."""
    holds_up: npt.NDArray[np.bool_]
    """True if the next task on the path waited for the resource of this one, not for its result."""

    def __len__(self) -> int:
        return len(self.task)

    @property
    def length(self) -> Ints:
        """[n] length of each segment, ps."""
        return self.end - self.start


class Share(Struct, frozen=True):
    """Part of the step that is attributed to one cause, operation or link."""

    name: str
    time_ps: int
    of_step: float
    segments: int
    """Number of segments of the path."""
    about: str = ""
    chips: tuple[int, ...] = ()
    """Chips of the segments, the one with the most time first; one chip stands for all that are alike."""

    @property
    def time_s(self) -> float:
        return self.time_ps / PS_PER_S

    def to_dict(self) -> dict[str, Any]:
        figures = {"time_s": self.time_s, "of_step": self.of_step, "segments": self.segments}
        return {"name": self.name, **figures, "chips": list(self.chips)}


class Shares(Struct, frozen=True):
    """Attribution of the step. `causes` add up to it to the picosecond, and so do `ops` and `chips`."""

    step_ps: int
    causes: tuple[Share, ...]
    ops: tuple[Share, ...]
    """Operations and collectives by name, the longest first."""
    links: tuple[Share, ...]
    """Kinds of links, while a message of the path holds them or flies; the longest first."""
    chips: tuple[Share, ...] = ()
    """Chips, with their roles; the longest first. A message counts for its sender."""

    def to_dict(self) -> dict[str, Any]:
        """JSON data, seconds."""
        groups = {
            name: [share.to_dict() for share in getattr(self, name)] for name in ("causes", "ops", "links", "chips")
        }
        return {"step_s": self.step_ps / PS_PER_S, **groups}


_found: WeakKeyDictionary[Trace, Path] = WeakKeyDictionary()
"""Paths of the traces that are in use: report, figures and page need the same one."""


def find_critical_path(trace: Trace) -> Path:
    """Finds the critical path of `trace`; empty for a trace in which nothing takes time.

    Raises:
        ValueError: a task waited although nothing it needs was in use: not a trace of the engine's rule.
    """
    path = _found.get(trace)
    if path is None:
        path = _found[trace] = _walk_back(trace)
    return path


def _walk_back(trace: Trace) -> Path:
    """Goes from the task that ends last to the beginning of `trace`."""
    program = trace.program
    ready, start, free, end = (trace.times[name].tolist() for name in ("ready", "start", "free", "end"))
    follows, offsets, deps = program.follows.tolist(), program.dep_offset.tolist(), program.deps.tolist()
    releases = _Releases.of(trace)
    segments: list[tuple[int, int, int, bool, bool]] = []
    task = int(np.argmax(trace.times["end"])) if len(program) else -1
    holds_up = led = False
    while task >= 0:
        while not (holds_up or led) and end[task] > free[task]:
            before = follows[task]
            tail = before >= 0 and end[before] > free[task]  # the last byte came later than this link was free
            since = end[before] if tail else free[task]
            if end[task] > since:
                segments.append((task, since, end[task], True, False))
            if not tail:
                break
            task = before
        if not led and free[task] > start[task]:
            segments.append((task, start[task], free[task], False, holds_up))
        holds_up = start[task] > ready[task]
        led = not holds_up and follows[task] >= 0
        if holds_up:
            task = releases.before(task)
        elif led:  # the head of the message has flown since the task before it on its way has started
            later, task = task, follows[task]
            if ready[later] > start[task]:
                segments.append((task, start[task], ready[later], True, False))
        else:
            needs = deps[offsets[task] : offsets[task + 1]]
            since = max((end[need] for need in needs), default=ready[task])
            if since < ready[task]:  # it polls: until it looks again, it flies
                segments.append((task, since, ready[task], True, False))
            task = min((need for need in needs if end[need] == since), default=-1)
    columns = list(zip(*reversed(segments), strict=True)) or [()] * 5
    times = [np.array(column, dtype=np.int64) for column in columns[:3]]
    return Path(*times, *(np.array(column, dtype=np.bool_) for column in columns[3:]))  # type: ignore[arg-type]


class _Releases(Struct, frozen=True, eq=False):
    """Releases of resources, in order of (resource, time)."""

    trace: Trace
    first: Ints
    """[resources + 1] where the releases of each resource begin."""
    time_ps: Ints
    task: Ids

    @classmethod
    def of(cls, trace: Trace) -> _Releases:
        program = trace.program
        task = np.flatnonzero(program.resource >= 0).astype(np.int32)
        time_ps, resource = trace.times["free"][task], program.resource[task]
        order = np.lexsort((time_ps, resource))
        counts = np.bincount(resource, minlength=len(program.resources))
        return cls(trace, np.concatenate(([0], np.cumsum(counts))), time_ps[order], task[order])

    def before(self, task: int) -> int:
        """Returns the task that released what `task` waited for, at the moment it could start.

        One that held it for some time; else, one of no duration that stood before `task` in the queue.
        """
        times, start = self.trace.times, int(self.trace.times["start"][task])
        resource = self.trace.program.resource[task]
        resource_releases = slice(self.first[resource], self.first[resource + 1])
        released = self.time_ps[resource_releases]
        first, last = np.searchsorted(released, start, "left"), np.searchsorted(released, start, "right")
        candidates = self.task[resource_releases][first:last].tolist()
        holders = [other for other in candidates if times["start"][other] < start]
        rank = (int(times["ready"][task]), task)
        holders = holders or [other for other in candidates if (int(times["ready"][other]), other) < rank]
        if not holders:
            raise ValueError(f"{self.trace.program.describe(task)} waited for a resource that nothing held")
        return int(min(holders))


def attribute_step(trace: Trace, topology: Topology, roles: Mapping[int, str] | None = None) -> Shares:
    """Attributes the step of `trace` to causes, operations, links and chips.

    Args:
        roles: of chips, by their number on the whole machine: `stage 1 rank 0`.
    """
    path, program, roles = find_critical_path(trace), trace.program, roles or {}
    chips = topology.chip_numbers[program.chip[path.task]]
    step_ps, groups = int(path.length.sum()), classify_ops(program)
    link = program.resource[path.task] - topology.chips
    on_link = (link >= 0) & (link < len(topology.links))
    links, link_code = np.unique(link[on_link], return_inverse=True)
    numbers, chip_code = np.unique(chips, return_inverse=True)
    every_cause = tuple(CAUSES)
    causes = _sum_by_name(every_cause, _causes(trace, topology, path, chips, groups), step_ps, CAUSES)
    return Shares(
        step_ps=step_ps,
        causes=tuple(sorted(causes, key=lambda share: every_cause.index(share.name))),
        ops=_sum_by_name(
            program.op_names,
            _Parts(program.op[path.task], path.length, chips),
            step_ps,
            {name: str(groups[op]) for op, name in enumerate(program.op_names)},
        ),
        links=_sum_by_name(
            [link_class(topology, topology.links[i]) for i in links.tolist()],
            _Parts(link_code, path.length[on_link], chips[on_link]),
            step_ps,
        ),
        chips=_sum_by_name(
            [", ".join(filter(None, (f"chip {chip}", roles.get(chip)))) for chip in numbers.tolist()],
            _Parts(chip_code, path.length, chips),
            step_ps,
        ),
    )


class _Parts(Struct, frozen=True, eq=False):
    """Parts of the path, [n] each."""

    code: npt.NDArray[np.integer]
    """Place of the part's name in a list of names."""
    length: Ints
    """ps."""
    chip: npt.NDArray[np.integer]


def _causes(
    trace: Trace, topology: Topology, path: Path, chips: npt.NDArray[np.integer], groups: npt.NDArray[np.str_]
) -> _Parts:
    """Returns the parts of every segment that take time, by their causes.

    Args:
        groups: [ops] as `classify_ops` returns them.
    """
    program, task, length = trace.program, path.task, path.length
    code = {name: i for i, name in enumerate(CAUSES)}
    flight = np.array([code[_FLIGHTS.get(kind, LATENCY)] for kind in Kind])
    held = np.array([code[_HELD.get(kind, TRANSFER)] for kind in Kind])
    kind, slow = program.kind[task], is_memory_bound(program)[task]
    cause = np.where(path.flies, flight[kind], held[kind])
    kernels = is_kernel(program, groups)[task]
    cause = np.where(kernels, code[KERNEL], cause)
    waits = ~path.flies & (cause == code[TRANSFER]) & _waits_for_other_collective(trace, path)
    cause = np.where(waits, code[QUEUEING], cause)
    computes = ~path.flies & (kind == Kind.COMPUTE) & ~kernels
    cause = np.where(computes, np.where(slow, code[MEMORY], code[COMPUTE]), cause)
    started = np.minimum(to_ps(topology.software.message_start_s), length) * (path.flies & (kind == Kind.SEND))
    fixed = np.minimum(program.overhead_ps[task], program.busy_ps[task]) * computes
    slowed = (length - program.busy_ps[task]) * computes
    beside = {START: started, OP_OVERHEAD: fixed, SLOWED: slowed}
    codes = [cause, *(np.full(len(task), code[name]) for name in beside)]
    lengths = np.concatenate([length - started - fixed - slowed, *beside.values()])
    takes_time = lengths != 0
    return _Parts(np.concatenate(codes)[takes_time], lengths[takes_time], np.tile(chips, len(codes))[takes_time])


def is_kernel(program: Program, groups: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """Returns [tasks] True for the least time of a collective's kernel, and for kernels that send and receive tokens.

    Args:
        groups: [ops] as `classify_ops` returns them.
    """
    collectives = set(COLLECTIVES.values()) - {"send"}  # which a pipeline's host waits for
    waits = (program.kind == Kind.EVENT) & np.isin(groups, [*collectives])[program.op]
    return np.asarray(waits | (program.kind == Kind.COMPUTE) & (groups == EXCHANGE_KERNEL)[program.op])


def link_class(topology: Topology, link: Link) -> str:
    """Returns the kind of a link: `x+` on a torus, `egress port` on a switch, else its medium and bandwidth."""
    if link.axis:
        return f"{link.axis}{'+' if link.direction > 0 else '-'}"
    if topology.has_ports:
        return f"{link.name.rpartition(':')[2]} port"
    return f"{link.medium}, {link.bandwidth / 1e9:.4g} GB/s"


def _waits_for_other_collective(trace: Trace, path: Path) -> npt.NDArray[np.bool_]:
    """Returns the segments in which the path waits for a resource that another collective holds, [n]."""
    collective = trace.program.collective[path.task]
    follows = np.append(collective[1:], -1)
    return np.asarray(path.holds_up & (collective != follows))


def _sum_by_name(
    names: Sequence[str], parts: _Parts, step_ps: int, about: Mapping[str, str] | None = None
) -> tuple[Share, ...]:
    """Adds up parts by their names, which may repeat, the longest first."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    group = np.array([numbers[name] for name in names], dtype=np.int64)[parts.code]
    chips, chip = np.unique(parts.chip, return_inverse=True)
    pairs, pair = np.unique(group * len(chips) + chip, return_inverse=True)
    pair_ps = sums_ps(pair, parts.length, len(pairs)).tolist()
    chip_ps: dict[int, dict[int, int]] = defaultdict(dict)
    for both, time_ps in zip(pairs.tolist(), pair_ps, strict=True):
        number, place = divmod(both, len(chips))
        chip_ps[number][int(chips[place])] = time_ps
    counts = np.bincount(group, minlength=len(numbers)).tolist()
    shares = []
    for name, number in numbers.items():
        if counts[number]:
            of_chips = chip_ps[number]
            time_ps = sum(of_chips.values())
            longest_first = tuple(sorted(of_chips, key=lambda chip: (-of_chips[chip], chip)))
            of_step = time_ps / max(step_ps, 1)
            shares.append(Share(name, time_ps, of_step, counts[number], (about or {}).get(name, ""), longest_first))
    return tuple(sorted(shares, key=lambda share: (-share.time_ps, share.name)))
