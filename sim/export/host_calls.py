"""The host's side of a Kineto trace: what launched each kernel, which events it waited for, and the steps of the run.

Every kernel has an operation (`cpu_op`) on the host's thread around the `cudaLaunchKernel` with its correlation id. A
kernel that waits for one on another stream has a `cudaStreamWaitEvent` before its launch, the other a `cudaEventRecord`
after its own, and the stream a `Stream Wait Event` that names the record: from these, HolisticTraceAnalysis finds the
critical path across streams. `ProfilerStep#N` is the step, or the N-th pass of a pipeline's stage.

Launches are those of the run where the host launches every kernel. Where a graph was captured, the host calls take some
nanoseconds each, right before the first kernel of the pass.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import Struct

from sim.export.flows import nanoseconds
from sim.program import Ids, Ints, Kind, Program
from sim.program.trace import Trace
from sim.report.lanes import Lane

FIRST_HOST = 1_000_000
"""Process number of the host of chip 0."""

FIRST_CORRELATION = 1_000_000
"""Correlation id before the first one. Readers choose the width of a column of numbers by the largest of them, and then
keep positions of events in it."""

_CALL_NS = 8
"""Time of an operation of a captured graph: a wait, a launch and a record, apart by a nanosecond, which no reader's
rounding makes overlap."""


class Kernel(Struct, frozen=True):
    """One kernel, copy or collective of a chip."""

    task: int
    stream: int
    start_ns: int
    end_ns: int
    is_copy: bool


class Call(Struct, frozen=True):
    """Launch of one kernel by the host."""

    kernel: Kernel
    correlation: int
    start_ns: int
    end_ns: int
    waits_for: int = 0
    """Correlation id of the kernel on another stream that it waits for, 0 for none."""


class HostCalls(Struct, frozen=True):
    """What the host of a chip calls, in order."""

    chip: int
    calls: Sequence[Call]
    steps_ns: Sequence[tuple[int, int]]
    """Begin and end of each step."""

    @property
    def lead_ns(self) -> int:
        """Time by which the host begins before the trace does."""
        return max(0, -min((start for start, _ in self.steps_ns), default=0))

    @property
    def host(self) -> int:
        """Process and thread number of the host."""
        return FIRST_HOST + self.chip

    def correlations(self, tasks: int) -> Ints:
        """Returns [tasks] the correlation id of each task, 0 for none."""
        result = np.zeros(tasks, dtype=np.int64)
        for call in self.calls:
            result[call.kernel.task] = call.correlation
        return result

    @classmethod
    def build(cls, trace: Trace, chip: int, lanes: Sequence[Lane], threads: Sequence[int]) -> HostCalls:
        """Returns the calls for what is on the lanes of a chip.

        Args:
            threads: thread number of each lane.
        """
        program, kernels = trace.program, _kernels(lanes, threads)
        passes = _passes(program, chip, kernels)
        launches = _launches(program, kernels)
        times = _launch_times(trace, kernels, launches) if launches else _graph_times(kernels, passes)
        sources = _sources(trace, chip, {kernel.task: kernel for kernel in kernels})
        numbers = {kernel.task: i for i, kernel in enumerate(kernels, FIRST_CORRELATION + 1)}
        calls, begins = [], dict[int, int]()
        for kernel, number, (start, end) in zip(kernels, passes, times, strict=True):
            source = sources.get(kernel.task)
            calls.append(Call(kernel, numbers[kernel.task], start, end, numbers[source.task] if source else 0))
            begins[number] = min(begins.get(number, start), start)
        end_ns = int(nanoseconds(np.array(trace.makespan_ps)))
        return cls(chip, calls, list(itertools.pairwise([*begins.values(), end_ns])))

    def events(self, names: Sequence[str], ops: Ids) -> Iterator[tuple[int, int | None, dict[str, object]]]:
        """Yields (start in ns, duration in ns, event), without its times.

        Args:
            names: name of each op.
            ops: [tasks] op of each task.
        """
        place: dict[str, object] = {"pid": self.host, "tid": self.host}
        for number, (start, end) in enumerate(self.steps_ns):
            yield (
                start,
                end - 1 - start,
                {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{number}", **place},
            )
        count = len(self.calls)
        recorded = {call.waits_for for call in self.calls}
        by_correlation = {call.correlation: call for call in self.calls}
        latest: dict[int, int] = {}
        """End of the last kernel on each stream."""

        def runtime(name: str, call: Call, correlation: int) -> dict[str, object]:
            args = {"External id": call.correlation, "correlation": correlation}
            return {"ph": "X", "cat": "cuda_runtime", "name": name, **place, "args": args}

        for call in self.calls:
            kernel, external = call.kernel, {"External id": call.correlation}
            device: dict[str, object] = {"pid": self.chip, "tid": kernel.stream}
            name = names[ops[kernel.task]]
            yield (
                call.start_ns,
                call.end_ns - 1 - call.start_ns,
                {"ph": "X", "cat": "cpu_op", "name": name, **place, "args": external},
            )
            source = by_correlation.get(call.waits_for)
            if source is not None:
                wait = 2 * count + call.correlation
                yield call.start_ns + 1, 1, runtime("cudaStreamWaitEvent", call, wait)
                args = {
                    "stream": kernel.stream,
                    "correlation": wait,
                    "device": self.chip,
                    "wait_on_stream": source.kernel.stream,
                    "wait_on_cuda_event_record_corr_id": count + source.correlation,
                }
                begun = max(source.kernel.end_ns, latest.get(kernel.stream, 0))
                sync = {"ph": "X", "cat": "cuda_sync", "name": "Stream Wait Event", **device, "args": args}
                yield min(begun, kernel.start_ns), 0, sync
            launched = call.start_ns + 3
            launch = "cudaMemcpyAsync" if kernel.is_copy else "cudaLaunchKernel"
            yield launched, call.end_ns - 4 - launched, runtime(launch, call, call.correlation)
            flow = {"cat": "ac2g", "name": "ac2g", "id": call.correlation}
            yield launched, None, {"ph": "s", **flow, **place}
            yield kernel.start_ns, None, {"ph": "f", "bp": "e", **flow, **device}
            if call.correlation in recorded:
                yield call.end_ns - 3, 1, runtime("cudaEventRecord", call, count + call.correlation)
            latest[kernel.stream] = max(latest.get(kernel.stream, 0), kernel.end_ns)

    def metadata(self) -> list[dict[str, object]]:
        """Returns the events that name the host's process and thread."""
        place: dict[str, object] = {"ph": "M", "pid": self.host, "tid": self.host, "ts": 0.0}
        return [
            {**place, "name": name, "args": {"name": text}}
            for name, text in (("process_name", f"host of chip {self.chip}"), ("thread_name", "thread: launches"))
        ]


def _kernels(lanes: Sequence[Lane], threads: Sequence[int]) -> list[Kernel]:
    """Returns what has a stream, in the order of the program, which is that of launches."""
    result = []
    for lane, thread in zip(lanes, threads, strict=True):
        if lane.kind != "link":
            spans, is_copy = lane.spans, lane.kind == "copies" or lane.is_copied
            columns = (spans.task.tolist(), nanoseconds(spans.start).tolist(), nanoseconds(spans.end).tolist())
            result += [Kernel(task, thread, start, end, is_copy) for task, start, end in zip(*columns, strict=True)]
    return sorted(result, key=lambda kernel: kernel.task)


def _launches(program: Program, kernels: Sequence[Kernel]) -> dict[int, int]:
    """Returns the host's launch of each kernel, where the run has launches."""
    result: dict[int, int] = {}
    for kernel in kernels:
        deps = program.dependencies(kernel.task)
        for launch in deps[program.kind[deps] == Kind.LAUNCH].tolist():
            result[kernel.task] = launch
    return result


def _passes(program: Program, chip: int, kernels: Sequence[Kernel]) -> list[int]:
    """Returns [kernels] the number of the pass of a pipeline's stage, 0 for all without a pipeline."""
    begin = program.op_names.index("begin") if "begin" in program.op_names else -1
    begun = np.flatnonzero((program.op == begin) & (program.chip == chip))
    return [max(0, int(np.searchsorted(begun, kernel.task)) - 1) for kernel in kernels]


def _launch_times(trace: Trace, kernels: Sequence[Kernel], launches: Mapping[int, int]) -> list[tuple[int, int]]:
    """Returns [kernels] begin and end of the host's call for each, ns.

    A copy has no launch in the run: its call takes some nanoseconds from the end of the call before.
    """
    result: list[tuple[int, int]] = []
    for kernel in kernels:
        if kernel.task in launches:
            start, end = (int(nanoseconds(trace.times[edge][launches[kernel.task]])) for edge in ("start", "free"))
        elif result:
            before, end = result[-1]
            start = end - _CALL_NS
            result[-1] = before, start
        else:
            start, end = kernel.start_ns - _CALL_NS, kernel.start_ns
        result.append((start, end))
    return result


def _graph_times(kernels: Sequence[Kernel], passes: Sequence[int]) -> list[tuple[int, int]]:
    """Returns [kernels] begin and end of calls that end with the start of the first kernel of the pass, ns."""
    first_ns: dict[int, int] = {}
    for kernel, number in zip(kernels, passes, strict=True):
        first_ns[number] = min(first_ns.get(number, kernel.start_ns), kernel.start_ns)
    left, result = Counter(passes), []
    for number in passes:
        start = first_ns[number] - _CALL_NS * left[number]
        left[number] -= 1
        result.append((start, start + _CALL_NS))
    return result


def _sources(trace: Trace, chip: int, kernels: Mapping[int, Kernel]) -> dict[int, Kernel]:
    """Returns the kernel on another stream that each kernel waits for; of several, the one that ends last."""
    program = trace.program
    of_instance = {int(program.collective[task]): kernel for task, kernel in kernels.items()}
    own = np.flatnonzero((program.chip == chip) & (program.kind != Kind.SEND))
    behind: dict[int, dict[int, Kernel]] = {}
    """By task: the last kernel on each stream that has ended when it ends."""
    result = {}
    for task in own.tolist():
        ended: dict[int, Kernel] = {}
        for dep in program.dependencies(task).tolist():
            instance = int(program.collective[dep])
            if dep in kernels and instance < 0:
                found = [kernels[dep]]
            elif instance >= 0 and (program.chip[dep] == chip or program.peer[dep] == chip):
                found = [of_instance[instance]] if instance in of_instance else []
            else:
                found = list(behind.get(dep, {}).values())
            for kernel in found:
                if kernel.stream not in ended or ended[kernel.stream].end_ns < kernel.end_ns:
                    ended[kernel.stream] = kernel
        waiting = kernels.get(task)
        if waiting is None:
            behind[task] = ended
            continue
        # A piece of a looped matmul starts before the collective that brings its shard has ended.
        others = [
            kernel for kernel in ended.values() if kernel.stream != waiting.stream and kernel.end_ns <= waiting.start_ns
        ]
        if others:
            result[task] = max(others, key=lambda kernel: kernel.end_ns)
    return result
